//! Decision -> answer: the verdict that the kernel side obeys, the event, the end of a denied flow.

use std::{sync::Arc, time::Duration};

use agent_enforcer_common::{
    destination::PROTOCOL_TCP,
    id::{Generation, GrantId, ToolId},
    reason::Reason,
    record::{CALL_LIVE_FLOW, CallRecord, Hook, ProcessFacts},
};

use super::{Resolution, denial_end_ns, is_tcp, is_tcp_flow};
use crate::{
    decision::{CallDecision, Outcome},
    engine::{
        Engine, nanoseconds,
        pending::{GroupKey, WaitingCall},
        tallies::Counted,
    },
    events::Event,
    resolver::{
        attestation::process::network_namespace,
        policy::{Approval, Mode},
    },
    verdicts::Allowance,
};

/// How long a denial for want of time or room is remembered: the next call asks again.
const PASSING: Duration = Duration::from_millis(200);
/// A question of this age is no longer waited for in the hook: its flow is held.
const HELD: Duration = Duration::from_millis(20);

/// What became of a call.
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    pub(super) reason: Reason,
    pub(super) tool: Option<ToolId>,
    pub(super) grant: GrantId,
}

impl Engine {
    /// Does what was resolved, for one call that does not wait (any more).
    pub(super) fn settle(&mut self, key: GroupKey, call: WaitingCall, resolution: &Resolution) {
        match *resolution {
            Resolution::Allow { tool, ref allowance } => self.allow(key, &call, tool, allowance),
            Resolution::Deny { reason, tool, lasting } => {
                self.deny(key, &call, reason, tool, lasting);
            }
            Resolution::Wait { awaits, limit } => self.wait(key, call, awaits, limit),
            Resolution::Spend { grant, tool } => self.spend(key, call, grant, tool),
        }
    }

    pub(super) fn allow(
        &mut self,
        key: GroupKey,
        call: &WaitingCall,
        tool: ToolId,
        allowance: &Allowance,
    ) {
        let written = self.verdicts.allow(key.exec, key.destination, allowance);
        self.check(written);
        self.report_allowed(call, tool, allowance);
    }

    pub(super) fn report_allowed(
        &mut self,
        call: &WaitingCall,
        tool: ToolId,
        allowance: &Allowance,
    ) {
        let WaitingCall { record, hook, .. } = call;
        let Allowance { grant, reason, .. } = *allowance;
        let ending = Ending { outcome: Outcome::Allowed, reason, tool: Some(tool), grant };
        self.report(record, *hook, &ending, self.clock.now_ns());
    }

    pub(super) fn deny(
        &mut self,
        key: GroupKey,
        call: &WaitingCall,
        reason: Reason,
        tool: Option<ToolId>,
        lasting: bool,
    ) {
        let live = call.record.flags & CALL_LIVE_FLOW != 0;
        if live && is_tcp_flow(&key.destination) && !self.is_audited(&call.record) {
            return self.end_flow(call, reason, tool);
        }
        let now_ns = self.clock.now_ns();
        let until_ns = if lasting {
            denial_end_ns(&key.destination, now_ns)
        } else {
            now_ns + nanoseconds(PASSING)
        };
        let written = self.verdicts.deny(key.exec, key.destination, reason, tool, until_ns);
        self.check(written);
        let age_ns = now_ns.saturating_sub(call.record.header.time_ns);
        let held =
            call.hook == Hook::Egress || !call.parked.is_empty() || age_ns > nanoseconds(HELD);
        // A younger one is still waited for, or tells of itself with its next packet.
        if self.report_denied(call, reason, tool) == Outcome::Denied && held {
            self.end_call(call, reason);
        }
    }

    /// Ends a live flow. Without a verdict: what a flow can't wait for, a new call of the same program
    /// to the same place may.
    fn end_flow(&mut self, call: &WaitingCall, reason: Reason, tool: Option<ToolId>) {
        self.report_denied(call, reason, tool);
        let written = self.verdicts.end(call.record.request, reason);
        self.check(written);
        self.reset_flow(&call.record);
    }

    /// Denies one call, for what is not the matter of its group. Where others of it wait, a verdict
    /// would be theirs as well: then its flow is ended without one.
    pub(super) fn deny_alone(
        &mut self,
        key: GroupKey,
        call: &WaitingCall,
        reason: Reason,
        tool: Option<ToolId>,
    ) {
        if self.pending.first(&key).is_none() {
            self.deny(key, call, reason, tool, false);
        } else if self.report_denied(call, reason, tool) == Outcome::Denied {
            self.end_call(call, reason);
        }
    }

    /// Ends what waits for a denied call, which does not ask again: stopped callers when they go on,
    /// the flow that is held for it at once where its socket is found, by its own timers elsewhere.
    fn end_call(&mut self, call: &WaitingCall, reason: Reason) {
        for parked in &call.parked {
            let written = self.verdicts.end(parked.request, reason);
            self.check(written);
        }
        match call.hook {
            Hook::Connect | Hook::Sendmsg | Hook::SocketCreate | Hook::Egress => {
                self.end_question(&call.record, reason);
                self.reset_flow(&call.record);
            }
            // Nothing was sent yet.
            Hook::LsmCreate
            | Hook::LsmConnect
            | Hook::LsmSendmsg
            | Hook::UnixConnect
            | Hook::UnixSend
            | Hook::CgroupUnixConnect
            | Hook::CgroupUnixSend => {}
        }
    }

