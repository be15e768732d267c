//! LSM `socket_create`, `socket_post_create` and `socket_listen`.
//!
//! The allow-list of families: unix, INET and INET6 (whose types the cgroup hook sorts out),
//! `NETLINK_ROUTE`, vsock (judged when it is used). Every other one is a destination of its own.
//! Unix sockets are tagged, so that an instance may talk to itself.

use agent_enforcer_common::{
    destination::Destination, process::ProcessTag, reason::Reason, record::Hook,
};
use aya_ebpf::{cty::c_void, programs::LsmContext};

use super::{Caller, LsmOutcome, Who, caller, deny_untracked, settle, take};
use crate::{
    decide::Refusal,
    hooks::call,
    kernel::{
        Address,
        sock::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, AF_VSOCK, Sock, sk_of},
    },
    maps::tags,
    report::Case,
    stall::Patience,
};

const NETLINK_ROUTE: u32 = 0;

/// `(int family, int type, int protocol, int kern)`
#[inline(always)]
pub(crate) fn create(ctx: &LsmContext) -> LsmOutcome {
    let kernel_own: i32 = ctx.arg(3);
    let who = caller();
    if kernel_own != 0 || matches!(who, Who::Stranger) {
        return LsmOutcome::Pass;
    }
    let (family, protocol): (u32, u32) = (ctx.arg(0), ctx.arg(2));
    let destination = match u16::try_from(family) {
        Ok(AF_UNIX | AF_INET | AF_INET6 | AF_VSOCK) => None,
        Ok(AF_NETLINK) if protocol == NETLINK_ROUTE => None,
        Ok(AF_NETLINK) => Some(Destination::netlink(protocol)),
        Ok(_) | Err(_) => Some(Destination::socket(family)),
    };
    match (destination, who) {
        (None, Who::Agent(..)) | (_, Who::Stranger) => LsmOutcome::Pass,
        (destination, Who::Untracked(tgid)) => {
            let destination = destination.unwrap_or(Destination::socket(family));
            deny_untracked(destination, tgid, Hook::LsmCreate)
        }
        (Some(destination), Who::Agent(tgid, tag)) => {
            let mut case = Case::of_process(destination, tgid, tag, Hook::LsmCreate);
            settle(&mut case, Patience::Wait, Caller::Blocks)
        }
    }
}

/// `(struct socket *sock, int family, int type, int protocol, int kern)`
#[inline(always)]
pub(crate) fn created(ctx: &LsmContext) -> LsmOutcome {
    let (family, kernel_own): (u32, i32) = (ctx.arg(1), ctx.arg(4));
    if kernel_own != 0 || family != u32::from(AF_UNIX) {
        return LsmOutcome::Pass;
    }
    let Who::Agent(tgid, process) = caller() else { return LsmOutcome::Pass };
    // SAFETY: the hook's first argument.
    let sk = unsafe { sk_of(ctx.arg::<*mut c_void>(0)) };
    // SAFETY: the socket of the hook's argument.
    if let Some(tag) = sk.and_then(|sk| unsafe { tags::get_or_create(sk) }) {
        take(tag, tgid, &process);
        return LsmOutcome::Pass;
    }
    refuse(Destination::socket(family), tgid, process, Reason::TagFailed)
}

/// `(struct socket *sock, int backlog)`: whoever dials in over vsock would be no destination.
#[inline(always)]
pub(crate) fn listen(ctx: &LsmContext) -> LsmOutcome {
    let Who::Agent(tgid, process) = caller() else { return LsmOutcome::Pass };
    // SAFETY: the hook's first argument.
    let sk = unsafe { sk_of(ctx.arg::<*mut c_void>(0)) };
    match sk.and_then(|sk| Sock::new(Address::new(sk as u64)).family()) {
        Some(AF_VSOCK) | None => {
            let destination = Destination::socket(u32::from(AF_VSOCK));
            refuse(destination, tgid, process, Reason::ProtocolNotAllowed)
        }
        Some(_) => LsmOutcome::Pass,
    }
}

#[inline(always)]
fn refuse(destination: Destination, tgid: u32, process: ProcessTag, reason: Reason) -> LsmOutcome {
    let case = Case::of_process(destination, tgid, process, Hook::LsmCreate);
    call::deny(&case, &Refusal::new(reason), false).into()
}
