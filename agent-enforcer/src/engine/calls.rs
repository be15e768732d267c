//! 2. Request -> decision -> answer.
//!
//! A question is answered at once where identity, policy and grants have the answer; otherwise it
//! waits, and is decided again whenever something changes, until its deadline. Every question
//! ends in exactly one event beside the one that says it waits. Here is what the kernel side tells
//! and what is decided; `answer` makes it known, `waiting` is what can't be decided yet, `uses`
//! are those of counted grants, `counted` is what the kernel side settles alone.

mod answer;
mod counted;
mod uses;
mod waiting;

use std::time::Duration;

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP, PeerFamily},
    id::{GrantId, ToolId},
    peer::PathState,
    reason::Reason,
    record::{
        CALL_LIVE_FLOW, CALL_PARKED, CALL_TOOK_USE, CALL_UNATTESTED, CallRecord, Hook, ProcessFacts,
    },
};

use super::{
    Engine,
    approvals::{Asking, Standing},
    images::ImageStanding,
    nanoseconds,
    pending::{Awaits, GroupKey, WaitingCall},
};
use crate::{
    decision::Outcome,
    resolver::{
        attestation::socket_files::FileId,
        grant::GrantState,
        policy::{
            Agent, Approval, ImageOperand, Mode, OnMiss, PolicyName, Question, Ruling,
            determining_policies, rule,
        },
    },
    verdicts::{Allowance, Extent, UNTIL_NEXT_GENERATION_NS},
};
use answer::Ending;
pub(super) use uses::UseStage;

/// How long a caller may wait for its executable to be hashed, for who vouches for it, or for a use to be recorded.
const IDENTITY_LIMIT: Duration = Duration::from_secs(10);

/// How long a decision about a unix socket may hold without another look at what the policy's paths lead
/// to: a denial, as any of them may lead to that socket tomorrow, and what is allowed where its file
/// system can't tell it from a successor with its inode number. Callers that must not wait come back
/// for their answer in that time.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What a call is allowed under, but for a use and an approver's yes.
#[derive(Clone, Copy)]
struct Entitled {
    tool: ToolId,
    grant: Option<GrantId>,
    expires_ns: u64,
    reason: Reason,
    counted: bool,
}

/// What is to be done about one question.
enum Resolution {
    Allow { tool: ToolId, allowance: Allowance },
    Deny { reason: Reason, tool: Option<ToolId>, lasting: bool },
    Wait { awaits: Awaits, limit: Duration },
    Spend { grant: GrantId, tool: ToolId },
}

impl Engine {
    /// A question of the kernel side.
    pub(super) fn on_request(&mut self, record: &CallRecord, hook: Hook) {
        self.ask(record, hook);
        if matches!(hook, Hook::CgroupUnixConnect | Hook::CgroupUnixSend) {
            self.tell_whether_open(record);
        }
    }

    /// A caller that can be neither held nor stopped waits in the hook until it is decided, or known
    /// that somebody has to decide.
    fn tell_whether_open(&mut self, record: &CallRecord) {
        match self.pending.awaits(&GroupKey::of(record)) {
            Some(Awaits::Grant { .. } | Awaits::Approval { .. }) => {
                self.answer_path(record.request.get(), PathState::Open, FileId::default());
            }
            Some(Awaits::Identity | Awaits::Use { .. }) | None => {}
        }
    }

    fn ask(&mut self, record: &CallRecord, hook: Hook) {
        if record.flags & CALL_PARKED != 0 {
            return self.on_parked(record);
        }
        let key = GroupKey::of(record);
        // A held packet asks again, and so does a stopped caller that somebody else continued: the
        // call waits already, unless the answer was lost.
        if self.pending.has_call(&key, record) {
            return;
        }
        self.know_peer(&record.destination);
        // Or it was asked again while its call was being ended.
        if hook == Hook::Egress && self.verdicts.has_ended(record.request) {
            return;
        }
        let call = WaitingCall::new(*record, hook);
        if self.use_stages.contains_key(&key) {
            if record.flags & CALL_LIVE_FLOW != 0 {
                // The one entry of the map is the flow's for a moment.
                self.withdraw_use(&key);
            } else if let Some(tool) = self.tool_at(&record.destination).map(|tool| tool.id) {
                return self.wait(key, call, Awaits::Use { tool }, IDENTITY_LIMIT);
            }
        }
        let resolution = self.resolve(record);
        self.settle(key, call, &resolution);
        if is_tcp(&record.destination) {
            self.expect_held_of(&record.process);
        }
    }

