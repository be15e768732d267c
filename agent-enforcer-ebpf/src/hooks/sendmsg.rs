//! cgroup `sendmsg4` and `sendmsg6`: datagrams with an address.
//!
//! While the decision is open a non-blocking caller gets `EAGAIN`. A blocking one can't be made to
//! wait on this plane: its datagram goes on and egress loses it, as networks do.

use agent_enforcer_common::{
    destination::PROTOCOL_UDP, process::ProcessTag, reason::Reason, record::Hook, tag::FlowState,
};
use aya_ebpf::bindings::bpf_sock_addr;

use super::call::{self, Call, CallOutcome, Family, JudgeCall};
use crate::{
    decide::{Answer, Purpose, Refusal, look_up},
    judge::{Judgement, Past, Source, judge},
    kernel::{Address, file::socket_nonblocking},
    maps::tags,
    report,
    stall::{ASK_AGAIN_NS, Patience},
};

/// cgroup `sendmsg4` and `sendmsg6`.
pub(crate) struct Sendmsg;

impl JudgeCall for Sendmsg {
    const HOOK: Hook = Hook::Sendmsg;
    const IS_CANARY: bool = false;

    #[inline(never)]
    fn is_settled<F: Family>(
        sock_addr: *mut bpf_sock_addr,
        _tgid: u32,
        process: &ProcessTag,
    ) -> bool {
        let (_kind, _protocol, sk) = call::socket_of(sock_addr);
        // SAFETY: the socket of the context.
        let Some(tag) = (unsafe { tags::get(sk) }) else { return false };
        // SAFETY: the context of a hook of this family.
        let destination = unsafe { F::destination(sock_addr, PROTOCOL_UDP) };
        tag.exec == process.exec && call::is_settled(tag, &destination)
    }

    #[inline(always)]
    fn judge(call: &Call) -> CallOutcome {
        sendmsg(call)
    }
}

#[inline(always)]
fn sendmsg(call: &Call) -> CallOutcome {
    let Some(tag) = call.tag() else {
        return call::deny(&call.case, &Refusal::new(Reason::TagFailed), false);
    };
    let destination = &call.case.destination;
    // An open decision is asked for once, however often a non-blocking caller tries.
    let asked = tag.state == FlowState::Pending as u8
        && tag.destination == *destination
        && tag.exec == call.case.tag.exec
        && report::now_ns().wrapping_sub(tag.pending_since_ns) < ASK_AGAIN_NS;
    let judgement = if asked {
        // Looked up once: it may take a verdict that admits one.
        match look_up(&call.case, Purpose::NewCall) {
            Answer::Unknown { .. } => return undecided(call),
            Answer::Allow(permit) => Judgement::Allow { permit, source: Source::Map },
            Answer::Deny(refusal) => Judgement::Deny { refusal, source: Source::Map },
        }
    } else {
        judge(&call.case, call.profile, Past::NONE, Patience::Wait)
    };
    match judgement {
        Judgement::Allow { permit, source } => {
            let told = source == Source::Daemon || call::is_told(tag, destination);
            call.claim(tag);
            call::admit(tag, destination, &permit);
            if !told || permit.is_taken() {
                report::allowed(&call.case, &permit);
            }
        }
        Judgement::Deny { refusal, source } => {
            return call::deny(&call.case, &refusal, source == Source::Daemon);
        }
        Judgement::Open(request) => {
            call.claim(tag);
            call::hold(tag, destination, request);
            return undecided(call);
        }
        Judgement::Watched => {
            call.claim(tag);
            call::watch(tag, destination);
        }
    }
    call.mark_socket();
    CallOutcome::Pass
}

#[inline(always)]
fn undecided(call: &Call) -> CallOutcome {
    let nonblocking = Address::of(call.sk).and_then(socket_nonblocking);
    if nonblocking.unwrap_or(true) { CallOutcome::TryAgain } else { CallOutcome::Pass }
}
