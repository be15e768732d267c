//! Callers that are stopped until their call is decided. Losing one here only means that it asks
//! under another number; who continues it knows it from the record.

use agent_enforcer_common::park::ParkedCall;
use aya_ebpf::{macros::map, maps::LruHashMap};

#[map]
static AE_PARKED: LruHashMap<u64, ParkedCall> = LruHashMap::with_max_entries(16_384, 0);

/// What a thread was stopped for.
#[inline(always)]
pub(crate) fn get(pid_tgid: u64) -> Option<ParkedCall> {
    // SAFETY: the value is copied out at once; only the thread itself writes it.
    unsafe { AE_PARKED.get(pid_tgid) }.copied()
}

/// Notes what a thread is stopped for; false when memory is short.
#[inline(always)]
pub(crate) fn insert(pid_tgid: u64, parked: &ParkedCall) -> bool {
    AE_PARKED.insert(pid_tgid, parked, 0).is_ok()
}

/// Forgets it.
#[inline(always)]
pub(crate) fn remove(pid_tgid: u64) {
    let _ = AE_PARKED.remove(pid_tgid);
}
