//! What no agent may do to the host: which files are protected, and where the kernel keeps what
//! tells them.

/// A file or directory that is protected. Key of the table of guarded inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct GuardedInode {
    /// Inode number.
    pub inode: u64,
    /// Kernel device number (`super_block.s_dev`).
    pub device: u32,
    /// Zero.
    pub _pad: u32,
}

impl GuardedInode {
    /// The inode of a number on a device.
    pub const fn new(inode: u64, device: u32) -> Self {
        Self { inode, device, _pad: 0 }
    }
}

/// Value of the table of guarded inodes: it, and everything below it, is closed to agents.
pub const GUARDED_TREE: u32 = 1;
/// Value of the table of guarded inodes: it stands on the way to such a tree, so agents may neither
/// move nor remove it, nor change who may.
pub const GUARDED_NAME: u32 = 2;

/// Value of the table of guarded inodes: agents may read it and everything below it, and change nothing
/// of either.
pub const GUARDED_CONTENT: u32 = 4;

/// Room in the table of guarded inodes: a few directories, and what stands on the way to each.
pub const GUARDED_INODES: u32 = 1024;

/// What the hooks of self-protection need of the running kernel, from its BTF. Set before load, on
/// the LSM plane alone.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GuardOffsets {
    /// `proc_inode.pid`
    pub proc_inode_pid: u32,
    /// `proc_inode.sysctl`
    pub proc_inode_sysctl: u32,
    /// `proc_inode.vfs_inode`
    pub proc_inode_vfs_inode: u32,
    /// `dentry.d_parent`
    pub dentry_d_parent: u32,
    /// `dentry.d_inode`
    pub dentry_d_inode: u32,
    /// `dentry.d_sb`
    pub dentry_d_sb: u32,
    /// `dentry.d_u.d_alias`
    pub dentry_d_alias: u32,
    /// `inode.i_dentry`
    pub inode_i_dentry: u32,
    /// `super_block.s_magic`
    pub super_block_s_magic: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `file.f_mode`
    pub file_f_mode: u32,
    /// `inode.i_mode`
    pub inode_i_mode: u32,
    /// `inode.i_rdev`
    pub inode_i_rdev: u32,
    /// `cred.euid`
    pub cred_euid: u32,
    /// `cred.suid`
    pub cred_suid: u32,
    /// `cred.fsuid`
    pub cred_fsuid: u32,
    /// `cred.cap_permitted`
    pub cred_cap_permitted: u32,
    /// `cred.user_ns`
    pub cred_user_ns: u32,
    /// `user_namespace.level`
    pub user_namespace_level: u32,
    /// `iattr.ia_valid`
    pub iattr_ia_valid: u32,
    /// Which argument of LSM `inode_setattr` is the dentry: another from 6.9 on.
    pub setattr_dentry: u32,
}

const _: () = {
    assert!(size_of::<GuardedInode>() == 16);
    assert!(size_of::<GuardOffsets>() == 21 * 4);
};
crate::plain_data!(GuardedInode, GuardOffsets);
