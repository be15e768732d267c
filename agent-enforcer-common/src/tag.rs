//! The mark of an agent's socket, kept in the socket's own storage: whose it is and which flow
//! it was decided for. Egress compares every packet with it.

use crate::{
    destination::Destination,
    id::{AgentId, ExecId, Generation, GrantId, InstanceId, RequestId, ToolId},
};

/// How far the flow of a tagged socket has come. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// No packet of it was judged yet.
    Fresh = 0,
    /// Its decision is open: packets are held back.
    Pending = 1,
    /// Its packets pass while generation and expiry hold.
    Allowed = 2,
    /// Its packets are dropped.
    Denied = 3,
    /// As `Denied`, but it was allowed before: a bare reset may pass, so that the peer learns.
    Ended = 4,
}

impl FlowState {
    /// The state of a number from socket storage.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Fresh),
            1 => Some(Self::Pending),
            2 => Some(Self::Allowed),
            3 => Some(Self::Denied),
            4 => Some(Self::Ended),
            _ => None,
        }
    }
}

/// [`SocketTag::flags`]: the flow was allowed at some time, so it is a live one.
pub const TAG_ADMITTED: u8 = 1;
/// [`SocketTag::flags`]: the flow was held for so long that its SYN is to come more and more seldom.
pub const TAG_HELD_LONG: u8 = 2;
/// [`SocketTag::flags`]: the call that comes next waited for its answer, and the daemon has told of it.
pub const TAG_TOLD: u8 = 4;
/// [`SocketTag::flags`], of a unix socket: the call that sends on it must not wait.
pub const TAG_MUST_NOT_WAIT: u8 = 8;

/// Value of the socket storage.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SocketTag {
    /// The peer that `state` is about.
    pub destination: Destination,
    /// The instance that used the socket last.
    pub instance: InstanceId,
    /// The program image that used the socket last.
    pub exec: ExecId,
    /// The generation that `state` was decided in.
    pub generation: Generation,
    /// An allowed flow ends at this moment, ns of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// The grant of an allowed flow, or none.
    pub grant: GrantId,
    /// Since when a pending flow waits, ns of `CLOCK_BOOTTIME`.
    pub pending_since_ns: u64,
    /// The question that a pending flow waits for; repeated under this number.
    pub request: RequestId,
    /// Cookie of the network namespace; 0 where the kernel does not tell.
    pub netns_cookie: u64,
    /// The agent.
    pub agent: AgentId,
    /// The tool of an allowed flow, or none.
    pub tool: ToolId,
    /// Thread group id of the process that used the socket last.
    pub tgid: u32,
    /// [`crate::reason::Reason`] of the last decision.
    pub reason: u16,
    /// [`FlowState`].
    pub state: u8,
    /// `TAG_*`.
    pub flags: u8,
}

const _: () = assert!(size_of::<SocketTag>() == 104);
crate::plain_data!(SocketTag);
