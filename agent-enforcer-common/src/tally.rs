//! Allowed calls that are counted instead of recorded: what is the same of all of them, how many
//! there were, and the last one.

use crate::record::CallRecord;

/// Tallies in the table; the first is none.
pub const TALLY_SLOTS: u32 = 4096;

/// The calls of one program image to one destination under one verdict. A slot of zeroes is free.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Tally {
    /// Calls; the kernel side's.
    pub count: u64,
    /// When the last was seen, ns of `CLOCK_MONOTONIC_COARSE`, which costs a tenth of the others; the
    /// kernel side's.
    pub last_coarse_ns: u64,
    /// Thread group of the last; the kernel side's.
    pub last_tgid: u64,
    /// How many of them have their event; the daemon's.
    pub told: u64,
    /// When that was, ns of `CLOCK_BOOTTIME`; the daemon's.
    pub told_ns: u64,
    /// The record of the call before the first, without what is that call's own; the daemon's.
    pub template: CallRecord,
    /// To whole cache lines: neighbours are counted on other CPUs.
    pub _pad: [u64; 5],
}

const _: () = {
    assert!(size_of::<Tally>() == 256);
    assert!(core::mem::offset_of!(Tally, template) == 40);
};
crate::plain_data!(Tally);
