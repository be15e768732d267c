//! Why a sound manifest does not count: one word for one cause, for events, command line and docs.

use agent_enforcer_common::reason::Reason;

use crate::signing::{JwsError, KeyId};

use super::KnownVersion;

/// Why a manifest does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestRefusal {
    /// No signature is of a key that may sign for the agent.
    #[error("no key that may sign for this agent has signed the manifest")]
    UnknownSigner,
    /// A signature is said to be of a known key, and is not.
    #[error("{error}")]
    BadSignature {
        /// The key.
        kid: KeyId,
        /// What is wrong with it.
        error: JwsError,
    },
    /// A newer version, or another manifest of this version, was seen.
    #[error("version {} with digest {} of this agent's manifest was seen already", .known.version, .known.digest)]
    RolledBack {
        /// What was seen.
        known: KnownVersion,
    },
    /// It begins later.
    #[error("the manifest is issued in the future, beyond the skew of clocks")]
    NotYetIssued,
    /// The agent may never run again.
    #[error("the manifest says that the agent is revoked")]
    Revoked,
    /// The agent may not run for the time being.
    #[error("the manifest says that the agent is suspended")]
    Suspended,
    /// It has ended.
    #[error("the manifest has ended")]
    Expired,
}

impl ManifestRefusal {
    /// The reason with which the agent's calls are denied.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::UnknownSigner | Self::BadSignature { .. } => Reason::ManifestUntrusted,
            Self::RolledBack { .. } => Reason::ManifestRolledBack,
            Self::NotYetIssued => Reason::ManifestNotYetValid,
            Self::Revoked => Reason::ManifestRevoked,
            Self::Suspended => Reason::ManifestSuspended,
            Self::Expired => Reason::ManifestExpired,
        }
    }

    /// The word of the cause.
    pub const fn word(&self) -> &'static str {
        self.reason().word()
    }

    /// What a person can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::UnknownSigner => {
                "have it signed by a key that the policy trusts for this agent, or trust the key"
            }
            Self::BadSignature { .. } => {
                "sign it again with the key that is trusted under this name; find out who changed it"
            }
            Self::RolledBack { .. } => {
                "install the newest version, or give a change a version of its own and sign it"
            }
            Self::NotYetIssued => "set the clock right, of this host or of whoever signed",
            Self::Revoked => "stop the agent; a new one needs a manifest of its own",
            Self::Suspended => "wait for a newer version whose lifecycle is active",
            Self::Expired => "issue and sign a newer version",
        }
    }
}
