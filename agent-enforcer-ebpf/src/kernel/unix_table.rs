//! The kernel's table of unix sockets, walked without its locks: what moves meanwhile is not found.
//!
//! Each network namespace has one, of twice 256 lists: of sockets bound to inodes, by inode number,
//! among others; and of abstract names, by name and type (net/unix/af_unix.c `unix_bsd_hash`,
//! `unix_abstract_hash`, 6.0). The kernel looks abstract names up there as well; inodes it looks up
//! in a table of all namespaces.

use agent_enforcer_common::peer::UNIX_NAME_WORDS;
use aya_ebpf::{cty::c_void, helpers::generated::bpf_loop};

use super::{
    Address,
    sock::{Sock, UnixName, UnixSock},
};
use crate::settings::offset;

/// `UNIX_HASH_MOD`.
const LISTS: u64 = 256;
/// Sockets of one list that are looked at.
const WALK_LIMIT: u32 = 4096;

struct Walk {
    node: u64,
    found: u64,
    /// Inode to be found; 0 is an abstract name.
    inode: u64,
    device: u32,
    length: u32,
    name: [u64; UNIX_NAME_WORDS],
}

/// The socket of `own`'s network namespace that takes what is sent to this inode; 0 is none.
#[inline(never)]
pub(crate) fn bound_to(own: u64, inode: u64, device: u32) -> u64 {
    let mut walk = Walk { node: 0, found: 0, inode, device, length: 0, name: [0; UNIX_NAME_WORDS] };
    walk.go(own, inode % LISTS).unwrap_or_default()
}

/// The socket that takes what `own` sends to this abstract name; 0 is none.
#[inline(never)]
pub(crate) fn named(own: u64, name: UnixName) -> u64 {
    let mut walk =
        Walk { node: 0, found: 0, inode: 0, device: 0, length: 0, name: [0; UNIX_NAME_WORDS] };
    let Some(length) = name.copy_abstract(&mut walk.name) else { return 0 };
    walk.length = length;
    let Some(kind) = Sock::new(Address::new(own)).kind() else { return 0 };
    let list = LISTS + u64::from(hash(&walk.name, kind)) % LISTS;
    walk.go(own, list).unwrap_or_default()
}

impl Walk {
    #[inline(always)]
    fn go(&mut self, own: u64, list: u64) -> Option<u64> {
        let net = Address::new(own).follow(offset!(sock_net))?;
        let lists = net.follow(offset!(net_unix_buckets))?;
        // Once more, as a socket that leaves the list ends the walk.
        for _ in 0..2 {
            self.node = Address::new(lists.get() + list * 8).read(0)?;
            // SAFETY: the callback has the signature that the helper demands (5.17), and the walk
            // outlives it.
            unsafe {
                bpf_loop(WALK_LIMIT, step as *mut c_void, core::ptr::from_mut(self).cast(), 0);
            }
            if self.found != 0 {
                return Some(self.found);
            }
        }
        None
    }

    #[inline(always)]
    fn is_wanted(&self, unix: UnixSock) -> Option<bool> {
        let same = if self.inode == 0 {
            unix.is_called(&self.name, self.length)?
        } else {
            unix.is_at(self.inode, self.device)?
        };
        Some(same && unix.is_server()?)
    }
}

/// One socket. Returns 1 to stop.
extern "C" fn step(_turn: u64, context: *mut c_void) -> u64 {
    // SAFETY: the context is the caller's `Walk`.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    if walk.node == 0 {
        return 1;
    }
    let node = Address::new(walk.node);
    // A `unix_sock` begins with its `sock`, and that with its `sock_common`.
    let sock = node.before(offset!(sock_node));
    if walk.is_wanted(UnixSock::new(sock)) == Some(true) {
        walk.found = sock.get();
        return 1;
    }
    walk.node = node.read(0).unwrap_or_default();
    0
}

/// `unix_abstract_hash`: the internet checksum of the whole address, and the type. The family is one
/// pair of bytes; the name begins in the middle of the next, so that its pairs are swapped.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "pairs of bytes are what is wanted")]
fn hash(name: &[u64; UNIX_NAME_WORDS], kind: u16) -> u32 {
    let mut sum = u32::from(super::sock::AF_UNIX);
    for word in name {
        for shift in [0, 16, 32, 48] {
            sum += u32::from(((word >> shift) as u16).swap_bytes());
        }
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let folded = u32::from(!(sum as u16));
    folded ^ folded >> 8 ^ u32::from(kind)
}
