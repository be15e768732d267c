//! Why a token is refused: one word for one cause, for events, command line and docs.

use std::time::Duration;

use crate::signing::KeyId;

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Not a token, or claims that are none.
    #[error("the token can't be read: {0}")]
    Malformed(String),
    /// Too large.
    #[error("the token has {length} bytes, more than {limit}")]
    TooLarge {
        /// Its bytes.
        length: usize,
        /// As many as may be.
        limit: usize,
    },
    /// Another kind of token.
    #[error("`typ` of the token is not `agent-grant+jwt`")]
    WrongType,
    /// An algorithm that is not the key's.
    #[error("the token is signed otherwise than it may be: {0}")]
    Algorithm(String),
    /// Nobody's key.
    #[error("no issuer of the policy has the key {0}")]
    KeyUnknown(KeyId),
    /// The signature does not hold.
    #[error("the signature is not that of key {0}")]
    BadSignature(KeyId),
    /// Another issuer than the key's.
    #[error("the token says that it is of issuer {0:?}, whose key did not sign it")]
    IssuerUnknown(String),
    /// For other hosts.
    #[error("the token is not for this host")]
    WrongAudience,
    /// It has ended.
    #[error("the token has ended")]
    Expired,
    /// It begins later.
    #[error("the token begins later, beyond the skew of clocks")]
    NotYetValid,
    /// It is issued later.
    #[error("the token is issued in the future, beyond the skew of clocks")]
    IssuedInFuture,
    /// It would last too long, or not at all.
    #[error("the token lasts {}, and at most {} is allowed for the agent", humantime::format_duration(*.lifetime), humantime::format_duration(*.ceiling))]
    Lifetime {
        /// How long it would last; nothing where it would end before it begins.
        lifetime: Duration,
        /// How long it may.
        ceiling: Duration,
    },
    /// It came before.
    #[error("a token with the id {0:?} came already")]
    Replayed(String),
    /// No such agent.
    #[error("agent {0:?} is not known here")]
    AgentUnknown(String),
    /// No such instance of the agent.
    #[error("instance {instance:?} of agent {agent:?} does not run here")]
    InstanceUnknown {
        /// The instance.
        instance: String,
        /// The agent.
        agent: String,
    },
    /// The issuer does not speak for the agent.
    #[error("issuer {issuer:?} does not speak for agent {agent:?}")]
    AgentNotAllowed {
        /// The agent.
        agent: String,
        /// The issuer.
        issuer: String,
    },
    /// No such tool.
    #[error("tool {0:?} is not in the policy")]
    ToolUnknown(String),
    /// Not approved for the agent, or not the issuer's to permit.
    #[error("tool {tool:?} is not approved for {by}")]
    ToolNotAllowed {
        /// The tool.
        tool: String,
        /// For whom it is not approved.
        by: String,
    },
    /// Not a location, or not within a tool.
    #[error("a location can't be permitted: {0}")]
    Location(String),
    /// The agent has another manifest, or none.
    #[error("the token is bound to another manifest than the agent has")]
    ManifestMismatch,
    /// No grant came of the parent.
    #[error("no grant came of the parent token {0:?}")]
    ParentUnknown(String),
    /// The parent's grant has ended.
    #[error("the grant of the parent token {0:?} is not live")]
    ParentNotLive(String),
    /// It permits more than its parent.
    #[error("the token goes beyond its parent: {0}")]
    ExceedsParent(ExceededLimit),
    /// The issuer may only hand on.
    #[error("the issuer may only hand on what another token permits, and this one has no parent")]
    MustAttenuate,
}

/// In which respect a token goes beyond its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExceededLimit {
    /// Another principal.
    #[error("it is on behalf of another principal")]
    Principal,
    /// Another agent.
    #[error("it is for another agent")]
    Agent,
    /// Other instances.
    #[error("it is for other instances")]
    Instance,
    /// More tools, locations or actions.
    #[error("it permits tools, locations or actions that the parent does not")]
    Scope,
    /// A later end.
    #[error("it ends later")]
    Expiry,
    /// More uses.
    #[error("it admits more calls than the parent has left")]
    Uses,
}

impl TokenRefusal {
    /// The word of the cause.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_malformed",
            Self::TooLarge { .. } => "token_too_large",
            Self::WrongType => "token_wrong_type",
            Self::Algorithm(_) => "token_algorithm",
            Self::KeyUnknown(_) => "token_key_unknown",
            Self::BadSignature(_) => "token_bad_signature",
            Self::IssuerUnknown(_) => "token_issuer_unknown",
            Self::WrongAudience => "token_wrong_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::IssuedInFuture => "token_issued_in_future",
            Self::Lifetime { .. } => "token_lifetime",
            Self::Replayed(_) => "token_replayed",
            Self::AgentUnknown(_) => "token_agent_unknown",
            Self::InstanceUnknown { .. } => "token_instance_unknown",
            Self::AgentNotAllowed { .. } => "token_agent_not_allowed",
            Self::ToolUnknown(_) => "token_tool_unknown",
            Self::ToolNotAllowed { .. } => "token_tool_not_allowed",
            Self::Location(_) => "token_location",
            Self::ManifestMismatch => "token_manifest_mismatch",
            Self::ParentUnknown(_) => "token_parent_unknown",
            Self::ParentNotLive(_) => "token_parent_not_live",
            Self::ExceedsParent(_) => "token_exceeds_parent",
            Self::MustAttenuate => "token_must_attenuate",
        }
    }

    /// What a person can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "issue a token as docs/tokens.md describes it",
            Self::TooLarge { .. } => "issue a smaller token, or several",
            Self::WrongType => "give a grant token, not an access or identity token",
            Self::Algorithm(_) => "sign with the algorithm of the key that the policy pins",
            Self::KeyUnknown(_) => {
                "add the key to the issuer in the policy, or sign with one of its keys"
            }
            Self::BadSignature(_) => "issue the token again; find out who changed it",
            Self::IssuerUnknown(_) => "pin the issuer and its key in the policy, or correct `iss`",
            Self::WrongAudience => "issue it for this host's audience",
            Self::Expired => "issue a new token; see that the clocks are right",
            Self::NotYetValid => "give it again once it has begun; see that the clocks are right",
            Self::IssuedInFuture => "set the clock right, of this host or of the issuer",
            Self::Lifetime { .. } => {
                "issue a token of a shorter life, or raise the agent's ceiling"
            }
            Self::Replayed(_) => "issue a new token with an id of its own",
            Self::AgentUnknown(_) => {
                "name an agent of the policy, or the SPIFFE ID of its manifest"
            }
            Self::InstanceUnknown { .. } => {
                "name a running instance, as `agent-enforcer agents` shows it"
            }
            Self::AgentNotAllowed { .. } => "add the agent to the issuer in the policy",
            Self::ToolUnknown(_) => "name a tool of the policy; see `agent-enforcer policy show`",
            Self::ToolNotAllowed { .. } => "approve the tool in the policy, for agent and issuer",
            Self::Location(_) => "name destinations of one tool, like 192.0.2.1:443/tcp",
            Self::ManifestMismatch => "issue a token for the manifest that the agent has now",
            Self::ParentUnknown(_) => "give this host the parent token first",
            Self::ParentNotLive(_) => "issue the parent anew, and this token of it",
            Self::ExceedsParent(_) => "issue a token that stays within its parent",
            Self::MustAttenuate => "name the parent in `parent_jti`",
        }
    }
}
