//! Cgroups: the path of a process, every cgroup with its id.
//!
//! In: /proc/PID/cgroup and the v2 hierarchy. Out: paths from the root of the hierarchy (with a
//! leading `/`), ids as `bpf_get_current_cgroup_id` tells them. Nothing here changes a cgroup.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use super::procfs::{ProcDir, ProcError};

/// `CGROUP2_SUPER_MAGIC`, include/uapi/linux/magic.h.
const CGROUP2_MAGIC: i128 = 0x6367_7270;

/// A cgroup tree can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Not the v2 hierarchy.
    #[error("{} is not a cgroup v2 file system; pass the mount point of type cgroup2", root.display())]
    NotCgroup2 {
        /// What was given.
        root: PathBuf,
    },
    /// A directory can't be read.
    #[error("cannot read the cgroup {}: {source}; run the daemon as root", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Path from `root` with a leading `/`; `/` is `root` itself. Bytes that are no UTF-8 (a
    /// delegate may use them) are replaced.
    pub path: String,
    /// Cgroup id (`kernfs_node.id`): on 64-bit kernels the inode number of its directory.
    pub id: u64,
}

/// Every cgroup below `root` (the mount point of the v2 hierarchy), parents first, `root` included.
///
/// Cgroups that vanish meanwhile are left out; those that appear meanwhile may be.
pub fn cgroup_tree(
    root: &Path,
) -> Result<impl Iterator<Item = Result<Cgroup, CgroupError>>, CgroupError> {
    let unreadable = |source: io::Error| CgroupError::Unreadable { path: root.to_owned(), source };
    let found = statfs(root).map_err(|source| unreadable(source.into()))?;
    if i128::from(found.f_type) != CGROUP2_MAGIC {
        return Err(CgroupError::NotCgroup2 { root: root.to_owned() });
    }
    Ok(CgroupTree { root: root.to_owned(), open: vec![root.to_owned()] })
}

/// The cgroup v2 path in /proc/PID/cgroup.
pub(super) fn cgroup_of(process: &ProcDir, buffer: &mut Vec<u8>) -> Result<String, ProcError> {
    process.text(c"cgroup", buffer)?;
    v2_path(buffer)
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .ok_or(ProcError::Malformed { file: "cgroup" })
}

/// The `0::` line. No name contains a line feed: the kernel refuses it.
fn v2_path(text: &[u8]) -> Option<&[u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

struct CgroupTree {
    root: PathBuf,
    open: Vec<PathBuf>,
}

impl CgroupTree {
    fn visit(&mut self, directory: &Path) -> io::Result<Cgroup> {
        let id = fs::metadata(directory)?.ino();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.open.push(entry.path());
            }
        }
        let below = directory.strip_prefix(&self.root).unwrap_or(directory);
        let path = format!("/{}", String::from_utf8_lossy(below.as_os_str().as_bytes()));
        Ok(Cgroup { path, id })
    }
}

impl Iterator for CgroupTree {
    type Item = Result<Cgroup, CgroupError>;

    fn next(&mut self) -> Option<Self::Item> {
        // ENODEV: removed between opening and reading.
        const REMOVED: i32 = rustix::io::Errno::NODEV.raw_os_error();
        loop {
            let directory = self.open.pop()?;
            match self.visit(&directory) {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        || error.raw_os_error() == Some(REMOVED) => {}
                Err(source) => {
                    return Some(Err(CgroupError::Unreadable { path: directory, source }));
                }
                Ok(cgroup) => return Some(Ok(cgroup)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
