//! What the hooks of calls with an address have in common.

use agent_enforcer_common::{
    NEVER_NS,
    config::{AgentProfile, PROFILE_AUDIT, StateWord},
    destination::{Destination, PROTOCOL_TCP, PROTOCOL_UDP},
    id::{AgentId, GrantId, RequestId, ToolId},
    process::ProcessTag,
    reason::Reason,
    record::Hook,
    tag::{FlowState, SocketTag, TAG_ADMITTED, TAG_TOLD},
};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    cty::c_void,
    helpers::generated::bpf_setsockopt,
    programs::SockAddrContext,
};

use crate::{
    decide::{Permit, Refusal},
    maps::{
        counters,
        processes::{self, Standing},
        profiles, state, tags,
    },
    report::{self, Case, lives},
};

/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `SOCK_DGRAM`.
const DATAGRAM: u32 = 2;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// What a hook of a call does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// The call goes on.
    Pass,
    /// The call fails with `EACCES`.
    Deny,
    /// The call fails with `EAGAIN`: the decision is open.
    TryAgain,
    /// The call fails with `ECONNREFUSED`, as it would anyway: nobody is there.
    Nobody,
}

/// Transport protocols that an agent may use at all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// The allow-list of (type, protocol).
#[inline(always)]
pub(crate) fn transport(kind: u32, protocol: u32) -> Option<Transport> {
    if kind == STREAM && protocol == u32::from(PROTOCOL_TCP) {
        Some(Transport::Tcp)
    } else if kind == DATAGRAM && protocol == u32::from(PROTOCOL_UDP) {
        Some(Transport::Udp)
    } else {
        None
    }
}

/// An address family of the hooks.
pub(crate) trait Family {
    /// Where the call goes.
    ///
    /// # Safety
    ///
    /// `sock_addr` is the context of a hook of this family.
    unsafe fn destination(sock_addr: *mut bpf_sock_addr, protocol: u8) -> Destination;
}

/// What a hook does about a call that can be judged. A trait, as the compiler does not inline
/// functions that are handed over, and the stack is shared.
pub(crate) trait JudgeCall {
    const HOOK: Hook;
    /// Whether the daemon's own calls are counted, as the proof that programs of this plane run.
    const IS_CANARY: bool;

    /// Lets a call go on that is decided already; false where it must be judged.
    fn is_settled<F: Family>(
        sock_addr: *mut bpf_sock_addr,
        tgid: u32,
        process: &ProcessTag,
    ) -> bool;

    fn judge(call: &Call) -> CallOutcome;
}

/// [`AgentProfile::flags`], on this side only: the agent has no profile.
pub(crate) const PROFILE_UNKNOWN: u32 = 1 << 31;
/// Stands in for a profile that is not there: everything is denied.
pub(crate) const NOT_IN_POLICY: AgentProfile =
    AgentProfile { flags: PROFILE_UNKNOWN, socket_mark: 0 };

/// A call of an agent's process with an address.
pub(crate) struct Call {
    pub(crate) case: Case<true>,
    pub(crate) profile: AgentProfile,
    pub(crate) sock_addr: *mut bpf_sock_addr,
    pub(crate) sk: *mut bpf_sock,
    pub(crate) transport: Transport,
}

/// Sorts the caller out: strangers pass at once, and so does what is settled. All else is looked at
/// closely. Functions of their own: what runs for every call fits into the instruction cache, and
/// the two never share the 512 bytes of stack.
#[inline(always)]
pub(crate) fn sort_out<F: Family, J: JudgeCall>(ctx: &SockAddrContext) -> CallOutcome {
    let tgid = processes::current_tgid();
    let passes = match processes::of_current(tgid) {
        Standing::Stranger => true,
        Standing::Agent(process) => J::is_settled::<F>(ctx.sock_addr, tgid, process),
        Standing::Daemon => {
            if J::IS_CANARY {
                state::fetch_add(StateWord::CgroupCanary, 1);
            }
            true
        }
        Standing::Untracked => false,
    };
    if passes { CallOutcome::Pass } else { look_closely::<F, J>(ctx.sock_addr) }
}

