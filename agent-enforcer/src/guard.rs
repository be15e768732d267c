//! Which files are closed to agents: the daemon's own, and for writing those that services of the host
//! act upon; told to the kernel side by inode.
//!
//! In: the directories and files that the daemon lives by. Out: the table of guarded inodes. Each of
//! these, and all below it, is closed; what stands on the way to it (directories above it, symbolic
//! links) may not be moved or removed. Looked up again every second, as files are replaced by others:
//! an upgrade, a rotation, a policy that was put in place by a rename.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use agent_enforcer_common::{
    guard::{GUARDED_CONTENT, GUARDED_INODES, GUARDED_NAME, GUARDED_TREE, GuardedInode},
    names,
};
use aya::maps::{HashMap, MapData, MapError};
use rustix::fs::{Mode, OFlags, open};

use crate::{
    events::{DaemonEvent, Event, EventQueue},
    kernel::maps::removed,
    resolver::attestation::KernelInodes,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// The table can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A map operation failed.
    #[error("map `{map}`: {source}; `agent-enforcer detach`, then start again", map = names::GUARDED)]
    Map {
        /// What the kernel said.
        #[from]
        source: MapError,
    },
    /// More than there is room for.
    #[error(
        "{wanted} files are to be closed to agents and there is room for {GUARDED_INODES}; remove \
         rotated events files"
    )]
    Full {
        /// How many there are.
        wanted: usize,
    },
    /// Devices are not known.
    #[error("cannot read the mount table: {0}; mount /proc")]
    Mounts(#[source] io::Error),
}

/// What the daemon lives by.
#[derive(Debug, Clone)]
pub struct GuardedPaths {
    /// Directories and files that are closed, with all below them.
    pub trees: Vec<PathBuf>,
    /// Directories and files that agents only read, with all below them.
    pub read_only: Vec<PathBuf>,
    /// The events file; what a rotation made of it, which begins with the same name, is closed too.
    pub events: PathBuf,
}

/// The only writer of the table of guarded inodes.
pub struct Guard {
    paths: GuardedPaths,
    map: HashMap<MapData, GuardedInode, u32>,
    /// What the table holds.
    known: BTreeMap<GuardedInode, u32>,
}

impl Guard {
    /// Takes over what an earlier daemon left, and closes what must be closed now.
    pub fn new(
        paths: GuardedPaths,
        map: HashMap<MapData, GuardedInode, u32>,
    ) -> Result<Self, GuardError> {
        let known = map.iter().collect::<Result<_, _>>()?;
        let mut guard = Self { paths, map, known };
        guard.look()?;
        Ok(guard)
    }

    /// Looks after them until the sender is dropped.
    pub fn run(mut self, ends: &Receiver<Infallible>, events: &EventQueue) {
        let mut fails = false;
        while ends.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            match self.look() {
                Ok(()) => fails = false,
                Err(error) if fails => tracing::debug!(%error, "guarded files are not looked up"),
                Err(error) => {
                    fails = true;
                    tracing::error!(%error, "guarded files are not looked up");
                    events.push(Event::from(DaemonEvent::Alarm {
                        what: format!("files of the daemon may be open to agents: {error}"),
                        remedy: "see the daemon's log".to_owned(),
                    }));
                }
            }
        }
    }

    /// What is new is closed before what is gone is opened.
    fn look(&mut self) -> Result<(), GuardError> {
        let wanted = self.paths.inodes().map_err(GuardError::Mounts)?;
        let room = usize::try_from(GUARDED_INODES).unwrap_or(usize::MAX);
        // What is gone keeps its room until then.
        if wanted.len() * 2 > room {
            return Err(GuardError::Full { wanted: wanted.len() });
        }
        for (inode, flags) in &wanted {
            if self.known.get(inode) != Some(flags) {
                self.map.insert(inode, flags, 0)?;
            }
        }
        for inode in self.known.keys().filter(|inode| !wanted.contains_key(inode)) {
            removed(self.map.remove(inode))?;
        }
        self.known = wanted;
        Ok(())
    }
}

