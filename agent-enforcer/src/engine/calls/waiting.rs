//! Calls that can't be decided yet: how they begin to wait, are decided again, and end.

use std::{os::fd::OwnedFd, time::Duration};

use agent_enforcer_common::{id::GrantId, reason::Reason};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{IDENTITY_LIMIT, Resolution};
use crate::{
    decision::Outcome,
    engine::{
        Engine, nanoseconds,
        pending::{Awaits, Full, Group, GroupKey, WaitingCall},
    },
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
            let call = WaitingCall { record, hook, pidfd: None };
            self.deny_without_room(key, &call, None);
        } else if let Awaits::Grant { reason: _, tool } = awaits {
            let none = GrantId::NONE;
            self.report(&record, hook, Outcome::Stalled, Reason::Stalled, Some(tool), none);
        }
    }

    /// Decides waiting calls again, after something has changed.
    pub(in crate::engine) fn decide_waiting(&mut self, wanted: impl Fn(&GroupKey, &Group) -> bool) {
        for key in self.pending.keys(wanted) {
            self.decide_group(key);
        }
    }

    pub(super) fn decide_group(&mut self, key: GroupKey) {
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
    pub(in crate::engine) fn end_overdue(&mut self, now_ns: u64) {
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
    pub(in crate::engine) fn drop_dead_callers(&mut self) {
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
}

/// Whether a process has ended.
fn ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
