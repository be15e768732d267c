//! Where programs and maps are kept while no daemon runs: pins in a BPF file system.
//!
//! Links live at `<bpffs>/agent-enforcer/v<ABI>/links/<program>`, maps at `.../maps/<map>`. A new
//! daemon of the same ABI reuses the maps and replaces each link in one rename, so that there is
//! no moment without enforcement.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use agent_enforcer_common::ABI_VERSION;
use rustix::fs::statfs;

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const DIRECTORY: &str = "agent-enforcer";

/// Why pins can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// Not a BPF file system.
    #[error("{} is not a BPF file system; mount one: `mount -t bpf bpf {}`", path.display(), path.display())]
    NotBpffs {
        /// The directory given.
        path: PathBuf,
    },
    /// Somebody else's directory.
    #[error("{} belongs to user {owner}, not to root; remove it and start again", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The pins of one BPF file system.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The pins below `bpffs`, which need not exist yet.
    pub fn new(bpffs: &Path) -> Result<Self, PinsError> {
        let found = statfs(bpffs).map_err(|source| PinsError::Io {
            what: "look at",
            path: bpffs.to_owned(),
            source: source.into(),
        })?;
        if found.f_type != BPF_FS_MAGIC {
            return Err(PinsError::NotBpffs { path: bpffs.to_owned() });
        }
        Ok(Self { root: bpffs.join(DIRECTORY) })
    }

    /// Makes the directories, for root alone.
    pub fn create(&self) -> Result<(), PinsError> {
        for directory in [self.root.clone(), self.version(), self.maps(), self.links()] {
            match fs::DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let owner = fs::symlink_metadata(&directory)
                        .map_err(|source| io_error("look at", &directory, source))?
                        .uid();
                    if owner != 0 {
                        return Err(PinsError::Foreign { path: directory, owner });
                    }
                }
                Err(source) => return Err(io_error("make", &directory, source)),
            }
        }
        Ok(())
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a link is pinned.
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Where a link waits to replace the one in force.
    pub fn next_link(&self, program: &str) -> PathBuf {
        self.links().join(format!("{program}_next"))
    }

    /// Whether links of an earlier daemon are in force.
    pub fn in_force(&self) -> bool {
        fs::read_dir(&self.root).is_ok_and(|mut versions| versions.next().is_some())
            && fs::read_dir(self.links()).is_ok_and(|mut links| links.next().is_some())
    }

    /// Puts the waiting link in force; the one before ends with its last reference.
    pub fn replace_link(&self, program: &str) -> Result<(), PinsError> {
        let next = self.next_link(program);
        fs::rename(&next, self.link(program)).map_err(|source| io_error("rename", &next, source))
    }

    /// Removes pins of other ABI versions, after this one is in force.
    pub fn remove_other_versions(&self) -> Result<(), PinsError> {
        let own = self.version();
        for entry in read_dir(&self.root)? {
            if entry != own {
                remove_tree(&entry)?;
            }
        }
        Ok(())
    }

    /// Removes every pin: enforcement ends when the daemon lets go of its own references.
    /// True if there was anything to remove.
    pub fn remove_all(&self) -> Result<bool, PinsError> {
        if !self.root.exists() {
            return Ok(false);
        }
        remove_tree(&self.root)?;
        Ok(true)
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> PinsError {
    PinsError::Io { what, path: path.to_owned(), source }
}

fn read_dir(path: &Path) -> Result<Vec<PathBuf>, PinsError> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|source| io_error("read", path, source))
}

/// Links first, so that no program runs on without its maps being kept.
fn remove_tree(path: &Path) -> Result<(), PinsError> {
    let is_directory =
        fs::symlink_metadata(path).map_err(|source| io_error("look at", path, source))?.is_dir();
    if !is_directory {
        return fs::remove_file(path).map_err(|source| io_error("remove", path, source));
    }
    let mut entries = read_dir(path)?;
    entries.sort();
    for entry in entries {
        remove_tree(&entry)?;
    }
    fs::remove_dir(path).map_err(|source| io_error("remove", path, source))
}
