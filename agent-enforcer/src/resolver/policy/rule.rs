//! The decision on one call. Pure: the same inputs give the same ruling.
//!
//! Questions, in order: does the agent's manifest count, does the destination belong to a tool (see
//! [`Policy::tool_at`]), is it in the agent's approved set and named by the manifest, may this
//! executable use it, what do the policies say of it (see [`Access`]: often the same of every call),
//! which grant speaks for it, and may what it permits be done for its principal? Where the policies'
//! answer depends on the call, they are asked without a grant first, then with each live one. The
//! caller can't forge the answers: the destination is the kernel's canonical copy, agent, instance and
//! executable are the kernel's tag, tools and grants are the operator's, and so are the clocks.

mod explain;

use std::time::SystemTime;

use agent_enforcer_common::{
    NEVER_NS,
    destination::{Destination, PeerFamily},
    id::{GrantId, InstanceId, ToolId},
    reason::Reason,
};

use super::{
    Access, Agent, AgentManifest, Approval, LocalGrants, Policy, PolicyName, Tool,
    cedar::{Answer, Facts, Slice, minute_left_ns},
};
use crate::{
    control::ExplainStep,
    decision::Process,
    resolver::grant::{Grant, GrantMatch, GrantState, GrantTable, TokenOrigin, token::Action},
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
        /// `AllowedStanding`, `AllowedPolicy` or `AllowedGrant`.
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
    /// The same by the wall clock.
    pub wall: SystemTime,
}

/// What a program image has to do with the decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOperand<'a> {
    /// Why it is none of the agent's own software: it may use only what names it. `None`: it is.
    pub outside: Option<Reason>,
    /// The tools whose `via` names its executable.
    pub via: &'a [ToolId],
    /// What is attested of it; `None` where nothing is known.
    pub process: Option<&'a Process>,
}

