//! Atomic words in map values. The standard library offers no read-modify-write for this target
//! (it has no compare-and-swap); the instructions exist since 5.12 (BPF ISA v3). A plain 64-bit load
//! or store is one instruction, so volatile is enough.
//!
//! Never `Relaxed`: LLVM 22 selects the instruction that fetches nothing for a relaxed addition, even
//! where its result is used, and the result is then the amount that was added.

use core::intrinsics::{
    AtomicOrdering::AcqRel, atomic_and, atomic_or, atomic_xadd,
};

/// A word that several CPUs change at once.
#[derive(Clone, Copy)]
pub(crate) struct AtomicWord(*mut u64);

impl AtomicWord {
    /// # Safety
    ///
    /// `word` points into a map value that outlives this, 8-byte aligned, and is only used
    /// atomically.
    #[inline(always)]
    pub(crate) const unsafe fn new(word: *mut u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub(crate) fn load(self) -> u64 {
        // SAFETY: by `new`.
        unsafe { core::ptr::read_volatile(self.0) }
    }

    #[inline(always)]
    pub(crate) fn store(self, value: u64) {
        // SAFETY: by `new`.
        unsafe { core::ptr::write_volatile(self.0, value) }
    }

    /// The value before.
    #[inline(always)]
    pub(crate) fn fetch_add(self, amount: u64) -> u64 {
        // SAFETY: by `new`.
        unsafe { atomic_xadd::<u64, u64, { AcqRel }>(self.0, amount) }
    }

    /// The value before.
    #[inline(always)]
    pub(crate) fn fetch_or(self, bits: u64) -> u64 {
        // SAFETY: by `new`.
        unsafe { atomic_or::<u64, u64, { AcqRel }>(self.0, bits) }
    }

    /// The value before.
    #[inline(always)]
    pub(crate) fn fetch_and(self, bits: u64) -> u64 {
        // SAFETY: by `new`.
        unsafe { atomic_and::<u64, u64, { AcqRel }>(self.0, bits) }
    }
}
