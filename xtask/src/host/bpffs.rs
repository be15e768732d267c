//! A bpffs of one's own. Each mount is a file system of its own, so unmounting it drops every pin
//! in it: with the last pin gone the kernel detaches what no process holds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A mounted bpffs; unmounted when dropped.
pub(crate) struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one on an existing folder.
    pub(crate) fn mount(path: &Path) -> Result<Self> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpffs", path, "bpf", flags, Some(c"mode=0700"))
            .with_context(|| format!("can't mount a bpffs on {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
            eprintln!("can't unmount {}: {error}", self.path.display());
        }
    }
}
