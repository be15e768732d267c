//! Facts about sockets, for hooks that are handed the kernel's own structs.

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_UDP},
    peer::{UNIX_NAME_BYTES, UNIX_NAME_WORDS, UnixPeer},
};
use aya_ebpf::{bindings::bpf_sock, cty::c_void, helpers::generated::bpf_probe_read_kernel};

use super::{Address, dentry::Dentry};
use crate::settings::offset;

pub(crate) const AF_UNSPEC: u16 = 0;
pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const AF_NETLINK: u16 = 16;
pub(crate) const AF_VSOCK: u16 = 40;

/// `TCP_ESTABLISHED`, which is what a connected datagram socket is as well.
const ESTABLISHED: u8 = 1;
/// `MSG_DONTWAIT`; set for sockets opened non-blocking too (net/socket.c `__sys_sendto`).
const DONT_WAIT: u32 = 0x40;
/// Bytes of a unix address before its path (`offsetof(sockaddr_un, sun_path)`).
const PATH_OFFSET: u32 = 2;

/// The socket of a `struct socket *` that the hook was given, as a pointer that helpers take.
///
/// VERIFIER: the offset is a constant to it, as the settings are read-only: the pointer that is
/// loaded has the type of the field.
///
/// # Safety
///
/// `socket` is an argument of the hook, or came from a helper, and is a `struct socket`.
#[inline(always)]
pub(crate) unsafe fn sk_of(socket: *mut c_void) -> Option<*mut bpf_sock> {
    let offset = offset!(socket_sk);
    // SAFETY: by the caller; the verifier checks the load against the kernel's own types.
    let sk: *mut bpf_sock = unsafe { core::ptr::read_volatile(socket.byte_add(offset).cast()) };
    (!sk.is_null()).then_some(sk)
}

/// A `sock`.
#[derive(Clone, Copy)]
pub(crate) struct Sock(Address);

impl Sock {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    /// `AF_*`.
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u16> {
        self.0.read(offset!(sock_family))
    }

    /// `SOCK_*`.
    #[inline(always)]
    pub(crate) fn kind(self) -> Option<u16> {
        self.0.read(offset!(sock_type))
    }

    /// `IPPROTO_*`.
    #[inline(always)]
    pub(crate) fn protocol(self) -> Option<u16> {
        self.0.read(offset!(sock_protocol))
    }

    /// Cookie of the network namespace.
    #[inline(always)]
    pub(crate) fn netns_cookie(self) -> Option<u64> {
        self.0.follow(offset!(sock_net))?.read(offset!(net_cookie))
    }

    /// The peer of a connected datagram socket.
    #[inline(always)]
    pub(crate) fn datagram_peer(self) -> Option<Destination> {
        let state: u8 = self.0.read(offset!(sock_state))?;
        if state != ESTABLISHED {
            return None;
        }
        let port = u16::from_be(self.0.read(offset!(sock_dport))?);
        if self.family()? == AF_INET {
            let address: u32 = self.0.read(offset!(sock_daddr))?;
            return Some(Destination::v4(u32::from_be(address), port, PROTOCOL_UDP));
        }
        let address: [u64; 2] = self.0.read(offset!(sock_v6_daddr))?;
        let scope: u32 = self.0.read(offset!(sock_bound_interface))?;
        Some(Destination::v6(address.map(u64::from_be), scope, port, PROTOCOL_UDP))
    }
}

/// An address of a call, copied by the kernel already: `sockaddr_*`.
#[derive(Clone, Copy)]
pub(crate) struct SocketAddress(Address);

impl SocketAddress {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    /// `AF_*`, as the caller wrote it.
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u16> {
        self.0.read(0)
    }

    /// As `sockaddr_in`.
    #[inline(always)]
    pub(crate) fn v4(self, protocol: u8) -> Option<Destination> {
        let (port, address): (u16, u32) = (self.0.read(2)?, self.0.read(4)?);
        Some(Destination::v4(u32::from_be(address), u16::from_be(port), protocol))
    }

