//! Per-CPU counters: one per reason, and the few of [`Counter`].

use agent_enforcer_common::{reason::Reason, record::Counter};
use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::atomic::AtomicWord;

#[map]
static AE_REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::SLOTS, 0);

#[map]
static AE_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::SLOTS, 0);

#[inline(always)]
pub(crate) fn count_reason(reason: u16) {
    add_one(AE_REASONS.get_ptr_mut(u32::from(reason)));
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add_one(AE_COUNTERS.get_ptr_mut(counter as u32));
}

/// A program is not migrated while it runs, but others may run on its processor in the middle of it.
#[inline(always)]
fn add_one(value: Option<*mut u64>) {
    if let Some(value) = value {
        // SAFETY: map values live as long as the map, and these are only added to.
        unsafe { AtomicWord::new(value) }.fetch_add(1);
    }
}
