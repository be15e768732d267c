//! The ring buffer to the daemon.

use aya_ebpf::{
    macros::map,
    maps::{RingBuf, ring_buf::RingBufEntry},
};

/// Do not wake the daemon: it looks by itself soon enough (include/uapi/linux/bpf.h, 5.8).
const NO_WAKEUP: u64 = 1;

#[map]
static AE_RING: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    AE_RING.reserve::<T>(0)
}

/// Publishes a record that somebody waits for.
#[inline(always)]
pub(crate) fn submit<T>(entry: RingBufEntry<T>) {
    entry.submit(0);
}

/// Takes back a record that was not published.
#[inline(always)]
pub(crate) fn discard<T>(entry: RingBufEntry<T>) {
    entry.discard(0);
}

/// Publishes a record that nobody waits for.
#[inline(always)]
pub(crate) fn submit_later<T>(entry: RingBufEntry<T>) {
    entry.submit(NO_WAKEUP);
}
