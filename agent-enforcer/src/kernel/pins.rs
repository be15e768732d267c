//! Where programs and maps are kept while no daemon runs: pins in a BPF file system.
//!
//! Links live at `<bpffs>/agent-enforcer/v<ABI>/links/<program>`, maps at `.../maps/<map>`, links to
//! single cgroups at `.../held/<cgroup id>` (see `held.rs`). A new
//! daemon of the same ABI reuses the maps and replaces each link in one rename, so that there is
//! no moment without enforcement. Two daemons would undo each other's verdicts, so [`Pins`] holds a
//! lock, which ends with the process.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use agent_enforcer_common::ABI_VERSION;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open, statfs},
    io::Errno,
};

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
    /// A second daemon on the same pins.
    #[error("{} is held by a running daemon; stop that daemon, or give another `--bpffs`", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
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

/// The pins of one BPF file system; while this lives, nobody else's.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    _lock: OwnedFd,
}

impl Pins {
    /// Takes the pins below `bpffs`; there need not be any yet.
    pub fn take(bpffs: &Path) -> Result<Self, PinsError> {
        let found = statfs(bpffs).map_err(|source| PinsError::Io {
            what: "look at",
            path: bpffs.to_owned(),
            source: source.into(),
        })?;
        if found.f_type != BPF_FS_MAGIC {
            return Err(PinsError::NotBpffs { path: bpffs.to_owned() });
        }
        let root = Self::directory(bpffs);
        make_private(&root)?;
        let lock = lock(&root)?;
        Ok(Self { root, _lock: lock })
    }

    /// Where the pins of a BPF file system are.
    pub fn directory(bpffs: &Path) -> PathBuf {
        bpffs.join(DIRECTORY)
    }

    /// Makes the directories of this version.
    pub fn create(&self) -> Result<(), PinsError> {
        let directories = [self.version(), self.maps(), self.links(), self.held()];
        directories.iter().try_for_each(|path| make_private(path))
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

    /// Where links to single cgroups are pinned.
    pub fn held(&self) -> PathBuf {
        self.version().join("held")
    }

    /// Where a program is pinned.
    pub fn program(&self, name: &str) -> PathBuf {
        self.version().join(name)
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
        fs::read_dir(self.links()).is_ok_and(|mut links| links.next().is_some())
    }

    /// Puts the waiting link in force; the one before ends with its last reference.
    pub fn replace_link(&self, program: &str) -> Result<(), PinsError> {
        let next = self.next_link(program);
        fs::rename(&next, self.link(program)).map_err(|source| io_error("rename", &next, source))
    }

    /// Ends the links to single cgroups that an earlier daemon left.
    pub fn remove_held(&self) -> Result<(), PinsError> {
        read_dir(&self.held())?.iter().try_for_each(|pin| remove_tree(pin))
    }

    /// Names of the programs whose links are pinned.
    pub fn programs_in_force(&self) -> Vec<String> {
        let links = read_dir(&self.links()).unwrap_or_default();
        let name = |link: PathBuf| link.file_name()?.to_str().map(str::to_owned);
        let mut names: Vec<_> = links.into_iter().filter_map(name).collect();
        names.sort();
        names
    }

    /// Ends every link but those of the programs named.
    pub fn keep_links(&self, programs: &[&str]) -> Result<(), PinsError> {
        let others = self.programs_in_force().into_iter();
        others
            .filter(|name| !programs.contains(&name.as_str()))
            .try_for_each(|name| remove_if_there(&self.link(&name)))
    }

    /// Removes the pin of a program, where there is one.
    pub fn remove_program(&self, name: &str) -> Result<(), PinsError> {
        remove_if_there(&self.program(name))
    }

    /// Removes the pins of this ABI version.
    pub fn remove_own_version(&self) -> Result<(), PinsError> {
        remove_tree(&self.version())
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
    pub fn remove_all(&self) -> Result<(), PinsError> {
        remove_tree(&self.root)
    }
}

/// A directory for root alone.
fn make_private(directory: &Path) -> Result<(), PinsError> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let owner = fs::symlink_metadata(directory)
                .map_err(|source| io_error("look at", directory, source))?
                .uid();
            if owner == 0 {
                Ok(())
            } else {
                Err(PinsError::Foreign { path: directory.to_owned(), owner })
            }
        }
        Err(source) => Err(io_error("make", directory, source)),
    }
}

/// Of the directory that all versions share, so that an upgrade is held off too.
fn lock(directory: &Path) -> Result<OwnedFd, PinsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = open(directory, flags, Mode::empty())
        .map_err(|errno| io_error("open", directory, errno.into()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(PinsError::Held { path: directory.to_owned() }),
        Err(errno) => Err(io_error("lock", directory, errno.into())),
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

fn remove_if_there(path: &Path) -> Result<(), PinsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
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
