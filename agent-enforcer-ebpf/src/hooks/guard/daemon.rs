//! LSM `task_kill`, `file_send_sigiotask`, `task_setrlimit`, `task_setnice`, `task_setioprio`,
//! `task_setscheduler` and `task_movememory`: no agent signals, limits or slows down the daemon.
//!
//! Signals of the kernel itself do not come here (kernel/signal.c `check_kill_permission`).

use agent_enforcer_common::{reason::Reason, record::Guard};
use aya_ebpf::{
    cty::{c_int, c_void},
    programs::LsmContext,
};

use super::{GuardOutcome, Subject, is_daemon};
use crate::{
    kernel::{Address, task::Task},
    maps::counters,
};

/// `(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)`
#[inline(always)]
pub(crate) fn kill(ctx: &LsmContext) -> GuardOutcome {
    let signal: c_int = ctx.arg(2);
    judge(ctx.arg(0), Guard::Signal, signal.cast_unsigned())
}

/// `(struct task_struct *tsk, struct fown_struct *fown, int sig)`: the signal that a file's owner
/// asked for (`F_SETOWN`, `F_SETSIG`), which `task_kill` is not asked about. It is sent in whatever
/// process, or interrupt, makes the file ready: who asked for it is not known. So nobody's goes to the
/// daemon, which asks for none.
#[inline(always)]
pub(crate) fn sigio(ctx: &LsmContext) -> GuardOutcome {
    let signal: c_int = ctx.arg(2);
    let task: *mut c_void = ctx.arg(0);
    if !tgid_of(task).is_some_and(is_daemon) {
        return GuardOutcome::Pass;
    }
    if Subject::current().is_some() {
        return judge(task, Guard::Signal, signal.cast_unsigned());
    }
    counters::count_reason(Reason::Guarded.raw());
    GuardOutcome::Deny
}

/// `(struct task_struct *p, unsigned int resource, struct rlimit *new_rlim)`
#[inline(always)]
pub(crate) fn set_rlimit(ctx: &LsmContext) -> GuardOutcome {
    judge(ctx.arg(0), Guard::Limits, ctx.arg(1))
}

/// `(struct task_struct *p, ...)`: nice value, I/O priority, scheduler and processors, memory nodes.
#[inline(always)]
pub(crate) fn schedule(ctx: &LsmContext) -> GuardOutcome {
    judge(ctx.arg(0), Guard::Limits, 0)
}

#[inline(always)]
fn judge(task: *mut c_void, guard: Guard, argument: u32) -> GuardOutcome {
    let Some(subject) = Subject::current() else { return GuardOutcome::Pass };
    match tgid_of(task) {
        Some(target) if !is_daemon(target) => GuardOutcome::Pass,
        target => subject.refuse(guard, target.unwrap_or(0), u64::from(argument)),
    }
}

#[inline(always)]
fn tgid_of(task: *mut c_void) -> Option<u32> {
    Task::new(Address::of(task)?.get()).tgid()
}
