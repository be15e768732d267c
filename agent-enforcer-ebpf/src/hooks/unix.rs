//! cgroup `connect_unix` and `sendmsg_unix` (6.7): unix sockets where there is no LSM plane.
//!
//! Questions, in order: what does the name lead to; is that the caller's own; may it be called. The
//! hooks have the name, and not yet the socket:
//!
//! - An abstract name is looked up in the table in which the kernel looks it up afterwards.
//! - A path is looked up by the daemon, with the root and the working directory of the calling
//!   thread, each time anew. What it finds is an inode, and that is judged. The kernel looks the path up
//!   again afterwards: who changes where it leads in between reaches what was not judged (SECURITY.md).
//!
//! Own is what a living process of the caller's instance listens on. What can't be named is denied.

use agent_enforcer_common::{
    destination::Destination,
    id::InstanceId,
    peer::{PathState, UNKNOWN_PEER},
    reason::Reason,
    record::Hook,
};
use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};

use super::{
    call::{self, CallOutcome, NOT_IN_POLICY},
    peers::{number_of, number_of_file},
};
use crate::{
    decide::Refusal,
    judge::{Judgement, Past, Source, judge},
    kernel::{
        Address,
        sock::{UnixName, UnixSock},
        unix_table,
    },
    maps::{
        processes::{self, Standing},
        profiles,
    },
    report::{self, Case},
    settings::offset,
    stall::{self, Path, Patience},
};

/// In place of a number: nobody is there.
const NOBODY: u64 = 1 << 62;
/// The caller's own socket.
const OWN: u64 = NOBODY + 1;
/// Where the path leads is not known yet.
const OPEN: u64 = NOBODY + 2;
/// With the number of a reason: the call is denied for it.
const REFUSED: u64 = 1 << 61;

/// Judges a call with the address of a unix socket.
#[inline(always)]
pub(crate) fn call(ctx: &SockAddrContext, hook: Hook) -> CallOutcome {
    match processes::of_current(processes::current_tgid()) {
        Standing::Stranger | Standing::Daemon => CallOutcome::Pass,
        Standing::Agent(process) => match identify(ctx.sock_addr, process.instance) {
            OWN => CallOutcome::Pass,
            NOBODY => CallOutcome::Nobody,
            OPEN => CallOutcome::TryAgain,
            number => judge_peer(ctx.sock_addr, number, hook),
        },
        Standing::Untracked => judge_peer(ctx.sock_addr, refused(Reason::ProcessTableFull), hook),
    }
}

#[inline(always)]
const fn refused(reason: Reason) -> u64 {
    REFUSED | reason.raw() as u64
}

/// What the call leads to: a number, or what stands in place of one.
#[inline(never)]
fn identify(sock_addr: *mut bpf_sock_addr, instance: InstanceId) -> u64 {
    let Some((own, name)) = socket_and_name(sock_addr) else { return UNKNOWN_PEER };
    let other = match name.is_abstract() {
        None => return UNKNOWN_PEER,
        Some(true) => match unix_table::named(own, name) {
            0 => return NOBODY,
            other => other,
        },
        Some(false) => {
            let found = match stall::ask_path(instance, name) {
                Path::Found(found) => found,
                Path::Open => return OPEN,
                Path::Refused(reason) => return refused(reason),
            };
            if found.state == PathState::Nothing as u32 {
                return NOBODY;
            }
            if found.state != PathState::Socket as u32 {
                return refused(Reason::SocketUnnamed);
            }
            match unix_table::bound_to(own, found.inode, found.device) {
                // Of another network namespace, or nobody's any more.
                0 => return number_of_file(found.inode, found.device, name),
                other => other,
            }
        }
    };
    if is_own(other, instance) { OWN } else { number_of::<false>(other) }
}

/// Of the kernel's `bpf_sock_addr_kern`: the calling `sock`, and the address.
#[inline(always)]
fn socket_and_name(sock_addr: *mut bpf_sock_addr) -> Option<(u64, UnixName)> {
    let call = Address::of(sock_addr)?;
    let own = call.follow(offset!(call_sk))?;
    let address = call.follow(offset!(call_address))?;
    let length: u32 = call.read(offset!(call_address_length))?;
    Some((own.get(), UnixName::new(address, length)))
}

#[inline(always)]
fn is_own(other: u64, instance: InstanceId) -> bool {
    let listener = UnixSock::new(Address::new(other)).listener().and_then(processes::get);
    listener.is_some_and(|process| process.instance == instance)
}

#[inline(never)]
fn judge_peer(sock_addr: *mut bpf_sock_addr, number: u64, hook: Hook) -> CallOutcome {
    let tgid = processes::current_tgid();
    // It is there, as long as its process runs.
    let process = processes::get(tgid).unwrap_or_default();
    let refusal = if number == UNKNOWN_PEER {
        Some(Reason::Internal.raw())
    } else if number & REFUSED != 0 {
        Some((number & 0xffff) as u16)
    } else {
        None
    };
    let number = if refusal.is_some() { UNKNOWN_PEER } else { number };
    // SAFETY: the context of a hook of sockets.
    let case = unsafe {
        Case::of_socket(sock_addr.cast(), Destination::unix(number), tgid, process, hook)
    };
    if let Some(reason) = refusal {
        let refusal = Refusal { reason, ..Refusal::new(Reason::None) };
        return call::deny(&case, &refusal, false);
    }
    let profile = profiles::get(&process.agent).unwrap_or(NOT_IN_POLICY);
    match judge(&case, profile, Past::NONE, Patience::UntilOpen) {
        Judgement::Allow { permit, source } => {
            if source != Source::Daemon || permit.is_taken() {
                report::allowed(&case, &permit);
            }
            CallOutcome::Pass
        }
        Judgement::Deny { refusal, source } => {
            call::deny(&case, &refusal, source == Source::Daemon)
        }
        Judgement::Open(_) => CallOutcome::TryAgain,
        Judgement::Watched => CallOutcome::Pass,
    }
}
