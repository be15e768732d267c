//! A folder for one run: policy, state, sockets, logs.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Where runs keep their folders.
pub(super) const PARENT: &str = "/run";

/// A folder that only root can read; removed when dropped.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Creates it.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let path = Path::new(PARENT).join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("can't create {}", path.display()))?;
        Ok(Self { path })
    }

    /// A new folder inside.
    pub(crate) fn child(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("can't create {}", path.display()))?;
        Ok(path)
    }

    /// Where a file inside is, or will be.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("can't remove {}: {error}", self.path.display());
        }
    }
}
