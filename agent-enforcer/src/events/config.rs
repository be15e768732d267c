//! How the stage is set up, and what can be wrong with that.
//!
//! In: what the command line says. Out: an [`EventsConfig`] for `start`. Nothing is opened here.

use std::{io, path::PathBuf, time::Duration};

use super::sink::syslog::{SyslogFacility, SyslogTarget};

/// Everything the stage must know.
#[derive(Clone, Debug)]
pub struct EventsConfig {
    /// The events file (`--events`).
    pub file: PathBuf,
    /// Syslog receivers; each gets every event.
    pub syslog: Vec<SyslogTarget>,
    /// Facility of the syslog messages.
    pub facility: SyslogFacility,
    /// Name of this host, as events and syslog messages tell it.
    pub host: String,
    /// Events that the queue holds; what comes on top is counted as lost.
    pub queue: usize,
    /// How long identical calls are folded into one event.
    pub fold_window: Duration,
    /// Bytes kept in memory while the file cannot be written.
    pub backlog_bytes: usize,
}

impl EventsConfig {
    /// The defaults, for a file: no syslog, 65,536 events in the queue, 1 s, 16 MiB.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            file: file.into(),
            syslog: Vec::new(),
            facility: SyslogFacility::default(),
            host,
            queue: 65_536,
            fold_window: Duration::from_secs(1),
            backlog_bytes: 16 << 20,
        }
    }
}

/// Why events cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The file cannot be opened or made.
    #[error(
        "events file {path}: {source}; give `--events` a file in a directory that root can write"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The name is a symbolic link.
    #[error("events file {path} is a symbolic link; give `--events` the file that it points to")]
    SymbolicLink {
        /// The link.
        path: PathBuf,
    },
    /// It is a directory, socket, pipe or disk.
    #[error("events file {path} is not a regular file; give `--events` another name")]
    NotAFile {
        /// The name.
        path: PathBuf,
    },
    /// Somebody else may write it.
    #[error("events file {path} can be written by others (mode {mode:04o}); `chmod go-w` it")]
    OthersCanWrite {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its end cannot be read.
    #[error("end of events file {path}: {source}; move the file away so that a new one is begun")]
    ReadEnd {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("thread `{name}`: {source}; see the task limit of the service (`TasksMax=`)")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// At shutdown some lines could not be written in time.
    #[error(
        "{lines} events could not be written to {path} before the deadline; make room on its file system"
    )]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// How many lines.
        lines: u64,
    },
    /// At shutdown the stage did not end in time.
    #[error(
        "the events stage did not end within {0:?}; see whether the disk of the events file hangs"
    )]
    Hung(Duration),
    /// The stage had ended on its own.
    #[error("the events stage ended before it was told to; see the daemon's log and restart it")]
    Died,
}
