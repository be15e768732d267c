//! Facts about names, inodes and file systems.

use agent_enforcer_common::guard::GuardedInode;

use super::{Address, task::Pid};
use crate::settings::{guard_offset, offset};

const FMODE_WRITE: u32 = 2;
/// `i_mode`, include/uapi/linux/stat.h.
const S_IFMT: u16 = 0o170_000;
const S_IFCHR: u16 = 0o020_000;

/// An `inode`.
#[derive(Clone, Copy)]
pub(crate) struct Inode(Address);

impl Inode {
    #[inline(always)]
    pub(crate) fn identity(self) -> Option<GuardedInode> {
        let number: u64 = self.0.read(offset!(inode_i_ino))?;
        let device: u32 = self.0.follow(offset!(inode_i_sb))?.read(offset!(super_block_s_dev))?;
        Some(GuardedInode::new(number, device))
    }

    /// Number of the device that it is the node of; 0 where it is another file or a block device.
    #[inline(always)]
    pub(crate) fn character_device(self) -> Option<u32> {
        let mode: u16 = self.0.read(guard_offset!(inode_i_mode))?;
        if mode & S_IFMT == S_IFCHR { self.0.read(guard_offset!(inode_i_rdev)) } else { Some(0) }
    }

    /// The `struct pid` that a file of procfs is about; none where it is about all of the host.
    #[inline(always)]
    pub(crate) fn proc_pid(self) -> Option<Pid> {
        self.proc_inode().follow(guard_offset!(proc_inode_pid)).map(Pid::new)
    }

    /// Whether a file of procfs is below /proc/sys.
    #[inline(always)]
    pub(crate) fn is_sysctl(self) -> bool {
        self.proc_inode().follow(guard_offset!(proc_inode_sysctl)).is_some()
    }

    #[inline(always)]
    fn proc_inode(self) -> Address {
        self.0.before(guard_offset!(proc_inode_vfs_inode))
    }
}

/// A `dentry`: a name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Dentry(Address);

impl Dentry {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub(crate) const fn address(self) -> u64 {
        self.0.get()
    }

    /// What it names; none where that is still to be made.
    #[inline(always)]
    pub(crate) fn inode(self) -> Option<Inode> {
        self.0.follow(guard_offset!(dentry_d_inode)).map(Inode)
    }

    /// The directory; itself at the root of the file system.
    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        self.0.follow(guard_offset!(dentry_d_parent)).map(Self)
    }

    /// Magic number of the file system.
    #[inline(always)]
    pub(crate) fn file_system(self) -> Option<u64> {
        self.0.follow(guard_offset!(dentry_d_sb))?.read(guard_offset!(super_block_s_magic))
    }
}

/// A `file` that is being opened.
#[derive(Clone, Copy)]
pub(crate) struct OpenFile(Address);

impl OpenFile {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    /// Whether it is opened for writing.
    #[inline(always)]
    pub(crate) fn is_written(self) -> Option<bool> {
        let mode: u32 = self.0.read(guard_offset!(file_f_mode))?;
        Some(mode & FMODE_WRITE != 0)
    }

    /// Its name in the file system that has its content. Before 6.5 overlayfs opens a file of a
    /// layer under the name that it has in the overlay (fs/open.c `open_with_fake_path`).
    #[inline(always)]
    pub(crate) fn dentry(self) -> Option<Dentry> {
        let dentry = self.0.follow(guard_offset!(file_dentry))?;
        let inode = self.0.follow(offset!(file_f_inode))?;
        let named: u64 = dentry.read(guard_offset!(dentry_d_inode))?;
        if named == inode.get() {
            return Some(Dentry(dentry));
        }
        let name = inode.follow(guard_offset!(inode_i_dentry))?;
        Some(Dentry(name.before(guard_offset!(dentry_d_alias))))
    }
}
