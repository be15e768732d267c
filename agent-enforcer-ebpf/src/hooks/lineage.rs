//! Raw tracepoints `sched_wakeup_new`, `sched_process_exec`, `sched_process_exit` and
//! `cgroup_attach_task`: who is an agent's process, from its first instruction to its last.
//!
//! A child carries its parent's tag before it can run (kernel/sched/core.c `wake_up_new_task` fires
//! the tracepoint with the run queue locked). `sched_process_fork` won't do: from 7.0 on a raw
//! tracepoint's program can be preempted, and until it goes on the same processor skips it
//! (kernel/trace/bpf_trace.c `__bpf_trace_run`), which is a child that nobody knows. Exec keeps the
//! tag and begins a new image. The tag goes when the last thread of the group goes. A tag that finds
//! no room marks the process so that everything it does is denied.

use agent_enforcer_common::{
    id::{ExecId, InstanceId},
    process::ProcessTag,
    record::RecordKind,
};
use aya_ebpf::{
    EbpfContext as _,
    programs::{LsmContext, RawTracePointContext},
};

use crate::{
    classify::classify,
    kernel::{Address, cgroup::Cgroup, exec::Arguments, file::Executable, task::Task},
    maps::{
        instances,
        processes::{self, Standing},
        state,
    },
    report,
};

/// Argument `index` of a raw tracepoint.
#[inline(always)]
fn argument(ctx: &RawTracePointContext, index: usize) -> u64 {
    // SAFETY: `bpf_raw_tracepoint_args` is an array of u64; the verifier checks the index.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(index)) }
}

/// `(struct task_struct *child)`; its parent is running. Interrupts are off and the run queue is
/// locked: nothing here may wake a task, and the ring's wake-up is put off by the kernel.
#[inline(always)]
pub(crate) fn fork(ctx: &RawTracePointContext) {
    let parent = processes::current_tgid();
    let child = Task::new(argument(ctx, 0));
    let Some(tgid) = child.tgid() else { return };
    if tgid == parent {
        // A thread.
        return;
    }
    // What was left under this pid would make a stranger an agent.
    processes::remove(tgid);
    match processes::standing(parent) {
        Standing::Stranger | Standing::Daemon => {}
        Standing::Untracked => processes::mark_untracked(tgid),
        Standing::Agent(tag) => {
            let Some(start_ns) = child.start_ns() else {
                return processes::mark_untracked(tgid);
            };
            let tag = ProcessTag { start_ns, ..tag };
            if processes::insert(tgid, &tag) {
                instances::process_added(tag.instance);
            } else {
                tell(RecordKind::TableFull, tgid, tag);
            }
        }
    }
}

/// `(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[inline(always)]
pub(crate) fn exec(ctx: &RawTracePointContext) {
    let binprm = || Address::new(argument(ctx, 2));
    on_exec(binprm, || Arguments::of_loaded(Task::current(), binprm()));
}

/// LSM `bprm_committed_creds(struct linux_binprm *bprm)`: exec, where the LSM plane is. A program
/// there is never skipped (kernel/bpf/trampoline.c: no recursion count for
/// `BPF_PROG_TYPE_LSM`), as one of a raw tracepoint can be from 7.0 on.
#[inline(always)]
pub(crate) fn committed(ctx: &LsmContext) {
    let binprm = || Address::new(ctx.arg(0));
    on_exec(binprm, || Arguments::of_loading(binprm()));
}

#[inline(always)]
fn on_exec(binprm: impl Fn() -> Address, arguments: impl Fn() -> Option<Arguments>) {
    let tgid = processes::current_tgid();
    // VERIFIER: read where it is used; 6.1 forgets over a branch whether there was one.
    let executable = || Executable::of_binprm(binprm());
    match processes::standing(tgid) {
        Standing::Untracked => {}
        Standing::Agent(tag) => {
            let Some(executable) = executable() else {
                processes::remove(tgid);
                return processes::mark_untracked(tgid);
            };
            let tag = ProcessTag {
                exec: ExecId::new(state::next_id()),
                exe_inode: executable.inode,
                exe_device: executable.device,
                ..tag
            };
            if processes::insert(tgid, &tag) {
                report::executed(RecordKind::Executed, tgid, &tag, arguments());
            }
        }
        Standing::Stranger | Standing::Daemon => {
            if let Some(executable) = executable() {
                recognise(Task::current(), tgid, Entry::Exec(arguments), executable);
            }
        }
    }
}

/// `(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`
#[inline(always)]
pub(crate) fn cgroup_attach(ctx: &RawTracePointContext) {
    let cgroup = Cgroup::new(Address::new(argument(ctx, 0)));
    if cgroup.is_v2() != Some(true) {
        return;
    }
    let task = Task::new(argument(ctx, 2));
    let Some(tgid) = task.tgid() else { return };
    let (Standing::Stranger | Standing::Daemon) = processes::standing(tgid) else { return };
    if let Some(executable) = task.executable() {
        recognise(task, tgid, Entry::Cgroup::<fn() -> Option<Arguments>>(cgroup), executable);
    }
}

/// What a process does that may make it an agent's.
enum Entry<A> {
    /// It executes a program, with these arguments.
    Exec(A),
    /// It enters a cgroup.
    Cgroup(Cgroup),
}

/// Begins an instance if the process is an agent's.
#[inline(always)]
fn recognise<A: Fn() -> Option<Arguments>>(
    task: Task,
    tgid: u32,
    entry: Entry<A>,
    executable: Executable,
) {
    let entered = match entry {
        Entry::Exec(_) => task.cgroup(),
        Entry::Cgroup(cgroup) => Some(cgroup),
    };
    let Some(cgroup) = entered else { return };
    let Some(uid) = task.uid() else { return };
    let Some(agent) = classify(cgroup, uid, executable) else { return };
    let Some(start_ns) = task.start_ns() else {
        return processes::mark_untracked(tgid);
    };
    let tag = ProcessTag {
        instance: InstanceId::new(state::next_id()),
        exec: ExecId::new(state::next_id()),
        start_ns,
        exe_inode: executable.inode,
        exe_device: executable.device,
        agent,
    };
    if instances::begin(tag.instance, agent).is_err() {
        processes::mark_untracked(tgid);
        return tell(RecordKind::TableFull, tgid, tag);
    }
    if processes::insert(tgid, &tag) {
        match entry {
            // Whoever moves it there is another process.
            Entry::Cgroup(_) => tell(RecordKind::Joined, tgid, tag),
            Entry::Exec(arguments) => {
                report::executed(RecordKind::Classified, tgid, &tag, arguments());
            }
        }
    } else {
        instances::process_gone(tag.instance);
        tell(RecordKind::TableFull, tgid, tag);
    }
}

/// `(struct task_struct *p, ...)`
#[inline(always)]
pub(crate) fn exit() {
    let tgid = processes::current_tgid();
    if let Standing::Stranger = processes::standing(tgid) {
        return;
    }
    // A group that can't be told dead keeps its tag; the fork hook removes what is left.
    if Task::current().group_dead() != Some(true) {
        return;
    }
    if let Some(tag) = processes::remove(tgid)
        && instances::process_gone(tag.instance)
    {
        report::process::<true>(RecordKind::InstanceEnded, tgid, &tag);
    }
}

#[inline(always)]
fn tell(kind: RecordKind, tgid: u32, tag: ProcessTag) {
    report::process::<false>(kind, tgid, &tag);
}