    /// As `sockaddr_in6`.
    #[inline(always)]
    pub(crate) fn v6(self, protocol: u8) -> Option<Destination> {
        let (port, scope): (u16, u32) = (self.0.read(2)?, self.0.read(24)?);
        // Eight bytes into the struct, and at a multiple of eight: two words.
        let address: [u64; 2] = self.0.read(8)?;
        Some(Destination::v6(address.map(u64::from_be), scope, u16::from_be(port), protocol))
    }

    /// As `sockaddr_vm` (include/uapi/linux/vm_sockets.h).
    #[inline(always)]
    pub(crate) fn vsock(self) -> Option<Destination> {
        let (port, cid): (u32, u32) = (self.0.read(4)?, self.0.read(8)?);
        Some(Destination::vsock(cid, port))
    }
}

/// A `msghdr` whose address the kernel has copied.
#[derive(Clone, Copy)]
pub(crate) struct Message(Address);

impl Message {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    /// Whether the call may wait.
    #[inline(always)]
    pub(crate) fn may_wait(self) -> Option<bool> {
        let flags: u32 = self.0.read(offset!(msghdr_flags))?;
        Some(flags & DONT_WAIT == 0)
    }

    /// The address that it names, if any.
    #[inline(always)]
    pub(crate) fn name(self) -> Option<SocketAddress> {
        let length: i32 = self.0.read(offset!(msghdr_name_length))?;
        if length < 2 {
            return None;
        }
        self.0.follow(offset!(msghdr_name)).map(SocketAddress::new)
    }
}

/// A `unix_sock`.
#[derive(Clone, Copy)]
pub(crate) struct UnixSock(Address);

impl UnixSock {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    /// The name in the file system that it is bound to.
    #[inline(always)]
    pub(crate) fn dentry(self) -> Option<Dentry> {
        self.0.follow(offset!(unix_path) + offset!(path_dentry)).map(Dentry::new)
    }

    /// What names it, into zeroed room; false where nothing does: it is bound to nothing.
    #[inline(always)]
    pub(crate) fn name(self, peer: &mut UnixPeer) -> Option<bool> {
        if let Some(dentry) = self.0.follow(offset!(unix_path) + offset!(path_dentry)) {
            let inode = dentry.follow(offset!(dentry_inode))?;
            peer.inode = inode.read(offset!(inode_i_ino))?;
            peer.device = inode.follow(offset!(inode_i_sb))?.read(offset!(super_block_s_dev))?;
            peer.generation = inode.read(offset!(inode_generation))?;
            return Some(true);
        }
        let Some(address) = self.0.follow(offset!(unix_addr)) else { return Some(false) };
        // The name follows a zero byte.
        let length = copy_name::<1>(address, &mut peer.name)?;
        peer.netns_cookie = Sock::new(self.0).netns_cookie()?;
        peer.length = length;
        Some(true)
    }

    /// The path that it was bound to, as its owner spelt it, into zeroed room; its length.
    #[inline(always)]
    pub(crate) fn path(self, into: &mut [u64; UNIX_NAME_WORDS]) -> Option<u32> {
        self.0.follow(offset!(unix_path) + offset!(path_dentry))?;
        copy_name::<0>(self.0.follow(offset!(unix_addr))?, into)
    }
}

/// Copies the name of a `unix_address` without its first `SKIP` bytes; the length of what is left.
#[inline(always)]
fn copy_name<const SKIP: u32>(address: Address, into: &mut [u64; UNIX_NAME_WORDS]) -> Option<u32> {
    // The room, but for one byte.
    const LONGEST: u32 = 111;
    const { assert!(LONGEST as usize == UNIX_NAME_BYTES - 1) };
    let length: u32 = address.read(offset!(unix_address_length))?;
    let length = length.wrapping_sub(PATH_OFFSET + SKIP);
    if length > LONGEST {
        return None;
    }
    let name = address.get() + offset!(unix_address_name) as u64 + u64::from(PATH_OFFSET + SKIP);
    // SAFETY: not more bytes than there is room for; the helper checks the other address.
    let copied =
        unsafe { bpf_probe_read_kernel(into.as_mut_ptr().cast(), length, name as *const c_void) };
    (copied == 0).then_some(length)
}
