//! Facts about sockets, for hooks that are handed the kernel's own structs.

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_UDP},
    peer::{UNIX_NAME_BYTES, UNIX_NAME_WORDS, UnixPeer},
};
use aya_ebpf::{bindings::bpf_sock, cty::c_void, helpers::generated::bpf_probe_read_kernel};

use super::{Address, dentry::Dentry, task::Pid};
use crate::settings::offset;

pub(crate) const AF_UNSPEC: u16 = 0;
pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const AF_NETLINK: u16 = 16;
pub(crate) const AF_VSOCK: u16 = 40;

/// `TCP_ESTABLISHED`, which is what a connected datagram socket is as well.
const ESTABLISHED: u8 = 1;
/// `TCP_LISTEN`, for unix sockets as well.
const LISTEN: u8 = 10;
/// `SOCK_DGRAM`.
const DATAGRAM: u16 = 2;
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

    /// Whether it takes what is sent to its name: it listens, or is of datagrams. What it has
    /// accepted has the name too, and takes nothing by it.
    #[inline(always)]
    pub(crate) fn is_server(self) -> Option<bool> {
        let state: u8 = self.0.read(offset!(sock_state))?;
        Some(state == LISTEN || Sock::new(self.0).kind()? == DATAGRAM)
    }

    /// The process that called listen() on it, as long as that lives; of another socket than a
    /// listening one the peer's, so none.
    #[inline(always)]
    pub(crate) fn listener(self) -> Option<u32> {
        let state: u8 = self.0.read(offset!(sock_state))?;
        if state != LISTEN {
            return None;
        }
        Pid::new(self.0.follow(offset!(sock_peer_pid))?).tgid()
    }

    /// Whether it is bound to this inode.
    #[inline(always)]
    pub(crate) fn is_at(self, inode: u64, device: u32) -> Option<bool> {
        let Some(dentry) = self.0.follow(offset!(unix_path) + offset!(path_dentry)) else {
            return Some(false);
        };
        let found = dentry.follow(offset!(dentry_inode))?;
        let (number, found_device): (u64, u32) = (
            found.read(offset!(inode_i_ino))?,
            found.follow(offset!(inode_i_sb))?.read(offset!(super_block_s_dev))?,
        );
        Some(number == inode && found_device == device)
    }

    /// Whether it is bound to this abstract name, which zeroes follow.
    #[inline(always)]
    pub(crate) fn is_called(self, name: &[u64; UNIX_NAME_WORDS], length: u32) -> Option<bool> {
        let address = self.0.follow(offset!(unix_addr))?;
        let own_length: u32 = address.read(offset!(unix_address_length))?;
        if own_length != length + PATH_OFFSET + 1 {
            return Some(false);
        }
        let start = offset!(unix_address_name) + PATH_OFFSET as usize;
        let first: u8 = address.read(start)?;
        let mut same = first == 0;
        for (position, word) in (0_u32..).zip(name) {
            // Bytes of the name in this word.
            let bytes = length.wrapping_sub(position * 8);
            if length <= position * 8 {
                break;
            }
            let own: u64 = address.read(start + 1 + position as usize * 8)?;
            let kept = if bytes >= 8 { u64::MAX } else { (1 << (bytes * 8)) - 1 };
            same &= own & kept == *word;
        }
        Some(same)
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
    let length: u32 = address.read(offset!(unix_address_length))?;
    let name = Address::new(address.get() + offset!(unix_address_name) as u64);
    UnixName { address: name, length }.copy::<SKIP>(into)
}

/// A `sockaddr_un` that the kernel has copied.
#[derive(Clone, Copy)]
pub(crate) struct UnixName {
    address: Address,
    /// Bytes of it.
    length: u32,
}

impl UnixName {
    #[inline(always)]
    pub(crate) const fn new(address: Address, length: u32) -> Self {
        Self { address, length }
    }

    /// Whether it is one of the abstract namespace; `None` where there is no name at all.
    #[inline(always)]
    pub(crate) fn is_abstract(self) -> Option<bool> {
        if self.length <= PATH_OFFSET {
            return None;
        }
        let first: u8 = self.address.read(PATH_OFFSET as usize)?;
        Some(first == 0)
    }

    /// Copies a path, and what may follow the zero byte that ends it, into zeroed room; the length.
    #[inline(always)]
    pub(crate) fn copy_path(self, into: &mut [u64; UNIX_NAME_WORDS]) -> Option<u32> {
        self.copy::<0>(into)
    }

    /// As above, an abstract name without the zero byte that begins it.
    #[inline(always)]
    pub(crate) fn copy_abstract(self, into: &mut [u64; UNIX_NAME_WORDS]) -> Option<u32> {
        self.copy::<1>(into)
    }

    #[inline(always)]
    fn copy<const SKIP: u32>(self, into: &mut [u64; UNIX_NAME_WORDS]) -> Option<u32> {
        // The room, but for one byte.
        const LONGEST: u32 = 111;
        const { assert!(LONGEST as usize == UNIX_NAME_BYTES - 1) };
        let length = self.length.wrapping_sub(PATH_OFFSET + SKIP);
        if length > LONGEST {
            return None;
        }
        let name = self.address.get() + u64::from(PATH_OFFSET + SKIP);
        // SAFETY: not more bytes than there is room for; the helper checks the other address.
        let copied = unsafe {
            bpf_probe_read_kernel(into.as_mut_ptr().cast(), length, name as *const c_void)
        };
        (copied == 0).then_some(length)
    }
}
