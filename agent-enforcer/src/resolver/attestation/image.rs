//! One executable as an open handle: which file it is, on which kernel device, in which version.
//!
//! In: a descriptor opened with `O_PATH`, which asks nothing of the file system. Out: its
//! [`FileStamp`], its path, and the device number that the kernel programs record.
//!
//! Device numbers: the kernel side records `super_block.s_dev`, `MAJOR << 20 | MINOR`. What stat
//! tells is the same on most file systems, but btrfs gives each subvolume, and overlayfs (layers on
//! several file systems) each layer, an anonymous number (major 0) of its own. A number with a
//! major is a block device's and is `s_dev` everywhere. An anonymous one is looked up: the third
//! field of mountinfo is the `s_dev` of the mount that the handle was opened through, and while the
//! handle is open neither that mount's id nor its number can be given to another.
//! An anonymous number is never ignored: whoever may mount FUSE picks inode numbers at will.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::PathBuf,
};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp, openat2,
    statx,
};

use super::procfs::{ProcDir, ProcRoot};

/// Longest mountinfo that is searched, bytes: a hostile mount namespace may hold 100,000 mounts.
pub(super) const MOUNTINFO_BYTES: usize = 4 << 20;
const DELETED: &[u8] = b" (deleted)";

/// One version of one file: as long as it is the same, so is the content.
///
/// Sound on file systems whose change time only the kernel sets (see [`super::digest`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Device as stat tells it, `MAJOR << 20 | MINOR`.
    pub device: u32,
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Modification time: seconds and ns; anyone who may write the file sets it at will.
    pub modified: (i64, u32),
    /// Change time: seconds and ns; set by the kernel alone.
    pub changed: (i64, u32),
}

impl FileStamp {
    /// The stamp of an open file; does not wait for a file system that is served by a process.
    pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        status(file).map(|status| stamp(&status))
    }
}

/// An executable, open as a path: it can't vanish, and nothing was read from it yet.
#[derive(Debug)]
pub struct Executable {
    handle: OwnedFd,
    stamp: FileStamp,
    mount_id: u64,
    mode: u16,
    path: PathBuf,
    deleted: bool,
}

impl Executable {
    /// Takes a handle opened with `O_PATH`.
    pub(super) fn new(root: &ProcRoot, handle: OwnedFd) -> io::Result<Self> {
        let status = status(handle.as_fd())?;
        let (path, deleted) = named(root.path_of(handle.as_fd())?, &status);
        let stamp = stamp(&status);
        let (mount_id, mode) = (status.stx_mnt_id, status.stx_mode);
        Ok(Self { handle, stamp, mount_id, mode, path, deleted })
    }

    /// The version of the file.
    pub const fn stamp(&self) -> FileStamp {
        self.stamp
    }

    /// Its path in the mount namespace of the process that runs it, for people: whoever owns that
    /// namespace can show any path there. Inode and device are what counts.
    pub const fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Whether that path no longer leads to it (deleted, or replaced by an upgrade).
    pub const fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Whether it was never a file of a file system that has names: the kernel calls such files
    /// so, and nobody but root can give a name like it in the root directory.
    pub fn is_memfd(&self) -> bool {
        self.deleted && self.path.as_os_str().as_encoded_bytes().starts_with(b"/memfd:")
    }

    /// Whether it is a regular file that someone may execute.
    pub(super) fn is_program(&self) -> bool {
        let mode = self.mode.into();
        FileType::from_raw_mode(mode) == FileType::RegularFile
            && Mode::from_raw_mode(mode).intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH)
    }

    /// Opens it for reading. Only for threads that may block: a file system that is served by a
    /// process may never answer.
    pub fn open(&self) -> io::Result<File> {
        let root = ProcRoot::open().map_err(io::Error::other)?;
        root.reopen(self.handle.as_fd()).map(File::from)
    }

    /// The kernel's device number of it, as far as stat alone tells.
    pub(super) const fn block_device(&self) -> Option<u32> {
        if self.stamp.device >> 20 == 0 { None } else { Some(self.stamp.device) }
    }

    /// The kernel's device number of it. `processes`: whose mount namespaces to look in, likeliest
    /// first. `None` where none of them has the mount.
    pub(super) fn kernel_device<'p>(
        &self,
        processes: impl IntoIterator<Item = &'p ProcDir>,
        buffer: &mut Vec<u8>,
    ) -> Option<u32> {
        self.block_device().or_else(|| {
            processes.into_iter().find_map(|process| {
                process.lines(c"mountinfo", MOUNTINFO_BYTES, buffer).ok()?;
                device_of_mount(buffer, self.mount_id)
            })
        })
    }
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Tells inodes of this process's own mount namespace as the kernel side does.
#[derive(Debug)]
pub struct KernelInodes {
    mountinfo: Vec<u8>,
}

