//! Calls that can't be decided yet: how they begin to wait, are decided again, and end.

use std::{os::fd::OwnedFd, time::Duration};

use agent_enforcer_common::{
    id::{GrantId, InstanceId, ToolId},
    reason::Reason,
    record::{CallRecord, Hook},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{IDENTITY_LIMIT, Resolution, answer::Ending, uses::UseStage};
use crate::{
    decision::Outcome,
    engine::{
        Engine, nanoseconds,
        pending::{Awaits, Full, Group, GroupKey, WaitingCall},
    },
    verdicts::Extent,
};

impl Engine {
    pub(super) fn wait(
        &mut self,
        key: GroupKey,
        mut call: WaitingCall,
        awaits: Awaits,
        limit: Duration,
    ) {
        let record = call.record;
        let hook = call.hook;
        call.pidfd = i32::try_from(record.process.tgid)
            .ok()
            .and_then(Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let deadline_ns = record.header.time_ns.saturating_add(nanoseconds(limit));
        if self.pending.add(key, call, awaits, deadline_ns) == Err(Full) {
            let call = WaitingCall::new(record, hook);
            self.deny_alone(key, &call, Reason::PendingLimit, None);
        } else if let Awaits::Grant { tool, .. } | Awaits::Approval { tool, .. } = awaits {
            self.report_stalled(&record, hook, tool);
        }
    }

    fn report_stalled(&mut self, record: &CallRecord, hook: Hook, tool: ToolId) {
        let (outcome, reason) = (Outcome::Stalled, Reason::Stalled);
        let ending = Ending { outcome, reason, tool: Some(tool), grant: GrantId::NONE };
        self.report(record, hook, &ending, record.header.time_ns);
    }

    /// Decides waiting calls again, after something has changed.
    pub(in crate::engine) fn decide_waiting(&mut self, wanted: impl Fn(&GroupKey, &Group) -> bool) {
        for key in self.pending.keys(wanted) {
            self.decide_group(key);
        }
    }

    pub(super) fn decide_group(&mut self, key: GroupKey) {
        let Some(first) = self.pending.first(&key).map(|call| call.record) else { return };
        if !self.withdraw_use(&key) {
            return;
        }
        let awaited = self.pending.awaits(&key);
        let resolution = self.resolve(&first);
        self.use_stages.remove(&key);
        match resolution {
            Resolution::Wait { awaits, limit } => {
                let deadline_ns = first.header.time_ns.saturating_add(nanoseconds(limit));
                self.pending.wait_on(&key, awaits, deadline_ns);
                if awaited == Some(Awaits::Identity) && awaits != Awaits::Identity {
                    self.report_all_stalled(&key, awaits);
                }
            }
            Resolution::Spend { grant, tool } => {
                if self.ask_for_use(key, grant) {
                    let deadline_ns = self.clock.now_ns() + nanoseconds(IDENTITY_LIMIT);
                    self.pending.wait_on(&key, Awaits::Use { tool }, deadline_ns);
                }
            }
            Resolution::Allow { tool, allowance } if allowance.extent == Extent::Once => {
                self.offer(key, tool, &allowance);
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

    fn report_all_stalled(&mut self, key: &GroupKey, awaits: Awaits) {
        let (Awaits::Grant { tool, .. } | Awaits::Approval { tool, .. }) = awaits else { return };
        let calls: Vec<_> = self.pending.calls(key).map(|call| (call.record, call.hook)).collect();
        for (record, hook) in calls {
            self.report_stalled(&record, hook, tool);
        }
    }

    /// Denies calls whose time is over.
    pub(in crate::engine) fn end_overdue(&mut self, now_ns: u64) {
        if self.pending.is_empty() {
            return;
        }
        for key in self.pending.keys(|_, group| now_ns >= group.deadline_ns) {
            match self.use_stages.get(&key) {
                // The grant has ended, or who took its answer is still to be told.
                Some(UseStage::InHand(_) | UseStage::Offered(_) | UseStage::Taken(_)) => {
                    self.decide_group(key);
                    continue;
                }
                Some(UseStage::Asked) | None => {}
            }
            let Some(Group { awaits, calls, .. }) = self.pending.take(&key) else { continue };
            let (reason, tool) = match awaits {
                Awaits::Identity => (Reason::IdentityUnverified, None),
                Awaits::Grant { reason: _, tool } => (Reason::StallTimeout, Some(tool)),
                Awaits::Approval { tool, .. } => (Reason::ApprovalTimeout, Some(tool)),
                Awaits::Use { tool } => (Reason::GrantUsedUp, Some(tool)),
            };
            for call in calls {
                self.deny(key, &call, reason, tool, false);
            }
        }
    }

    /// Ends calls whose process is gone; nobody is left to answer.
    pub(in crate::engine) fn drop_dead_callers(&mut self) {
        self.drop_callers(|call| call.pidfd.as_ref().is_some_and(ended));
    }

    /// Ends calls of an instance that has ended, while it is known.
    pub(in crate::engine) fn drop_callers_of(&mut self, instance: InstanceId) {
        self.drop_callers(|call| call.record.process.instance == instance);
    }

    fn drop_callers(&mut self, is_gone: impl Fn(&WaitingCall) -> bool) {
        if self.pending.is_empty() {
            return;
        }
        let now_ns = self.clock.now_ns();
        let (verdicts, use_stages) = (&self.verdicts, &self.use_stages);
        let gone = self.pending.take_where(|key, call| {
            is_gone(call)
                && match use_stages.get(key) {
                    None | Some(UseStage::Asked | UseStage::InHand(_)) => true,
                    // It may be who took the answer before it ended.
                    Some(UseStage::Taken(_)) => false,
                    Some(UseStage::Offered(_)) => {
                        verdicts.has_untaken(key.exec, key.destination, now_ns)
                    }
                }
        });
        for (_key, WaitingCall { record, hook, .. }) in gone {
            let (outcome, reason) = (Outcome::Denied, Reason::CallerGone);
            // Others may have the socket.
            self.end_question(&record, reason);
            let tool = self.tool_of(&record);
            let ending = Ending { outcome, reason, tool, grant: GrantId::NONE };
            self.report(&record, hook, &ending, now_ns);
        }
    }
}

/// Whether a process has ended.
fn ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
