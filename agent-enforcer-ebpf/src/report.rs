//! Records for the daemon: what was asked, denied, allowed; which process began, changed, ended.
//!
//! A record that finds no room is counted. Only a question that finds no room changes what
//! happens to the call (it is denied); an allow or deny is in force whether it was told or not.
//! Records are written in place: the stack of a program is 512 bytes.

use agent_enforcer_common::{
    NEVER_NS,
    destination::Destination,
    id::{GrantId, RequestId, ToolId},
    peer::{NumberedPeer, PathRecord, PeerRecord, UNIX_NAME_WORDS},
    process::ProcessTag,
    reason::Reason,
    record::{
        CALL_PARKED, CALL_TOOK_USE, CALL_UNATTESTED, CallRecord, Counter, ExecRecord, Guard,
        GuardRecord, Hook, ProcessFacts, ProcessRecord, RecordHeader, RecordKind,
    },
};
use aya_ebpf::{
    cty::c_void,
    helpers::{
        bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_netns_cookie,
            bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_ktime_get_boot_ns,
            bpf_ktime_get_coarse_ns,
        },
    },
    maps::ring_buf::RingBufEntry,
};

use crate::{
    decide::{Permit, Refusal},
    halves::{high_half, low_half},
    kernel::{
        exec::{self, Arguments},
        sock::UnixName,
        task::Task,
    },
    maps::{counters, processes, ring, state},
};

/// `TASK_COMM_LEN`, include/linux/sched.h.
const COMM_BYTES: u32 = 16;

/// One call or packet of an agent's process. `CURRENT`: the hook runs in that process, so that
/// its user, cgroup and name are known.
#[repr(C)]
pub(crate) struct Case<const CURRENT: bool> {
    pub(crate) tag: ProcessTag,
    pub(crate) destination: Destination,
    pub(crate) socket_cookie: u64,
    pub(crate) netns_cookie: u64,
    /// The question that is repeated, or none.
    pub(crate) request: RequestId,
    pub(crate) tgid: u32,
    pub(crate) hook: Hook,
    pub(crate) flags: u8,
    /// Zero: it is handed to a function that reads all of it.
    pub(crate) _pad: u16,
}

const _: () = assert!(size_of::<Case<true>>() == 96, "padding is uninitialised");

impl Case<true> {
    /// A call of the current process where the context knows of no socket, or not yet.
    #[inline(always)]
    pub(crate) const fn of_process(
        destination: Destination,
        tgid: u32,
        tag: ProcessTag,
        hook: Hook,
    ) -> Self {
        let request = RequestId::NONE;
        Self {
            tag,
            destination,
            socket_cookie: 0,
            netns_cookie: 0,
            request,
            tgid,
            hook,
            flags: 0,
            _pad: 0,
        }
    }

    /// A call of the current process on the socket of a context.
    ///
    /// # Safety
    ///
    /// `ctx` is the context of a socket hook.
    #[inline(always)]
    pub(crate) unsafe fn of_socket(
        ctx: *mut c_void,
        destination: Destination,
        tgid: u32,
        tag: ProcessTag,
        hook: Hook,
    ) -> Self {
        // SAFETY: by the caller (4.12 and 5.8; for `sock_create` 5.12).
        let (socket_cookie, netns_cookie) =
            unsafe { (bpf_get_socket_cookie(ctx), netns_cookie(ctx)) };
        let request = RequestId::NONE;
        Self {
            tag,
            destination,
            socket_cookie,
            netns_cookie,
            request,
            tgid,
            hook,
            flags: 0,
            _pad: 0,
        }
    }
}

/// Which network namespace the socket of a context is in.
///
/// # Safety
///
/// `ctx` is the context of a socket hook.
#[inline(always)]
pub(crate) unsafe fn netns_cookie(ctx: *mut c_void) -> u64 {
    // SAFETY: by the caller (5.7; for `sock_create` 5.12).
    unsafe { bpf_get_netns_cookie(ctx) }
}

