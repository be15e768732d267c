//! Halves of the 64-bit words in which the kernel's helpers return two numbers.

#[inline(always)]
pub(crate) const fn high_half(word: u64) -> u32 {
    low_half(word >> 32)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
pub(crate) const fn low_half(word: u64) -> u32 {
    word as u32
}