    /// A call that the kernel side denied by itself.
    pub(super) fn on_denied(&mut self, record: &CallRecord, hook: Hook) {
        self.report_told(record, hook, Outcome::Denied);
        if hook == Hook::Egress {
            self.reset_flow(record);
        }
    }

    /// A call that the kernel side allowed by itself.
    pub(super) fn on_allowed(&mut self, record: &CallRecord, hook: Hook) {
        if record.flags & CALL_TOOK_USE != 0 {
            return self.on_use_taken(record, hook);
        }
        self.report_told(record, hook, Outcome::Allowed);
        self.make_exact(record, hook);
    }

    /// A call that went through in audit mode.
    pub(super) fn on_audited(&mut self, record: &CallRecord, hook: Hook) {
        self.report_told(record, hook, Outcome::Audited);
    }

    fn report_told(&mut self, record: &CallRecord, hook: Hook, outcome: Outcome) {
        let reason = Reason::from_raw(record.reason).unwrap_or(Reason::Internal);
        let ending = Ending { outcome, reason, tool: self.tool_of(record), grant: record.grant };
        self.report(record, hook, &ending, record.header.time_ns);
    }

    /// What exactly is missing; `None` where nothing is any more: it was granted meanwhile.
    fn missing(&self, record: &CallRecord) -> Option<Reason> {
        let agent = self.policy.agent(self.agent_names.get(&record.process.agent)?)?;
        let via = self.tools_named_by(&record.process);
        let now_ns = self.clock.now_ns();
        let question = self.question(agent, &record.process, &record.destination, &via, now_ns);
        match rule(&question) {
            Ruling::Deny { reason, .. } | Ruling::Wait { reason, .. } => Some(reason),
            Ruling::Allow { approval: Approval::Required, .. } => Some(Reason::NeedsApproval),
            Ruling::Allow { approval: Approval::None, .. } => None,
        }
    }

    /// The tools whose `via` names an image's executable.
    pub(super) fn tools_named_by(&self, facts: &ProcessFacts) -> Vec<ToolId> {
        let image = self.images.get(&facts.exec);
        self.via.tools_of(facts, image.and_then(|image| image.process.sha256.as_ref()))
    }

    /// The policies by which a call was decided when the kernel side saw it.
    fn policies_of(&self, record: &CallRecord) -> Vec<PolicyName> {
        let name = self.agent_names.get(&record.process.agent);
        let Some(agent) = name.and_then(|name| self.policy.agent(name)) else { return Vec::new() };
        let via = self.tools_named_by(&record.process);
        let at_ns = record.header.time_ns;
        determining_policies(&self.question(
            agent,
            &record.process,
            &record.destination,
            &via,
            at_ns,
        ))
    }

