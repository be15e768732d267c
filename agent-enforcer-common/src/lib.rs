//! The ABI between the kernel programs and the daemon.
//!
//! In: nothing. Out: every type, constant and name that crosses the boundary, declared once for
//! both sides. This crate never allocates, never calls the operating system, and holds no policy.
//!
//! Rules: fixed-size fields only, explicit padding, sizes asserted at compile time; enums that
//! cross as integers are append-only and keep retired values.

#![cfg_attr(not(feature = "user"), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod config;
pub mod destination;
pub mod glob;
pub mod guard;
pub mod id;
pub mod names;
pub mod packet;
pub mod park;
pub mod peer;
pub mod process;
pub mod reason;
pub mod record;
pub mod tag;
pub mod tally;
pub mod unit;
pub mod verdict;

/// Version of every layout in this crate. Pinned maps of another version are never reused.
pub const ABI_VERSION: u32 = 7;

/// `u64` nanoseconds of `CLOCK_BOOTTIME` that stand for "never".
pub const NEVER_NS: u64 = u64::MAX;

/// Declares which ABI structs user space may copy as plain bytes.
macro_rules! plain_data {
    ($($name:ty),+ $(,)?) => {
        $(
            #[cfg(feature = "user")]
            // SAFETY: `repr(C)`, integers only, no implicit padding (asserted beside each type).
            unsafe impl aya::Pod for $name {}
        )+
    };
}
pub(crate) use plain_data;
