//! 2. Request -> decision -> answer.
//!
//! A question is answered at once where identity, policy and grants have the answer; otherwise it
//! waits, and is decided again whenever something changes, until its deadline. Every question
//! ends in exactly one event beside the one that says it waits. Here is what the kernel side tells
//! and what is decided; `answer` makes it known, `waiting` is what can't be decided yet, `uses`
//! are those of counted grants.

mod answer;
mod uses;
mod waiting;

use std::time::Duration;

use agent_enforcer_common::{
    id::{GrantId, ToolId},
    reason::Reason,
    record::{CALL_LIVE_FLOW, CALL_UNATTESTED, CallRecord, Hook},
};

use super::{
    Engine,
    images::ImageStanding,
    pending::{Awaits, GroupKey, WaitingCall},
};
use crate::{
    decision::Outcome,
    resolver::{
        grant::{GrantState, GrantTable},
        policy::{Agent, Mode, OnMiss, Ruling, Tool, rule},
    },
    verdicts::{Allowance, Extent},
};

/// How long a caller may wait for its executable to be hashed, or for a use to be recorded.
const IDENTITY_LIMIT: Duration = Duration::from_secs(10);

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
        let key = GroupKey { exec: record.process.exec, destination: record.destination };
        // A held packet asks again: its call waits already, unless the answer was lost.
        if self.pending.has_call(&key, record.socket_cookie) {
            return;
        }
        let resolution = self.resolve(record);
        self.settle(key, WaitingCall { record: *record, hook, pidfd: None }, &resolution);
    }

    /// A call that the kernel side denied by itself.
    pub(super) fn on_denied(&mut self, record: &CallRecord, hook: Hook) {
        let reason = Reason::from_raw(record.reason).unwrap_or(Reason::Internal);
        self.report(record, hook, Outcome::Denied, reason, self.tool_of(record), record.grant);
        if hook == Hook::Egress {
            self.reset_flow(record);
        }
    }

    /// A call that the kernel side allowed by itself.
    pub(super) fn on_allowed(&mut self, record: &CallRecord, hook: Hook) {
        let reason = Reason::from_raw(record.reason).unwrap_or(Reason::Internal);
        self.report(record, hook, Outcome::Allowed, reason, self.tool_of(record), record.grant);
    }

    /// A call that went through in audit mode.
    pub(super) fn on_audited(&mut self, record: &CallRecord, hook: Hook) {
        let reason = Reason::from_raw(record.reason).unwrap_or(Reason::Internal);
        self.report(record, hook, Outcome::Audited, reason, self.tool_of(record), record.grant);
    }

    /// What exactly is missing; `None` where nothing is any more: it was granted meanwhile.
    fn missing(&self, record: &CallRecord) -> Option<Reason> {
        let agent = self.policy.agent(self.agent_names.get(&record.process.agent)?)?;
        let (instance, now_ns) = (record.process.instance, self.clock.now_ns());
        match rule(&self.policy, agent, &self.grants, instance, &record.destination, now_ns) {
            Ruling::Deny { reason, .. } | Ruling::Wait { reason, .. } => Some(reason),
            Ruling::Allow { .. } => None,
        }
    }

    fn tool_of(&self, record: &CallRecord) -> Option<ToolId> {
        if record.generation == self.verdicts.generation().get() && !record.tool.is_none() {
            return Some(record.tool);
        }
        self.policy.tool_at(&record.destination).map(|tool| tool.id)
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
        let Some(agent) = self.policy.agent(&name) else {
            return passing(Reason::AgentUnknown);
        };
        let (destination, now_ns) = (record.destination, self.clock.now_ns());
        let ruling =
            rule(&self.policy, agent, &self.grants, record.process.instance, &destination, now_ns);
        match ruling {
            Ruling::Allow { tool, grant, expires_ns, reason, counted: false } => {
                let grant = grant.unwrap_or_default();
                let extent = Extent::Any;
                let allowance = Allowance { expires_ns, grant, tool, reason, extent };
                Resolution::Allow { tool, allowance }
            }
            Ruling::Deny { reason, tool } => {
                Resolution::Deny { reason: agent.on_miss.denial(reason), tool, lasting: true }
            }
            Ruling::Allow { tool, grant, counted: true, .. } => {
                match (self.live_allowance(agent, record, tool, now_ns), grant) {
                    (Some(allowance), _) => Resolution::Allow { tool, allowance },
                    (None, Some(grant)) => Resolution::Spend { grant, tool },
                    (None, None) => passing(Reason::Internal),
                }
            }
            Ruling::Wait { reason, tool } => {
                if let Some(allowance) = self.live_allowance(agent, record, tool, now_ns) {
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

    fn live_allowance(
        &self,
        agent: &Agent,
        record: &CallRecord,
        tool: ToolId,
        now_ns: u64,
    ) -> Option<Allowance> {
        live_allowance(&self.grants, agent, record, self.policy.tool(tool)?, now_ns)
    }
}

/// A live flow goes on under the grant that admitted it, used up or not, as long as that lasts.
fn live_allowance(
    grants: &GrantTable,
    agent: &Agent,
    record: &CallRecord,
    tool: &Tool,
    now_ns: u64,
) -> Option<Allowance> {
    if record.flags & CALL_LIVE_FLOW == 0 {
        return None;
    }
    let grant = grants.get(record.grant)?;
    let same_subject = grant.subject.agent == agent.name
        && grant.subject.instance.is_none_or(|instance| instance == record.process.instance);
    let lives = match grant.state(now_ns) {
        GrantState::Live | GrantState::UsedUp => true,
        GrantState::NotYetValid | GrantState::Expired | GrantState::Revoked => false,
    };
    (same_subject && lives && agent.approves(tool.id) && grant.tools.contains(&tool.name))
        .then_some(Allowance {
            expires_ns: grant.expires_ns,
            grant: grant.id,
            tool: tool.id,
            reason: Reason::AllowedGrant,
            extent: Extent::LiveFlow,
        })
}