/// ns of `CLOCK_BOOTTIME` (5.8).
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments and cannot fail.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// ns of `CLOCK_MONOTONIC_COARSE`: the last tick of the scheduler (5.11).
#[inline(always)]
pub(crate) fn coarse_now_ns() -> u64 {
    // SAFETY: the helper has no arguments and cannot fail.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Whether a moment is still to come. What never ends needs no look at the clock.
#[inline(always)]
pub(crate) fn lives(expires_ns: u64) -> bool {
    expires_ns == NEVER_NS || now_ns() < expires_ns
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "records are short")]
fn write_header<T>(header: &mut RecordHeader, kind: RecordKind) {
    header.kind = kind as u32;
    header.size = size_of::<T>() as u32;
    header.time_ns = now_ns();
}

#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "the name stands at a multiple of eight (record.rs)")]
fn write_facts<const CURRENT: bool>(facts: &mut ProcessFacts, tgid: u32, tag: &ProcessTag) {
    facts.instance = tag.instance;
    facts.exec = tag.exec;
    facts.start_ns = tag.start_ns;
    facts.exe_inode = tag.exe_inode;
    facts.exe_device = tag.exe_device;
    facts.agent = tag.agent;
    facts.tgid = tgid;
    if CURRENT {
        let uid_gid = bpf_get_current_uid_gid();
        facts.uid = low_half(uid_gid);
        facts.gid = high_half(uid_gid);
        facts.tid = processes::current_tid();
        // SAFETY: no arguments; and the whole name of this record, which it fills or zeroes.
        unsafe {
            facts.cgroup = bpf_get_current_cgroup_id();
            bpf_get_current_comm((&raw mut facts.comm).cast(), COMM_BYTES);
        }
    } else {
        facts.uid = 0;
        facts.gid = 0;
        facts.cgroup = 0;
        // SAFETY: fields of the record: four bytes, and sixteen that are aligned as it is. Volatile,
        // or all of them become one loop over bytes.
        unsafe {
            core::ptr::write_volatile(&raw mut facts.tid, 0);
            core::ptr::write_volatile((&raw mut facts.comm).cast::<u64>(), 0);
            core::ptr::write_volatile((&raw mut facts.comm).cast::<u64>().add(1), 0);
        }
    }
}

/// What a record says of a decision.
struct Ruling {
    reason: u16,
    grant: GrantId,
    tool: ToolId,
    flags: u8,
}

impl Ruling {
    #[inline(always)]
    const fn of(refusal: &Refusal) -> Self {
        let Refusal { reason, grant, tool } = *refusal;
        Self { reason, grant, tool, flags: 0 }
    }
}

#[inline(always)]
fn write_call<const CURRENT: bool>(
    entry: &mut RingBufEntry<CallRecord>,
    kind: RecordKind,
    case: &Case<CURRENT>,
    request: RequestId,
    ruling: Ruling,
) {
    let Ruling { reason, grant, tool, flags } = ruling;
    // SAFETY: reserved memory of this size; every field is written before the record is submitted.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    write_header::<CallRecord>(&mut record.header, kind);
    if kind as u32 == RecordKind::Allowed as u32 {
        // The daemon knows the images that it allows.
        write_facts::<false>(&mut record.process, case.tgid, &case.tag);
    } else {
        write_facts::<CURRENT>(&mut record.process, case.tgid, &case.tag);
    }
    record.destination = case.destination;
    record.request = request;
    record.socket_cookie = case.socket_cookie;
    record.netns_cookie = case.netns_cookie;
    record.generation = state::generation().get();
    record.grant = grant;
    record.tool = tool;
    record.reason = reason;
    record.hook = case.hook as u8;
    record.flags = case.flags | flags;
    // SAFETY: the helper has no arguments and cannot fail.
    record.cpu = unsafe { bpf_get_smp_processor_id() };
    record._pad = 0;
}