/// What the context says of the call's socket: type, protocol, the socket.
#[inline(always)]
pub(crate) fn socket_of(sock_addr: *mut bpf_sock_addr) -> (u32, u32, *mut bpf_sock) {
    // SAFETY: plain fields of the context, which the verifier checks.
    unsafe {
        (
            core::ptr::read_volatile(&raw const (*sock_addr).type_),
            core::ptr::read_volatile(&raw const (*sock_addr).protocol),
            core::ptr::read_volatile(&raw const (*sock_addr).__bindgen_anon_1.sk),
        )
    }
}

/// A call that is not settled. What can't be judged is denied here.
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the protocol in the record is evidence; the allow-list sees all of it"
)]
fn look_closely<F: Family, J: JudgeCall>(sock_addr: *mut bpf_sock_addr) -> CallOutcome {
    let tgid = processes::current_tgid();
    let (tag, known) = match processes::standing(tgid) {
        Standing::Agent(tag) => (tag, true),
        Standing::Stranger | Standing::Daemon | Standing::Untracked => {
            (ProcessTag::default(), false)
        }
    };
    let (kind, protocol, sk) = socket_of(sock_addr);
    let transport = transport(kind, protocol);
    let call = Call {
        // SAFETY: the context of a hook of this family.
        case: unsafe {
            let destination = F::destination(sock_addr, protocol as u8);
            Case::of_socket(sock_addr.cast(), destination, tgid, tag, J::HOOK)
        },
        profile: profiles::get(&tag.agent).unwrap_or(NOT_IN_POLICY),
        sock_addr,
        sk,
        transport: transport.unwrap_or(Transport::Tcp),
    };
    if !known {
        return deny(&call.case, &Refusal::new(Reason::ProcessTableFull), false);
    }
    if call.profile.flags & PROFILE_UNKNOWN != 0 {
        return deny(&call.case, &Refusal::new(Reason::AgentUnknown), false);
    }
    if transport.is_none() {
        return deny(&call.case, &Refusal::new(Reason::ProtocolNotAllowed), false);
    }
    J::judge(&call)
}

/// Denies, and tells where nobody else does. An agent in audit mode passes.
#[inline(always)]
pub(crate) fn deny(case: &Case<true>, refusal: &Refusal, told: bool) -> CallOutcome {
    if is_audited(case.tag.agent) {
        report::audited(case, refusal);
        return CallOutcome::Pass;
    }
    if told {
        counters::count_reason(refusal.reason);
    } else {
        report::denied(case, refusal);
    }
    CallOutcome::Deny
}

#[inline(always)]
pub(crate) fn is_audited(agent: AgentId) -> bool {
    profiles::get(&agent).is_some_and(|profile| profile.flags & PROFILE_AUDIT != 0)
}

impl Call {
    /// The socket's tag, made where there is none; `None` when memory is short.
    #[inline(always)]
    pub(crate) fn tag(&self) -> Option<&'static mut SocketTag> {
        // SAFETY: the socket of the context.
        unsafe { tags::get_or_create(self.sk) }
    }

    /// Makes the socket this process's. Only together with a new state: a state never changes
    /// hands.
    #[inline(always)]
    pub(crate) fn claim(&self, tag: &mut SocketTag) {
        claim(tag, self.case.tgid, &self.case.tag);
        tag.netns_cookie = self.case.netns_cookie;
    }

    /// Sets the agent's `SO_MARK`, where its policy names one.
    #[inline(always)]
    pub(crate) fn mark_socket(&self) {
        if self.profile.socket_mark != 0 {
            let mut mark = self.profile.socket_mark;
            self.set_option(SOL_SOCKET, SO_MARK, &mut mark);
        }
    }

    /// Sets an option of the call's socket, see [`set_option`].
    #[inline(always)]
    pub(crate) fn set_option(&self, level: i32, option: i32, value: &mut u32) {
        // SAFETY: the context of a hook of calls (5.8).
        unsafe { set_option(self.sock_addr.cast(), level, option, value) };
    }
}

