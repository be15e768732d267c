//! Numbers of unix sockets that are called. The daemon is told of each before it is asked about it.

use agent_enforcer_common::{
    peer::{NAMELESS_PEER, NumberedPeer, UNIX_NAME_WORDS, UNKNOWN_PEER, UnixPeer},
    record::Counter,
};

use super::guard::files::is_closed_socket;
use crate::{
    kernel::{
        Address,
        sock::{UnixName, UnixSock},
    },
    maps::{counters, peers, state},
    report,
};

/// With a number: no agent may reach this peer, whatever its grants and its mode.
pub(crate) const CLOSED: u64 = 1 << 63;

/// The number of a `unix_sock`. A function of its own: it needs most of the stack. `GUARDED`: on the
/// LSM plane, where files are closed to agents.
#[inline(never)]
pub(crate) fn number_of<const GUARDED: bool>(other: u64) -> u64 {
    let unix = UnixSock::new(Address::new(other));
    let mut named = unnamed();
    match unix.name(&mut named.peer) {
        Some(true) => {}
        Some(false) => return NAMELESS_PEER,
        None => {
            counters::count(Counter::PeerUnnamed);
            return UNKNOWN_PEER;
        }
    }
    if let Some(number) = peers::number(&named.peer) {
        return number;
    }
    named.number = state::next_id();
    let told = report::peer(&named, |path| unix.path(path).unwrap_or_default());
    // Never in the table, so that it is looked at every time.
    if GUARDED && told && unix.dentry().is_some_and(is_closed_socket) {
        return named.number | CLOSED;
    }
    keep(&named, told)
}

/// The number of an inode of which only that is known: without its generation. The daemon is told
/// of the name that the caller has for it.
#[inline(never)]
pub(crate) fn number_of_file(inode: u64, device: u32, name: UnixName) -> u64 {
    let mut named = unnamed();
    named.peer.inode = inode;
    named.peer.device = device;
    if let Some(number) = peers::number(&named.peer) {
        return number;
    }
    named.number = state::next_id();
    let told = report::peer(&named, |path| name.copy_path(path).unwrap_or_default());
    keep(&named, told)
}

#[inline(always)]
fn keep(named: &NumberedPeer, told: bool) -> u64 {
    if told && peers::name(named) {
        return named.number;
    }
    counters::count(Counter::PeerUnnamed);
    UNKNOWN_PEER
}

#[inline(always)]
const fn unnamed() -> NumberedPeer {
    NumberedPeer {
        peer: UnixPeer {
            inode: 0,
            netns_cookie: 0,
            device: 0,
            generation: 0,
            length: 0,
            _pad: 0,
            name: [0; UNIX_NAME_WORDS],
        },
        number: 0,
    }
}