impl KernelInodes {
    /// Of the mounts that there are now.
    pub fn read() -> io::Result<Self> {
        Ok(Self { mountinfo: fs::read("/proc/self/mountinfo")? })
    }

    /// Inode number and kernel device number of an open file.
    pub fn of(&self, file: impl AsFd) -> io::Result<(u64, u32)> {
        let status = status(file.as_fd())?;
        let stamp = stamp(&status);
        if stamp.device >> 20 != 0 {
            return Ok((stamp.inode, stamp.device));
        }
        let device = device_of_mount(&self.mountinfo, status.stx_mnt_id);
        let device = device.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok((stamp.inode, device))
    }
}

/// The kernel's device number of a mount: `36 35 98:0 /mnt1 /mnt2 rw,noatime ...`.
pub(super) fn device_of_mount(mountinfo: &[u8], mount_id: u64) -> Option<u32> {
    mountinfo.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let mut field = || str::from_utf8(fields.next()?).ok();
        if field()?.parse() != Ok(mount_id) {
            return None;
        }
        let (major, minor) = field().and_then(|_parent| field())?.split_once(':')?;
        Some(device(major.parse().ok()?, minor.parse().ok()?))
    })
}

pub(super) const fn device(major: u32, minor: u32) -> u32 {
    major << 20 | minor & 0xf_ffff
}

pub(super) fn status(file: BorrowedFd<'_>) -> io::Result<Statx> {
    // Not synchronised: a FUSE server that does not answer must not hold up the caller.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(statx(file, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?)
}

fn stamp(status: &Statx) -> FileStamp {
    let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
    FileStamp {
        device: device(status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
        size: status.stx_size,
        modified: time(status.stx_mtime),
        changed: time(status.stx_ctime),
    }
}

/// Takes the kernel's mark for a removed name off. A file may be called `x (deleted)`, though: the
/// mark is one if no name is left, or if that name does not lead to the file.
fn named(text: Vec<u8>, status: &Statx) -> (PathBuf, bool) {
    let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let Some(stripped) = text.strip_suffix(DELETED) else {
        return (path(text), false);
    };
    let is_its_name = || {
        // From the kernel's cache of names only: a look-up could wait for a FUSE server.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::CACHED | ResolveFlags::NO_MAGICLINKS;
        let found = openat2(CWD, text.as_slice(), flags, Mode::empty(), how).ok()?;
        let found = self::status(found.as_fd()).ok()?;
        Some(
            (found.stx_dev_major, found.stx_dev_minor, found.stx_ino)
                == (status.stx_dev_major, status.stx_dev_minor, status.stx_ino),
        )
    };
    if status.stx_nlink > 0 && is_its_name() == Some(true) {
        (path(text), false)
    } else {
        (path(stripped.to_vec()), true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_device_of_a_mount() {
        let text = b"22 27 0:21 / /proc rw - proc proc rw\n\
                     2 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     222 1 259:1048575 / /x rw - ext4 /dev/x rw\n";
        assert_eq!(device_of_mount(text, 22), Some(21));
        assert_eq!(device_of_mount(text, 2), Some(8 << 20 | 1));
        assert_eq!(device_of_mount(text, 222), Some(259 << 20 | 0xf_ffff));
        assert_eq!(device_of_mount(text, 27), None);
        assert_eq!(device_of_mount(b"22 27", 22), None);
        assert_eq!(device_of_mount(b"", 22), None);
    }
}
