//! Who made this call: one process, read from /proc and held against the kernel's record.
//!
//! In: the facts that the kernel side recorded with a call or an exec. Out: a
//! [`Process`] without its digest, the executable as an open handle, and a pidfd.
//! It never opens the executable for reading and never walks a path that the process chose, so
//! that nothing the process does can make the caller wait.
//!
//! 1. Is it the process that the kernel saw? A pidfd and a directory in /proc are opened by the
//!    number; the directory must have the recorded start time, and at the end the pidfd must not
//!    have ended: then the number was not reused in between, and both are of that process.
//! 2. Does it run what the kernel saw it execute? /proc/PID/exe can be redirected by its owner
//!    (`PR_SET_MM`, with the capabilities of a user namespace); inode and device must be the
//!    recorded ones. What this can't see: the recorded inode deleted and its number given to
//!    another file between the exec and the first reading; read early, and keep the handle open.
//! 3. What else is known of it? User and group come from the kernel's record, the cgroup and the
//!    ancestors from /proc. `comm` and the *text* of paths are for people only.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::PathBuf,
};

use agent_enforcer_common::{reason::Reason, record::ProcessFacts, unit::unit_of};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    cgroups::cgroup_of,
    container::container_of,
    image::Executable,
    procfs::{ProcDir, ProcError, ProcRoot, same_start},
};
use crate::decision::{Ancestor, Code, Process};

/// Longest chain of parents that is read.
const ANCESTOR_LIMIT: usize = 32;

/// A process as it was read.
#[derive(Debug)]
pub struct ProcessReading {
    /// Everything but the digest.
    pub process: Process,
    /// The file that it runs, the one the kernel recorded.
    pub executable: Executable,
    /// The process itself, for signals and for noticing its end.
    pub pidfd: OwnedFd,
}

/// A process could not be attested.
#[derive(Debug, thiserror::Error)]
#[error("process {} is not attested: {failure}", process.pid)]
pub struct ReadError {
    /// What is known of it: at least what the kernel recorded.
    pub process: Box<Process>,
    /// Why.
    pub failure: ReadFailure,
}

impl ReadError {
    /// The reason with which its calls are denied.
    pub const fn reason(&self) -> Reason {
        match self.failure {
            ReadFailure::ExecutableMismatch { .. } => Reason::ExecutableMismatch,
            ReadFailure::Gone
            | ReadFailure::DeviceUnknown { .. }
            | ReadFailure::Proc(_)
            | ReadFailure::Pidfd(_)
            | ReadFailure::Executable(_) => Reason::IdentityUnverified,
        }
    }
}

/// Why a process could not be attested.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailure {
    /// It exited, or its number belongs to another process by now.
    #[error("it exited before it was read; nothing is left to do")]
    Gone,
    /// /proc/PID/exe is not what the kernel saw it execute.
    #[error(
        "it runs inode {inode} of device {device:#x} according to /proc, but the kernel saw it \
             execute inode {recorded_inode} of device {recorded_device:#x}; treat it as compromised"
    )]
    ExecutableMismatch {
        /// Inode of /proc/PID/exe.
        inode: u64,
        /// Kernel device of /proc/PID/exe.
        device: u32,
        /// Inode as recorded at exec.
        recorded_inode: u64,
        /// Kernel device as recorded at exec.
        recorded_device: u32,
    },
    /// The executable is on a mount that can't be found, so its device is not known.
    #[error("the mount of its executable {} is in no mount namespace that the daemon can see; \
             keep the file system of the executable mounted", path.display())]
    DeviceUnknown {
        /// The executable, as the process sees it.
        path: PathBuf,
    },
    /// /proc could not be read.
    #[error(transparent)]
    Proc(ProcError),
    /// No pidfd could be had.
    #[error("cannot open a pidfd: {0}; raise the daemon's LimitNOFILE")]
    Pidfd(io::Error),
    /// The executable could not be examined.
    #[error("cannot examine its executable: {0}; the daemon must be able to reach the file system")]
    Executable(io::Error),
}

