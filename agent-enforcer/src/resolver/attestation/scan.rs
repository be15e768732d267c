//! The processes that run now, for adopting them at start-up.
//!
//! In: /proc. Out: one [`ScannedProcess`] per process of user space, each read through a directory
//! pinned to it. Start times are as exact as /proc tells them, one tick ([`super::START_TICK_NS`]):
//! compare them with the kernel's nanoseconds by [`super::same_start`] only.
//! Nothing here judges a process; [`super::adopt`] drives the passes.

use std::{io, path::PathBuf};

use rustix::fs::OFlags;

use super::{
    cgroups::cgroup_of,
    image::Executable,
    procfs::{ProcDir, ProcError, ProcRoot, same_start},
};

/// A running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedProcess {
    /// Thread group id.
    pub pid: u32,
    /// Start, ns of `CLOCK_BOOTTIME`, truncated to a tick.
    pub start_ns: u64,
    /// Thread group id of its parent; 0 is none.
    pub parent: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Cgroup v2 path, as in /proc/PID/cgroup.
    pub cgroup: String,
    /// Name as it chose it: for people.
    pub comm: String,
    /// What it executes.
    pub image: ScannedImage,
}

/// What a running process executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScannedImage {
    /// This file.
    Executable(ScannedExecutable),
    /// Nothing any more: it is exiting.
    None,
    /// The daemon may not know (a security module can forbid it for single processes).
    Unreadable(io::ErrorKind),
}

/// The executable of a running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedExecutable {
    /// Inode number.
    pub inode: u64,
    /// Kernel device number; `None` where its mount is in no mount namespace that can be seen.
    pub device: Option<u32>,
    /// Path as the process sees it: for people.
    pub path: PathBuf,
}

/// Reads /proc for whole passes; keeps its buffers.
#[derive(Debug)]
pub struct Scanner {
    root: ProcRoot,
    own: ProcDir,
    buffer: Vec<u8>,
}

impl Scanner {
    /// Opens /proc.
    pub fn new() -> Result<Self, ProcError> {
        let root = ProcRoot::open()?;
        let own = root.own()?;
        Ok(Self { root, own, buffer: Vec::new() })
    }

    /// Every process of user space, in ascending order of pids. One that lives through the whole
    /// pass is in it. Those that can't be read, though they live, come as errors.
    pub fn scan(
        &mut self,
    ) -> Result<impl Iterator<Item = Result<ScannedProcess, ScanError>>, ProcError> {
        let mut pids = Vec::new();
        self.root.pids(&mut pids)?;
        Ok(pids.into_iter().filter_map(|pid| match self.process(pid) {
            Ok(process) => process.map(Ok),
            Err(ProcError::Gone) => None,
            Err(source) => Some(Err(ScanError { pid, source })),
        }))
    }

    /// Whether a process still has a thread whose exit has not begun.
    ///
    /// A mark that is put on a process after the kernel's exit hook ran for it stays for ever, and
    /// meets whoever gets the number next. The hook runs after the exiting flag of the thread is
    /// set: if this is true *after* marking, the hook is still to come.
    pub fn still_alive(&mut self, pid: u32, start_ns: u64) -> Result<bool, ProcError> {
        match self.has_live_thread(pid, start_ns) {
            Err(ProcError::Gone) => Ok(false),
            other => other,
        }
    }

    fn has_live_thread(&mut self, pid: u32, start_ns: u64) -> Result<bool, ProcError> {
        let process = self.root.process(pid)?;
        let leader = process.stat(&mut self.buffer)?;
        if !same_start(leader.start_ns(), start_ns) {
            return Ok(false);
        }
        if !leader.is_exiting() {
            return Ok(true);
        }
        for tid in process.numbers(c"task")? {
            let is_exiting = process
                .thread(tid)
                .and_then(|thread| Ok(thread.stat(&mut self.buffer)?.is_exiting()));
            match is_exiting {
                Ok(false) => return Ok(true),
                Ok(true) | Err(ProcError::Gone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// `None`: a thread of the kernel.
    fn process(&mut self, pid: u32) -> Result<Option<ScannedProcess>, ProcError> {
        let directory = self.root.process(pid)?;
        let stat = directory.stat(&mut self.buffer)?;
        if stat.is_kernel_thread() {
            return Ok(None);
        }
        let (parent, start_ns) = (stat.ppid, stat.start_ns());
        let comm = String::from_utf8_lossy(stat.comm).into_owned();
        directory.text(c"status", &mut self.buffer)?;
        let ids = real_id(&self.buffer, b"Uid:").zip(real_id(&self.buffer, b"Gid:"));
        let (uid, gid) = ids.ok_or(ProcError::Malformed { file: "status" })?;
        // The leader may have exited first: then a thread tells what the process is.
        let (image, thread) = self.image(&directory)?;
        let cgroup = cgroup_of(thread.as_ref().unwrap_or(&directory), &mut self.buffer)?;
        Ok(Some(ScannedProcess { pid, start_ns, parent, uid, gid, cgroup, comm, image }))
    }

    /// The image; with the thread that still has it, where the leader has exited.
    fn image(&mut self, directory: &ProcDir) -> Result<(ScannedImage, Option<ProcDir>), ProcError> {
        match self.image_of(directory, directory)? {
            ScannedImage::None => {}
            image @ (ScannedImage::Executable(_) | ScannedImage::Unreadable(_)) => {
                return Ok((image, None));
            }
        }
        for tid in directory.numbers(c"task")? {
            let Ok(thread) = directory.thread(tid) else { continue };
            match self.image_of(&thread, directory)? {
                ScannedImage::None => {}
                image @ (ScannedImage::Executable(_) | ScannedImage::Unreadable(_)) => {
                    return Ok((image, Some(thread)));
                }
            }
        }
        Ok((ScannedImage::None, None))
    }

    fn image_of(
        &mut self,
        thread: &ProcDir,
        directory: &ProcDir,
    ) -> Result<ScannedImage, ProcError> {
        let executable = match thread.follow(c"exe", OFlags::PATH) {
            Ok(handle) => Executable::new(&self.root, handle),
            Err(ProcError::Gone) => return Ok(ScannedImage::None),
            Err(ProcError::Unreadable { source, .. }) => Err(source),
            Err(error @ (ProcError::Malformed { .. } | ProcError::NoProc { .. })) => {
                return Err(error);
            }
        };
        let executable = match executable {
            Ok(executable) => executable,
            Err(source) => return Ok(ScannedImage::Unreadable(source.kind())),
        };
        let initial = self.root.process(1).ok();
        let namespaces = [directory, &self.own].into_iter().chain(initial.as_ref());
        Ok(ScannedImage::Executable(ScannedExecutable {
            inode: executable.stamp().inode,
            device: executable.kernel_device(namespaces, &mut self.buffer),
            path: executable.path().clone(),
        }))
    }
}

/// A process lives but can't be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot tell who process {pid} is: {source}")]
pub struct ScanError {
    /// The process.
    pub pid: u32,
    /// Why.
    pub source: ProcError,
}

/// The first number of `Uid:` or `Gid:` in /proc/PID/status. Earlier lines can't contain a line
/// feed: the kernel escapes the name.
fn real_id(status: &[u8], key: &[u8]) -> Option<u32> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key))?;
    str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests;
