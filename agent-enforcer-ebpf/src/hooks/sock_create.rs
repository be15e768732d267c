//! cgroup `sock_create`: which sockets an agent may have, and whose they are from birth.
//!
//! Only the INET families come here. The allow-list is TCP and UDP: raw, ping, SCTP, MPTCP,
//! UDP-Lite, L2TP and what else may come skip one hook or another (DESIGN.md section 10).

use agent_enforcer_common::{
    destination::Destination, process::ProcessTag, reason::Reason, record::Hook, tag::FlowState,
};
use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockContext,
};

use super::call::{self, CallOutcome, transport};
use crate::{
    decide::Refusal,
    maps::{
        processes::{self, Standing},
        tags,
    },
    report::Case,
};

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the protocol in the record is evidence; the allow-list sees all of it"
)]
pub(crate) fn sock_create(ctx: &SockContext) -> CallOutcome {
    let tgid = processes::current_tgid();
    let standing = processes::standing(tgid);
    if let Standing::Stranger = standing {
        return CallOutcome::Pass;
    }
    let sock: *mut bpf_sock = ctx.sock;
    // SAFETY: plain fields of the context.
    let (kind, protocol) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*sock).type_),
            core::ptr::read_volatile(&raw const (*sock).protocol),
        )
    };
    let case = |tag: ProcessTag| Case {
        tag,
        destination: Destination::without_peer(protocol as u8),
        // SAFETY: the context of a socket hook (5.12).
        socket_cookie: unsafe { bpf_get_socket_cookie(sock.cast()) },
        // SAFETY: as above (5.8).
        netns_cookie: unsafe { bpf_get_netns_cookie(sock.cast()) },
        tgid,
        hook: Hook::SocketCreate,
        flags: 0,
    };
    let Standing::Agent(process) = standing else {
        let case = case(ProcessTag::default());
        return call::deny(&case, &Refusal::new(Reason::ProcessTableFull), false);
    };
    if transport(kind, protocol).is_none() {
        return call::deny(&case(process), &Refusal::new(Reason::ProtocolNotAllowed), false);
    }
    // SAFETY: the context of this hook is the socket itself (net/core/bpf_sk_storage.c, 5.9).
    let Some(tag) = (unsafe { tags::get_or_create(sock) }) else {
        return call::deny(&case(process), &Refusal::new(Reason::TagFailed), false);
    };
    call::claim(tag, tgid, &process);
    tag.state = FlowState::Fresh as u8;
    CallOutcome::Pass
}
