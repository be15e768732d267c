//! cgroup `connect4` and `connect6`.
//!
//! TCP is judged here; while the decision is open the call goes ahead and egress holds the SYN
//! back. Connecting a datagram socket sends nothing and is what resolvers do to learn a route, so
//! it is only noted: its first packet is judged at egress. (`AF_UNSPEC` never comes here.)

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP},
    process::ProcessTag,
    reason::Reason,
    record::Hook,
    tag::FlowState,
};
use aya_ebpf::bindings::bpf_sock_addr;

use super::call::{self, Call, CallOutcome, Family, JudgeCall, Transport, transport};
use crate::{
    decide::{Refusal, look_up_exact},
    judge::{Judgement, Past, Source, judge},
    maps::{counters, tags, tallies},
    report,
    stall::Patience,
};

/// `AF_INET`.
pub(crate) struct V4;
/// `AF_INET6`.
pub(crate) struct V6;

impl Family for V4 {
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the context keeps the port in the low half"
    )]
    unsafe fn destination(sock_addr: *mut bpf_sock_addr, protocol: u8) -> Destination {
        // SAFETY: by the caller; plain fields of the context, read whole as the verifier demands.
        let (address, port) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*sock_addr).user_ip4),
                core::ptr::read_volatile(&raw const (*sock_addr).user_port),
            )
        };
        Destination::v4(u32::from_be(address), u16::from_be(port as u16), protocol)
    }
}

impl Family for V6 {
    /// Without the scope of a link-local address, which the context does not tell: egress does,
    /// from the interface.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the context keeps the port in the low half"
    )]
    unsafe fn destination(sock_addr: *mut bpf_sock_addr, protocol: u8) -> Destination {
        // SAFETY: as above; one 32-bit word at a time.
        let (words, port) = unsafe {
            (
                [
                    core::ptr::read_volatile(&raw const (*sock_addr).user_ip6[0]),
                    core::ptr::read_volatile(&raw const (*sock_addr).user_ip6[1]),
                    core::ptr::read_volatile(&raw const (*sock_addr).user_ip6[2]),
                    core::ptr::read_volatile(&raw const (*sock_addr).user_ip6[3]),
                ],
                core::ptr::read_volatile(&raw const (*sock_addr).user_port),
            )
        };
        let [a, b, c, d] = words.map(|word| u64::from(u32::from_be(word)));
        Destination::v6([a << 32 | b, c << 32 | d], 0, u16::from_be(port as u16), protocol)
    }
}

/// cgroup `connect4` and `connect6`.
pub(crate) struct Connect;

impl JudgeCall for Connect {
    const HOOK: Hook = Hook::Connect;
    const IS_CANARY: bool = true;

    /// Settled, and counted: nothing is asked or recorded.
    #[inline(never)]
    fn is_settled<F: Family>(
        sock_addr: *mut bpf_sock_addr,
        tgid: u32,
        process: &ProcessTag,
    ) -> bool {
        let (kind, protocol, sk) = call::socket_of(sock_addr);
        if transport(kind, protocol) != Some(Transport::Tcp) {
            return false;
        }
        // SAFETY: the context of a hook of this family.
        let destination = unsafe { F::destination(sock_addr, PROTOCOL_TCP) };
        let Some(permit) = look_up_exact(process.exec, destination) else { return false };
        // SAFETY: the socket of the context.
        let Some(tag) = (unsafe { tags::get(sk) }) else { return false };
        // SAFETY: as above.
        let netns_cookie = unsafe { report::netns_cookie(sock_addr.cast()) };
        if !tallies::count(permit.tally, tgid, netns_cookie) {
            return false;
        }
        counters::count_reason(permit.reason);
        call::claim(tag, tgid, process);
        tag.netns_cookie = netns_cookie;
        call::admit(tag, &destination, &permit);
        true
    }

    #[inline(always)]
    fn judge(call: &Call) -> CallOutcome {
        connect(call)
    }
}

#[inline(always)]
fn connect(call: &Call) -> CallOutcome {
    let Some(tag) = call.tag() else {
        return call::deny(&call.case, &Refusal::new(Reason::TagFailed), false);
    };
    if call.transport == Transport::Udp {
        call.claim(tag);
        call::aim(tag, &call.case.destination);
        tag.state = FlowState::Fresh as u8;
        call.mark_socket();
        return CallOutcome::Pass;
    }
    match judge(&call.case, call.profile, Past::NONE, Patience::Wait) {
        Judgement::Allow { permit, source } => {
            let told = source == Source::Daemon || call::is_told(tag, &call.case.destination);
            call.claim(tag);
            call::admit(tag, &call.case.destination, &permit);
            if !told || permit.is_taken() {
                report::allowed(&call.case, &permit);
            }
        }
        Judgement::Deny { refusal, source } => {
            return call::deny(&call.case, &refusal, source == Source::Daemon);
        }
        Judgement::Open(request) => {
            call.claim(tag);
            call::hold(tag, &call.case.destination, request);
        }
        Judgement::Watched => {
            call.claim(tag);
            call::watch(tag, &call.case.destination);
        }
    }
    call.mark_socket();
    CallOutcome::Pass
}
