//! LSM `unix_stream_connect` and `unix_may_send`: the peer, whatever name led to it.
//!
//! Sockets of the caller's own instance are its own business. Any other peer is a destination: the
//! inode or abstract name that it is bound to. Both hooks are called with the peer locked, so that
//! nothing is waited for in them: a caller that blocks is stopped at once.

use agent_enforcer_common::{
    destination::Destination, peer::UNKNOWN_PEER, reason::Reason, record::Hook,
    tag::TAG_MUST_NOT_WAIT,
};
use aya_ebpf::{bindings::bpf_sock, cty::c_void, programs::LsmContext};

use super::{Caller, LsmOutcome, deny_untracked, settle};
use crate::{
    decide::Refusal,
    hooks::{
        call,
        peers::{CLOSED, number_of},
    },
    kernel::{
        Address,
        file::socket_nonblocking,
        sock::{AF_UNIX, Sock, sk_of},
    },
    maps::{
        processes::{self, Standing},
        tags,
    },
    report::{self, Case},
    stall::Patience,
};

/// `(struct sock *sock, struct sock *other, struct sock *newsk)`
#[inline(always)]
pub(crate) fn stream_connect(ctx: &LsmContext) -> LsmOutcome {
    let (own, other) = (ctx.arg::<*mut bpf_sock>(0), ctx.arg::<*mut bpf_sock>(1));
    judge((!own.is_null()).then_some(own), (!other.is_null()).then_some(other), Hook::UnixConnect)
}

/// `(struct socket *sock, struct socket *other)`
#[inline(always)]
pub(crate) fn may_send(ctx: &LsmContext) -> LsmOutcome {
    // SAFETY: the hook's arguments.
    let (own, other) =
        unsafe { (sk_of(ctx.arg::<*mut c_void>(0)), sk_of(ctx.arg::<*mut c_void>(1))) };
    judge(own, other, Hook::UnixSend)
}

#[inline(always)]
fn judge(own: Option<*mut bpf_sock>, other: Option<*mut bpf_sock>, hook: Hook) -> LsmOutcome {
    let tgid = processes::current_tgid();
    let process = match processes::of_current(tgid) {
        Standing::Stranger | Standing::Daemon => return LsmOutcome::Pass,
        Standing::Agent(process) => process,
        Standing::Untracked => {
            return deny_untracked(Destination::socket(u32::from(AF_UNIX)), tgid, hook);
        }
    };
    let (Some(own), Some(other)) = (own, other) else { return LsmOutcome::Deny };
    // SAFETY: the peer of the hook's arguments, not null.
    if unsafe { tags::get(other) }.is_some_and(|tag| tag.instance == process.instance) {
        return LsmOutcome::Pass;
    }
    let number = number_of::<true>(other as u64);
    // SAFETY: the caller's own socket.
    let tag = unsafe { tags::get(own) };
    let in_haste = hook as u8 == Hook::UnixSend as u8
        && tag.is_some_and(|tag| tag.flags & TAG_MUST_NOT_WAIT != 0);
    let own = Address::new(own as u64);
    let caller = match socket_nonblocking(own) {
        Some(false) if !in_haste => Caller::Blocks,
        Some(_) | None => Caller::MustNotWait,
    };
    let netns_cookie = Sock::new(own).netns_cookie().unwrap_or_default();
    judge_peer(number, netns_cookie, caller, hook)
}

/// A function of its own, as [`number_of`]: the two never share the 512 bytes of stack.
#[inline(never)]
fn judge_peer(number: u64, netns_cookie: u64, caller: Caller, hook: Hook) -> LsmOutcome {
    let tgid = processes::current_tgid();
    // It is there, as long as its process runs.
    let process = processes::get(tgid).unwrap_or_default();
    let is_closed = number != UNKNOWN_PEER && number & CLOSED != 0;
    let number = if is_closed { number & !CLOSED } else { number };
    let mut case = Case::of_process(Destination::unix(number), tgid, process, hook);
    case.netns_cookie = netns_cookie;
    if is_closed {
        report::denied(&case, &Refusal::new(Reason::Guarded));
        return LsmOutcome::Deny;
    }
    if number == UNKNOWN_PEER {
        return call::deny(&case, &Refusal::new(Reason::Internal), false).into();
    }
    settle(&mut case, Patience::Ask, caller)
}
