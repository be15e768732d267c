//! What can go wrong between the command line and the daemon.
//!
//! Every message is "problem; remedy"; [`ApiError::problem`] and [`ApiError::remedy`] are its halves.

use std::{io, path::PathBuf, time::Duration};

use crate::control::ControlError;

/// Why the control API could not be served or used.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no socket: no daemon, or another runtime directory.
    #[error("no control socket at {}; {}", path.display(), remedy::NO_SOCKET)]
    NoSocket {
        /// The socket.
        path: PathBuf,
    },
    /// There is a socket that nobody listens on.
    #[error("nobody listens on the control socket {}; {}", path.display(), remedy::NOT_LISTENING)]
    NotListening {
        /// The socket.
        path: PathBuf,
    },
    /// The caller may not use the socket.
    #[error("no permission to use the control socket {}; {}", path.display(), remedy::BE_ROOT)]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// A client found something else than a socket.
    #[error("{} is not a socket; {}", path.display(), remedy::OTHER_DIRECTORY)]
    NotASocket {
        /// What was found.
        path: PathBuf,
    },
    /// The socket belongs to a process of another user, who could answer anything.
    #[error(
        "the control socket {} is served by user {uid}, not by root; {}",
        path.display(),
        remedy::OTHER_DIRECTORY
    )]
    ForeignServer {
        /// The socket.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// The path does not fit a socket address.
    #[error(
        "the path of the control socket {} has {} bytes, and {} fit; {}",
        path.display(),
        path.as_os_str().len(),
        super::socket::PATH_LIMIT,
        remedy::SHORTER
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// A daemon answers already.
    #[error("another daemon is running: it has {}; {}", path.display(), remedy::STOP_IT)]
    AlreadyRunning {
        /// Its socket.
        path: PathBuf,
    },
    /// A file that is no socket is where the socket belongs.
    #[error("{} is in the way: it is not a socket; {}", path.display(), remedy::MOVE_IT)]
    PathTaken {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else than the daemon could change what is in the runtime directory.
    #[error("{} is not safe for a control socket: it {fault}; {}", path.display(), remedy::MAKE_SAFE)]
    UnsafeDirectory {
        /// The directory, or one above it.
        path: PathBuf,
        /// What is wrong with it.
        fault: DirectoryFault,
    },
    /// The operating system refused.
    #[error("could not {action} {}: {source}; {}", path.display(), remedy::SYSTEM)]
    System {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(#[source] ControlError),
    /// The daemon answers root only.
    #[error("the daemon refused this user: {message}; {}", remedy::BE_ROOT)]
    NotPermitted {
        /// What it said.
        message: String,
    },
    /// No answer came in time.
    #[error("the daemon did not answer within {} s; {}", after.as_secs(), remedy::HANGS)]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// The daemon does not know the command.
    #[error("the daemon does not know this command; {}", remedy::VERSIONS)]
    OtherVersion,
    /// The connection broke.
    #[error("the connection to the daemon broke: {detail}; {}", remedy::BROKE)]
    ConnectionLost {
        /// What the transport said.
        detail: String,
    },
}

/// What makes a directory unsafe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryFault {
    /// A symbolic link, whose owner can turn it elsewhere.
    #[error("is a symbolic link")]
    SymbolicLink,
    /// A file.
    #[error("is not a directory")]
    NotADirectory,
    /// Its owner can replace the socket.
    #[error("belongs to user {0}")]
    Owner(u32),
    /// Others can replace the socket.
    #[error("can be written by group or others (mode {0:04o})")]
    Writable(u32),
}

mod remedy {
    pub(super) const NO_SOCKET: &str = "is the daemon running? see `systemctl status \
        agent-enforcer`, or name its directory with `--runtime-dir`";
    pub(super) const NOT_LISTENING: &str = "the daemon has ended: see `journalctl -u agent-enforcer`, then `systemctl start agent-enforcer`";
    pub(super) const BE_ROOT: &str = "run this command as root";
    pub(super) const OTHER_DIRECTORY: &str = "name the daemon's directory with `--runtime-dir`";
    pub(super) const SHORTER: &str = "choose a shorter `--runtime-dir`";
    pub(super) const STOP_IT: &str =
        "stop it first (`systemctl stop agent-enforcer`), or choose another `--runtime-dir`";
    pub(super) const MOVE_IT: &str = "move it away, or choose another `--runtime-dir`";
    pub(super) const MAKE_SAFE: &str =
        "give it to root with mode 0700, or choose another `--runtime-dir`";
    pub(super) const SYSTEM: &str = "see that the path exists on a writable file system";
    pub(super) const HANGS: &str = "see `journalctl -u agent-enforcer` and `agent-enforcer doctor`; restart the daemon if it hangs";
    pub(super) const VERSIONS: &str =
        "daemon and command are of different versions: `systemctl restart agent-enforcer`";
    pub(super) const BROKE: &str =
        "try again; see `journalctl -u agent-enforcer` if it happens once more";
    pub(super) const NOT_FOUND: &str =
        "see `agent-enforcer agents` and `agent-enforcer grant list`";
    pub(super) const INVALID: &str = "correct the command; see its `--help`";
    pub(super) const UNAVAILABLE: &str = "try again; see `agent-enforcer status`";
    pub(super) const INTERNAL: &str =
        "see `journalctl -u agent-enforcer`; report it with `agent-enforcer doctor --output json`";
}

impl ApiError {
    /// What a person can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoSocket { .. } => remedy::NO_SOCKET,
            Self::NotListening { .. } => remedy::NOT_LISTENING,
            Self::PermissionDenied { .. } | Self::NotPermitted { .. } => remedy::BE_ROOT,
            Self::NotASocket { .. } | Self::ForeignServer { .. } => remedy::OTHER_DIRECTORY,
            Self::PathTooLong { .. } => remedy::SHORTER,
            Self::AlreadyRunning { .. } => remedy::STOP_IT,
            Self::PathTaken { .. } => remedy::MOVE_IT,
            Self::UnsafeDirectory { .. } => remedy::MAKE_SAFE,
            Self::System { .. } => remedy::SYSTEM,
            Self::TimedOut { .. } => remedy::HANGS,
            Self::OtherVersion => remedy::VERSIONS,
            Self::ConnectionLost { .. } => remedy::BROKE,
            Self::Refused(ControlError::NotFound(_)) => remedy::NOT_FOUND,
            Self::Refused(ControlError::Invalid(_)) => remedy::INVALID,
            Self::Refused(ControlError::Unavailable(_)) => remedy::UNAVAILABLE,
            Self::Refused(ControlError::Internal(_)) => remedy::INTERNAL,
        }
    }

    /// The message without its remedy.
    pub fn problem(&self) -> String {
        let message = self.to_string();
        match message.strip_suffix(self.remedy()).and_then(|rest| rest.strip_suffix("; ")) {
            Some(problem) => problem.to_owned(),
            None => message,
        }
    }

    /// Whether there is no daemon behind the socket at all.
    pub const fn means_no_daemon(&self) -> bool {
        match self {
            Self::NoSocket { .. } | Self::NotListening { .. } => true,
            Self::PermissionDenied { .. }
            | Self::NotASocket { .. }
            | Self::ForeignServer { .. }
            | Self::PathTooLong { .. }
            | Self::AlreadyRunning { .. }
            | Self::PathTaken { .. }
            | Self::UnsafeDirectory { .. }
            | Self::System { .. }
            | Self::Refused(_)
            | Self::NotPermitted { .. }
            | Self::TimedOut { .. }
            | Self::OtherVersion
            | Self::ConnectionLost { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_and_remedy_are_the_halves_of_the_message() {
        let path = PathBuf::from("/run/agent-enforcer/control.sock");
        for error in [
            ApiError::NoSocket { path: path.clone() },
            ApiError::NotListening { path: path.clone() },
            ApiError::PermissionDenied { path: path.clone() },
            ApiError::NotASocket { path: path.clone() },
            ApiError::ForeignServer { path: path.clone(), uid: 7 },
            ApiError::PathTooLong { path: path.clone() },
            ApiError::AlreadyRunning { path: path.clone() },
            ApiError::PathTaken { path: path.clone() },
            ApiError::UnsafeDirectory { path: path.clone(), fault: DirectoryFault::Owner(7) },
            ApiError::System { action: "bind", path, source: io::Error::from_raw_os_error(28) },
            ApiError::NotPermitted { message: "root only".to_owned() },
            ApiError::TimedOut { after: Duration::from_secs(3) },
            ApiError::OtherVersion,
            ApiError::ConnectionLost { detail: "reset".to_owned() },
        ] {
            assert_eq!(error.to_string(), format!("{}; {}", error.problem(), error.remedy()));
        }
    }

    #[test]
    fn words_of_the_daemon_stay_whole() {
        let error = ApiError::Refused(ControlError::NotFound("no grant g-9; list them".to_owned()));
        assert_eq!(error.problem(), "no grant g-9; list them");
        assert_eq!(error.remedy(), remedy::NOT_FOUND);
    }
}
