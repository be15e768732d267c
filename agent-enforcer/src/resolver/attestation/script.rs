//! The file of a script, as the interpreter found it.
//!
//! In: what the kernel saw at the exec ([`ExecFacts`]), and the path in the arguments. Out: the file as
//! an open handle, to be hashed, or why it can't be told which file it was. May block on the file
//! systems walked: for worker threads only.
//!
//! The interpreter opens the script after the exec, and this looks later still, while the process
//! runs. What could have changed in between is what is asked here:
//!
//! 1. Do its paths begin where they began? Working directory, root and mount namespace must be those
//!    that the kernel saw; mounts that belong to a user namespace of its own it can change at will.
//! 2. Is each name on the way what it was? The change time of a file, directory or symbolic link
//!    moves when it is renamed, linked or written, and only the kernel sets it. The script and each
//!    link must not have changed since the exec; nor may a directory together with the one that it is
//!    in, which is what putting another in its place does. (A directory alone changes with every new
//!    file in it.)
//! 3. Is it content that a server can change? FUSE and network file systems are refused.
//!
//! What this can't see is in SECURITY.md.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, openat, readlinkat},
    time::{ClockId, Timespec, clock_gettime},
};

use super::{
    digest::{CLOCK_GRAIN_NS, is_served},
    exec::{ExecFacts, Place},
    image::{Executable, FileStamp},
    procfs::{ProcDir, ProcRoot, same_start},
};
use crate::decision::Unverified;

/// Most names on the way to a script, those in symbolic links included.
const NAMES: usize = 256;
/// `PROC_SUPER_MAGIC`, include/uapi/linux/magic.h: its links lead elsewhere than they say.
const PROC_MAGIC: i128 = 0x9fa0;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct ScriptSearch {
    /// Thread group id of the process.
    pub pid: u32,
    /// Its start, ns of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// What the kernel saw at its exec.
    pub seen: ExecFacts,
    /// The script, as it was named.
    pub path: PathBuf,
}

impl ScriptSearch {
    /// Finds the file.
    pub fn run(&self) -> Result<Executable, Unverified> {
        if !self.seen.mounts_are_hosts {
            return Err(Unverified::OwnMounts);
        }
        let proc = ProcRoot::open().map_err(|_unusable| Unverified::ScriptUnreadable)?;
        let process = proc.process(self.pid).map_err(|_gone| Unverified::ScriptUnreadable)?;
        let mut buffer = Vec::new();
        let stat = process.stat(&mut buffer).map_err(|_gone| Unverified::ScriptUnreadable)?;
        if !same_start(stat.start_ns(), self.start_ns) {
            return Err(Unverified::ScriptUnreadable);
        }
        let mut begin = |link, place| beginning(&proc, &process, link, place, &mut buffer);
        let root = begin(c"root", self.seen.root)?;
        let directory = if self.path.is_absolute() {
            root.try_clone().map_err(unreadable)?
        } else {
            begin(c"cwd", self.seen.directory)?
        };
        // Last: who has left mounts that are the host's does not come back.
        let mounts = process.link("ns/mnt").map_err(|_gone| Unverified::ScriptUnreadable)?;
        if mounts != format!("mnt:[{}]", self.seen.mounts).as_bytes() {
            return Err(Unverified::Moved);
        }
        let executed_ns = self.seen.time_ns.into();
        let walk = Walk::new(root, directory, executed_ns)?;
        Executable::new(&proc, walk.to(&self.path)?).map_err(unreadable)
    }
}

/// A directory of the process, if it is the one that the kernel saw.
fn beginning(
    proc: &ProcRoot,
    process: &ProcDir,
    link: &std::ffi::CStr,
    place: Place,
    buffer: &mut Vec<u8>,
) -> Result<OwnedFd, Unverified> {
    let handle = process
        .follow(link, OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|_gone| Unverified::ScriptUnreadable)?;
    let own = handle.try_clone().map_err(unreadable)?;
    let found = Executable::new(proc, own).map_err(unreadable)?;
    let device = found.kernel_device([process], buffer);
    let here = (found.stamp().inode, device) == (place.inode, Some(place.device));
    if here { Ok(handle) } else { Err(Unverified::Moved) }
}

/// A walk along a path, without ever following a link that is not looked at first.
struct Walk {
    root: Step,
    here: Step,
    /// Exec, ns of `CLOCK_BOOTTIME`.
    executed_ns: i128,
    /// How far `CLOCK_REALTIME`, which files have, is ahead of that.
    ahead_ns: i128,
}

