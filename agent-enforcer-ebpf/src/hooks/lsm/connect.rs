//! LSM `socket_connect`: vsock is judged, and a blocking caller of TCP is stopped where its agent's
//! profile says so. A stopped child looks stopped to its shell, so the rule for TCP is to hold.

use agent_enforcer_common::{
    config::PROFILE_PARK_TCP,
    destination::{Destination, PROTOCOL_TCP},
    process::ProcessTag,
    record::Hook,
};
use aya_ebpf::{bindings::bpf_sock, cty::c_void, programs::LsmContext};

use super::{Caller, LsmOutcome, Who, about, adopt, caller, decide_first, deny_untracked, settle};
use crate::{
    hooks::call::NOT_IN_POLICY,
    kernel::{
        Address,
        file::socket_nonblocking,
        sock::{AF_INET, AF_INET6, AF_VSOCK, Sock, SocketAddress, sk_of},
    },
    maps::profiles,
    report::Case,
    stall::Patience,
};

/// `SOCK_STREAM`.
const STREAM: u16 = 1;

/// `(struct socket *sock, struct sockaddr *address, int addrlen)`
#[inline(always)]
pub(crate) fn connect(ctx: &LsmContext) -> LsmOutcome {
    let who = caller();
    if matches!(who, Who::Stranger) {
        return LsmOutcome::Pass;
    }
    // SAFETY: the hook's first argument.
    let sk = unsafe { sk_of(ctx.arg::<*mut c_void>(0)) };
    let Some(sk) = sk else { return LsmOutcome::Deny };
    let Some(family) = Sock::new(Address::new(sk as u64)).family() else { return LsmOutcome::Deny };
    let address = SocketAddress::new(Address::new(ctx.arg::<*const c_void>(1) as u64));
    match (family, who) {
        (AF_VSOCK, Who::Agent(tgid, process)) => connect_vsock(sk, address, tgid, process),
        (AF_VSOCK, Who::Untracked(tgid)) => {
            deny_untracked(Destination::socket(u32::from(AF_VSOCK)), tgid, Hook::LsmConnect)
        }
        (AF_INET | AF_INET6, Who::Agent(tgid, process)) => connect_tcp(sk, address, tgid, process),
        (_, _) => LsmOutcome::Pass,
    }
}

#[inline(always)]
fn blocks(sk: *mut bpf_sock) -> Caller {
    match socket_nonblocking(Address::new(sk as u64)) {
        Some(false) => Caller::Blocks,
        Some(true) | None => Caller::MustNotWait,
    }
}

#[inline(always)]
fn connect_vsock(
    sk: *mut bpf_sock,
    address: SocketAddress,
    tgid: u32,
    process: ProcessTag,
) -> LsmOutcome {
    // Disconnecting sends nothing; any other family is the kernel's own error.
    if address.family() != Some(AF_VSOCK) {
        return LsmOutcome::Pass;
    }
    let Some(destination) = address.vsock() else { return LsmOutcome::Deny };
    let mut case = Case::of_process(destination, tgid, process, Hook::LsmConnect);
    // SAFETY: the socket of the hook's argument, not null.
    unsafe { about(&mut case, sk) };
    settle(&mut case, Patience::Wait, blocks(sk))
}

#[inline(always)]
fn connect_tcp(
    sk: *mut bpf_sock,
    address: SocketAddress,
    tgid: u32,
    process: ProcessTag,
) -> LsmOutcome {
    let profile = profiles::get(&process.agent).unwrap_or(NOT_IN_POLICY);
    let sock = Sock::new(Address::new(sk as u64));
    let parks = profile.flags & PROFILE_PARK_TCP != 0
        && sock.kind() == Some(STREAM)
        && sock.protocol() == Some(u16::from(PROTOCOL_TCP))
        && blocks(sk) == Caller::Blocks;
    if !parks {
        return LsmOutcome::Pass;
    }
    let destination = match address.family() {
        Some(AF_INET) => address.v4(PROTOCOL_TCP),
        Some(AF_INET6) => address.v6(PROTOCOL_TCP),
        Some(_) | None => None,
    };
    let Some(destination) = destination else { return LsmOutcome::Pass };
    let mut case = Case::of_process(destination, tgid, process, Hook::LsmConnect);
    // SAFETY: the socket of the hook's argument, not null.
    let tag = unsafe {
        about(&mut case, sk);
        adopt(sk, tgid, &process)
    };
    match tag {
        Some(tag) => decide_first(&mut case, profile, tag, Caller::Blocks),
        // The hook that judges it denies it for that.
        None => LsmOutcome::Pass,
    }
}
