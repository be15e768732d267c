//! Facts about files and sockets' files.

use super::Address;
use crate::settings::offset;

const O_NONBLOCK: u32 = 0o4000;

/// The inode that a program was loaded from.
#[derive(Clone, Copy)]
pub(crate) struct Executable {
    pub(crate) inode: u64,
    /// `super_block.s_dev`.
    pub(crate) device: u32,
}

impl Executable {
    /// Of a `linux_binprm`.
    #[inline(always)]
    pub(crate) fn of_binprm(binprm: Address) -> Option<Self> {
        Self::of_file(binprm.follow(offset!(binprm_file))?)
    }

    /// Of a `file`.
    #[inline(always)]
    pub(crate) fn of_file(file: Address) -> Option<Self> {
        let inode = file.follow(offset!(file_f_inode))?;
        Some(Self {
            inode: inode.read(offset!(inode_i_ino))?,
            device: inode.follow(offset!(inode_i_sb))?.read(offset!(super_block_s_dev))?,
        })
    }
}

/// A directory.
#[derive(Clone, Copy)]
pub(crate) struct Directory {
    pub(crate) inode: u64,
    /// `super_block.s_dev`.
    pub(crate) device: u32,
}

impl Directory {
    pub(crate) const UNKNOWN: Self = Self { inode: 0, device: 0 };

    /// Of a `path`.
    #[inline(always)]
    pub(crate) fn of_path(path: Address) -> Option<Self> {
        let inode = path.follow(offset!(path_dentry))?.follow(offset!(dentry_inode))?;
        Some(Self {
            inode: inode.read(offset!(inode_i_ino))?,
            device: inode.follow(offset!(inode_i_sb))?.read(offset!(super_block_s_dev))?,
        })
    }
}

/// Whether a `sock` belongs to a file opened non-blocking. `None` where it has no file.
#[inline(always)]
pub(crate) fn socket_nonblocking(sock: Address) -> Option<bool> {
    let file = sock.follow(offset!(sock_sk_socket))?.follow(offset!(socket_file))?;
    let flags: u32 = file.read(offset!(file_f_flags))?;
    Some(flags & O_NONBLOCK != 0)
}
