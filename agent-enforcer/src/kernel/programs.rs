//! Which programs there are, what each is attached to, and on which plane.
//!
//! In: a loaded object. Out: programs that the verifier has accepted, and links. Nothing here keeps
//! anything: pins and the order of replacement are the loader's.

use std::{collections::HashMap, fs::File, panic::resume_unwind, thread};

use agent_enforcer_common::names;
use aya::{
    Btf, Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Lsm, Program,
        ProgramError, RawTracePoint, SockOps, links::FdLink,
    },
};

use super::loader::LoadError;
use crate::host::Plane;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attach {
    SockAddr,
    Sock,
    Egress,
    SockOps,
    Tracepoint(&'static str),
    Lsm(&'static str),
    /// Where the kernel has the hook.
    LsmIfThere(&'static str),
}

/// A program and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) name: &'static str,
    attach: Attach,
}

const fn placed(name: &'static str, attach: Attach) -> Placed {
    Placed { name, attach }
}

/// Lineage first: a process must be known before its first call is seen.
const LINEAGE: [Placed; 5] = [
    placed(names::FORK, Attach::Tracepoint("sched_wakeup_new")),
    placed(names::EXIT, Attach::Tracepoint("sched_process_exit")),
    placed(names::CGROUP_MKDIR, Attach::Tracepoint("cgroup_mkdir")),
    placed(names::CGROUP_RMDIR, Attach::Tracepoint("cgroup_rmdir")),
    placed(names::CGROUP_ATTACH, Attach::Tracepoint("cgroup_attach_task")),
];
/// On the cgroup plane alone: the LSM plane has a hook that is never skipped.
const EXEC: [Placed; 1] = [placed(names::EXEC, Attach::Tracepoint("sched_process_exec"))];
const CGROUP: [Placed; 7] = [
    placed(names::EGRESS, Attach::Egress),
    placed(names::SOCK_OPS, Attach::SockOps),
    placed(names::SOCK_CREATE, Attach::Sock),
    placed(names::CONNECT4, Attach::SockAddr),
    placed(names::CONNECT6, Attach::SockAddr),
    placed(names::SENDMSG4, Attach::SockAddr),
    placed(names::SENDMSG6, Attach::SockAddr),
];
/// Exec first, as above.
const LSM: [Placed; 9] = [
    placed(names::LSM_EXEC, Attach::Lsm("bprm_committed_creds")),
    placed(names::LSM_CREATED, Attach::Lsm("socket_post_create")),
    placed(names::LSM_RECEIVE, Attach::Lsm("file_receive")),
    placed(names::LSM_SENDMSG, Attach::Lsm("socket_sendmsg")),
    placed(names::LSM_CONNECT, Attach::Lsm("socket_connect")),
    placed(names::LSM_UNIX_CONNECT, Attach::Lsm("unix_stream_connect")),
    placed(names::LSM_UNIX_SEND, Attach::Lsm("unix_may_send")),
    placed(names::LSM_LISTEN, Attach::Lsm("socket_listen")),
    placed(names::LSM_CREATE, Attach::Lsm("socket_create")),
];
/// Self-protection.
const GUARD: [Placed; 24] = [
    placed(names::GUARD_BPF, Attach::Lsm("bpf")),
    placed(names::GUARD_PTRACE, Attach::Lsm("ptrace_access_check")),
    placed(names::GUARD_TRACEME, Attach::Lsm("ptrace_traceme")),
    placed(names::GUARD_KILL, Attach::Lsm("task_kill")),
    placed(names::GUARD_SIGIO, Attach::Lsm("file_send_sigiotask")),
    placed(names::GUARD_RLIMIT, Attach::Lsm("task_setrlimit")),
    placed(names::GUARD_NICE, Attach::Lsm("task_setnice")),
    placed(names::GUARD_IOPRIO, Attach::Lsm("task_setioprio")),
    placed(names::GUARD_SCHEDULER, Attach::Lsm("task_setscheduler")),
    placed(names::GUARD_MEMORY, Attach::Lsm("task_movememory")),
    placed(names::GUARD_OPEN, Attach::Lsm("file_open")),
    placed(names::GUARD_CREATE, Attach::Lsm("inode_create")),
    placed(names::GUARD_LINK, Attach::Lsm("inode_link")),
    placed(names::GUARD_UNLINK, Attach::Lsm("inode_unlink")),
    placed(names::GUARD_SYMLINK, Attach::Lsm("inode_symlink")),
    placed(names::GUARD_MKDIR, Attach::Lsm("inode_mkdir")),
    placed(names::GUARD_RMDIR, Attach::Lsm("inode_rmdir")),
    placed(names::GUARD_MKNOD, Attach::Lsm("inode_mknod")),
    placed(names::GUARD_RENAME, Attach::Lsm("inode_rename")),
    placed(names::GUARD_SETATTR, Attach::Lsm("inode_setattr")),
    placed(names::GUARD_SETXATTR, Attach::Lsm("inode_setxattr")),
    placed(names::GUARD_REMOVEXATTR, Attach::Lsm("inode_removexattr")),
    // Before 6.2 these are extended attributes like others.
    placed(names::GUARD_SET_ACL, Attach::LsmIfThere("inode_set_acl")),
    placed(names::GUARD_REMOVE_ACL, Attach::LsmIfThere("inode_remove_acl")),
];

/// The programs of a plane, in the order in which they are put in force.
fn of_plane(plane: Plane) -> impl Iterator<Item = Placed> {
    let (exec, lsm, guard): (&[Placed], &[Placed], &[Placed]) = match plane {
        Plane::Cgroup => (&EXEC, &[], &[]),
        Plane::Lsm => (&[], &LSM, &GUARD),
    };
    LINEAGE.iter().chain(exec).chain(lsm).chain(guard).chain(&CGROUP).copied()
}

/// Asks the verifier about all of them at the same time: that takes longest of all that starting
/// takes, and has no lock for those with `CAP_BPF` (kernel/bpf/verifier.c `bpf_check`). Returns those
/// that this kernel has a place for.
pub(super) fn load(ebpf: &mut Ebpf, plane: Plane) -> Result<Vec<Placed>, LoadError> {
    let types = match plane {
        Plane::Cgroup => None,
        Plane::Lsm => Some(Btf::from_sys_fs().map_err(LoadError::Types)?),
    };
    let types = types.as_ref();
    let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    thread::scope(|scope| {
        let mut loads = Vec::new();
        for placed in of_plane(plane) {
            let Placed { name, attach } = placed;
            let program = programs.remove(name).ok_or(LoadError::NoProgram { name })?;
            loads.push((placed, scope.spawn(move || load_one(program, attach, types))));
        }
        let mut present = Vec::new();
        for (placed, load) in loads {
            let loaded = load.join().unwrap_or_else(|panic| resume_unwind(panic));
            match (placed.attach, loaded) {
                (_, Ok(())) => present.push(placed),
                (Attach::LsmIfThere(_), Err(ProgramError::Btf(no_such_hook))) => {
                    tracing::debug!(name = placed.name, %no_such_hook, "not on this kernel");
                }
                (_, Err(source)) => {
                    return Err(LoadError::Program { name: placed.name, source });
                }
            }
        }
        Ok(present)
    })
}

fn load_one(
    program: &mut Program,
    attach: Attach,
    types: Option<&Btf>,
) -> Result<(), ProgramError> {
    match attach {
        Attach::SockAddr => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Attach::Sock => <&mut CgroupSock>::try_from(program)?.load(),
        Attach::Egress => <&mut CgroupSkb>::try_from(program)?.load(),
        Attach::SockOps => <&mut SockOps>::try_from(program)?.load(),
        Attach::Tracepoint(_) => <&mut RawTracePoint>::try_from(program)?.load(),
        Attach::Lsm(hook) | Attach::LsmIfThere(hook) => match types {
            Some(types) => <&mut Lsm>::try_from(program)?.load(hook, types),
            None => Err(ProgramError::UnexpectedProgramType),
        },
    }
}

/// The program of a name.
pub(super) fn get<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Program, LoadError> {
    ebpf.program_mut(name).ok_or(LoadError::NoProgram { name })
}

/// Puts a program in force, as long as the link is kept.
///
/// `Single` is no flags: links always stand beside other links (kernel/bpf/cgroup.c
/// `cgroup_bpf_link_attach`, 5.7), and `AllowMultiple` is refused.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    Placed { name, attach }: Placed,
    cgroup: &File,
) -> Result<FdLink, LoadError> {
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let program = get(ebpf, name)?;
    let refused = |source| LoadError::Program { name, source };
    let kept = |source| LoadError::Link { name, source };
    match attach {
        Attach::SockAddr => {
            let program: &mut CgroupSockAddr = program.try_into().map_err(refused)?;
            let id = program.attach(cgroup, MODE).map_err(refused)?;
            program.take_link(id).map_err(refused)?.try_into().map_err(kept)
        }
        Attach::Sock => {
            let program: &mut CgroupSock = program.try_into().map_err(refused)?;
            let id = program.attach(cgroup, MODE).map_err(refused)?;
            program.take_link(id).map_err(refused)?.try_into().map_err(kept)
        }
        Attach::Egress => {
            let program: &mut CgroupSkb = program.try_into().map_err(refused)?;
            let id = program.attach(cgroup, CgroupSkbAttachType::Egress, MODE).map_err(refused)?;
            program.take_link(id).map_err(refused)?.try_into().map_err(kept)
        }
        Attach::SockOps => {
            let program: &mut SockOps = program.try_into().map_err(refused)?;
            let id = program.attach(cgroup, MODE).map_err(refused)?;
            program.take_link(id).map_err(refused)?.try_into().map_err(kept)
        }
        Attach::Tracepoint(tracepoint) => {
            let program: &mut RawTracePoint = program.try_into().map_err(refused)?;
            let id = program.attach(tracepoint).map_err(refused)?;
            Ok(program.take_link(id).map_err(refused)?.into())
        }
        Attach::Lsm(_) | Attach::LsmIfThere(_) => {
            let program: &mut Lsm = program.try_into().map_err(refused)?;
            let id = program.attach().map_err(refused)?;
            Ok(program.take_link(id).map_err(refused)?.into())
        }
    }
}
