//! LSM `ptrace_access_check` and `ptrace_traceme`: an agent reads and changes processes of its own
//! instance only.
//!
//! The first is asked for ptrace(2), `pidfd_getfd`, `process_vm_readv`, `process_vm_writev` and
//! `/proc/PID/mem`, and, to look only, for much of /proc/PID (kernel/ptrace.c `ptrace_may_access`). To
//! look at others is what `ps` does; at the daemon it is denied.

use agent_enforcer_common::record::Guard;
use aya_ebpf::{cty::c_void, programs::LsmContext};

use super::{GuardOutcome, Subject, is_daemon};
use crate::kernel::{Address, task::Task};

/// `PTRACE_MODE_*`, include/linux/ptrace.h.
const ATTACH: u32 = 2;
/// Only asked to know what to show: nobody tried anything.
const NOAUDIT: u32 = 4;

/// `(struct task_struct *child, unsigned int mode)`
#[inline(always)]
pub(crate) fn access_check(ctx: &LsmContext) -> GuardOutcome {
    let Some(subject) = Subject::current() else { return GuardOutcome::Pass };
    let mode: u32 = ctx.arg(1);
    let target = tgid_of(ctx.arg(0));
    let is_denied = match target {
        Some(target) if mode & ATTACH != 0 => !subject.owns(target),
        Some(target) => is_daemon(target),
        None => true,
    };
    if !is_denied {
        GuardOutcome::Pass
    } else if mode & NOAUDIT != 0 {
        GuardOutcome::Deny
    } else {
        subject.refuse(Guard::Ptrace, target.unwrap_or(0), u64::from(mode))
    }
}

/// `(struct task_struct *parent)`
#[inline(always)]
pub(crate) fn traceme(ctx: &LsmContext) -> GuardOutcome {
    let Some(subject) = Subject::current() else { return GuardOutcome::Pass };
    match tgid_of(ctx.arg(0)) {
        Some(parent) if subject.owns(parent) => GuardOutcome::Pass,
        parent => subject.refuse(Guard::Ptrace, parent.unwrap_or(0), u64::from(ATTACH)),
    }
}

#[inline(always)]
fn tgid_of(task: *mut c_void) -> Option<u32> {
    Task::new(Address::of(task)?.get()).tgid()
}
