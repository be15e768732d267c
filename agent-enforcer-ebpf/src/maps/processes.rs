//! Which processes are agents': the tag of each thread group, and a bitmap for those that found
//! no room, so that a full table never means "not an agent".

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

use super::{counters, state};
use crate::{
    atomic::AtomicWord,
    halves::{high_half, low_half},
};

#[map]
static AE_PROCS: HashMap<u32, ProcessTag> = HashMap::with_max_entries(65_536, 0);

#[map]
static AE_UNTRACKED: Array<u64> = Array::with_max_entries(PID_LIMIT / 64, 0);

/// What the kernel side knows of a thread group.
pub(crate) enum Standing {
    /// Not an agent's.
    Stranger,
    /// An agent's.
    Agent(ProcessTag),
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

/// The tag of the current task's own thread group, where it is: it stays as long as the task runs.
#[inline(always)]
pub(crate) fn of_current(tgid: u32) -> Option<&'static ProcessTag> {
    // SAFETY: only written whole, by this task's own exec.
    unsafe { AE_PROCS.get(tgid) }
}

#[inline(always)]
pub(crate) fn standing(tgid: u32) -> Standing {
    match get(tgid) {
        Some(tag) => Standing::Agent(tag),
        None if is_untracked(tgid) => Standing::Untracked,
        None => Standing::Stranger,
    }
}

/// Tags a thread group; where the table is full it is marked so that everything is denied.
/// False when there was no room.
#[inline(always)]
pub(crate) fn insert(tgid: u32, tag: &ProcessTag) -> bool {
    if AE_PROCS.insert(tgid, tag, 0).is_ok() {
        return true;
    }
    mark_untracked(tgid);
    false
}

#[inline(always)]
fn word(tgid: u32) -> Option<AtomicWord> {
    let pointer = AE_UNTRACKED.get_ptr_mut(tgid / 64)?;
    // SAFETY: array values live as long as the map and are only used atomically.
    Some(unsafe { AtomicWord::new(pointer) })
}

/// Whether a thread group is an agent's that found no room.
#[inline(always)]
pub(crate) fn is_untracked(tgid: u32) -> bool {
    state::read(StateWord::Untracked) != 0
        && word(tgid).is_some_and(|word| word.load() & (1 << (tgid % 64)) != 0)
}

#[inline(always)]
pub(crate) fn mark_untracked(tgid: u32) {
    counters::count(Counter::ProcessTableFull);
    if let Some(word) = word(tgid) {
        let bit = 1 << (tgid % 64);
        if word.fetch_or(bit) & bit == 0 {
            state::fetch_add(StateWord::Untracked, 1);
        }
    }
}

/// Forgets a thread group, whichever way it was known; its tag, if it had one.
#[inline(always)]
pub(crate) fn remove(tgid: u32) -> Option<ProcessTag> {
    let tag = get(tgid);
    if tag.is_some() {
        let _ = AE_PROCS.remove(tgid);
    }
    if state::read(StateWord::Untracked) != 0
        && let Some(word) = word(tgid)
    {
        let bit = 1 << (tgid % 64);
        if word.fetch_and(!bit) & bit != 0 {
            state::subtract(StateWord::Untracked, 1);
        }
    }
    tag
}
