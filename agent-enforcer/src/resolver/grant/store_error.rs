//! What can be wrong with the durable store, each with its place and its remedy.

use std::{io, path::PathBuf};

use super::UseError;

/// Why the store can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum GrantStoreError {
    /// The directory can't be made or looked at.
    #[error("{path} can't be made or opened ({source}); make it a directory of the daemon's user")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could exchange the file.
    #[error(
        "{path} can be written by others (mode {mode:03o}, uid {uid}); `chown` it to the daemon's user and `chmod 700` it"
    )]
    DirectoryExposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
    },
    /// The file can't be opened or made.
    #[error(
        "{path} can't be opened or made ({source}); make room, or let the daemon's user write it"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is a link, pipe, device or directory.
    #[error("{path} is not a regular file; move it away, the daemon makes a new one")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others could read or change the grants.
    #[error(
        "{path} is open to others (mode {mode:03o}, uid {uid}); make sure that it is unchanged, then `chown` it to the daemon's user and `chmod 600` it"
    )]
    FileExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
    },
    /// A second daemon on the same state.
    #[error("{path} is in use by another daemon; stop it, or give another `--state-dir`")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged, or not ours.
    #[error(
        "{path} is damaged or not a grant store ({detail}); restore it from a backup, or move it away to begin without grants"
    )]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file is of a later version.
    #[error(
        "{path} has format {found}, this daemon reads {known}; install the later version again"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Reading or writing failed.
    #[error(
        "{path} can't be read or written ({source}); make room or repair the disk, then restart the daemon"
    )]
    Storage {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// No such grant.
    #[error("there is no grant {0}; see `agent-enforcer grant list`")]
    UnknownGrant(String),
    /// The grant has no use to spend.
    #[error("a use of grant {grant} can't be recorded: {source}")]
    Use {
        /// The grant.
        grant: String,
        /// Why.
        source: UseError,
    },
    /// A token that came before.
    #[error("a token with the id {0:?} came already; issue a new token with an id of its own")]
    Replayed(String),
    /// No number is left.
    #[error("{path} has no {0} left to give out; move it away to begin anew", path = .1.display())]
    Exhausted(&'static str, PathBuf),
}