    /// Everything that has a say in a call, at a moment of `CLOCK_BOOTTIME`, ns.
    pub(super) fn question<'a>(
        &'a self,
        agent: &'a Agent,
        facts: &ProcessFacts,
        destination: &'a Destination,
        via: &'a [ToolId],
        now_ns: u64,
    ) -> Question<'a> {
        let image = self.images.get(&facts.exec);
        let outside = image.and_then(|image| match image.standing {
            ImageStanding::Limited(reason) => Some(reason),
            ImageStanding::Hashing
            | ImageStanding::Asked
            | ImageStanding::Attested
            | ImageStanding::Refused(_)
            | ImageStanding::Unreadable(_) => None,
        });
        let process = image.map(|image| &*image.process);
        Question {
            policy: &self.policy,
            agent,
            grants: &self.grants,
            instance: facts.instance,
            image: ImageOperand { outside, via, process },
            destination,
            tool: self.tool_at(destination),
            now_ns,
            wall: self.clock.wall(now_ns),
        }
    }

    fn tool_of(&self, record: &CallRecord) -> Option<ToolId> {
        if record.generation == self.verdicts.generation().get() && !record.tool.is_none() {
            return Some(record.tool);
        }
        self.tool_at(&record.destination).map(|tool| tool.id)
    }

    /// Decides one question. The only place where that happens.
    fn resolve(&mut self, record: &CallRecord) -> Resolution {
        let passing = |reason| Resolution::Deny { reason, tool: None, lasting: false };
        let Some(name) = self.agent_names.get(&record.process.agent).cloned() else {
            return passing(Reason::AgentUnknown);
        };
        match self.attest(&record.process) {
            ImageStanding::Hashing | ImageStanding::Asked => {
                return Resolution::Wait { awaits: Awaits::Identity, limit: IDENTITY_LIMIT };
            }
            ImageStanding::Refused(reason) | ImageStanding::Unreadable(reason) => {
                return passing(reason);
            }
            // Its identity stays unknown to the kernel side, which asks about all that it does.
            ImageStanding::Limited(_) => {}
            ImageStanding::Attested => {
                if record.flags & CALL_UNATTESTED != 0 {
                    let written = self.verdicts.identify(record.process.exec, None);
                    self.check(written);
                }
            }
        }
        let destination = record.destination;
        self.peers.locate(&self.policy, &destination);
        if self.peers.is_control(&destination) {
            return Resolution::Deny { reason: Reason::Guarded, tool: None, lasting: true };
        }
        let Some(agent) = self.policy.agent(&name) else {
            return passing(Reason::AgentUnknown);
        };
        let now_ns = self.clock.now_ns();
        let via = self.tools_named_by(&record.process);
        let question = self.question(agent, &record.process, &destination, &via, now_ns);
        // What the next minute may change is asked about again.
        let lasting = !question.depends_on_time();
        let ruling = rule(&question);
        let can_wait = record.flags & CALL_LIVE_FLOW == 0
            && agent.mode == Mode::Enforce
            && agent.on_miss == OnMiss::Stall
            && !agent.stall_limit.is_zero();
        match ruling {
            Ruling::Allow { tool, grant, expires_ns, reason, counted, approval } => {
                let entitled = Entitled { tool, grant, expires_ns, reason, counted };
                match approval {
                    Approval::None => self.resolve_entitled(&name, record, entitled, now_ns),
                    Approval::Required => {
                        self.resolve_approval(&name, record, entitled, can_wait, now_ns)
                    }
                }
            }
            Ruling::Deny { reason, tool } => {
                self.policy_failures += u64::from(reason == Reason::PolicyFailed);
                Resolution::Deny { reason: agent.on_miss.denial(reason), tool, lasting }
            }
            Ruling::Wait { reason, tool } => {
                if let Some(allowance) = self.given_allowance(agent, record, tool, now_ns) {
                    return Resolution::Allow { tool, allowance };
                }
                if !can_wait {
                    let reason = agent.on_miss.denial(reason);
                    return Resolution::Deny { reason, tool: Some(tool), lasting };
                }
                Resolution::Wait {
                    awaits: Awaits::Grant { reason, tool },
                    limit: agent.stall_limit,
                }
            }
        }
    }

    /// A call that nothing but perhaps an approver's yes is missing for.
    fn resolve_approval(
        &mut self,
        agent: &str,
        record: &CallRecord,
        entitled: Entitled,
        can_wait: bool,
        now_ns: u64,
    ) -> Resolution {
        let Entitled { tool, grant, .. } = entitled;
        let asking = if can_wait { Asking::Yes } else { Asking::No };
        let denied = |reason| Resolution::Deny { reason, tool: Some(tool), lasting: false };
        match self.approval(record, agent, tool, grant, asking, now_ns) {
            Standing::Given { expires_ns } => {
                let expires_ns = entitled.expires_ns.min(expires_ns);
                let entitled = Entitled { expires_ns, ..entitled };
                self.resolve_entitled(agent, record, entitled, now_ns)
            }
            Standing::Refused => denied(Reason::ApprovalDenied),
            Standing::Asked(question) => Resolution::Wait {
                awaits: Awaits::Approval { tool, question },
                limit: self.policy.approvals().wait,
            },
            Standing::Unasked(reason) => denied(reason),
        }
    }

    /// A call that nothing is missing for, but perhaps a use.
    fn resolve_entitled(
        &self,
        agent: &str,
        record: &CallRecord,
        entitled: Entitled,
        now_ns: u64,
    ) -> Resolution {
        let Entitled { tool, grant, expires_ns, reason, counted } = entitled;
        let Some(agent) = self.policy.agent(agent) else {
            return Resolution::Deny { reason: Reason::AgentUnknown, tool: None, lasting: false };
        };
        if counted {
            return match (self.given_allowance(agent, record, tool, now_ns), grant) {
                (Some(allowance), _) => {
                    let expires_ns = allowance.expires_ns.min(expires_ns);
                    Resolution::Allow { tool, allowance: Allowance { expires_ns, ..allowance } }
                }
                (None, Some(grant)) => Resolution::Spend { grant, tool },
                (None, None) => {
                    Resolution::Deny { reason: Reason::Internal, tool: None, lasting: false }
                }
            };
        }
        let expires_ns = if self.peers.is_ambiguous(&record.destination) {
            expires_ns.min(now_ns + nanoseconds(LOOK_AGAIN))
        } else {
            expires_ns
        };
        let grant = grant.unwrap_or_default();
        let (extent, marks) = (Extent::Any, agent.socket_mark.is_some());
        let allowance = Allowance { expires_ns, grant, tool, reason, extent, marks };
        Resolution::Allow { tool, allowance }
    }

    /// What a call may go ahead under although no use is left for another: a live flow under the
    /// grant that admitted it, a new call under the one whose use is in hand. As long as that lasts.
    fn given_allowance(
        &self,
        agent: &Agent,
        record: &CallRecord,
        tool: ToolId,
        now_ns: u64,
    ) -> Option<Allowance> {
        let key = GroupKey::of(record);
        let (grant, extent) = if record.flags & CALL_LIVE_FLOW != 0 {
            (record.grant, Extent::LiveFlow)
        } else if let Some(UseStage::InHand(grant)) = self.use_stages.get(&key) {
            (*grant, Extent::Once)
        } else {
            return None;
        };
        let (grant, tool) = (self.grants.get(grant)?, self.policy.tool(tool)?);
        let lives = match self.policy.standing_of(&self.grants, grant, tool, now_ns) {
            GrantState::Live | GrantState::UsedUp => true,
            GrantState::NotYetValid
            | GrantState::Expired
            | GrantState::Revoked
            | GrantState::ParentEnded
            | GrantState::ManifestChanged
            | GrantState::IssuerNotTrusted
            | GrantState::Unsigned
            | GrantState::BeyondPrincipal => false,
        };
        let subject = &grant.subject;
        let same_subject = subject.agent == agent.name
            && subject.instance.is_none_or(|instance| instance == record.process.instance);
        let approved = agent.approves(tool.id) && agent.check_manifest(tool.id).is_ok();
        let permitted = grant.scope.permits(&tool.name, &record.destination);
        if !(lives && same_subject && approved && permitted) {
            return None;
        }
        let via = self.tools_named_by(&record.process);
        let destination = &record.destination;
        let question = self.question(agent, &record.process, destination, &via, now_ns);
        let until_ns = question.permitted_until_ns(tool, grant)?;
        Some(Allowance {
            expires_ns: grant.expires_ns.min(until_ns),
            grant: grant.id,
            tool: tool.id,
            reason: Reason::AllowedGrant,
            extent,
            marks: agent.socket_mark.is_some(),
        })
    }
}

