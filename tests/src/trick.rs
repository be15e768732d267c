//! Unusual ways to make a call, each of which has been somebody's way round an enforcer.

use std::{net::SocketAddr, path::Path};

use serde::{Deserialize, Serialize};

use crate::script::Op;

/// How bytes get into a connected socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writer {
    /// `write`.
    Plain,
    /// `writev`.
    Vector,
    /// `io_submit`.
    Asynchronous,
    /// `sendfile`.
    File,
    /// `splice`.
    Pipe,
    /// `vmsplice`, then `splice`.
    Pages,
}

impl Writer {
    /// Every way.
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Vector, Self::Asynchronous, Self::File, Self::Pipe, Self::Pages];
}

/// What an io_uring is told to do with a socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RingCall {
    /// `IORING_OP_CONNECT`.
    Connect {
        /// Peer.
        address: SocketAddr,
    },
    /// `IORING_OP_SEND`.
    Send {
        /// What.
        data: String,
    },
    /// `IORING_OP_SENDMSG` with a name.
    SendTo {
        /// Where to.
        address: SocketAddr,
        /// What.
        data: String,
    },
}

/// A control message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Control {
    /// Level.
    pub level: i32,
    /// Type.
    pub kind: i32,
    /// Content.
    pub value: Vec<u8>,
}

/// An argument of a system call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Word {
    /// A number.
    Number(i64),
    /// The address of these bytes.
    Bytes(Vec<u8>),
    /// The address of these bytes, in which the address of others stands.
    Pointing {
        /// These.
        bytes: Vec<u8>,
        /// Where in them.
        at: usize,
        /// The others.
        to: Vec<u8>,
    },
}

impl From<i64> for Word {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Word {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// A path, with the zero byte at its end.
impl From<&Path> for Word {
    fn from(path: &Path) -> Self {
        let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
        bytes.push(0);
        Self::Bytes(bytes)
    }
}

/// Calls of a [`Trick::Storm`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum StormCalls {
    /// Datagrams, by another system call in turn.
    Datagrams {
        /// Where to; the first port.
        address: SocketAddr,
    },
    /// `connect` of TCP sockets.
    Connects {
        /// Where to; the first port.
        address: SocketAddr,
    },
    /// `socket` of netlink protocols.
    Sockets {
        /// The first.
        protocol: i32,
    },
    /// `connect` of unix sockets.
    Unix {
        /// Names in the file system, without the number that each ends with.
        prefix: String,
    },
}

/// Something unusual.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Trick {
    /// `connect` with these bytes as the peer's name.
    ConnectBytes {
        /// Socket.
        name: String,
        /// `struct sockaddr`, or what is meant to pass for one.
        peer: Vec<u8>,
    },
    /// `bind` to these bytes.
    BindBytes {
        /// Socket.
        name: String,
        /// As above.
        own: Vec<u8>,
    },
    /// `recvmsg` of a descriptor.
    TakeDescriptor {
        /// A connected unix socket.
        name: String,
        /// Name of what comes.
        copy: String,
    },
    /// `sendmsg`.
    SendMessage {
        /// Socket.
        name: String,
        /// As above; nothing where it is empty.
        peer: Vec<u8>,
        /// What.
        data: String,
        /// At most one.
        control: Option<Control>,
    },
    /// Writes into a connected socket.
    Write {
        /// Socket.
        name: String,
        /// What.
        data: String,
        /// How.
        writer: Writer,
    },
    /// One call by an io_uring of its own. Value: what the ring completed it with.
    Ring {
        /// Socket.
        name: String,
        /// What.
        call: RingCall,
        /// A thread of the kernel submits (`IORING_SETUP_SQPOLL`).
        polling: bool,
    },
    /// `connect` by the i386 system call `socketcall`.
    Compat {
        /// Socket.
        name: String,
        /// An IPv4 peer.
        address: SocketAddr,
    },
    /// New TCP and UDP sockets connect and send, while a thread goes on changing the address
    /// between two. Value: how many calls went well.
    Race {
        /// One.
        one: SocketAddr,
        /// The other, with the same port.
        other: SocketAddr,
        /// How many of each.
        rounds: u32,
    },
    /// Calls, each to a peer of its own, while a timer sends `SIGALRM` all the time, whose handler does
    /// nothing. Value: how many went well; data: the errors of the others, as `ERRNO:COUNT` words.
    Storm {
        /// Which.
        calls: StormCalls,
        /// How many.
        rounds: u16,
        /// With `SA_RESTART`.
        restart: bool,
    },
    /// `socket` with every type below `SOCK_PACKET` and every protocol up to 263. Value: how many there
    /// were; data: which, as `TYPE/PROTOCOL` words.
    Sweep {
        /// `AF_*`.
        domain: i32,
    },
    /// `dup`.
    Duplicate {
        /// Socket.
        name: String,
        /// Name of the other descriptor.
        copy: String,
    },
    /// `prctl(PR_SET_NAME)`.
    Rename {
        /// At most 15 bytes.
        title: String,
    },
    /// A system call. Value: what it returns.
    Call {
        /// `SYS_*`.
        number: i64,
        /// At most six.
        arguments: Vec<Word>,
    },
    /// A child that does nothing until it is killed, or its parent ends. Value: its process id.
    Child,
    /// `unshare` of the calling thread's namespaces; children and new sockets are in them.
    Unshare {
        /// `CLONE_NEW*`.
        flags: i32,
    },
}

/// One system call.
pub fn call(number: i64, arguments: impl IntoIterator<Item = Word>) -> Op {
    Trick::Call { number, arguments: arguments.into_iter().collect() }.into()
}

impl From<Trick> for Op {
    fn from(trick: Trick) -> Self {
        Self::Trick(trick)
    }
}