/// Asks the daemon; no number when the ring is full.
#[inline(always)]
pub(crate) fn ask<const CURRENT: bool>(
    case: &Case<CURRENT>,
    grant: GrantId,
    attested: bool,
) -> RequestId {
    let Some(mut entry) = ring::reserve::<CallRecord>() else { return RequestId::NONE };
    counters::count(Counter::Requests);
    let request =
        if case.request.is_none() { RequestId::new(state::next_id()) } else { case.request };
    let flags = if attested { 0 } else { CALL_UNATTESTED };
    let ruling = Ruling { reason: 0, grant, tool: ToolId::NONE, flags };
    write_call(&mut entry, RecordKind::Request, case, request, ruling);
    ring::submit(entry);
    request
}

/// The question of a caller that is about to be stopped, written and not published yet; nothing
/// where the ring is full.
#[inline(always)]
pub(crate) fn parked(case: &Case<true>, request: RequestId) -> Option<RingBufEntry<CallRecord>> {
    let mut entry = ring::reserve::<CallRecord>()?;
    let (grant, tool) = (GrantId::NONE, ToolId::NONE);
    let ruling = Ruling { reason: 0, grant, tool, flags: CALL_PARKED };
    write_call(&mut entry, RecordKind::Request, case, request, ruling);
    Some(entry)
}

/// Tells the daemon which unix socket a number stands for.
#[inline(always)]
pub(crate) fn peer(
    named: &NumberedPeer,
    path: impl FnOnce(&mut [u64; UNIX_NAME_WORDS]) -> u32,
) -> bool {
    let Some(mut entry) = ring::reserve::<PeerRecord>() else { return false };
    // SAFETY: as in `write_call`.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    write_header::<PeerRecord>(&mut record.header, RecordKind::Peer);
    record.named = *named;
    record._pad = 0;
    for word in &mut record.path {
        // SAFETY: a field of the record. Volatile, or all of them become one loop over bytes.
        unsafe { core::ptr::write_volatile(word, 0) };
    }
    record.path_length = path(&mut record.path);
    ring::submit_later(entry);
    true
}

/// Asks the daemon where a path leads that the current thread has called; false when the ring is
/// full.
#[inline(always)]
pub(crate) fn path(token: u64, name: UnixName) -> bool {
    let Some(mut entry) = ring::reserve::<PathRecord>() else { return false };
    // SAFETY: as in `write_call`.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    write_header::<PathRecord>(&mut record.header, RecordKind::Path);
    record.token = token;
    record.tgid = processes::current_tgid();
    record.tid = processes::current_tid();
    record._pad = 0;
    for word in &mut record.path {
        // SAFETY: as in `peer`.
        unsafe { core::ptr::write_volatile(word, 0) };
    }
    // A path that can't be read is empty, and leads nowhere.
    record.path_length = name.copy_path(&mut record.path).unwrap_or_default();
    ring::submit(entry);
    true
}

#[inline(always)]
fn tell<const CURRENT: bool>(
    kind: RecordKind,
    lost: Counter,
    case: &Case<CURRENT>,
    ruling: Ruling,
) {
    if let Some(entry) = begin(kind, lost, case, ruling) {
        ring::submit_later(entry);
    }
}

#[inline(always)]
fn begin<const CURRENT: bool>(
    kind: RecordKind,
    lost: Counter,
    case: &Case<CURRENT>,
    ruling: Ruling,
) -> Option<RingBufEntry<CallRecord>> {
    counters::count_reason(ruling.reason);
    let Some(mut entry) = ring::reserve::<CallRecord>() else {
        counters::count(lost);
        return None;
    };
    write_call(&mut entry, kind, case, RequestId::NONE, ruling);
    Some(entry)
}

/// Tells of a call that was denied without asking.
#[inline(always)]
pub(crate) fn denied<const CURRENT: bool>(case: &Case<CURRENT>, refusal: &Refusal) {
    tell(RecordKind::Denied, Counter::LostDenied, case, Ruling::of(refusal));
}

