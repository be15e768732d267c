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

use agent_enforcer_common::record::Hook;
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
    guard::{self, GuardOutcome, files},
    lineage,
    lsm::{self, LsmOutcome},
    sendmsg::Sendmsg,
    unix,
};

const EACCES: i32 = 13;
const EAGAIN: i32 = 11;
const ECONNREFUSED: i32 = 111;

/// 0 fails the call with the value set before, 1 lets it go on (kernel/bpf/cgroup.c
/// `bpf_prog_run_array_cg`; `bpf_set_retval` for these hooks: 6.0).
#[inline(always)]
fn call_code(outcome: CallOutcome) -> i32 {
    let errno = match outcome {
        CallOutcome::Pass => return 1,
        CallOutcome::Deny => EACCES,
        CallOutcome::TryAgain => EAGAIN,
        CallOutcome::Nobody => ECONNREFUSED,
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

/// What another program has denied never comes here (arch/x86/net/bpf_jit_comp.c
/// `invoke_bpf_mod_ret` ends with the first error).
///
/// `ERESTARTNOINTR` (include/linux/errno.h) is turned into a restart on the way out, as a signal
/// stands there (arch/x86/kernel/signal.c `arch_do_signal_or_restart`).
#[inline(always)]
fn lsm_code(outcome: LsmOutcome) -> i32 {
    const ERESTARTNOINTR: i32 = 513;
    match outcome {
        LsmOutcome::Pass => 0,
        LsmOutcome::Deny => -EACCES,
        LsmOutcome::TryAgain => -EAGAIN,
        LsmOutcome::Restart => -ERESTARTNOINTR,
    }
}

#[inline(always)]
fn guard_code(outcome: GuardOutcome) -> i32 {
    match outcome {
        GuardOutcome::Pass => 0,
        GuardOutcome::Deny => -EACCES,
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

/// `connect_unix` is not known to the macro: the loader attaches it (kernel/unix_hooks.rs).
#[cgroup_sock_addr(connect4)]
fn ae_connect_unix(ctx: SockAddrContext) -> i32 {
    call_code(unix::call(&ctx, Hook::CgroupUnixConnect))
}

/// As [`ae_connect_unix`].
#[cgroup_sock_addr(sendmsg4)]
fn ae_sendmsg_unix(ctx: SockAddrContext) -> i32 {
    call_code(unix::call(&ctx, Hook::CgroupUnixSend))
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
    lsm_code(lsm::create::create(&ctx))
}

#[lsm(hook = "socket_post_create")]
fn ae_lsm_created(ctx: LsmContext) -> i32 {
    lsm_code(lsm::create::created(&ctx))
}

#[lsm(hook = "socket_listen")]
fn ae_lsm_listen(ctx: LsmContext) -> i32 {
    lsm_code(lsm::create::listen(&ctx))
}

#[lsm(hook = "socket_connect")]
fn ae_lsm_connect(ctx: LsmContext) -> i32 {
    lsm_code(lsm::connect::connect(&ctx))
}

#[lsm(hook = "socket_sendmsg")]
fn ae_lsm_sendmsg(ctx: LsmContext) -> i32 {
    lsm_code(lsm::sendmsg::sendmsg(&ctx))
}

#[lsm(hook = "unix_stream_connect")]
fn ae_lsm_unixconn(ctx: LsmContext) -> i32 {
    lsm_code(lsm::unix::stream_connect(&ctx))
}

#[lsm(hook = "unix_may_send")]
fn ae_lsm_unixsend(ctx: LsmContext) -> i32 {
    lsm_code(lsm::unix::may_send(&ctx))
}

#[lsm(hook = "file_receive")]
fn ae_lsm_receive(ctx: LsmContext) -> i32 {
    lsm_code(lsm::receive::receive(&ctx))
}

/// Entry points of self-protection, all of one form.
macro_rules! guards {
    ($($name:ident, $hook:literal => $judge:expr;)+) => {
        $(
            #[lsm(hook = $hook)]
            fn $name(ctx: LsmContext) -> i32 {
                guard_code($judge(&ctx))
            }
        )+
    };
}

guards! {
    ae_guard_bpf, "bpf" => guard::bpf::bpf;
    ae_guard_ptrace, "ptrace_access_check" => guard::ptrace::access_check;
    ae_guard_trcme, "ptrace_traceme" => guard::ptrace::traceme;
    ae_guard_kill, "task_kill" => guard::daemon::kill;
    ae_guard_sigio, "file_send_sigiotask" => guard::daemon::sigio;
    ae_guard_rlimit, "task_setrlimit" => guard::daemon::set_rlimit;
    ae_guard_nice, "task_setnice" => guard::daemon::schedule;
    ae_guard_ioprio, "task_setioprio" => guard::daemon::schedule;
    ae_guard_sched, "task_setscheduler" => guard::daemon::schedule;
    ae_guard_memory, "task_movememory" => guard::daemon::schedule;
    ae_guard_open, "file_open" => files::open;
    ae_guard_create, "inode_create" => files::change::<1>;
    ae_guard_link, "inode_link" => files::change_both::<0, 2>;
    ae_guard_unlink, "inode_unlink" => files::change::<1>;
    ae_guard_symlnk, "inode_symlink" => files::change::<1>;
    ae_guard_mkdir, "inode_mkdir" => files::change::<1>;
    ae_guard_rmdir, "inode_rmdir" => files::change::<1>;
    ae_guard_mknod, "inode_mknod" => files::change::<1>;
    ae_guard_rename, "inode_rename" => files::change_both::<1, 3>;
    ae_guard_attr, "inode_setattr" => files::set_attributes;
    ae_guard_xattr, "inode_setxattr" => files::change::<1>;
    ae_guard_rmxatr, "inode_removexattr" => files::change::<1>;
    ae_guard_acl, "inode_set_acl" => files::change::<1>;
    ae_guard_rmacl, "inode_remove_acl" => files::change::<1>;
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
