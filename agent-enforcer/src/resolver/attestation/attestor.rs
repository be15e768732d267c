//! Asking somebody else who a process is.
//!
//! In: a process that holds by what this host sees itself (`process`, `digest`). Out: the names that
//! an [`Attestor`] vouches for, each until its end. An answer belongs to one process: its number is
//! bound to its start before the question and after the answer, or there is no answer. Who may be
//! who is the policy's to say; nothing here compares names.

use std::time::{Duration, SystemTime};

use agent_enforcer_common::id::ExecId;

use super::ProcError;
use crate::resolver::spiffe::SpiffeId;

/// Who is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The program image, to know the answer by.
    pub exec: ExecId,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Its start, ns of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
}

/// A name that somebody vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub id: SpiffeId,
    /// Until when.
    pub expires: SystemTime,
}

/// What became of a question: at least one identity that has not ended, or none.
pub type Attestation = Result<Vec<Identity>, AttestError>;

/// Somebody who knows processes by names that mean the same on every host. Answers come through
/// what the attestor was started with, never from [`Self::ask`].
pub trait Attestor: Send {
    /// Takes a question, without waiting for anything.
    fn ask(&self, subject: Subject) -> Result<(), AttestorBusy>;
    /// How it stands.
    fn state(&self) -> AttestorState;
}

/// How an attestor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestorState {
    /// Where it is.
    pub address: String,
    /// Why the last question that it should have answered has no answer.
    pub fault: Option<String>,
}

/// A question was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many questions wait for the SPIFFE broker; see that it answers")]
pub struct AttestorBusy;

/// Why nobody vouches for a process.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// It ended, or its number belongs to another process by now.
    #[error("the process ended before the SPIFFE broker had answered; nothing is left to do")]
    Gone,
    /// It can't be looked at.
    #[error(transparent)]
    Process(ProcError),
    /// The attestor can't be reached, or is another than the one that was named.
    #[error("the SPIFFE broker can't be reached: {0}; see that it runs, and `--spiffe-*`")]
    Unreachable(String),
    /// No answer in time.
    #[error("the SPIFFE broker did not answer within {}s; see its load", .0.as_secs())]
    TimedOut(Duration),
    /// It knows no name for the process, or gives none to this host.
    #[error("the SPIFFE broker gives no identity ({code}: {message}); register the workload there")]
    Refused {
        /// The gRPC code.
        code: String,
        /// Its words.
        message: String,
    },
    /// It answered what is no answer.
    #[error("the SPIFFE broker's answer is refused: {0}; see its version")]
    Malformed(String),
    /// Every identity has ended.
    #[error("every identity that the SPIFFE broker gave has ended; set the clocks")]
    Expired,
}

impl AttestError {
    /// Whether it tells of the attestor, and not of the process.
    pub(super) const fn is_fault(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) | Self::Malformed(_) | Self::Expired => true,
            Self::Gone | Self::Process(_) | Self::Refused { .. } => false,
        }
    }
}

impl From<ProcError> for AttestError {
    fn from(error: ProcError) -> Self {
        match error {
            ProcError::Gone => Self::Gone,
            error @ (ProcError::Unreadable { .. }
            | ProcError::Malformed { .. }
            | ProcError::NoProc { .. }) => Self::Process(error),
        }
    }
}
