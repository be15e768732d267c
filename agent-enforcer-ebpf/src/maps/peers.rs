//! Numbers for unix sockets, so that a verdict can name one. Losing one here only means that it gets
//! another number, and is asked for again.

use agent_enforcer_common::peer::{NumberedPeer, UnixPeer};
use aya_ebpf::{macros::map, maps::LruHashMap};

#[map]
static AE_PEERS: LruHashMap<UnixPeer, NumberedPeer> = LruHashMap::with_max_entries(16_384, 0);

/// The number of a peer, where it has one.
#[inline(always)]
pub(crate) fn number(peer: &UnixPeer) -> Option<u64> {
    // SAFETY: the map's elements stay its own for ever; one that is taken for another peer while it
    // is read does not compare equal afterwards.
    let named = unsafe { AE_PEERS.get(peer) }?;
    let number = read(&named.number);
    is_same(&named.peer, peer).then_some(number)
}

/// Gives a peer its number; false when memory is short.
#[inline(always)]
pub(crate) fn name(named: &NumberedPeer) -> bool {
    // By reference: a copy of the key does not fit the stack.
    let key = &named.peer;
    AE_PEERS.insert(key, named, 0).is_ok()
}

#[inline(always)]
fn is_same(one: &UnixPeer, other: &UnixPeer) -> bool {
    let mut same = read(&one.inode) == other.inode
        && read(&one.netns_cookie) == other.netns_cookie
        && read(&one.device) == other.device
        && read(&one.generation) == other.generation
        && read(&one.length) == other.length;
    for (one, other) in one.name.iter().zip(&other.name) {
        same &= read(one) == *other;
    }
    same
}

/// Another processor may write it meanwhile.
#[inline(always)]
fn read<T: Copy>(word: &T) -> T {
    // SAFETY: a reference is valid.
    unsafe { core::ptr::read_volatile(word) }
}
