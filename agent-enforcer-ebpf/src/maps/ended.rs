//! Questions whose call has ended with a denial: what is still held for one ends as well, and never
//! asks again. A verdict can't tell: it belongs to the destination, and a denial for want of time is
//! over long before the next retransmission of a SYN that was held for long.

use agent_enforcer_common::id::RequestId;
use aya_ebpf::{macros::map, maps::LruHashMap};

#[map]
static AE_ENDED: LruHashMap<RequestId, u16> = LruHashMap::with_max_entries(16_384, 0);

/// Why the call of a question was denied.
#[inline(always)]
pub(crate) fn reason(request: RequestId) -> Option<u16> {
    let reason = AE_ENDED.get_ptr(request)?;
    // SAFETY: the map's elements stay its own for ever; one that is taken for another question while
    // it is read here tells that one's reason, and this question has ended all the same.
    Some(unsafe { core::ptr::read_volatile(reason) })
}
