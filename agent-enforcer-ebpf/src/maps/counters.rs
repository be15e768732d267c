//! Per-CPU counters: one per reason, and the few of [`Counter`].

use agent_enforcer_common::{reason::Reason, record::Counter};
use aya_ebpf::{macros::map, maps::PerCpuArray};

#[map]
static AE_REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::SLOTS, 0);

#[map]
static AE_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::SLOTS, 0);

#[inline(always)]
pub(crate) fn count_reason(reason: u16) {
    if let Some(value) = AE_REASONS.get_ptr_mut(u32::from(reason)) {
        // SAFETY: per-CPU value; a program is not migrated while it runs.
        unsafe { *value += 1 };
    }
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = AE_COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: per-CPU value; a program is not migrated while it runs.
        unsafe { *value += 1 };
    }
}
