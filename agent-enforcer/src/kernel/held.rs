//! Where the timers of held connections are set: the `sock_ops` program stands only in cgroups in
//! which agents were seen. At the root every connection of the host would pay for it, several calls
//! of the program each, and it decides about none of them.
//!
//! In: cgroups. Out: links, pinned like all others, so that held connections end by their timers
//! when the daemon dies. Without a link a connection is held as well; its caller only learns of the
//! answer later.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    pin::PinError,
    programs::{
        CgroupAttachMode, ProgramError, SockOps,
        links::{FdLink, LinkError, PinnedLink},
    },
};

/// Why the timers of a cgroup can't be set.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// It can't be opened, as when it was removed meanwhile.
    #[error("cannot open the cgroup {}: {source}", path.display())]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused the program there.
    #[error("cannot attach to the cgroup: {0}; it may have 64 programs of this kind already")]
    Attach(#[from] ProgramError),
    /// The link is not as expected.
    #[error("cannot keep the link: {0}")]
    Link(#[from] LinkError),
    /// It can't be pinned.
    #[error("cannot pin the link: {0}; see whether the BPF file system is mounted and writable")]
    Pin(#[from] PinError),
    /// The process can't be read.
    #[error(transparent)]
    Process(#[from] crate::resolver::attestation::ProcError),
}

struct Attached {
    link: PinnedLink,
    path: PathBuf,
}

/// The cgroups in which timers are set.
pub struct HeldTimers {
    /// None where the program stands at the root.
    program: Option<SockOps>,
    pins: PathBuf,
    cgroups: HashMap<u64, Attached>,
    /// In the order in which they are looked at again.
    order: VecDeque<u64>,
}

impl HeldTimers {
    /// `pins`: directory in a BPF file system, for this alone. No program: it stands at the root.
    pub(super) fn new(program: Option<SockOps>, pins: PathBuf) -> Self {
        Self { program, pins, cgroups: HashMap::new(), order: VecDeque::new() }
    }

    /// Whether timers are set in the cgroup with this id.
    pub fn are_set(&self, cgroup: u64) -> bool {
        self.program.is_none() || self.cgroups.contains_key(&cgroup)
    }

    /// Sets timers in the cgroup with this directory, where they are not yet.
    pub fn set(&mut self, path: &Path) -> Result<(), HeldError> {
        let Some(program) = &mut self.program else { return Ok(()) };
        let refused = |source| HeldError::Cgroup { path: path.to_owned(), source };
        let directory = File::open(path).map_err(refused)?;
        // The id is the inode number of the directory (64-bit kernels, fs/kernfs/dir.c).
        let cgroup = directory.metadata().map_err(refused)?.ino();
        if self.cgroups.contains_key(&cgroup) {
            return Ok(());
        }
        let link = program.attach(directory, CgroupAttachMode::Single)?;
        let link: FdLink = program.take_link(link)?.try_into()?;
        let link = link.pin(self.pins.join(cgroup.to_string()))?;
        self.cgroups.insert(cgroup, Attached { link, path: path.to_owned() });
        self.order.push_back(cgroup);
        Ok(())
    }

    /// Looks at the next cgroup, and ends its timers where it has no process any more. The error is
    /// that of a pin which could not be removed.
    pub fn review_one(&mut self) -> io::Result<()> {
        let Some(cgroup) = self.order.pop_front() else { return Ok(()) };
        if self.cgroups.get(&cgroup).is_some_and(|attached| is_populated(&attached.path, cgroup)) {
            self.order.push_back(cgroup);
            return Ok(());
        }
        let ended = self.cgroups.remove(&cgroup);
        ended.map_or(Ok(()), |Attached { link, .. }| link.unpin().map(drop))
    }
}

/// Whether a directory is still that of the cgroup, and there are processes in it or below
/// (Documentation/admin-guide/cgroup-v2.rst `cgroup.events`).
fn is_populated(path: &Path, cgroup: u64) -> bool {
    fs::metadata(path).is_ok_and(|directory| directory.ino() == cgroup)
        && fs::read_to_string(path.join("cgroup.events"))
            // The root has no such file, and always processes.
            .map_or(!path.join("cgroup.type").exists(), |text| text.contains("populated 1"))
}
