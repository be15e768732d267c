//! 2. Request -> decision -> answer.
//!
//! A question is answered at once where identity, policy and grants have the answer; otherwise it
//! waits, and is decided again whenever something changes, until its deadline. Every question
//! ends in exactly one event beside the one that says it waits.

use std::{sync::Arc, time::Duration};

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP},
    id::{GrantId, ToolId},
    reason::Reason,
    record::{CALL_LIVE_FLOW, CallRecord, Hook},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    Engine, UseRequest,
    images::ImageStanding,
    nanoseconds,
    pending::{Awaits, Full, Group, GroupKey, WaitingCall},
};
use crate::{
    decision::{CallDecision, GrantRef, Outcome},
    events::{DaemonEvent, Event},
    resolver::{
        attestation::process::network_namespace,
        grant::{Grant, GrantState, GrantStoreError},
        policy::{Agent, Mode, OnMiss, Ruling, rule},
    },
    verdicts::{Allowance, Extent, UNTIL_NEXT_GENERATION_NS},
};

/// How long a caller may wait for its executable to be hashed.
const IDENTITY_LIMIT: Duration = Duration::from_secs(10);
/// How long a denial for want of time or room is remembered: the next call asks again.
const PASSING: Duration = Duration::from_millis(200);
/// A question of this age is no longer waited for in the hook: its flow is held.
const HELD: Duration = Duration::from_millis(20);

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
        self.settle(key, WaitingCall { record: *record, hook, pidfd: None }, resolution);
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
                // The kernel side may have forgotten it.
                let written = self.verdicts.identify(record.process.exec, None);
                self.check(written);
            }
        }
        let Some(agent) = self.policy.agent(&name) else {
            return passing(Reason::AgentUnknown);
        };
        let (destination, now_ns) = (record.destination, self.clock.now_ns());
        let ruling = rule(
            &self.policy,
            agent,
            &self.grants,
            record.process.instance,
            &destination,
            now_ns,
        );
        match ruling {
            Ruling::Allow { tool, grant, expires_ns, reason, counted: false } => {
                let grant = grant.unwrap_or_default();
                let extent = Extent::Any;
                let allowance = Allowance { expires_ns, grant, tool, reason, extent };
                Resolution::Allow { tool, allowance }
            }
            Ruling::Deny { reason, tool } => Resolution::Deny { reason, tool, lasting: true },
            Ruling::Allow { tool, grant, counted: true, .. } => {
                match (live_allowance(&self.grants, agent, record, tool, now_ns), grant) {
                    (Some(allowance), _) => Resolution::Allow { tool, allowance },
                    (None, Some(grant)) => Resolution::Spend { grant, tool },
                    (None, None) => passing(Reason::Internal),
                }
            }
            Ruling::Wait { reason, tool } => {
                if let Some(allowance) =
                    live_allowance(&self.grants, agent, record, tool, now_ns)
                {
                    return Resolution::Allow { tool, allowance };
                }
                let live = record.flags & CALL_LIVE_FLOW != 0;
                let denies = live
                    || agent.mode == Mode::Audit
                    || agent.on_miss == OnMiss::Deny
                    || agent.stall_limit.is_zero();
                if denies {
                    return Resolution::Deny { reason, tool: Some(tool), lasting: true };
                }
                Resolution::Wait {
                    awaits: Awaits::Grant { reason, tool },
                    limit: agent.stall_limit,
                }
            }
        }
    }

    /// Does what was resolved, for one call that does not wait (any more).
    fn settle(&mut self, key: GroupKey, call: WaitingCall, resolution: Resolution) {
        match resolution {
            Resolution::Allow { tool, allowance } => self.allow(key, &call, tool, &allowance),
            Resolution::Deny { reason, tool, lasting } => {
                self.deny(key, &call, reason, tool, lasting);
            }
            Resolution::Wait { awaits, limit } => self.wait(key, call, awaits, limit),
            Resolution::Spend { grant, tool } => self.spend(key, call, grant, tool),
        }
    }

    fn allow(&mut self, key: GroupKey, call: &WaitingCall, tool: ToolId, allowance: &Allowance) {
        let written = self.verdicts.allow(key.exec, key.destination, allowance);
        self.check(written);
        let WaitingCall { record, hook, pidfd: _ } = call;
        let reason = allowance.reason;
        self.report(record, *hook, Outcome::Allowed, reason, Some(tool), allowance.grant);
    }

    fn deny(
        &mut self,
        key: GroupKey,
        call: &WaitingCall,
        reason: Reason,
        tool: Option<ToolId>,
        lasting: bool,
    ) {
        let now_ns = self.clock.now_ns();
        let until_ns =
            if lasting { UNTIL_NEXT_GENERATION_NS } else { now_ns + nanoseconds(PASSING) };
        let written = self.verdicts.deny(key.exec, key.destination, reason, tool, until_ns);
        self.check(written);
        let WaitingCall { record, hook, pidfd: _ } = call;
        let audited = self.is_audited(record);
        let outcome = if audited { Outcome::Audited } else { Outcome::Denied };
        self.report(record, *hook, outcome, reason, tool, GrantId::NONE);
        let held = now_ns.saturating_sub(record.header.time_ns) > nanoseconds(HELD);
        let live = record.flags & CALL_LIVE_FLOW != 0;
        // A younger one is still waited for, or tells of itself with its next packet.
        if !audited && (held || live) {
            self.reset_flow(record);
        }
    }

    fn is_audited(&self, record: &CallRecord) -> bool {
        self.agent_names
            .get(&record.process.agent)
            .and_then(|name| self.policy.agent(name))
            .is_some_and(|agent| agent.mode == Mode::Audit)
    }

    fn wait(&mut self, key: GroupKey, mut call: WaitingCall, awaits: Awaits, limit: Duration) {
        let record = call.record;
        let hook = call.hook;
        call.pidfd = i32::try_from(record.process.tgid)
            .ok()
            .and_then(Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let deadline_ns = record.header.time_ns.saturating_add(nanoseconds(limit));
        match self.pending.add(key, call, awaits, deadline_ns) {
            Ok(()) => {
                if let Awaits::Grant { reason: _, tool } = awaits {
                    let reason = Reason::Stalled;
                    self.report(&record, hook, Outcome::Stalled, reason, Some(tool), GrantId::NONE);
                }
            }
            Err(Full) => {
                let call = WaitingCall { record, hook, pidfd: None };
                self.deny(key, &call, Reason::PendingLimit, None, false);
            }
        }
    }

    /// A use is spent before the call goes ahead, and is on the disk before that.
    fn spend(&mut self, key: GroupKey, call: WaitingCall, grant: GrantId, tool: ToolId) {
        let in_flight = matches!(self.pending.awaits(&key), Some(Awaits::Use { .. }))
            || self.verdicts.has_untaken(key.exec, key.destination, self.clock.now_ns());
        let asked = in_flight || self.ask_for_use(key, grant);
        if asked {
            self.wait(key, call, Awaits::Use { tool }, IDENTITY_LIMIT);
        } else {
            self.deny(key, &call, Reason::PendingLimit, Some(tool), false);
        }
    }

    fn ask_for_use(&mut self, key: GroupKey, grant: GrantId) -> bool {
        if let Err(error) = self.grants.spend(grant, self.clock.now_ns()) {
            tracing::debug!(%error, "a use could not be spent");
            return false;
        }
        self.uses.try_send(UseRequest { grant, key }).is_ok()
    }

    /// A use is on the disk: one waiting call goes ahead.
    pub(super) fn on_use_recorded(
        &mut self,
        id: GrantId,
        key: GroupKey,
        result: Result<Grant, GrantStoreError>,
    ) {
        let grant = match result {
            Ok(grant) => grant,
            Err(error) => {
                tracing::error!(%error, grant = id.get(), "a use could not be recorded");
                self.tell(DaemonEvent::Alarm {
                    what: format!("a use of grant g-{} could not be recorded: {error}", id.get()),
                    remedy: "make room on the disk of the state directory".to_owned(),
                });
                if let Some(call) = self.pending.take_one(&key) {
                    self.deny(key, &call, Reason::Internal, None, false);
                }
                return;
            }
        };
        let now_ns = self.clock.now_ns();
        let expires_ns = grant.expires_ns;
        let used_up = grant.state(now_ns) == GrantState::UsedUp;
        if let Some(call) = self.pending.take_one(&key)
            && let Some(tool) = self.policy.tool_at(&key.destination).map(|tool| tool.id)
        {
            let reason = Reason::AllowedGrant;
            let extent = Extent::Once;
            let allowance = Allowance { expires_ns, grant: id, tool, reason, extent };
            self.allow(key, &call, tool, &allowance);
        }
        if used_up {
            self.note_ended_grants();
        }
    }

    /// Calls that wait for a use, one after the other.
    pub(super) fn retry_uses(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let now_ns = self.clock.now_ns();
        let keys = self.pending.keys(|_, group| matches!(group.awaits, Awaits::Use { .. }));
        for key in keys {
            if !self.verdicts.has_untaken(key.exec, key.destination, now_ns) {
                self.decide_waiting(|waiting, _| *waiting == key);
            }
        }
    }

    /// Decides waiting calls again, after something has changed.
    pub(super) fn decide_waiting(&mut self, wanted: impl Fn(&GroupKey, &Group) -> bool) {
        for key in self.pending.keys(wanted) {
            self.decide_group(key);
        }
    }

    fn decide_group(&mut self, key: GroupKey) {
        let Some(first) = self.first_call(&key) else { return };
        match self.resolve(&first) {
            Resolution::Wait { awaits, limit } => {
                let was_identity = self.pending.awaits(&key) == Some(Awaits::Identity);
                let now_waits_for_grant = matches!(awaits, Awaits::Grant { .. });
                let deadline_ns = first.header.time_ns.saturating_add(nanoseconds(limit));
                self.pending.wait_on(&key, awaits, deadline_ns);
                if was_identity && now_waits_for_grant {
                    self.report_stalled(&key);
                }
            }
            Resolution::Spend { grant, tool } => {
                let waits_for_disk = matches!(self.pending.awaits(&key), Some(Awaits::Use { .. }))
                    && self.uses_in_flight.contains(&key);
                if !waits_for_disk && self.ask_for_use(key, grant) {
                    self.pending.wait_on(
                        &key,
                        Awaits::Use { tool },
                        self.clock.now_ns() + nanoseconds(IDENTITY_LIMIT),
                    );
                }
            }
            Resolution::Allow { tool, allowance } => {
                for call in self.pending.take(&key).into_iter().flat_map(|group| group.calls) {
                    self.allow(key, &call, tool, &allowance);
                }
            }
            Resolution::Deny { reason, tool, lasting } => {
                for call in self.pending.take(&key).into_iter().flat_map(|group| group.calls) {
                    self.deny(key, &call, reason, tool, lasting);
                }
            }
        }
    }
}
