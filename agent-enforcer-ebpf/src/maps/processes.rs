//! Which processes are agents': a bit for each thread group that is looked at, and the tags of
//! agents. The bit is all that the rest of the host pays for.
//!
//! A bit without a tag is an agent's process that found no room, so that a full table never means
//! "not an agent", or the daemon. The tag comes before the bit and goes before it: what is neither
//! here nor there is denied.

use agent_enforcer_common::{
    config::StateWord,
    process::{PID_LIMIT, ProcessTag},
    record::Counter,
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::map,
    maps::{Array, HashMap},
};

use super::{MMAPABLE, counters, state};
use crate::{
    atomic::AtomicWord,
    halves::{high_half, low_half},
};

#[map]
static AE_PROCS: HashMap<u32, ProcessTag> = HashMap::with_max_entries(65_536, 0);

#[map]
static AE_MARKED: Array<u64> = Array::with_max_entries(PID_LIMIT / 64, MMAPABLE);

/// What the kernel side knows of a thread group.
pub(crate) enum Standing<Tag = ProcessTag> {
    /// Not an agent's.
    Stranger,
    /// The daemon.
    Daemon,
    /// An agent's.
    Agent(Tag),
    /// An agent's, but which one found no room: everything is denied.
    Untracked,
}

/// Thread group id of the current task, in the initial pid namespace.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    high_half(bpf_get_current_pid_tgid())
}

/// Thread id of the current task, in the initial pid namespace.
#[inline(always)]
pub(crate) fn current_tid() -> u32 {
    low_half(bpf_get_current_pid_tgid())
}

/// Thread group and thread id of the current task, see `ParkedCall`.
#[inline(always)]
pub(crate) fn current_thread() -> u64 {
    bpf_get_current_pid_tgid()
}

#[inline(always)]
pub(crate) fn get(tgid: u32) -> Option<ProcessTag> {
    // SAFETY: the value is copied out at once.
    unsafe { AE_PROCS.get(tgid) }.copied()
}

/// The standing of the current task's own thread group; its tag stays where it is as long as the
/// task runs.
#[inline(always)]
pub(crate) fn of_current(tgid: u32) -> Standing<&'static ProcessTag> {
    if !is_marked(tgid) {
        return Standing::Stranger;
    }
    // SAFETY: only written whole, by this task's own exec.
    match unsafe { AE_PROCS.get(tgid) } {
        Some(tag) => Standing::Agent(tag),
        None => without_tag(tgid),
    }
}

#[inline(always)]
pub(crate) fn standing(tgid: u32) -> Standing {
    if !is_marked(tgid) {
        return Standing::Stranger;
    }
    match get(tgid) {
        Some(tag) => Standing::Agent(tag),
        None => without_tag(tgid),
    }
}

/// Of a thread group that has a bit.
#[inline(always)]
fn without_tag<Tag>(tgid: u32) -> Standing<Tag> {
    if has_daemons_number(tgid) { Standing::Daemon } else { Standing::Untracked }
}

#[inline(always)]
pub(crate) fn has_daemons_number(tgid: u32) -> bool {
    u64::from(tgid) == state::read(StateWord::DaemonTgid)
}

/// Tags a thread group; where the table is full it is marked so that everything is denied.
/// False when there was no room.
#[inline(always)]
pub(crate) fn insert(tgid: u32, tag: &ProcessTag) -> bool {
    if AE_PROCS.insert(tgid, tag, 0).is_ok() {
        if let Some(word) = word(tgid) {
            word.fetch_or(bit(tgid));
        }
        return true;
    }
    mark_untracked(tgid);
    false
}

#[inline(always)]
fn word(tgid: u32) -> Option<AtomicWord> {
    let pointer = AE_MARKED.get_ptr_mut(tgid / 64)?;
    // SAFETY: array values live as long as the map and are only used atomically.
    Some(unsafe { AtomicWord::new(pointer) })
}

#[inline(always)]
const fn bit(tgid: u32) -> u64 {
    1 << (tgid % 64)
}

/// Whether a thread group is looked at, whoever it is. A pid beyond the bitmap, which the kernel does
/// not give out (include/linux/threads.h `PID_MAX_LIMIT`), is.
#[inline(always)]
fn is_marked(tgid: u32) -> bool {
    word(tgid).is_none_or(|word| word.load() & bit(tgid) != 0)
}

#[inline(always)]
pub(crate) fn mark_untracked(tgid: u32) {
    counters::count(Counter::ProcessTableFull);
    if let Some(word) = word(tgid)
        && word.fetch_or(bit(tgid)) & bit(tgid) == 0
    {
        state::fetch_add(StateWord::Untracked, 1);
    }
}

/// Forgets a thread group, whichever way it was known; its tag, if it had one.
#[inline(always)]
pub(crate) fn remove(tgid: u32) -> Option<ProcessTag> {
    if !is_marked(tgid) {
        return None;
    }
    let tag = get(tgid);
    if tag.is_some() {
        let _ = AE_PROCS.remove(tgid);
    }
    if let Some(word) = word(tgid)
        && word.fetch_and(!bit(tgid)) & bit(tgid) != 0
        && tag.is_none()
        && !has_daemons_number(tgid)
    {
        state::subtract(StateWord::Untracked, 1);
    }
    tag
}
