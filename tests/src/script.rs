//! What a probe can be told to do, and what it answers. One line of JSON each.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{load::LoadOp, trick::Trick};

/// How a child comes to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForkKind {
    /// `fork`.
    Plain,
    /// `fork`, `setsid`, `fork`; the one between exits first.
    Double,
    /// `clone3` into a cgroup.
    Into {
        /// Its directory.
        directory: String,
    },
}

/// One thing to do. Sockets have names; addresses are the usual text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Op {
    /// Answers with the process id.
    Pid,
    /// `socket(domain, kind, protocol)`.
    Socket {
        /// Its name from now on.
        name: String,
        /// `AF_*`.
        domain: i32,
        /// `SOCK_*`.
        kind: i32,
        /// `IPPROTO_*`.
        protocol: i32,
    },
    /// `close`.
    Close {
        /// Socket.
        name: String,
    },
    /// `bind`.
    Bind {
        /// Socket.
        name: String,
        /// Address.
        address: SocketAddr,
    },
    /// `listen`.
    Listen {
        /// Socket.
        name: String,
    },
    /// `accept`.
    Accept {
        /// Listener.
        name: String,
        /// Name of the connection.
        connection: String,
    },
    /// `connect`.
    Connect {
        /// Socket.
        name: String,
        /// Peer.
        address: SocketAddr,
    },
    /// A new TCP socket connects and is closed.
    Dial {
        /// Peer.
        address: SocketAddr,
    },
    /// `connect(AF_UNSPEC)`.
    Disconnect {
        /// Socket.
        name: String,
    },
    /// Switches `O_NONBLOCK` on or off.
    Nonblocking {
        /// Socket.
        name: String,
        /// On.
        on: bool,
    },
    /// `poll(POLLOUT)`, then `SO_ERROR` as the errno. Value: loop turns that went by meanwhile.
    Connected {
        /// Socket.
        name: String,
        /// At most.
        timeout_ms: i32,
    },
    /// `send`.
    Send {
        /// Socket.
        name: String,
        /// What.
        data: String,
        /// `MSG_*`.
        flags: i32,
    },
    /// `sendto`.
    SendTo {
        /// Socket.
        name: String,
        /// Where to.
        address: SocketAddr,
        /// What.
        data: String,
        /// `MSG_*`.
        flags: i32,
    },
    /// `sendmmsg`, one datagram for each address. Value: how many went.
    SendMany {
        /// Socket.
        name: String,
        /// Where to.
        addresses: Vec<SocketAddr>,
        /// What.
        data: String,
    },
    /// `poll(POLLIN)` and `recv`; data is what came, value its length.
    Receive {
        /// Socket.
        name: String,
        /// At most.
        timeout_ms: i32,
    },
    /// `send` again and again until it fails; value is how often it went.
    Stream {
        /// Socket.
        name: String,
        /// What.
        data: String,
        /// Pause between two.
        pause_us: u64,
    },
    /// `setsockopt` with bytes.
    SetOption {
        /// Socket.
        name: String,
        /// Level.
        level: i32,
        /// Option.
        option: i32,
        /// Value.
        value: Vec<u8>,
    },
    /// `getsockopt` of an int, which is the value.
    GetOption {
        /// Socket.
        name: String,
        /// Level.
        level: i32,
        /// Option.
        option: i32,
    },
    /// Sends `SIGALRM` to the process once, after a while; the handler does nothing.
    Alarm {
        /// When.
        after_ms: u64,
        /// With `SA_RESTART`.
        restart: bool,
    },
    /// `setresuid` and `setresgid`.
    SetUser {
        /// To whom.
        uid: u32,
    },
    /// Moves the process to another cgroup.
    EnterCgroup {
        /// Its directory.
        directory: String,
    },
    /// Moves the leading thread to a new network namespace; sockets stay where they were made.
    LeaveNetwork,
    /// Makes a child that does something and answers in the parent's place.
    Fork {
        /// How.
        kind: ForkKind,
        /// What the child does.
        op: Box<Op>,
    },
    /// A new thread does something and answers.
    InThread {
        /// What.
        op: Box<Op>,
    },
    /// Runs a program as `posix_spawn` does (shared memory, a suspended parent) and waits; its last line of output is a [`Reply`], which is answered.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// Runs a copy of the probe from a memfd, to do something.
    RunMemfd {
        /// What.
        op: Box<Op>,
    },
    /// Becomes a new image of a program that serves as this one did; sockets are kept.
    Exec {
        /// The program.
        path: String,
        /// In a thread that is not the leader.
        from_thread: bool,
    },
    /// The leading thread exits; another goes on serving.
    LeaderExit,
    /// Ends the process at once.
    Exit,
    /// Does something many times; data is a [`crate::load::Tally`].
    Load(LoadOp),
    /// Does something in an unusual way.
    Trick(Trick),
}

/// What is asked of a probe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Returned with the answer.
    pub id: u64,
    /// Done in a thread of its own, so that others can follow.
    pub aside: bool,
    /// What.
    pub op: Op,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Of the request.
    pub id: u64,
    /// 0, or why it failed.
    pub errno: i32,
    /// What the call returned.
    pub value: i64,
    /// What was received.
    pub data: String,
    /// How long it took.
    pub micros: u64,
    /// Who answers.
    pub pid: u32,
}

impl Reply {
    /// Whether it went well.
    pub const fn is_ok(&self) -> bool {
        self.errno == 0
    }

    /// How long it took.
    pub const fn took(&self) -> Duration {
        Duration::from_micros(self.micros)
    }

    /// Whether a TCP call was denied: `EACCES` where the answer was there or came while the call
    /// waited in the hook, `ECONNABORTED` where it was held until its denial.
    pub const fn is_denied(&self) -> bool {
        matches!(self.errno, libc::EACCES | libc::ECONNABORTED)
    }
}
