//! What a host knows of agents, tools and earlier tokens, as far as a new token needs it.

use std::{sync::Arc, time::Duration};

use agent_enforcer_common::id::InstanceId;

use super::{Location, ParentGrant};
use crate::decision::Sha256Digest;

/// What the host knows. Every answer is about one moment; none may block.
pub trait TokenWorld {
    /// The agent of a name of the policy, or of a SPIFFE ID of a manifest.
    fn agent(&self, actor: &str) -> Option<TokenAgent>;
    /// Whether an instance of an agent runs.
    fn runs(&self, agent: &str, instance: InstanceId) -> bool;
    /// How a tool stands to an agent.
    fn tool(&self, agent: &str, tool: &str) -> ToolStanding;
    /// The one tool that has every destination of a location. What the location leaves open is what
    /// that tool has; `None` where no tool, or more than one, comes into question.
    fn tool_of(&self, location: &Location) -> Option<Arc<str>>;
    /// Whether a token of that id came already, of whatever issuer: ids of tokens that have not
    /// expired are unique on a host, so that a parent is one grant.
    fn was_seen(&self, jti: &str) -> bool;
    /// The grant that came of the token of that id.
    fn parent(&self, jti: &str) -> Option<ParentGrant>;
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAgent {
    /// Its name in the policy.
    pub name: Arc<str>,
    /// Longest life of a token for it; see [`super::DEFAULT_CEILING`].
    pub ceiling: Duration,
    /// Digest of the manifest that it has; `None` where it has none that counts.
    pub manifest: Option<Sha256Digest>,
}

/// How a tool stands to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolStanding {
    /// The policy has no such tool.
    Unknown,
    /// It is not in the agent's approved set.
    NotApproved,
    /// It is.
    Approved,
}
