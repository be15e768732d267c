//! Where paths of unix sockets lead, as the daemon found when it was asked. Each answer is looked at
//! once: the next call may lead elsewhere. Losing one here only means that the call is made again.

use agent_enforcer_common::peer::FoundSocket;
use aya_ebpf::{macros::map, maps::LruHashMap};

#[map]
static AE_FOUND: LruHashMap<u64, FoundSocket> = LruHashMap::with_max_entries(1024, 0);

/// The answer to a question, where it is there.
#[inline(always)]
pub(crate) fn get(token: u64) -> Option<FoundSocket> {
    // SAFETY: the value is copied out; one that is written for another question meanwhile does not
    // have this number.
    let found = unsafe { AE_FOUND.get_ptr(token)?.read_volatile() };
    (found.token == token).then_some(found)
}

/// Forgets it.
#[inline(always)]
pub(crate) fn remove(token: u64) {
    let _ = AE_FOUND.remove(token);
}
