//! The decision on one call. Pure: the same inputs give the same ruling.
//!
//! Questions, in order: does the agent's manifest count, does the destination belong to a tool (see
//! [`Policy::tool_at`]), is it in the agent's approved set and named by the manifest, may this
//! executable use it, does it stand without a grant, which grant speaks for it, and may what it permits
//! be done for its principal? The caller can't forge the answers: the
//! destination is the kernel's canonical copy, agent, instance and executable are the kernel's tag,
//! tools and grants are the operator's, and the clock is the kernel's.

use agent_enforcer_common::{
    NEVER_NS,
    destination::{Destination, PeerFamily},
    id::{GrantId, InstanceId, ToolId},
    reason::Reason,
};

use super::{Agent, AgentManifest, Approval, LocalGrants, Policy, Tool};
use crate::{
    control::ExplainStep,
    decision::grant_name,
    resolver::grant::{Grant, GrantMatch, GrantState, GrantTable, TokenOrigin},
    signing::KeyId,
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
        /// Whether an approver must agree first.
        approval: Approval,
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

/// One call, and everything that has a say in it.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The policy in force.
    pub policy: &'a Policy,
    /// The agent.
    pub agent: &'a Agent,
    /// All grants.
    pub grants: &'a GrantTable,
    /// The instance.
    pub instance: InstanceId,
    /// The program image.
    pub image: ImageOperand<'a>,
    /// Where it goes, or where it is called.
    pub destination: &'a Destination,
    /// The tool that the destination belongs to.
    pub tool: Option<&'a Tool>,
    /// When, ns of `CLOCK_BOOTTIME`.
    pub now_ns: u64,
}

/// What a program image has to do with the decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOperand<'a> {
    /// Why it is none of the agent's own software: it may use only what names it. `None`: it is.
    pub outside: Option<Reason>,
    /// The tools whose `via` names its executable.
    pub via: &'a [ToolId],
}