/// When a lasting denial ends, ns of `CLOCK_BOOTTIME`.
fn denial_end_ns(destination: &Destination, now_ns: u64) -> u64 {
    if destination.family() == PeerFamily::Unix as u8 {
        now_ns + nanoseconds(LOOK_AGAIN)
    } else {
        UNTIL_NEXT_GENERATION_NS
    }
}

/// Whether a flow can be reset: one that was called, or one that was accepted.
fn is_tcp_flow(destination: &Destination) -> bool {
    let family = destination.family();
    (family == PeerFamily::Ip as u8 || family == PeerFamily::Listen as u8)
        && destination.protocol() == PROTOCOL_TCP
}

/// Whether a call's packets can be held.
fn is_tcp(destination: &Destination) -> bool {
    destination.family() == PeerFamily::Ip as u8 && destination.protocol() == PROTOCOL_TCP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_is_held_and_reset() {
        let peer = Destination::v4(1, 443, PROTOCOL_TCP);
        assert!(is_tcp(&peer) && is_tcp_flow(&peer));
        assert!(!is_tcp(&peer.listening()) && is_tcp_flow(&peer.listening()));
        for other in [
            Destination::v4(1, 53, 17),
            Destination::unix(6),
            Destination::vsock(6, 6),
            Destination::netlink(6),
            Destination::socket(6),
        ] {
            assert!(!is_tcp(&other) && !is_tcp_flow(&other), "{other}");
        }
    }

    #[test]
    fn denials_last_until_the_next_generation_but_those_of_unix_sockets_are_looked_at_again() {
        assert_eq!(denial_end_ns(&Destination::unix(7), 5), 10_000_000_005);
        for other in [Destination::v4(1, 2, PROTOCOL_TCP), Destination::vsock(2, 7)] {
            assert_eq!(denial_end_ns(&other, 5), UNTIL_NEXT_GENERATION_NS, "{other}");
        }
    }
}