impl From<ProcError> for ReadFailure {
    fn from(error: ProcError) -> Self {
        match error {
            ProcError::Gone => Self::Gone,
            error @ (ProcError::Unreadable { .. }
            | ProcError::Malformed { .. }
            | ProcError::NoProc { .. }) => Self::Proc(error),
        }
    }
}

/// Reads processes; keeps its buffers, so that one reading costs few system calls and allocations.
#[derive(Debug)]
pub struct ProcessReader {
    root: ProcRoot,
    own: ProcDir,
    buffer: Vec<u8>,
}

impl ProcessReader {
    /// Opens /proc.
    pub fn new() -> Result<Self, ProcError> {
        let root = ProcRoot::open()?;
        let own = root.own()?;
        Ok(Self { root, own, buffer: Vec::with_capacity(1 << 16) })
    }

    /// Reads the process behind a record.
    pub fn read(&mut self, facts: &ProcessFacts) -> Result<ProcessReading, ReadError> {
        let mut process = recorded(facts);
        match self.read_into(facts, &mut process) {
            Ok((executable, pidfd)) => Ok(ProcessReading { process, executable, pidfd }),
            Err(failure) => Err(ReadError { process: Box::new(process), failure }),
        }
    }

    /// The cgroup of a process, a path from the root of the hierarchy.
    pub fn cgroup_of(&mut self, pid: u32) -> Result<String, ProcError> {
        cgroup_of(&self.root.process(pid)?, &mut self.buffer)
    }

    fn read_into(
        &mut self,
        facts: &ProcessFacts,
        process: &mut Process,
    ) -> Result<(Executable, OwnedFd), ReadFailure> {
        let pidfd = open_pidfd(facts.tgid)?;
        let directory = self.root.process(facts.tgid)?;
        let stat = directory.stat(&mut self.buffer)?;
        if !same_start(stat.start_ns(), facts.start_ns) {
            return Err(ReadFailure::Gone);
        }
        let (parent, start_ns) = (stat.ppid, stat.start_ns());
        process.comm = printable(stat.comm);

        let (executable, thread) = self.executable(&directory, facts.tid)?;
        process.exe = Some(executable.path().clone());
        self.compare(&executable, &directory, facts)?;
        // A leader that exited first has left its cgroup; its threads have not.
        let member = thread.as_ref().unwrap_or(&directory);
        process.cgroup = cgroup_of(member, &mut self.buffer)?;
        process.unit = unit_of(&process.cgroup).map(|(unit, _)| unit.to_owned());
        process.container = container_of(&process.cgroup);
        process.ancestors = self.ancestors(parent, start_ns);

        if has_ended(&pidfd)? { Err(ReadFailure::Gone) } else { Ok((executable, pidfd)) }
    }

    /// The executable; with the thread that still has it, where the leader has exited.
    fn executable(
        &self,
        directory: &ProcDir,
        tid: u32,
    ) -> Result<(Executable, Option<ProcDir>), ReadFailure> {
        let open = |directory: &ProcDir| {
            let handle = directory.follow(c"exe", OFlags::PATH)?;
            Executable::new(&self.root, handle).map_err(ReadFailure::Executable)
        };
        match open(directory) {
            Err(ReadFailure::Gone) => {}
            other => return other.map(|executable| (executable, None)),
        }
        for tid in [tid].into_iter().filter(|&tid| tid != 0).chain(directory.numbers(c"task")?) {
            let thread = match directory.thread(tid) {
                Err(ProcError::Gone) => continue,
                other => other?,
            };
            match open(&thread) {
                Err(ReadFailure::Gone) => {}
                other => return other.map(|executable| (executable, Some(thread))),
            }
        }
        Err(ReadFailure::Gone)
    }