/// How far the questions went.
enum Findings<'a> {
    NoManifest(Reason),
    NoTool,
    NotApproved(&'a Tool),
    NotInManifest(&'a Tool),
    NotItsSoftware(&'a Tool, Reason),
    NotVia(&'a Tool),
    Standing(&'a Tool),
    Grants(&'a Tool, GrantMatch<'a>),
}

/// Decides a call.
pub fn rule(question: &Question<'_>) -> Ruling {
    examine(question).ruling()
}

/// What [`rule`] asked and found, as far as it went. `destination`: as people know it.
pub fn explain_rule(question: &Question<'_>, destination: &str) -> Vec<ExplainStep> {
    examine(question).steps(question, destination)
}

fn examine<'a>(question: &Question<'a>) -> Findings<'a> {
    let Question { policy, agent, grants, instance, image, destination, tool, now_ns } = *question;
    if let Some(Err(reason)) = agent.manifest.as_ref().map(AgentManifest::standing) {
        return Findings::NoManifest(reason);
    }
    let Some(tool) = tool else { return Findings::NoTool };
    if !agent.approves(tool.id) {
        return Findings::NotApproved(tool);
    }
    if agent.check_manifest(tool.id).is_err() {
        return Findings::NotInManifest(tool);
    }
    let named = image.via.contains(&tool.id);
    if !tool.via.is_empty() && !named {
        return Findings::NotVia(tool);
    }
    if let Some(reason) = image.outside
        && !named
    {
        return Findings::NotItsSoftware(tool, reason);
    }
    if agent.stands(tool.id) {
        return Findings::Standing(tool);
    }
    // Who is called counts no uses: the caller decides how often.
    let called = destination.family() == PeerFamily::Listen as u8;
    let standing = |grant: &Grant| {
        let permits = grant.scope.permits(&tool.name, destination);
        (permits && (!called || !grant.is_counted()))
            .then(|| policy.standing_of(grants, grant, tool, now_ns))
    };
    Findings::Grants(tool, grants.best(&agent.name, instance, &tool.name, standing))
}

impl Policy {
    /// How a grant stands for a tool at a moment of `CLOCK_BOOTTIME`, ns: as it does by itself and by
    /// what it was derived from, as far as this policy lets it.
    pub fn standing_of(
        &self,
        grants: &GrantTable,
        grant: &Grant,
        tool: &Tool,
        now_ns: u64,
    ) -> GrantState {
        let state = grants.state(grant, now_ns);
        match state {
            GrantState::Live | GrantState::UsedUp => {}
            GrantState::NotYetValid
            | GrantState::Expired
            | GrantState::Revoked
            | GrantState::ParentEnded
            | GrantState::ManifestChanged
            | GrantState::IssuerNotTrusted
            | GrantState::Unsigned
            | GrantState::BeyondPrincipal => return state,
        }
        let Some(agent) = self.agent(&grant.subject.agent) else { return state };
        match &grant.origin {
            None if agent.local_grants == LocalGrants::Deny => return GrantState::Unsigned,
            None => {}
            Some(origin) => {
                let TokenOrigin { issuer, kid, manifest, .. } = &**origin;
                if !self.trust().issuers().vouch(issuer, kid, &agent.name, &tool.name) {
                    return GrantState::IssuerNotTrusted;
                }
                let own = agent.manifest.as_ref().and_then(AgentManifest::digest);
                if manifest.is_some() && *manifest != own {
                    return GrantState::ManifestChanged;
                }
            }
        }
        let within = self.ceiling_of(&grant.principal).is_none_or(|tools| tools.contains(&tool.id));
        if within { state } else { GrantState::BeyondPrincipal }
    }
}

impl Policy {
    /// How a grant stands for the tool of it for which it stands best.
    pub fn best_standing_of(&self, grants: &GrantTable, grant: &Grant, now_ns: u64) -> GrantState {
        let tools = grant.scope.tool_names().into_iter().filter_map(|name| self.tool_named(name));
        let mut standings = tools.map(|tool| self.standing_of(grants, grant, tool, now_ns));
        let Some(first) = standings.next() else { return grants.state(grant, now_ns) };
        let live = std::iter::once(first).chain(standings).find(|state| *state == GrantState::Live);
        live.unwrap_or(first)
    }
}

impl Findings<'_> {
    fn ruling(&self) -> Ruling {
        let deny = |reason, tool: &Tool| Ruling::Deny { reason, tool: Some(tool.id) };
        match self {
            Self::NoManifest(reason) => Ruling::Deny { reason: *reason, tool: None },
            Self::NoTool => Ruling::Deny { reason: Reason::NoTool, tool: None },
            Self::NotApproved(tool) => deny(Reason::ToolNotApproved, tool),
            Self::NotInManifest(tool) => deny(Reason::ToolNotInManifest, tool),
            Self::NotItsSoftware(tool, reason) => deny(*reason, tool),
            Self::NotVia(tool) => deny(Reason::NotVia, tool),
            Self::Standing(tool) => Ruling::Allow {
                tool: tool.id,
                grant: None,
                expires_ns: NEVER_NS,
                reason: Reason::AllowedStanding,
                counted: false,
                approval: tool.approval,
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
                approval: tool.approval,
            },
            Self::Grants(tool, GrantMatch::Best(_, state)) => {
                Ruling::Wait { reason: state.reason(), tool: tool.id }
            }
        }
    }

    fn steps(&self, question: &Question<'_>, destination: &str) -> Vec<ExplainStep> {
        let Question { agent, now_ns, .. } = *question;
        let mut steps = vec![manifest_step(agent)];
        let tool = match self {
            Self::NoManifest(_) => return steps,
            Self::NoTool => {
                let found = format!("{destination} belongs to no tool of the policy");
                steps.push(step("tool", found, false));
                return steps;
            }
            Self::NotApproved(tool)
            | Self::NotInManifest(tool)
            | Self::NotItsSoftware(tool, _)
            | Self::NotVia(tool)
            | Self::Standing(tool)
            | Self::Grants(tool, _) => tool,
        };
        let approves = !matches!(self, Self::NotApproved(_));
        let verb = if approves { "has" } else { "does not have" };
        steps.extend([
            step("tool", format!("{destination} belongs to tool `{}`", tool.name), true),
            step(
                "approved",
                format!("agent `{}` {verb} tool `{}` approved", agent.name, tool.name),
                approves,
            ),
        ]);
        if matches!(self, Self::NotInManifest(_)) {
            let found = format!("the manifest does not name tool `{}`", tool.name);
            steps.push(step("manifest", found, false));
        } else if approves {
            steps.extend(software_step(tool, question.image));
        }
        match self {
            Self::NoManifest(_)
            | Self::NoTool
            | Self::NotApproved(_)
            | Self::NotInManifest(_)
            | Self::NotItsSoftware(..)
            | Self::NotVia(_) => {}
            Self::Standing(tool) => {
                let found = format!("tool `{}` is standing: it needs no grant", tool.name);
                steps.push(step("grant", found, true));
            }
            Self::Grants(tool, found) => steps.push(grant_step(tool, *found, now_ns)),
        }
        steps
    }
}

/// What the agent's manifest is, and whether it counts.
fn manifest_step(agent: &Agent) -> ExplainStep {
    let Some(manifest) = &agent.manifest else {
        let found = format!("the policy demands no manifest of agent `{}`", agent.name);
        return step("manifest", found, true);
    };
    let what = match manifest.document() {
        Some(document) => format!(
            "manifest of {}, version {}, until {}",
            manifest.agent_id(),
            document.version,
            document.valid_until
        ),
        None => format!("manifest of {}", manifest.agent_id()),
    };
    let signers = manifest.signers().iter().map(KeyId::as_str).collect::<Vec<_>>().join(", ");
    match manifest.standing() {
        Ok(()) => step("manifest", format!("{what}, signed by {signers}, counts"), true),
        Err(reason) => step("manifest", format!("{what}: {}", reason.word()), false),
    }
}

/// Whether this executable may use the tool; nothing where any of the agent's software may.
fn software_step(tool: &Tool, image: ImageOperand<'_>) -> Option<ExplainStep> {
    let named = image.via.contains(&tool.id);
    let via = || tool.via.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !tool.via.is_empty() {
        let verb = if named { "is" } else { "is not" };
        let found = format!("the executable {verb} one of those of `{}`: {}", tool.name, via());
        return Some(step("software", found, named));
    }
    let reason = image.outside?;
    let found = format!("the executable is none of the agent's own: {}", reason.word());
    Some(step("software", found, false))
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
        GrantState::ParentEnded => ": what it was derived from has ended".to_owned(),
        GrantState::ManifestChanged => {
            ": it was issued for another manifest than the agent has".to_owned()
        }
        GrantState::IssuerNotTrusted => {
            let issuer = grant.origin.as_ref().map_or("", |origin| &origin.issuer);
            format!(": the policy does not trust {issuer} with it")
        }
        GrantState::Unsigned => ": the agent may have signed grants only".to_owned(),
        GrantState::BeyondPrincipal => ": nobody may use the tool on behalf of this one".to_owned(),
        GrantState::Revoked => {
            grant.revoked.as_ref().map(|why| format!(": {}", why.reason)).unwrap_or_default()
        }
    }
}

fn step(question: &str, found: String, holds: bool) -> ExplainStep {
    ExplainStep { question: question.to_owned(), found, holds }
}