/// Sets an option of a hook's socket; the mark and the number of retries decide nothing, so a
/// failure is not an error.
///
/// # Safety
///
/// `ctx` is the context of a hook that may set the option.
#[inline(always)]
pub(crate) unsafe fn set_option(ctx: *mut c_void, level: i32, option: i32, value: &mut u32) {
    const SIZE: i32 = 4;
    // SAFETY: by the caller; the value is four bytes of this program's stack.
    let _ = unsafe { bpf_setsockopt(ctx, level, option, core::ptr::from_mut(value).cast(), SIZE) };
}

/// Writes who uses the socket.
#[inline(always)]
pub(crate) fn claim(tag: &mut SocketTag, tgid: u32, process: &ProcessTag) {
    tag.instance = process.instance;
    tag.exec = process.exec;
    tag.agent = process.agent;
    tag.tgid = tgid;
    tag.grant = GrantId::NONE;
    tag.flags = 0;
}

/// Writes the peer. An assignment would be a loop over bytes: the compiler can't see that the two
/// never overlap.
#[inline(always)]
pub(crate) fn aim(tag: &mut SocketTag, destination: &Destination) {
    // SAFETY: a shared and an exclusive reference never overlap.
    unsafe { core::ptr::copy_nonoverlapping(destination, &raw mut tag.destination, 1) };
}

/// Notes that a call of this process waited for its answer: the daemon has told of it.
#[inline(always)]
pub(crate) fn note_told(
    tag: &mut SocketTag,
    tgid: u32,
    process: &ProcessTag,
    destination: &Destination,
) {
    claim(tag, tgid, process);
    aim(tag, destination);
    tag.state = FlowState::Fresh as u8;
    tag.flags = TAG_TOLD;
}

/// Whether the daemon has told of this very call.
#[inline(always)]
pub(crate) fn is_told(tag: &SocketTag, destination: &Destination) -> bool {
    tag.flags & TAG_TOLD != 0 && tag.destination == *destination
}

/// Whether a flow is allowed to this very peer, in the generation in force, and has not expired.
#[inline(always)]
pub(crate) fn is_settled(tag: &SocketTag, destination: &Destination) -> bool {
    tag.state == FlowState::Allowed as u8
        && tag.destination == *destination
        && tag.generation == state::generation()
        && lives(tag.expires_ns)
}

/// Writes that a flow is allowed.
#[inline(always)]
pub(crate) fn admit(tag: &mut SocketTag, destination: &Destination, permit: &Permit) {
    aim(tag, destination);
    tag.generation = state::generation();
    tag.expires_ns = permit.expires_ns;
    tag.grant = permit.grant;
    tag.tool = permit.tool;
    tag.reason = permit.reason;
    tag.flags |= TAG_ADMITTED;
    tag.state = FlowState::Allowed as u8;
}

/// Writes that a flow of an agent in audit mode goes on.
#[inline(always)]
pub(crate) fn watch(tag: &mut SocketTag, destination: &Destination) {
    let permit = Permit {
        expires_ns: NEVER_NS,
        grant: GrantId::NONE,
        tool: ToolId::NONE,
        reason: Reason::Audited.raw(),
        flags: 0,
        tally: 0,
        _pad: 0,
    };
    admit(tag, destination, &permit);
}

/// Writes that a flow waits for the answer to a question; a live one keeps its past.
#[inline(always)]
pub(crate) fn hold(tag: &mut SocketTag, destination: &Destination, request: RequestId) {
    aim(tag, destination);
    tag.generation = state::generation();
    tag.pending_since_ns = report::now_ns();
    tag.request = request;
    tag.reason = Reason::Stalled.raw();
    tag.state = FlowState::Pending as u8;
}
