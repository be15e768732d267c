//! LSM `socket_sendmsg`: whose socket it is, and the wait of blocking callers of datagram sockets,
//! which no cgroup hook can make wait.

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_UDP},
    process::ProcessTag,
    reason::Reason,
    record::Hook,
    tag::TAG_MUST_NOT_WAIT,
};
use aya_ebpf::{bindings::bpf_sock, cty::c_void, programs::LsmContext};

use super::{Caller, LsmOutcome, Who, about, adopt, caller, decide_first, deny_untracked, settle};
use crate::{
    decide::Refusal,
    hooks::call::{self, NOT_IN_POLICY},
    kernel::{
        Address,
        sock::{
            AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, AF_VSOCK, Message, Sock, SocketAddress, sk_of,
        },
    },
    maps::{profiles, tags},
    report::Case,
    settings::offset,
    stall::Patience,
};

/// `SOCK_DGRAM`.
const DATAGRAM: u16 = 2;

/// `(struct socket *sock, struct msghdr *msg, int size)`
#[inline(always)]
pub(crate) fn sendmsg(ctx: &LsmContext) -> LsmOutcome {
    let who = caller();
    if matches!(who, Who::Stranger) {
        return LsmOutcome::Pass;
    }
    let socket = ctx.arg::<*mut c_void>(0);
    // One without a file is the kernel's own, such as that of a network file system: whose process
    // uses it does not matter.
    if Address::new(socket as u64).follow(offset!(socket_file)).is_none() {
        return LsmOutcome::Pass;
    }
    // SAFETY: the hook's first argument.
    let Some(sk) = (unsafe { sk_of(socket) }) else { return LsmOutcome::Deny };
    let Some(family) = Sock::new(Address::new(sk as u64)).family() else { return LsmOutcome::Deny };
    let message = Message::new(Address::new(ctx.arg::<*const c_void>(1) as u64));
    match (family, who) {
        (AF_INET | AF_INET6, Who::Agent(tgid, process)) => {
            send_ip(sk, family, message, tgid, process)
        }
        (AF_UNIX, Who::Agent(..)) => {
            note_patience(sk, waits(message));
            LsmOutcome::Pass
        }
        (AF_VSOCK, Who::Agent(tgid, process)) => send_vsock(sk, message, tgid, process),
        (AF_VSOCK, Who::Untracked(tgid)) => {
            deny_untracked(Destination::socket(u32::from(AF_VSOCK)), tgid, Hook::LsmSendmsg)
        }
        (_, _) => LsmOutcome::Pass,
    }
}

#[inline(always)]
fn send_ip(
    sk: *mut bpf_sock,
    family: u16,
    message: Message,
    tgid: u32,
    process: ProcessTag,
) -> LsmOutcome {
    // SAFETY: the socket of the hook's argument, not null.
    let Some(tag) = (unsafe { adopt(sk, tgid, &process) }) else {
        let destination = Destination::socket(u32::from(family));
        let case = Case::of_process(destination, tgid, process, Hook::LsmSendmsg);
        return call::deny(&case, &Refusal::new(Reason::TagFailed), false).into();
    };
    let sock = Sock::new(Address::new(sk as u64));
    let is_udp = sock.kind() == Some(DATAGRAM) && sock.protocol() == Some(u16::from(PROTOCOL_UDP));
    if !is_udp {
        return LsmOutcome::Pass;
    }
    let destination = match message.name() {
        Some(name) => named(name, family),
        None => sock.datagram_peer(),
    };
    let Some(destination) = destination else { return LsmOutcome::Pass };
    if tag.exec == process.exec && call::is_settled(tag, &destination) {
        return LsmOutcome::Pass;
    }
    let profile = profiles::get(&process.agent).unwrap_or(NOT_IN_POLICY);
    let mut case = Case::of_process(destination, tgid, process, Hook::LsmSendmsg);
    // SAFETY: as above.
    unsafe { about(&mut case, sk) };
    decide_first(&mut case, profile, tag, waits(message))
}

/// The peer that the protocol will use (net/ipv4/udp.c `udp_sendmsg`, net/ipv6/udp.c
/// `udpv6_sendmsg`): a name of IPv4 on a socket of IPv6 is one of IPv4, and one of no family is of
/// IPv4 on a socket of IPv4 only.
#[inline(always)]
fn named(name: SocketAddress, family: u16) -> Option<Destination> {
    match name.family()? {
        AF_INET => name.v4(PROTOCOL_UDP),
        AF_UNSPEC if family == AF_INET => name.v4(PROTOCOL_UDP),
        AF_INET6 if family == AF_INET6 => name.v6(PROTOCOL_UDP),
        _ => None,
    }
}

/// A datagram with an address; what is connected was judged then.
#[inline(always)]
fn send_vsock(sk: *mut bpf_sock, message: Message, tgid: u32, process: ProcessTag) -> LsmOutcome {
    let Some(name) = message.name() else { return LsmOutcome::Pass };
    let Some(destination) = name.vsock() else { return LsmOutcome::Deny };
    let mut case = Case::of_process(destination, tgid, process, Hook::LsmSendmsg);
    // SAFETY: the socket of the hook's argument, not null.
    unsafe { about(&mut case, sk) };
    settle(&mut case, Patience::Wait, waits(message))
}

/// Tells the hook that judges the peer of a unix socket what it can't see.
#[inline(always)]
fn note_patience(sk: *mut bpf_sock, caller: Caller) {
    // SAFETY: the socket of the hook's argument, not null.
    if let Some(tag) = unsafe { tags::get(sk) } {
        match caller {
            Caller::Blocks => tag.flags &= !TAG_MUST_NOT_WAIT,
            Caller::MustNotWait => tag.flags |= TAG_MUST_NOT_WAIT,
        }
    }
}

#[inline(always)]
fn waits(message: Message) -> Caller {
    if message.may_wait() == Some(true) { Caller::Blocks } else { Caller::MustNotWait }
}