    /// What is held for this question ends with its next packet.
    pub(super) fn end_question(&mut self, record: &CallRecord, reason: Reason) {
        if is_tcp(&record.destination) {
            let written = self.verdicts.end(record.request, reason);
            self.check(written);
        }
    }

    /// Tells of a denial; what it comes to in the agent's mode.
    fn report_denied(
        &mut self,
        call: &WaitingCall,
        reason: Reason,
        tool: Option<ToolId>,
    ) -> Outcome {
        let WaitingCall { record, hook, .. } = call;
        let audited = self.is_audited(record);
        let outcome = if audited { Outcome::Audited } else { Outcome::Denied };
        let ending = Ending { outcome, reason, tool, grant: GrantId::NONE };
        self.report(record, *hook, &ending, self.clock.now_ns());
        outcome
    }

    pub(super) fn is_audited(&self, record: &CallRecord) -> bool {
        self.agent_names
            .get(&record.process.agent)
            .and_then(|name| self.policy.agent(name))
            .is_some_and(|agent| agent.mode == Mode::Audit)
    }

    /// Ends the socket of a denied flow, so that its owner learns at once.
    pub(in crate::engine) fn reset_flow(&self, record: &CallRecord) {
        if !is_tcp_flow(&record.destination) || record.socket_cookie == 0 {
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

    /// Tells what became of a call at a moment, ns of `CLOCK_BOOTTIME`.
    pub(super) fn report(&mut self, record: &CallRecord, hook: Hook, ending: &Ending, at_ns: u64) {
        let decision = self.decision(record, hook, ending, at_ns);
        self.note_call(&decision);
        self.events.push(Event::Call(Box::new(decision)));
    }

    /// Tells of calls that the kernel side has counted.
    pub(super) fn report_counted(&mut self, counted: &Counted) {
        let Counted { template, count, last_tgid, since_ns, last_ns } = counted;
        let ending = Ending {
            outcome: Outcome::Allowed,
            reason: Reason::from_raw(template.reason).unwrap_or(Reason::Internal),
            tool: self.tool_of(template),
            grant: template.grant,
        };
        let decision = CallDecision {
            count: *count,
            time_ns: *since_ns,
            last_ns: *last_ns,
            last_pid: *last_tgid,
            generation: Generation::new(template.generation),
            ..self.decision(template, Hook::Connect, &ending, template.header.time_ns)
        };
        self.note_call(&decision);
        self.events.push(Event::Call(Box::new(decision)));
    }

    fn needs_approval(&self, tool: ToolId) -> bool {
        self.policy.tool(tool).is_some_and(|tool| tool.approval == Approval::Required)
    }

    fn decision(
        &mut self,
        record: &CallRecord,
        hook: Hook,
        ending: &Ending,
        at_ns: u64,
    ) -> CallDecision {
        let Ending { outcome, reason, tool, grant } = *ending;
        let (reason, audited_reason) = match outcome {
            Outcome::Audited => (Reason::Audited, Some(reason)),
            Outcome::Allowed | Outcome::Denied | Outcome::Stalled => (reason, None),
        };
        let on_miss = audited_reason.unwrap_or(reason) == Reason::DeniedOnMiss;
        let miss_reason = if on_miss { self.missing(record) } else { None };
        let telling = miss_reason.or(audited_reason).unwrap_or(reason);
        let by_policy =
            [Reason::PolicyForbids, Reason::PolicyFailed, Reason::AllowedPolicy].contains(&telling);
        let policies = if by_policy { self.policies_of(record) } else { Vec::new() };
        let process = self.process_of(&record.process);
        let agent = self.agent_names.get(&record.process.agent).cloned();
        let agent = agent.unwrap_or_else(|| Arc::from(""));
        let owner = self.policy.agent(&agent).map(|agent| Arc::clone(&agent.owner));
        let now_ns = self.clock.now_ns();
        // A policy's permit may have asked for it as well as the tool.
        let approved = tool.filter(|tool| {
            let asked = reason == Reason::AllowedPolicy || self.needs_approval(*tool);
            outcome == Outcome::Allowed && asked
        });
        let approval =
            approved.and_then(|tool| self.approval_of(record, &agent, tool, grant, now_ns));
        let grant = self.grants.get(grant).map(|grant| Arc::new(grant.to_ref()));
        CallDecision {
            outcome,
            reason,
            audited_reason,
            miss_reason,
            policies,
            count: 1,
            time_ns: record.header.time_ns,
            last_ns: record.header.time_ns,
            stalled_ns: at_ns.saturating_sub(record.header.time_ns),
            agent,
            owner: owner.unwrap_or_else(|| Arc::from("")),
            instance: record.process.instance,
            process,
            last_pid: record.process.tgid,
            destination: record.destination,
            peer: self.peers.name(&record.destination).map(Arc::new),
            tool: tool.and_then(|id| self.policy.tool(id)).map(|tool| Arc::clone(&tool.name)),
            grant,
            approval,
            hook,
            socket_cookie: record.socket_cookie,
            netns_cookie: record.netns_cookie,
            generation: self.verdicts.generation(),
        }
    }
}
