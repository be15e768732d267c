//! cgroup `sock_create`: which sockets an agent may have, and whose they are from birth.
//!
//! Only the INET families come here. The allow-list is TCP and UDP: raw, ping, SCTP, MPTCP,
//! UDP-Lite, L2TP and what else may come skip one hook or another (DESIGN.md section 10).

use agent_enforcer_common::{
    destination::Destination, process::ProcessTag, reason::Reason, record::Hook, tag::FlowState,
};
use aya_ebpf::{bindings::bpf_sock, programs::SockContext};

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
pub(crate) fn sock_create(ctx: &SockContext) -> CallOutcome {
    let tgid = processes::current_tgid();
    let passes = match processes::of_current(tgid) {
        Standing::Stranger | Standing::Daemon => true,
        Standing::Agent(process) => has_tag(ctx.sock, tgid, process),
        Standing::Untracked => false,
    };
    if passes { CallOutcome::Pass } else { refuse(ctx.sock) }
}

/// Type and protocol.
#[inline(always)]
fn kind_of(sock: *mut bpf_sock) -> (u32, u32) {
    // SAFETY: plain fields of the context.
    unsafe {
        (
            core::ptr::read_volatile(&raw const (*sock).type_),
            core::ptr::read_volatile(&raw const (*sock).protocol),
        )
    }
}

/// Tags the socket; false where it may not be, or can't be tagged.
#[inline(always)]
fn has_tag(sock: *mut bpf_sock, tgid: u32, process: &ProcessTag) -> bool {
    let (kind, protocol) = kind_of(sock);
    if transport(kind, protocol).is_none() {
        return false;
    }
    // SAFETY: the context of this hook is the socket itself (net/core/bpf_sk_storage.c, 5.9).
    let Some(tag) = (unsafe { tags::get_or_create(sock) }) else { return false };
    call::claim(tag, tgid, process);
    tag.state = FlowState::Fresh as u8;
    true
}

/// Denies, and says why. A function of its own, so that what runs for every socket fits into the
/// instruction cache.
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the protocol in the record is evidence; the allow-list sees all of it"
)]
fn refuse(sock: *mut bpf_sock) -> CallOutcome {
    let tgid = processes::current_tgid();
    let (kind, protocol) = kind_of(sock);
    let (tag, reason) = match processes::standing(tgid) {
        Standing::Agent(tag) if transport(kind, protocol).is_none() => {
            (tag, Reason::ProtocolNotAllowed)
        }
        Standing::Agent(tag) => (tag, Reason::TagFailed),
        Standing::Stranger | Standing::Daemon | Standing::Untracked => {
            (ProcessTag::default(), Reason::ProcessTableFull)
        }
    };
    let destination = Destination::without_peer(protocol as u8);
    // SAFETY: the context of a socket hook.
    let case = unsafe { Case::of_socket(sock.cast(), destination, tgid, tag, Hook::SocketCreate) };
    call::deny(&case, &Refusal::new(reason), false)
}
