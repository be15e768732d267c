//! Which agents are ghosts: nobody answers for them, or nobody uses them any more.
//!
//! In: what is remembered of an agent, the policy in force, the wall clock. Out: everything that is
//! wrong with it. Changes no decision: what a ghost may do is said by policy, manifest and grants.

use std::time::{Duration, SystemTime};

use agent_enforcer_common::reason::Reason;

use super::AgentRecord;
use crate::resolver::policy::{Agent, Policy};

/// Why an agent is a ghost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ghost {
    /// It was seen, but the policy in force does not have it.
    NotInPolicy,
    /// Its owner was among the policy's principals, and is not any more.
    OwnerGone,
    /// It must have a manifest, and has none that counts.
    Manifest(Reason),
    /// It did nothing for longer than `--unused-after`.
    Unused,
}

impl Ghost {
    /// The word that operators and events have for it: for a manifest, its reason's.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotInPolicy => "not_in_policy",
            Self::OwnerGone => "owner_gone",
            Self::Manifest(reason) => reason.word(),
            Self::Unused => "unused",
        }
    }

    /// What a person can do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::NotInPolicy => {
                "stop what still runs of it, or add it to the policy again under an owner"
            }
            Self::OwnerGone => {
                "give it an owner who is there, or remove it from the policy and stop it"
            }
            Self::Manifest(reason) => reason.remedy(),
            Self::Unused => "ask its owner; remove it from the policy if nobody needs it",
        }
    }
}

/// What is wrong with an agent.
pub(super) fn judge(
    record: &AgentRecord,
    agent: Option<&Agent>,
    policy: &Policy,
    unused_after: Duration,
    now: SystemTime,
) -> Vec<Ghost> {
    let Some(agent) = agent else { return vec![Ghost::NotInPolicy] };
    let listed = policy.principals();
    let owner_gone = record.owner_was_principal
        && listed.is_some_and(|listed| listed.iter().all(|known| known.name != agent.owner));
    let manifest = agent.manifest.as_ref().and_then(|manifest| manifest.standing().err());
    let acted = record.activity.last.as_ref().map_or(record.first_seen, |last| last.at);
    let unused = now.duration_since(acted).is_ok_and(|idle| idle >= unused_after);
    [
        owner_gone.then_some(Ghost::OwnerGone),
        manifest.map(Ghost::Manifest),
        unused.then_some(Ghost::Unused),
    ]
    .into_iter()
    .flatten()
    .collect()
}