/// Tells of a call that would have been denied, of an agent in audit mode.
#[inline(always)]
pub(crate) fn audited<const CURRENT: bool>(case: &Case<CURRENT>, refusal: &Refusal) {
    tell(RecordKind::Audited, Counter::LostAudited, case, Ruling::of(refusal));
}

/// Tells of a call that was allowed without asking, or that took a verdict that admits one.
#[inline(always)]
pub(crate) fn allowed<const CURRENT: bool>(case: &Case<CURRENT>, permit: &Permit) {
    let Permit { expires_ns: _, grant, tool, reason, flags: _, tally: _, _pad } = *permit;
    let flags = if permit.is_taken() { CALL_TOOK_USE } else { 0 };
    let ruling = Ruling { reason, grant, tool, flags };
    let Some(entry) = begin(RecordKind::Allowed, Counter::LostAllowed, case, ruling) else {
        return;
    };
    if case.hook as u8 == Hook::Connect as u8 && permit.may_be_counted() {
        // The daemon makes a tally of it; until then each call like it is a record.
        ring::submit(entry);
    } else {
        ring::submit_later(entry);
    }
}

/// Tells that a held or live flow was denied, so that its socket is reset. Its denial is told by
/// somebody else: what finds no room is no lost event, and the flow ends by its own timers (a held
/// SYN by `hooks/sock_ops.rs`, a live flow by the stack's retransmissions).
#[inline(always)]
pub(crate) fn flow_denied<const CURRENT: bool>(case: &Case<CURRENT>, refusal: &Refusal) {
    tell(RecordKind::FlowDenied, Counter::LostFlowDenied, case, Ruling::of(refusal));
}

/// Tells of a process. `CURRENT`: of the one that runs this.
#[inline(always)]
pub(crate) fn process<const CURRENT: bool>(kind: RecordKind, tgid: u32, tag: &ProcessTag) {
    let Some(mut entry) = ring::reserve::<ProcessRecord>() else {
        return counters::count(Counter::LostProcess);
    };
    // SAFETY: as in `write_call`.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    write_header::<ProcessRecord>(&mut record.header, kind);
    write_facts::<CURRENT>(&mut record.process, tgid, tag);
    match kind {
        // Attesting early spares the first call its wait.
        RecordKind::Joined => ring::submit(entry),
        RecordKind::Classified
        | RecordKind::Executed
        | RecordKind::Request
        | RecordKind::Denied
        | RecordKind::Allowed
        | RecordKind::Audited
        | RecordKind::FlowDenied
        | RecordKind::Peer
        | RecordKind::Path
        | RecordKind::Guarded
        | RecordKind::InstanceEnded
        | RecordKind::TableFull => ring::submit_later(entry),
    }
}

/// Tells of a program that the current process executes.
#[inline(always)]
pub(crate) fn executed(
    kind: RecordKind,
    tgid: u32,
    tag: &ProcessTag,
    arguments: Option<Arguments>,
) {
    let Some(mut entry) = ring::reserve::<ExecRecord>() else {
        return counters::count(Counter::LostProcess);
    };
    // SAFETY: as in `write_call`, but for the text, which has its length.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    write_header::<ExecRecord>(&mut record.header, kind);
    write_facts::<true>(&mut record.process, tgid, tag);
    exec::write(&mut record.view, Task::current(), arguments);
    // Attesting early spares the first call its wait.
    ring::submit(entry);
}

/// Tells of what the current process, an agent's, may not do to the host.
#[inline(always)]
pub(crate) fn guarded(tgid: u32, tag: &ProcessTag, guard: Guard, target_tgid: u32, argument: u64) {
    counters::count_reason(Reason::Guarded.raw());
    let Some(mut entry) = ring::reserve::<GuardRecord>() else {
        return counters::count(Counter::LostGuarded);
    };
    // SAFETY: as in `write_call`.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    write_header::<GuardRecord>(&mut record.header, RecordKind::Guarded);
    write_facts::<true>(&mut record.process, tgid, tag);
    record.guard = guard as u32;
    record.target_tgid = target_tgid;
    record.argument = argument;
    ring::submit_later(entry);
}
