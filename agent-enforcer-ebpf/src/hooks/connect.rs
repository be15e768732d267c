//! cgroup `connect4` and `connect6`.
//!
//! TCP is judged here; while the decision is open the call goes ahead and egress holds the SYN
//! back. Connecting a datagram socket sends nothing and is what resolvers do to learn a route, so
//! it is only noted: its first packet is judged at egress. (`AF_UNSPEC` never comes here.)

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP},
    reason::Reason,
    record::Hook,
    tag::FlowState,
};
use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};

use super::call::{self, Call, CallOutcome, Transport};
use crate::{
    decide::Refusal,
    judge::{Judgement, Past, Source, judge},
    report,
    stall::Patience,
};

pub(super) const TCP_SYNCNT: i32 = 7;
/// Retransmissions of a held SYN, beginning one jiffy apart: some eight minutes in all, longer
/// than people are asked (net/ipv4/tcp_timer.c doubles the interval up to two minutes).
const HELD_SYN_RETRIES: u32 = 18;

/// The destination of an IPv4 context.
#[inline(always)]
pub(crate) fn destination_v4(sock_addr: *mut bpf_sock_addr, protocol: u8) -> Destination {
    // SAFETY: plain fields of the context, read whole as the verifier demands.
    let (address, port) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*sock_addr).user_ip4),
            core::ptr::read_volatile(&raw const (*sock_addr).user_port),
        )
    };
    Destination::v4(address.to_ne_bytes(), u16::from_be(port as u16), protocol)
}

/// The destination of an IPv6 context. It does not tell the scope of a link-local address: egress
/// does, from the interface.
#[inline(always)]
pub(crate) fn destination_v6(sock_addr: *mut bpf_sock_addr, protocol: u8) -> Destination {
    // SAFETY: as in `destination_v4`; one 32-bit word at a time.
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
    // SAFETY: four words are sixteen bytes.
    let octets: [u8; 16] = unsafe { core::mem::transmute(words) };
    Destination::v6(octets, 0, u16::from_be(port as u16), protocol)
}

#[inline(always)]
pub(crate) fn connect4(ctx: &SockAddrContext) -> CallOutcome {
    match call::open(ctx, Hook::Connect, destination_v4) {
        Ok(call) => connect(&call),
        Err(outcome) => outcome,
    }
}

#[inline(always)]
pub(crate) fn connect6(ctx: &SockAddrContext) -> CallOutcome {
    match call::open(ctx, Hook::Connect, destination_v6) {
        Ok(call) => connect(&call),
        Err(outcome) => outcome,
    }
}

#[inline(always)]
fn connect(call: &Call) -> CallOutcome {
    let Some(tag) = call.tag() else {
        return call::deny(&call.case, &Refusal::new(Reason::TagFailed), false);
    };
    if call.transport == Transport::Udp {
        call.claim(tag);
        tag.destination = call.case.destination;
        tag.state = FlowState::Fresh as u8;
        call.mark_socket();
        return CallOutcome::Pass;
    }
    match judge(&call.case, call.profile, Past::NONE, Patience::Wait) {
        Judgement::Allow { permit, source } => {
            call.claim(tag);
            call::admit(tag, &call.case.destination, &permit);
            if source != Source::Daemon {
                report::allowed(&call.case, &permit);
            }
        }
        Judgement::Deny { refusal, source } => {
            return call::deny(&call.case, &refusal, source == Source::Daemon);
        }
        Judgement::Open => {
            call.claim(tag);
            call::hold(tag, &call.case.destination);
            let mut retries = HELD_SYN_RETRIES;
            call.set_option(i32::from(PROTOCOL_TCP), TCP_SYNCNT, &mut retries);
        }
        Judgement::Watched => {
            call.claim(tag);
            call::watch(tag, &call.case.destination);
        }
    }
    call.mark_socket();
    CallOutcome::Pass
}
