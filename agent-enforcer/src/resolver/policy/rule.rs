//! The decision on one call. Pure: the same inputs give the same ruling.
//!
//! Questions, in order: does the destination belong to a tool (see [`super::Policy::tool_at`]), is it
//! in the agent's approved set, does it stand without a grant, which grant speaks for it? The caller
//! can't forge the answers: the destination is the kernel's canonical copy, the agent and instance are
//! the kernel's tag, tools and grants are the operator's, and the clock is the kernel's.

use agent_enforcer_common::{
    NEVER_NS,
    id::{GrantId, InstanceId, ToolId},
    reason::Reason,
};

use super::{Agent, Tool};
use crate::{
    control::ExplainStep,
    decision::grant_name,
    resolver::grant::{Grant, GrantMatch, GrantState, GrantTable},
};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It goes ahead.
    Allow {
        /// The destination's tool.
        tool: ToolId,
        /// The grant; `None` for a standing tool.
        grant: Option<GrantId>,
        /// Until when, ns of `CLOCK_BOOTTIME`; `NEVER_NS` for a standing tool.
        expires_ns: u64,
        /// `AllowedStanding` or `AllowedGrant`.
        reason: Reason,
        /// The grant has a use count: one use is spent by this call, and by each that follows.
        counted: bool,
    },
    /// No grant could allow it.
    Deny {
        /// Why.
        reason: Reason,
        /// The destination's tool.
        tool: Option<ToolId>,
    },
    /// A grant could allow it: the agent's `on_miss` says whether it waits for one.
    Wait {
        /// Why it is not allowed as things stand.
        reason: Reason,
        /// The destination's tool.
        tool: ToolId,
    },
}

/// How far the questions went.
enum Findings<'a> {
    NoTool,
    NotApproved(&'a Tool),
    Standing(&'a Tool),
    Grants(&'a Tool, GrantMatch<'a>),
}

/// Decides a call of an agent's instance at a moment of `CLOCK_BOOTTIME`, ns. `tool`: the one that
/// its destination belongs to.
pub fn rule(
    agent: &Agent,
    grants: &GrantTable,
    instance: InstanceId,
    tool: Option<&Tool>,
    now_ns: u64,
) -> Ruling {
    examine(agent, grants, instance, tool, now_ns).ruling()
}

/// What [`rule`] asked and found: the steps `tool`, `approved` and `grant`, as far as it went.
/// `destination`: as people know it.
pub fn explain_rule(
    agent: &Agent,
    grants: &GrantTable,
    instance: InstanceId,
    tool: Option<&Tool>,
    destination: &str,
    now_ns: u64,
) -> Vec<ExplainStep> {
    examine(agent, grants, instance, tool, now_ns).steps(agent, destination, now_ns)
}

fn examine<'a>(
    agent: &Agent,
    grants: &'a GrantTable,
    instance: InstanceId,
    tool: Option<&'a Tool>,
    now_ns: u64,
) -> Findings<'a> {
    let Some(tool) = tool else { return Findings::NoTool };
    if !agent.approves(tool.id) {
        return Findings::NotApproved(tool);
    }
    if agent.stands(tool.id) {
        return Findings::Standing(tool);
    }
    Findings::Grants(tool, grants.best(&agent.name, instance, &tool.name, now_ns))
}

impl Findings<'_> {
    fn ruling(&self) -> Ruling {
        match self {
            Self::NoTool => Ruling::Deny { reason: Reason::NoTool, tool: None },
            Self::NotApproved(tool) => {
                Ruling::Deny { reason: Reason::ToolNotApproved, tool: Some(tool.id) }
            }
            Self::Standing(tool) => Ruling::Allow {
                tool: tool.id,
                grant: None,
                expires_ns: NEVER_NS,
                reason: Reason::AllowedStanding,
                counted: false,
            },
            Self::Grants(tool, GrantMatch::None) => {
                Ruling::Wait { reason: Reason::NoGrant, tool: tool.id }
            }
            Self::Grants(tool, GrantMatch::Best(grant, GrantState::Live)) => Ruling::Allow {
                tool: tool.id,
                grant: Some(grant.id),
                expires_ns: grant.expires_ns,
                reason: Reason::AllowedGrant,
                counted: grant.is_counted(),
            },
            Self::Grants(tool, GrantMatch::Best(_, state)) => {
                Ruling::Wait { reason: state.reason(), tool: tool.id }
            }
        }
    }

    fn steps(&self, agent: &Agent, destination: &str, now_ns: u64) -> Vec<ExplainStep> {
        let belongs = |tool: &Tool| {
            step("tool", format!("{destination} belongs to tool `{}`", tool.name), true)
        };
        let approved = |tool: &Tool, holds: bool| {
            let verb = if holds { "has" } else { "does not have" };
            let found = format!("agent `{}` {verb} tool `{}` approved", agent.name, tool.name);
            step("approved", found, holds)
        };
        match self {
            Self::NoTool => {
                vec![step("tool", format!("{destination} belongs to no tool of the policy"), false)]
            }
            Self::NotApproved(tool) => vec![belongs(tool), approved(tool, false)],
            Self::Standing(tool) => {
                let found = format!("tool `{}` is standing: it needs no grant", tool.name);
                vec![belongs(tool), approved(tool, true), step("grant", found, true)]
            }
            Self::Grants(tool, found) => {
                vec![belongs(tool), approved(tool, true), grant_step(tool, *found, now_ns)]
            }
        }
    }
}

fn grant_step(tool: &Tool, found: GrantMatch<'_>, now_ns: u64) -> ExplainStep {
    match found {
        GrantMatch::None => {
            step("grant", format!("there is no grant for tool `{}`", tool.name), false)
        }
        GrantMatch::Best(grant, state) => {
            let found = format!(
                "grant {} for `{}` on behalf of {} is {}{}",
                grant_name(grant.id),
                tool.name,
                grant.principal,
                state.word(),
                detail(grant, state, now_ns)
            );
            step("grant", found, state == GrantState::Live)
        }
    }
}

/// What a person wants to know of a grant in this state.
fn detail(grant: &Grant, state: GrantState, now_ns: u64) -> String {
    let seconds = |until_ns: u64| {
        let whole = until_ns.saturating_sub(now_ns).div_ceil(1_000_000_000);
        humantime::format_duration(std::time::Duration::from_secs(whole)).to_string()
    };
    match state {
        GrantState::Live => format!(" for another {}", seconds(grant.expires_ns)),
        GrantState::NotYetValid => format!(": it begins in {}", seconds(grant.not_before_ns)),
        GrantState::UsedUp => format!(": all {} uses are spent", grant.uses),
        GrantState::Expired => String::new(),
        GrantState::Revoked => {
            grant.revoked.as_ref().map(|why| format!(": {}", why.reason)).unwrap_or_default()
        }
    }
}

fn step(question: &str, found: String, holds: bool) -> ExplainStep {
    ExplainStep { question: question.to_owned(), found, holds }
}