/// Where it has come to.
struct Step {
    handle: OwnedFd,
    stamp: FileStamp,
    kind: FileType,
}

impl Step {
    fn new(handle: OwnedFd) -> Result<Self, Unverified> {
        let status = super::image::status(handle.as_fd()).map_err(unreadable)?;
        let stamp = FileStamp::of(handle.as_fd()).map_err(unreadable)?;
        Ok(Self { handle, stamp, kind: FileType::from_raw_mode(status.stx_mode.into()) })
    }

    fn is(&self, other: &Self) -> bool {
        (self.stamp.device, self.stamp.inode) == (other.stamp.device, other.stamp.inode)
    }
}

impl Walk {
    fn new(root: OwnedFd, directory: OwnedFd, executed_ns: i128) -> Result<Self, Unverified> {
        let ns =
            |time: Timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
        let [boot, real] = [ClockId::Boottime, ClockId::Realtime].map(clock_gettime).map(ns);
        let (root, here) = (Step::new(root)?, Step::new(directory)?);
        for step in [&root, &here] {
            check_file_system(step.handle.as_fd())?;
        }
        Ok(Self { root, here, executed_ns, ahead_ns: real - boot })
    }

    /// The regular file at the end of a path.
    fn to(mut self, path: &Path) -> Result<OwnedFd, Unverified> {
        let mut names = VecDeque::new();
        queue(&mut names, path);
        let mut left = NAMES;
        while let Some(name) = names.pop_front() {
            left = left.checked_sub(1).ok_or(Unverified::ScriptUnreadable)?;
            // Whoever is at the root stays there.
            if name == b".." && self.here.is(&self.root) {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = openat(&self.here.handle, name.as_slice(), flags, Mode::empty());
            let next = Step::new(next.map_err(|error| unreadable(error.into()))?)?;
            check_file_system(next.handle.as_fd())?;
            match next.kind {
                FileType::Directory => {
                    if self.is_late(&self.here.stamp) && self.is_late(&next.stamp) {
                        return Err(Unverified::ChangedAfterExec);
                    }
                    self.here = next;
                }
                FileType::Symlink => {
                    if self.is_late(&next.stamp) {
                        return Err(Unverified::ChangedAfterExec);
                    }
                    let target = readlinkat(&next.handle, c"", Vec::new());
                    let target = target.map_err(|error| unreadable(error.into()))?;
                    let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                    if target.is_absolute() {
                        let root = self.root.handle.try_clone().map_err(unreadable)?;
                        self.here = Step::new(root)?;
                    }
                    queue(&mut names, target);
                }
                FileType::RegularFile if names.is_empty() => {
                    if self.is_late(&next.stamp) {
                        return Err(Unverified::ChangedAfterExec);
                    }
                    return Ok(next.handle);
                }
                FileType::RegularFile
                | FileType::Socket
                | FileType::Fifo
                | FileType::BlockDevice
                | FileType::CharacterDevice
                | FileType::Unknown => return Err(Unverified::NotAFile),
            }
        }
        Err(Unverified::NotAFile)
    }

    /// Whether something may have changed after the exec, as far as the clock of the file system tells.
    fn is_late(&self, stamp: &FileStamp) -> bool {
        let (seconds, rest) = stamp.changed;
        let changed_ns = i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        changed_ns >= self.executed_ns + self.ahead_ns - CLOCK_GRAIN_NS
    }
}

/// Puts the names of a path before those that are left.
fn queue(names: &mut VecDeque<Vec<u8>>, path: &Path) {
    let text = path.as_os_str().as_bytes();
    for name in text.split(|&byte| byte == b'/').rev() {
        if !name.is_empty() && name != b"." {
            names.push_front(name.to_vec());
        }
    }
}

fn check_file_system(file: BorrowedFd<'_>) -> Result<(), Unverified> {
    let magic = super::digest::file_system(file).map_err(unreadable)?;
    if magic == PROC_MAGIC {
        Err(Unverified::Descriptor)
    } else if is_served(magic) {
        Err(Unverified::ServedFile)
    } else {
        Ok(())
    }
}

fn unreadable(_: io::Error) -> Unverified {
    Unverified::ScriptUnreadable
}

#[cfg(test)]
mod tests;
