//! The kernel side of agent-enforcer: entry points, and the one match from outcome to return code.
//!
//! In: calls, packets and life-cycle events of every process. Out: allow, deny, or hold back, for
//! agents' processes only. Logic never picks a return code; what is here never decides.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to the atomic instructions of this target")]
#![expect(clippy::needless_pass_by_value, reason = "entry points are handed their context so")]

mod atomic;
mod classify;
mod decide;
mod halves;
mod hooks;
mod judge;
mod kernel;
mod maps;
mod park;
mod report;
mod settings;
mod stall;

use aya_ebpf::{
    helpers::generated::bpf_set_retval,
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, lsm, raw_tracepoint, sock_ops},
    programs::{
        LsmContext, RawTracePointContext, SkBuffContext, SockAddrContext, SockContext,
        SockOpsContext,
    },
};
use hooks::{
    call::{self, CallOutcome},
    cgroups,
    connect::{Connect, V4, V6},
    egress::{self, PacketOutcome},
    lineage,
    lsm::{self, LsmOutcome},
    sendmsg::Sendmsg,
};

const EACCES: i32 = 13;
const EAGAIN: i32 = 11;

/// 0 fails the call with the value set before, 1 lets it go on (kernel/bpf/cgroup.c
/// `bpf_prog_run_array_cg`; `bpf_set_retval` for these hooks: 6.0).
#[inline(always)]
fn call_code(outcome: CallOutcome) -> i32 {
    let errno = match outcome {
        CallOutcome::Pass => return 1,
        CallOutcome::Deny => EACCES,
        CallOutcome::TryAgain => EAGAIN,
    };
    // SAFETY: an errno, checked by the helper; where it fails the kernel's own EPERM stays.
    let _ = unsafe { bpf_set_retval(-errno) };
    0
}

/// Bit 0 lets the packet go, bit 1 reports congestion instead of an error
/// (include/linux/bpf-cgroup.h `BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY`): datagrams dropped so are
/// lost without an error (net/ipv4/udp.c `udp_send_skb` drops `ENOBUFS`).
#[inline(always)]
fn packet_code(outcome: PacketOutcome) -> i32 {
    match outcome {
        PacketOutcome::Pass => 1,
        PacketOutcome::Drop => 0,
        PacketOutcome::Lose => 2,
    }
}

/// An errno fails the call, unless another program has failed it already.
///
/// `ERESTARTNOINTR` (include/linux/errno.h) is turned into a restart on the way out, as a signal
/// stands there (arch/x86/kernel/signal.c `arch_do_signal_or_restart`).
#[inline(always)]
fn lsm_code(before: i32, hook: impl FnOnce() -> LsmOutcome) -> i32 {
    const ERESTARTNOINTR: i32 = 513;
    const MAX_ERRNO: i32 = 4095;
    if before != 0 {
        // VERIFIER: nothing else may be returned (kernel/bpf/bpf_lsm.c `bpf_lsm_get_retval_range`, 6.12).
        return before.clamp(-MAX_ERRNO, 0);
    }
    match hook() {
        LsmOutcome::Pass => 0,
        LsmOutcome::Deny => -EACCES,
        LsmOutcome::TryAgain => -EAGAIN,
        LsmOutcome::Restart => -ERESTARTNOINTR,
    }
}

#[cgroup_sock_addr(connect4)]
fn ae_connect4(ctx: SockAddrContext) -> i32 {
    call_code(call::sort_out::<V4, Connect>(&ctx))
}

#[cgroup_sock_addr(connect6)]
fn ae_connect6(ctx: SockAddrContext) -> i32 {
    call_code(call::sort_out::<V6, Connect>(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
fn ae_sendmsg4(ctx: SockAddrContext) -> i32 {
    call_code(call::sort_out::<V4, Sendmsg>(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
fn ae_sendmsg6(ctx: SockAddrContext) -> i32 {
    call_code(call::sort_out::<V6, Sendmsg>(&ctx))
}

#[cgroup_sock(sock_create)]
fn ae_sock_create(ctx: SockContext) -> i32 {
    call_code(hooks::sock_create::sock_create(&ctx))
}

#[cgroup_skb(egress)]
fn ae_egress(ctx: SkBuffContext) -> i32 {
    packet_code(egress::egress(&ctx))
}

#[sock_ops]
fn ae_sock_ops(ctx: SockOpsContext) -> u32 {
    hooks::sock_ops::sock_ops(&ctx);
    1
}

#[raw_tracepoint(tracepoint = "sched_wakeup_new")]
fn ae_fork(ctx: RawTracePointContext) -> i32 {
    lineage::fork(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn ae_exec(ctx: RawTracePointContext) -> i32 {
    lineage::exec(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn ae_exit(_ctx: RawTracePointContext) -> i32 {
    lineage::exit();
    0
}

#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
fn ae_cgrp_attach(ctx: RawTracePointContext) -> i32 {
    lineage::cgroup_attach(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn ae_cgrp_mkdir(ctx: RawTracePointContext) -> i32 {
    cgroups::mkdir(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
fn ae_cgrp_rmdir(ctx: RawTracePointContext) -> i32 {
    cgroups::rmdir(&ctx);
    0
}

#[lsm(hook = "bprm_committed_creds")]
fn ae_lsm_exec(ctx: LsmContext) -> i32 {
    lineage::committed(&ctx);
    0
}

#[lsm(hook = "socket_create")]
fn ae_lsm_create(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(4), || lsm::create::create(&ctx))
}

#[lsm(hook = "socket_post_create")]
fn ae_lsm_created(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(5), || lsm::create::created(&ctx))
}

#[lsm(hook = "socket_listen")]
fn ae_lsm_listen(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(2), || lsm::create::listen(&ctx))
}

#[lsm(hook = "socket_connect")]
fn ae_lsm_connect(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(3), || lsm::connect::connect(&ctx))
}

#[lsm(hook = "socket_sendmsg")]
fn ae_lsm_sendmsg(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(3), || lsm::sendmsg::sendmsg(&ctx))
}

#[lsm(hook = "unix_stream_connect")]
fn ae_lsm_unixconn(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(3), || lsm::unix::stream_connect(&ctx))
}

#[lsm(hook = "unix_may_send")]
fn ae_lsm_unixsend(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(2), || lsm::unix::may_send(&ctx))
}

#[lsm(hook = "file_receive")]
fn ae_lsm_receive(ctx: LsmContext) -> i32 {
    lsm_code(ctx.arg(1), || lsm::receive::receive(&ctx))
}

/// The helpers that a GPL-compatible program may use are needed (`bpf_probe_read_kernel`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics: the verifier would refuse the loop that a panic would be.
    loop {}
}
