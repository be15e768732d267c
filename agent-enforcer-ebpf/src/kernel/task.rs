//! Facts about a task.

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs,
};

use super::{
    Address,
    cgroup::Cgroup,
    file::{Directory, Executable},
};
use crate::settings::offset;

/// A `task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(Address);

impl Task {
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(Address::new(address))
    }

    /// The one that runs this.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: the helper has no arguments and cannot fail.
        Self::new(unsafe { bpf_get_current_task() })
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
        Executable::of_file(self.memory()?.follow(offset!(mm_exe_file))?)
    }

    /// Its `mm_struct`; none for a kernel thread.
    #[inline(always)]
    pub(crate) fn memory(self) -> Option<Address> {
        self.0.follow(offset!(task_mm))
    }

    /// Where its relative and its absolute paths begin; none where another process shares that
    /// (`CLONE_FS`) and can change it at any moment.
    #[inline(always)]
    pub(crate) fn directories(self) -> Option<(Directory, Directory)> {
        let fs = self.0.follow(offset!(task_fs))?;
        let users: u32 = fs.read(offset!(fs_users))?;
        if users != 1 {
            return None;
        }
        let directory = Directory::of_path(fs.at(offset!(fs_pwd)))?;
        Some((directory, Directory::of_path(fs.at(offset!(fs_root)))?))
    }

    /// The number of its mount namespace, and how deep below the initial user namespace that one is
    /// which owns it.
    #[inline(always)]
    pub(crate) fn mounts(self) -> Option<(u32, u32)> {
        let mounts = self.0.follow(offset!(task_nsproxy))?.follow(offset!(nsproxy_mounts))?;
        let owner = mounts.follow(offset!(mounts_owner))?;
        Some((mounts.read(offset!(mounts_number))?, owner.read(offset!(user_namespace_level))?))
    }
}

/// A `pid`.
#[derive(Clone, Copy)]
pub(crate) struct Pid(Address);

impl Pid {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    /// The thread group of the thread of this id; none once that is gone.
    #[inline(always)]
    pub(crate) fn tgid(self) -> Option<u32> {
        // The first of its lists is of threads, and has one (include/linux/pid.h).
        let link = self.0.follow(offset!(pid_tasks))?;
        Task::new(link.before(offset!(task_pid_links)).get()).tgid()
    }
}

/// `PF_IO_WORKER`, `PF_USER_WORKER` (6.4) and `PF_KTHREAD` (include/linux/sched.h): threads that never
/// return to a user's program.
const WORKER: u32 = 0x10 | 0x4000 | 0x20_0000;
/// `TS_COMPAT` (arch/x86/include/asm/thread_info.h): a 32-bit system call, of other numbers.
const COMPAT: u32 = 0x2;

/// The number of the system call that the current task is in; none where it is in none that could
/// be restarted, or where this architecture is not known.
#[inline(always)]
pub(crate) fn current_syscall() -> Option<u64> {
    if offset!(regs_syscall) == 0 || offset!(task_status) == 0 {
        return None;
    }
    // SAFETY: no arguments (5.11); the registers of the task it returns (5.15).
    let (task, regs) = unsafe {
        let task = bpf_get_current_task_btf();
        (task as u64, bpf_task_pt_regs(task).cast_unsigned())
    };
    let task = Address::new(task);
    let (flags, status): (u32, u32) =
        (task.read(offset!(task_flags))?, task.read(offset!(task_status))?);
    if flags & WORKER != 0 || status & COMPAT != 0 {
        return None;
    }
    Address::new(regs).read(offset!(regs_syscall))
}