/// How far the questions went.
enum Findings<'a> {
    NoManifest(Reason),
    NoTool,
    NotApproved(&'a Tool),
    NotInManifest(&'a Tool),
    NotItsSoftware(&'a Tool, Reason),
    NotVia(&'a Tool),
    /// These policies forbid it.
    Forbidden(&'a Tool, Vec<PolicyName>),
    /// These policies can't be evaluated.
    Failed(&'a Tool, Vec<PolicyName>),
    Standing(&'a Tool),
    /// These policies permit this call.
    Permitted(&'a Tool, Permit<'a>),
    Grants(&'a Tool, GrantMatch<'a>),
}

/// What policies say of one call.
struct Permit<'a> {
    policies: Vec<PolicyName>,
    /// The grant that they were asked with.
    grant: Option<&'a Grant>,
    /// `AllowedStanding` or `AllowedPolicy` without a grant, `AllowedGrant`.
    reason: Reason,
    approval: Approval,
    /// Until when, ns of `CLOCK_BOOTTIME`.
    until_ns: u64,
}

/// Decides a call.
pub fn rule(question: &Question<'_>) -> Ruling {
    examine(question).ruling()
}

/// What [`rule`] asked and found, as far as it went. `destination`: as people know it.
pub fn explain_rule(question: &Question<'_>, destination: &str) -> Vec<ExplainStep> {
    examine(question).steps(question, destination)
}

/// The policies that determined a ruling, where it was for them to decide.
pub fn determining_policies(question: &Question<'_>) -> Vec<PolicyName> {
    match examine(question) {
        Findings::Forbidden(_, policies)
        | Findings::Failed(_, policies)
        | Findings::Permitted(_, Permit { policies, .. }) => policies,
        Findings::NoManifest(_)
        | Findings::NoTool
        | Findings::NotApproved(_)
        | Findings::NotInManifest(_)
        | Findings::NotItsSoftware(..)
        | Findings::NotVia(_)
        | Findings::Standing(_)
        | Findings::Grants(..) => Vec::new(),
    }
}

fn examine<'a>(question: &Question<'a>) -> Findings<'a> {
    let Question { agent, image, tool, .. } = *question;
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
    match question.access(tool) {
        None => Findings::NotApproved(tool),
        Some(Access::Never(policies)) => Findings::Forbidden(tool, policies.to_vec()),
        Some(Access::Standing) => Findings::Standing(tool),
        Some(Access::WithGrant) => Findings::Grants(tool, question.best_grant(tool)),
        Some(Access::Conditional(slice)) => question.ask(tool, slice),
    }
}

impl<'a> Question<'a> {
    /// Whether what is decided can change with the minute.
    pub fn depends_on_time(&self) -> bool {
        match self.tool.and_then(|tool| self.access(tool)) {
            Some(Access::Conditional(slice)) => slice.reads_time(),
            Some(Access::Never(_) | Access::Standing | Access::WithGrant) | None => false,
        }
    }

    /// Until when the policies let a call go ahead under this very grant, ns of `CLOCK_BOOTTIME`; `None`
    /// where they don't.
    pub fn permitted_until_ns(&self, tool: &Tool, grant: &Grant) -> Option<u64> {
        match self.access(tool)? {
            Access::Never(_) => None,
            Access::Standing | Access::WithGrant => Some(NEVER_NS),
            Access::Conditional(slice) => {
                let facts = self.facts(tool);
                match slice.ask(slice.parties(&facts).as_ref(), &facts, Some(grant)) {
                    Answer::Allow { .. } => Some(self.until_ns(slice)),
                    Answer::Forbid { .. } | Answer::Nothing | Answer::Failed(_) => None,
                }
            }
        }
    }

    fn access(&self, tool: &Tool) -> Option<&'a Access> {
        self.policy.cedar().access(self.agent, tool.id, Action::on(self.destination))
    }

    fn best_grant(&self, tool: &Tool) -> GrantMatch<'a> {
        let standing = |grant: &Grant| self.standing(tool, grant);
        self.grants.best(&self.agent.name, self.instance, &tool.name, standing)
    }

    /// How a grant stands; `None` where it has nothing to do with the call.
    fn standing(&self, tool: &Tool, grant: &Grant) -> Option<GrantState> {
        // Who is called counts no uses: the caller decides how often.
        let called = self.destination.family() == PeerFamily::Listen as u8;
        let permits = grant.scope.permits(&tool.name, self.destination);
        (permits && (!called || !grant.is_counted()))
            .then(|| self.policy.standing_of(self.grants, grant, tool, self.now_ns))
    }

    /// What policies say whose answer depends on the call.
    fn ask(&self, tool: &'a Tool, slice: &Slice) -> Findings<'a> {
        let facts = self.facts(tool);
        let parties = slice.parties(&facts);
        let mut agreed = None;
        match slice.ask(parties.as_ref(), &facts, None) {
            Answer::Allow { policies, approval } => {
                let stands = self.agent.stands(tool.id);
                let reason = if stands { Reason::AllowedStanding } else { Reason::AllowedPolicy };
                let permit = self.permit(tool, slice, policies, approval, None, reason);
                if permit.approval == Approval::None {
                    return Findings::Permitted(tool, permit);
                }
                agreed = Some(permit);
            }
            Answer::Forbid { policies, whatever_granted: true } => {
                return Findings::Forbidden(tool, policies);
            }
            Answer::Failed(policies) => return Findings::Failed(tool, policies),
            Answer::Forbid { whatever_granted: false, .. } | Answer::Nothing => {}
        }
        let standing = |grant: &Grant| self.standing(tool, grant);
        let mut refused = None;
        for grant in self.grants.live(&self.agent.name, self.instance, &tool.name, standing) {
            match slice.ask(parties.as_ref(), &facts, Some(grant)) {
                Answer::Allow { policies, approval } => {
                    let reason = Reason::AllowedGrant;
                    let permit = self.permit(tool, slice, policies, approval, Some(grant), reason);
                    if permit.approval == Approval::None {
                        return Findings::Permitted(tool, permit);
                    }
                    agreed = agreed.or(Some(permit));
                }
                Answer::Forbid { policies, .. } => {
                    refused = refused.or(Some(Findings::Forbidden(tool, policies)));
                }
                Answer::Failed(policies) => return Findings::Failed(tool, policies),
                Answer::Nothing => {}
            }
        }
        match (agreed, refused) {
            (Some(permit), _) => Findings::Permitted(tool, permit),
            (None, Some(refused)) => refused,
            (None, None) => {
                let found = self.best_grant(tool);
                // Nothing permits it under a live grant either.
                let live = matches!(found, GrantMatch::Best(_, GrantState::Live));
                Findings::Grants(tool, if live { GrantMatch::None } else { found })
            }
        }
    }

    fn permit(
        &self,
        tool: &Tool,
        slice: &Slice,
        policies: Vec<PolicyName>,
        approval: bool,
        grant: Option<&'a Grant>,
        reason: Reason,
    ) -> Permit<'a> {
        let until_ns = grant.map_or(NEVER_NS, |grant| grant.expires_ns).min(self.until_ns(slice));
        let approval = if approval { Approval::Required } else { tool.approval };
        Permit { policies, grant, reason, approval, until_ns }
    }

    /// Until when the facts hold that the policies read, ns of `CLOCK_BOOTTIME`. Whatever else they read
    /// stays as it is as long as the program image and the generation do.
    fn until_ns(&self, slice: &Slice) -> u64 {
        if slice.reads_time() {
            self.now_ns.saturating_add(minute_left_ns(self.wall))
        } else {
            NEVER_NS
        }
    }

    fn facts(&self, tool: &'a Tool) -> Facts<'a> {
        let attestation = match (self.image.outside, &self.agent.manifest) {
            (Some(_), _) => 1,
            (None, None) => 2,
            (None, Some(_)) => 3,
        };
        Facts {
            agent: &self.agent.name,
            instance: self.instance,
            process: self.image.process,
            attestation,
            tool: &tool.name,
            destination: self.destination,
            wall: self.wall,
        }
    }
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
            Self::Forbidden(tool, _) => deny(Reason::PolicyForbids, tool),
            Self::Failed(tool, _) => deny(Reason::PolicyFailed, tool),
            Self::Permitted(tool, permit) => Ruling::Allow {
                tool: tool.id,
                grant: permit.grant.map(|grant| grant.id),
                expires_ns: permit.until_ns,
                reason: permit.reason,
                counted: permit.grant.is_some_and(Grant::is_counted),
                approval: permit.approval,
            },
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
}
