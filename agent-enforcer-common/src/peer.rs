//! Unix sockets as destinations: what names one, and the number that stands for it in verdicts.

use crate::record::RecordHeader;

/// Room for the longest name of a unix socket (`sockaddr_un.sun_path`, include/uapi/linux/un.h),
/// in words: BPF compares bytes one by one.
pub const UNIX_NAME_WORDS: usize = 14;
/// As bytes.
pub const UNIX_NAME_BYTES: usize = UNIX_NAME_WORDS * 8;

/// Number that stands for every peer that is bound to nothing: no policy can name it.
pub const NAMELESS_PEER: u64 = 0;
/// Number in records about a peer whose name could not be read, or that nobody could be told of.
pub const UNKNOWN_PEER: u64 = u64::MAX;

/// What names a unix socket. Key of the table of peers.
///
/// One in the file system is its inode, whatever path leads there; one in the abstract namespace is
/// its name in its network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct UnixPeer {
    /// Inode number; 0 for an abstract name.
    pub inode: u64,
    /// Cookie of the network namespace of an abstract name; 0 for an inode.
    pub netns_cookie: u64,
    /// Kernel device number (`super_block.s_dev`) of the inode; 0 for an abstract name.
    pub device: u32,
    /// `inode.i_generation`, as inode numbers are given again; 0 for an abstract name.
    pub generation: u32,
    /// Bytes of the abstract name; 0 for an inode.
    pub length: u32,
    /// Zero.
    pub _pad: u32,
    /// Bytes of the abstract name without its leading zero byte, and zeroes; all zeroes for an inode.
    pub name: [u64; UNIX_NAME_WORDS],
}

/// Value of the table of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NumberedPeer {
    /// What it names, once more: the kernel reuses elements while they are read.
    pub peer: UnixPeer,
    /// The number that stands for it; never given to another.
    pub number: u64,
}

/// Tells the daemon of a peer before the first question about it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PeerRecord {
    /// Kind, size and time.
    pub header: RecordHeader,
    /// The peer.
    pub named: NumberedPeer,
    /// Bytes of `path`.
    pub path_length: u32,
    /// Zero.
    pub _pad: u32,
    /// The path that its server bound it to, as the server spelt it: evidence, nothing is decided
    /// by it. All zeroes for an abstract name.
    pub path: [u64; UNIX_NAME_WORDS],
}

/// A hook that sees the path of a unix socket, and not the socket, asks where it leads.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PathRecord {
    /// Kind, size and time.
    pub header: RecordHeader,
    /// The number under which the answer is looked for, once.
    pub token: u64,
    /// Thread group that calls.
    pub tgid: u32,
    /// Thread that calls: where a path leads depends on its root and its working directory.
    pub tid: u32,
    /// Bytes of `path`.
    pub path_length: u32,
    /// Zero.
    pub _pad: u32,
    /// The path as the caller wrote it, and zeroes.
    pub path: [u64; UNIX_NAME_WORDS],
}

/// Where a path leads. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PathState {
    /// To a socket.
    Socket = 1,
    /// To nothing, or to what is no socket.
    Nothing = 2,
    /// The daemon can't tell.
    Unknown = 3,
    /// No path at all: the question of this number is open, so that its caller waits no longer.
    Open = 4,
}

/// Value of the table of paths that were asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FoundSocket {
    /// The number of the question, once more: the kernel reuses elements while they are read.
    pub token: u64,
    /// Inode number, of a socket.
    pub inode: u64,
    /// Kernel device number (`super_block.s_dev`) of the inode.
    pub device: u32,
    /// [`PathState`].
    pub state: u32,
}

const _: () = {
    assert!(size_of::<PathRecord>() == 16 + 24 + UNIX_NAME_BYTES);
    assert!(size_of::<FoundSocket>() == 24);
    assert!(size_of::<UnixPeer>() == 32 + UNIX_NAME_BYTES);
    assert!(size_of::<PeerRecord>() == 16 + 8 + 32 + UNIX_NAME_BYTES + 8 + UNIX_NAME_BYTES);
};
crate::plain_data!(UnixPeer, NumberedPeer, PeerRecord, PathRecord, FoundSocket);
