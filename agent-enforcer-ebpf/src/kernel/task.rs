//! Facts about a task.

use super::{Address, cgroup::Cgroup, file::Executable};
use crate::settings::offset;

/// A `task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(Address);

impl Task {
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(Address::new(address))
    }

    /// Thread group id in the initial pid namespace.
    #[inline(always)]
    pub(crate) fn tgid(self) -> Option<u32> {
        self.0.read(offset!(task_tgid))
    }

    /// Start of the thread group leader, ns of `CLOCK_BOOTTIME` (5.5: `start_boottime`).
    #[inline(always)]
    pub(crate) fn start_ns(self) -> Option<u64> {
        self.0.follow(offset!(task_group_leader))?.read(offset!(task_start_boottime))
    }

    /// Whether no thread of the group is left alive (kernel/exit.c `do_exit` counts
    /// `signal->live` down before the exit tracepoint; the leader may well exit first).
    #[inline(always)]
    pub(crate) fn group_dead(self) -> Option<bool> {
        let live: i32 = self.0.follow(offset!(task_signal))?.read(offset!(signal_live))?;
        Some(live == 0)
    }

    /// The cgroup in the v2 hierarchy.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> Option<Cgroup> {
        self.0.follow(offset!(task_cgroups))?.follow(offset!(css_set_dfl_cgrp)).map(Cgroup::new)
    }

    /// Real user id in the initial user namespace.
    #[inline(always)]
    pub(crate) fn uid(self) -> Option<u32> {
        self.0.follow(offset!(task_cred))?.read(offset!(cred_uid))
    }

    /// The executable that it runs; none for a kernel thread.
    #[inline(always)]
    pub(crate) fn executable(self) -> Option<Executable> {
        let file = self.0.follow(offset!(task_mm))?.follow(offset!(mm_exe_file))?;
        Executable::of_file(file)
    }
}
