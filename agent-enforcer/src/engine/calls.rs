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
    reason::Reason,
    record::{CALL_LIVE_FLOW, CALL_PARKED, CALL_TOOK_USE, CALL_UNATTESTED, CallRecord, Hook},
};

use super::{
    Engine,
    images::ImageStanding,
    nanoseconds,
    pending::{Awaits, GroupKey, WaitingCall},
};
use crate::{
    decision::Outcome,
    resolver::{
        grant::GrantState,
        policy::{Agent, Mode, OnMiss, Ruling, rule},
    },
    verdicts::{Allowance, Extent, UNTIL_NEXT_GENERATION_NS},
};
use answer::Ending;
pub(super) use uses::UseStage;

/// How long a caller may wait for its executable to be hashed, or for a use to be recorded.
const IDENTITY_LIMIT: Duration = Duration::from_secs(10);

/// How long a decision about a unix socket may hold without another look at what the policy's paths lead
/// to: a denial, as any of them may lead to that socket tomorrow, and what is allowed where its file
/// system can't tell it from a successor with its inode number. Callers that must not wait come back
/// for their answer in that time.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

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
        let (instance, now_ns) = (record.process.instance, self.clock.now_ns());
        let tool = self.tool_at(&record.destination);
        match rule(agent, &self.grants, instance, tool, now_ns) {
            Ruling::Deny { reason, .. } | Ruling::Wait { reason, .. } => Some(reason),
            Ruling::Allow { .. } => None,
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
            ImageStanding::Hashing => {
                return Resolution::Wait { awaits: Awaits::Identity, limit: IDENTITY_LIMIT };
            }
            ImageStanding::Refused(reason) | ImageStanding::Unreadable(reason) => {
                return passing(reason);
            }
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
        let tool = self.tool_at(&destination);
        match rule(agent, &self.grants, record.process.instance, tool, now_ns) {
            Ruling::Allow { tool, grant, expires_ns, reason, counted: false } => {
                let grant = grant.unwrap_or_default();
                let expires_ns = if self.peers.is_ambiguous(&destination) {
                    expires_ns.min(now_ns + nanoseconds(LOOK_AGAIN))
                } else {
                    expires_ns
                };
                let (extent, marks) = (Extent::Any, agent.socket_mark.is_some());
                let allowance = Allowance { expires_ns, grant, tool, reason, extent, marks };
                Resolution::Allow { tool, allowance }
            }
            Ruling::Deny { reason, tool } => {
                Resolution::Deny { reason: agent.on_miss.denial(reason), tool, lasting: true }
            }
            Ruling::Allow { tool, grant, counted: true, .. } => {
                match (self.given_allowance(agent, record, tool, now_ns), grant) {
                    (Some(allowance), _) => Resolution::Allow { tool, allowance },
                    (None, Some(grant)) => Resolution::Spend { grant, tool },
                    (None, None) => passing(Reason::Internal),
                }
            }
            Ruling::Wait { reason, tool } => {
                if let Some(allowance) = self.given_allowance(agent, record, tool, now_ns) {
                    return Resolution::Allow { tool, allowance };
                }
                let live = record.flags & CALL_LIVE_FLOW != 0;
                let denies = live
                    || agent.mode == Mode::Audit
                    || agent.on_miss == OnMiss::Deny
                    || agent.stall_limit.is_zero();
                if denies {
                    let reason = agent.on_miss.denial(reason);
                    return Resolution::Deny { reason, tool: Some(tool), lasting: true };
                }
                Resolution::Wait {
                    awaits: Awaits::Grant { reason, tool },
                    limit: agent.stall_limit,
                }
            }
        }
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
        let lives = match grant.state(now_ns) {
            GrantState::Live | GrantState::UsedUp => true,
            GrantState::NotYetValid | GrantState::Expired | GrantState::Revoked => false,
        };
        let subject = &grant.subject;
        let same_subject = subject.agent == agent.name
            && subject.instance.is_none_or(|instance| instance == record.process.instance);
        (lives && same_subject && agent.approves(tool.id) && grant.tools.contains(&tool.name))
            .then_some(Allowance {
                expires_ns: grant.expires_ns,
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
