//! 2. Request -> decision -> answer.
//!
//! A question is answered at once where identity, policy and grants have the answer; otherwise it
//! waits, and is decided again whenever something changes, until its deadline. Every question
//! ends in exactly one event beside the one that says it waits.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use agent_enforcer_common::{
    destination::PROTOCOL_TCP,
    id::{GrantId, ToolId},
    reason::Reason,
    record::{CALL_BY_PREFIX, CALL_LIVE_FLOW, CALL_UNATTESTED, CallRecord, Hook, ProcessFacts},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    Engine, UseRequest,
    images::ImageStanding,
    nanoseconds,
    pending::{Awaits, Full, Group, GroupKey, WaitingCall},
};
use crate::{
    decision::{CallDecision, Outcome},
    events::{DaemonEvent, Event},
    resolver::{
        attestation::process::network_namespace,
        grant::{Grant, GrantState, GrantStoreError, GrantTable},
        policy::{Agent, Mode, OnMiss, Ruling, Tool, rule},
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
        self.settle(key, WaitingCall { record: *record, hook, pidfd: None }, &resolution);
    }

    /// A call that the kernel side denied by itself.
    pub(super) fn on_denied(&mut self, record: &CallRecord, hook: Hook) {
        let reason = self.refined(record);
        self.report(record, hook, Outcome::Denied, reason, self.tool_of(record), record.grant);
        if hook == Hook::Egress {
            self.reset_flow(record);
        }
    }

    /// A call that the kernel side allowed by itself.
    pub(super) fn on_allowed(&mut self, record: &CallRecord, hook: Hook) {
        let reason = Reason::from_raw(record.reason).unwrap_or(Reason::Internal);
        self.report(record, hook, Outcome::Allowed, reason, self.tool_of(record), record.grant);
        if record.flags & CALL_BY_PREFIX != 0 {
            self.make_exact(record);
        }
    }

    /// Spares the next call of an image to the same destination the search for the prefix.
    fn make_exact(&mut self, record: &CallRecord) {
        if record.generation != self.verdicts.generation().get() {
            return;
        }
        if let Resolution::Allow { tool: _, allowance } = self.resolve(record)
            && allowance.extent == Extent::Any
        {
            let written = self.verdicts.allow(record.process.exec, record.destination, &allowance);
            self.check(written);
        }
    }

    /// A call that went through in audit mode.
    pub(super) fn on_audited(&mut self, record: &CallRecord, hook: Hook) {
        let reason = Reason::from_raw(record.reason).unwrap_or(Reason::Internal);
        self.report(record, hook, Outcome::Audited, reason, self.tool_of(record), record.grant);
    }

    /// The kernel side denies what misses (`on_miss: deny`) without knowing what exactly is missing.
    fn refined(&self, record: &CallRecord) -> Reason {
        let reason = Reason::from_raw(record.reason).unwrap_or(Reason::Internal);
        if reason != Reason::NoGrant {
            return reason;
        }
        let agent = self.agent_names.get(&record.process.agent);
        let Some(agent) = agent.and_then(|name| self.policy.agent(name)) else { return reason };
        let (instance, now_ns) = (record.process.instance, self.clock.now_ns());
        match rule(&self.policy, agent, &self.grants, instance, &record.destination, now_ns) {
            Ruling::Deny { reason, .. } | Ruling::Wait { reason, .. } => reason,
            // It was granted meanwhile.
            Ruling::Allow { .. } => reason,
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
            Ruling::Deny { reason, tool } => Resolution::Deny { reason, tool, lasting: true },
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
    fn settle(&mut self, key: GroupKey, call: WaitingCall, resolution: &Resolution) {
        match *resolution {
            Resolution::Allow { tool, ref allowance } => self.allow(key, &call, tool, allowance),
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
        let record = &call.record;
        let held = now_ns.saturating_sub(record.header.time_ns) > nanoseconds(HELD);
        let live = record.flags & CALL_LIVE_FLOW != 0;
        // A younger one is still waited for, or tells of itself with its next packet.
        if self.report_denied(call, reason, tool) == Outcome::Denied && (held || live) {
            self.reset_flow(record);
        }
    }

    /// Denies a call for want of room. Where others of its group wait, a verdict would be theirs as
    /// well: then its flow is ended without one.
    fn deny_without_room(&mut self, key: GroupKey, call: &WaitingCall, tool: Option<ToolId>) {
        let reason = Reason::PendingLimit;
        if self.pending.first(&key).is_none() {
            self.deny(key, call, reason, tool, false);
        } else if self.report_denied(call, reason, tool) == Outcome::Denied {
            self.reset_flow(&call.record);
        }
    }

    /// Tells of a denial; what it comes to in the agent's mode.
    fn report_denied(
        &mut self,
        call: &WaitingCall,
        reason: Reason,
        tool: Option<ToolId>,
    ) -> Outcome {
        let WaitingCall { record, hook, pidfd: _ } = call;
        let audited = self.is_audited(record);
        let outcome = if audited { Outcome::Audited } else { Outcome::Denied };
        self.report(record, *hook, outcome, reason, tool, GrantId::NONE);
        outcome
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
        if self.pending.add(key, call, awaits, deadline_ns) == Err(Full) {
            let call = WaitingCall { record, hook, pidfd: None };
            self.deny_without_room(key, &call, None);
        } else if let Awaits::Grant { reason: _, tool } = awaits {
            let none = GrantId::NONE;
            self.report(&record, hook, Outcome::Stalled, Reason::Stalled, Some(tool), none);
        }
    }

    /// A use is spent before the call goes ahead, and is on the disk before that.
    fn spend(&mut self, key: GroupKey, call: WaitingCall, grant: GrantId, tool: ToolId) {
        let asked = self.is_use_on_its_way(&key) || self.ask_for_use(key, grant);
        if asked {
            self.wait(key, call, Awaits::Use { tool }, IDENTITY_LIMIT);
        } else {
            self.deny_without_room(key, &call, Some(tool));
        }
    }

    /// False where the disk is too far behind.
    fn ask_for_use(&mut self, key: GroupKey, grant: GrantId) -> bool {
        if self.uses.try_send(UseRequest { grant, key }).is_err() {
            return false;
        }
        if let Err(error) = self.grants.spend(grant, self.clock.now_ns()) {
            tracing::debug!(%error, "the store will refuse this use as well");
        }
        self.uses_in_flight.insert(key);
        true
    }

    /// A use is on the disk: one waiting call goes ahead.
    pub(super) fn on_use_recorded(
        &mut self,
        id: GrantId,
        key: GroupKey,
        result: Result<Grant, GrantStoreError>,
    ) {
        self.uses_in_flight.remove(&key);
        let mut grant = match result {
            Ok(grant) => grant,
            // Others were faster.
            Err(GrantStoreError::Use { .. }) => {
                if let Some(call) = self.pending.take_one(&key) {
                    self.deny(key, &call, Reason::GrantUsedUp, None, false);
                }
                return;
            }
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
        // Uses that are still on their way to the disk count here already.
        if let Some(known) = self.grants.get(id) {
            grant.uses = grant.uses.max(known.uses);
        }
        self.grants.insert(grant);
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
        for key in self.pending.keys(|_, group| matches!(group.awaits, Awaits::Use { .. })) {
            if !self.is_use_on_its_way(&key) {
                self.decide_group(key);
            }
        }
    }

    /// Whether an answer that admits one call of a group is being made, or was not taken yet.
    fn is_use_on_its_way(&self, key: &GroupKey) -> bool {
        self.uses_in_flight.contains(key)
            || self.verdicts.has_untaken(key.exec, key.destination, self.clock.now_ns())
    }

    /// Decides waiting calls again, after something has changed.
    pub(super) fn decide_waiting(&mut self, wanted: impl Fn(&GroupKey, &Group) -> bool) {
        for key in self.pending.keys(wanted) {
            self.decide_group(key);
        }
    }

    fn decide_group(&mut self, key: GroupKey) {
        let Some(first) = self.pending.first(&key).map(|call| call.record) else { return };
        let awaited = self.pending.awaits(&key);
        match self.resolve(&first) {
            Resolution::Wait { awaits, limit } => {
                let deadline_ns = first.header.time_ns.saturating_add(nanoseconds(limit));
                self.pending.wait_on(&key, awaits, deadline_ns);
                if awaited == Some(Awaits::Identity) && awaits != Awaits::Identity {
                    self.report_stalled(&key, awaits);
                }
            }
            Resolution::Spend { grant, tool } => {
                if self.is_use_on_its_way(&key) || self.ask_for_use(key, grant) {
                    let deadline_ns = self.clock.now_ns() + nanoseconds(IDENTITY_LIMIT);
                    self.pending.wait_on(&key, Awaits::Use { tool }, deadline_ns);
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

    fn report_stalled(&mut self, key: &GroupKey, awaits: Awaits) {
        let Awaits::Grant { reason: _, tool } = awaits else { return };
        let calls: Vec<_> = self.pending.calls(key).map(|call| (call.record, call.hook)).collect();
        for (record, hook) in calls {
            let none = GrantId::NONE;
            self.report(&record, hook, Outcome::Stalled, Reason::Stalled, Some(tool), none);
        }
    }

    /// Denies calls whose time is over.
    pub(super) fn end_overdue(&mut self, now_ns: u64) {
        if self.pending.is_empty() {
            return;
        }
        for key in self.pending.keys(|_, group| now_ns >= group.deadline_ns) {
            let Some(Group { awaits, calls, .. }) = self.pending.take(&key) else { continue };
            let (reason, tool) = match awaits {
                Awaits::Identity => (Reason::IdentityUnverified, None),
                Awaits::Grant { reason: _, tool } => (Reason::StallTimeout, Some(tool)),
                Awaits::Use { tool } => (Reason::GrantUsedUp, Some(tool)),
            };
            for call in calls {
                self.deny(key, &call, reason, tool, false);
            }
        }
    }

    /// Ends calls whose process is gone; nobody is left to answer.
    pub(super) fn drop_dead_callers(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        for (_key, call) in self.pending.take_where(|call| call.pidfd.as_ref().is_some_and(ended)) {
            let WaitingCall { record, hook, pidfd: _ } = call;
            let tool = self.tool_of(&record);
            let reason = Reason::CallerGone;
            self.report(&record, hook, Outcome::Denied, reason, tool, GrantId::NONE);
        }
    }

    /// Ends the socket of a denied flow, so that its owner learns at once.
    pub(super) fn reset_flow(&self, record: &CallRecord) {
        if record.destination.protocol() != PROTOCOL_TCP || record.socket_cookie == 0 {
            return;
        }
        let ProcessFacts { tgid, start_ns, .. } = record.process;
        match network_namespace(tgid, start_ns) {
            Ok(netns) => {
                if let Err(error) = self.flows.request(netns, record.socket_cookie, PROTOCOL_TCP) {
                    tracing::warn!(pid = tgid, %error, "a denied flow is not reset");
                }
            }
            // Its sockets went with it, or will when their packets are dropped.
            Err(error) => tracing::debug!(pid = tgid, %error, "a denied flow has no process"),
        }
    }

    fn report(
        &mut self,
        record: &CallRecord,
        hook: Hook,
        outcome: Outcome,
        reason: Reason,
        tool: Option<ToolId>,
        grant: GrantId,
    ) {
        let (reason, audited_reason) = match outcome {
            Outcome::Audited => (Reason::Audited, Some(reason)),
            Outcome::Allowed | Outcome::Denied | Outcome::Stalled => (reason, None),
        };
        let process = self.process_of(&record.process);
        let agent = self.agent_names.get(&record.process.agent).cloned();
        let agent = agent.unwrap_or_else(|| Arc::from(""));
        let owner = self.policy.agent(&agent).map(|agent| Arc::clone(&agent.owner));
        let grant = self.grants.get(grant).map(|grant| Arc::new(grant.to_ref()));
        let decision = CallDecision {
            outcome,
            reason,
            audited_reason,
            time_ns: record.header.time_ns,
            stalled_ns: match outcome {
                Outcome::Stalled => 0,
                Outcome::Allowed | Outcome::Denied | Outcome::Audited
                    if record.request.is_none() =>
                {
                    0
                }
                Outcome::Allowed | Outcome::Denied | Outcome::Audited => {
                    self.clock.now_ns().saturating_sub(record.header.time_ns)
                }
            },
            agent,
            owner: owner.unwrap_or_else(|| Arc::from("")),
            instance: record.process.instance,
            process,
            destination: record.destination,
            tool: tool.and_then(|id| self.policy.tool(id)).map(|tool| Arc::clone(&tool.name)),
            grant,
            hook,
            socket_cookie: record.socket_cookie,
            netns_cookie: record.netns_cookie,
            generation: self.verdicts.generation(),
        };
        self.events.push(Event::Call(Box::new(decision)));
    }
}

/// Whether a process has ended.
fn ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
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