impl GuardedPaths {
    /// What is there of them. What is not there can't be told by its inode, but what would be made
    /// anew is below a directory that is.
    fn inodes(&self) -> io::Result<BTreeMap<GuardedInode, u32>> {
        let devices = KernelInodes::read()?;
        let mut found = BTreeMap::new();
        let mut add = |handle: io::Result<OwnedFd>, flags: u32| {
            let inode = handle.and_then(|handle| devices.of(&handle));
            if let Ok((inode, device)) = inode {
                *found.entry(GuardedInode::new(inode, device)).or_default() |= flags;
            }
        };
        let rotated = rotated(&self.events);
        let trees = self.trees.iter().chain([&self.events]).chain(&rotated);
        let trees = trees.map(|path| (path, GUARDED_TREE));
        let read_only = self.read_only.iter().map(|path| (path, GUARDED_CONTENT));
        for (path, flags) in trees.chain(read_only) {
            add(handle(path, OFlags::empty()), flags);
            for step in way_to(path) {
                add(handle(&step, OFlags::NOFOLLOW), GUARDED_NAME);
            }
        }
        Ok(found)
    }
}

fn handle(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty())?)
}

/// Everything by whose removal the path would lead elsewhere: as it is spelt, and as it is resolved.
fn way_to(path: &Path) -> Vec<PathBuf> {
    let spelt = std::path::absolute(path).ok();
    let resolved = fs::canonicalize(path).ok();
    let is_named = |step: &&Path| step.file_name().is_some();
    let above = |path: &Path| -> Vec<PathBuf> {
        path.ancestors().skip(1).filter(is_named).map(Path::to_owned).collect()
    };
    let own = spelt.clone().filter(|path| path.is_symlink());
    let steps = spelt.iter().chain(&resolved).flat_map(|path| above(path));
    steps.chain(own).collect()
}

/// Files beside it whose names begin with its own.
fn rotated(events: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (events.parent(), events.file_name()) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    entries
        .filter(|entry| entry.as_encoded_bytes().starts_with(name.as_encoded_bytes()))
        .map(|entry| directory.join(entry))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn closes_files_and_holds_what_leads_to_them() {
        let directory = TempDir::new().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        for name in ["real", "real/state", "logs", "spool"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        symlink(root.join("real"), root.join("link")).unwrap();
        let events = root.join("logs/events.jsonl");
        let names = ["logs/events.jsonl", "logs/events.jsonl.1.gz", "logs/other"];
        for name in names {
            fs::write(root.join(name), "").unwrap();
        }
        let trees = vec![root.join("link/state")];
        let paths = GuardedPaths { trees, read_only: vec![root.join("spool")], events };
        let found = paths.inodes().unwrap();
        let flags = |name: &str| {
            let inode = fs::symlink_metadata(root.join(name)).unwrap().ino();
            found.iter().find(|(found, _)| found.inode == inode).map(|(_, flags)| *flags)
        };
        assert_eq!(flags("real/state"), Some(GUARDED_TREE));
        assert_eq!(flags("spool"), Some(GUARDED_CONTENT));
        assert_eq!(flags("logs/events.jsonl"), Some(GUARDED_TREE));
        assert_eq!(flags("logs/events.jsonl.1.gz"), Some(GUARDED_TREE));
        for name in ["real", "link", "logs", ""] {
            assert_eq!(flags(name), Some(GUARDED_NAME), "{name}");
        }
        assert_eq!(flags("logs/other"), None);
    }

    #[test]
    fn what_is_not_there_is_no_error() {
        let trees = vec![PathBuf::from("/nonexistent/a")];
        let (read_only, events) = (trees.clone(), PathBuf::from("/nonexistent/b"));
        let found = GuardedPaths { trees, read_only, events }.inodes();
        assert!(found.unwrap().is_empty());
    }
}