    fn compare(
        &mut self,
        executable: &Executable,
        directory: &ProcDir,
        facts: &ProcessFacts,
    ) -> Result<(), ReadFailure> {
        let stamp = executable.stamp();
        let recorded = (facts.exe_inode, facts.exe_device);
        if (stamp.inode, stamp.device) == recorded {
            return Ok(());
        }
        let mismatch = |device| ReadFailure::ExecutableMismatch {
            inode: stamp.inode,
            device,
            recorded_inode: facts.exe_inode,
            recorded_device: facts.exe_device,
        };
        if stamp.inode != facts.exe_inode {
            return Err(mismatch(stamp.device));
        }
        let initial = self.root.process(1).ok();
        let namespaces = [directory, &self.own].into_iter().chain(initial.as_ref());
        match executable.kernel_device(namespaces, &mut self.buffer) {
            Some(device) if device == facts.exe_device => Ok(()),
            Some(device) => Err(mismatch(device)),
            None => Err(ReadFailure::DeviceUnknown { path: executable.path().clone() }),
        }
    }

    fn ancestors(&mut self, parent: u32, start_ns: u64) -> Vec<Ancestor> {
        let mut ancestors = Vec::with_capacity(8);
        let (mut pid, mut child_start_ns) = (parent, start_ns);
        while pid != 0 && ancestors.len() < ANCESTOR_LIMIT {
            let Ok(directory) = self.root.process(pid) else { break };
            let Ok(stat) = directory.stat(&mut self.buffer) else { break };
            // Younger than its child: the parent is gone and its number was reused.
            if stat.start_ns() > child_start_ns {
                break;
            }
            let next = stat.ppid;
            child_start_ns = stat.start_ns();
            let exe = directory.link("exe").unwrap_or_default();
            let exe = PathBuf::from(std::ffi::OsString::from_vec(exe));
            ancestors.push(Ancestor { pid, exe });
            pid = next;
        }
        ancestors
    }
}

/// The network namespace that a process is in, bound to its start, ns of `CLOCK_BOOTTIME`. A socket
/// that it got from elsewhere may be in another.
pub fn network_namespace(pid: u32, start_ns: u64) -> Result<OwnedFd, ProcError> {
    let directory = ProcRoot::open()?.process(pid)?;
    if !same_start(directory.stat(&mut Vec::new())?.start_ns(), start_ns) {
        return Err(ProcError::Gone);
    }
    let open = |directory: &ProcDir| directory.follow(c"ns/net", OFlags::RDONLY);
    match open(&directory) {
        Err(ProcError::Gone) => {}
        other => return other,
    }
    // The leader has exited; its threads have not.
    for tid in directory.numbers(c"task")? {
        match directory.thread(tid).and_then(|thread| open(&thread)) {
            Err(ProcError::Gone) => {}
            other => return other,
        }
    }
    Err(ProcError::Gone)
}

fn recorded(facts: &ProcessFacts) -> Process {
    let ProcessFacts { exec, start_ns, tgid, uid, gid, comm, .. } = facts;
    let comm = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    Process {
        pid: *tgid,
        start_ns: *start_ns,
        exec: *exec,
        exe: None,
        sha256: None,
        fsverity: None,
        code: Code::Own,
        uid: *uid,
        gid: *gid,
        cgroup: String::new(),
        unit: None,
        container: None,
        comm: printable(comm),
        ancestors: Vec::new(),
        spiffe_id: None,
    }
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, ReadFailure> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ReadFailure::Gone)?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|source| match source {
        rustix::io::Errno::SRCH | rustix::io::Errno::INVAL => ReadFailure::Gone,
        _ => ReadFailure::Pidfd(source.into()),
    })
}

fn has_ended(pidfd: &OwnedFd) -> Result<bool, ReadFailure> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&now));
    ready.map(|ready| ready > 0).map_err(|source| ReadFailure::Pidfd(source.into()))
}

fn printable(comm: &[u8]) -> String {
    String::from_utf8_lossy(comm).into_owned()
}

#[cfg(test)]
mod tests;
