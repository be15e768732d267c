//! Uses of counted grants: each is spent before its call goes ahead, and is on the disk before that.
//!
//! A use is an answer in the verdict map that one call takes away, whichever comes first. Who it
//! was, the kernel side tells (`CALL_TOOK_USE`); until then the group waits, and nothing else is
//! decided for it. An answer is withdrawn before another one is written in its place, so that who
//! took it is never denied.

use agent_enforcer_common::{
    id::{GrantId, ToolId},
    reason::Reason,
    record::{CallRecord, Hook},
};

use super::{IDENTITY_LIMIT, answer::Ending};
use crate::{
    decision::Outcome,
    engine::{
        Engine, UseRequest,
        pending::{Awaits, GroupKey, WaitingCall},
    },
    events::DaemonEvent,
    resolver::grant::{Grant, GrantState, GrantStoreError},
    verdicts::Allowance,
};

/// A taker that was not heard of for so long found no room in the ring, ns.
const TAKER_LIMIT_NS: u64 = 1_000_000_000;

/// How far the use for a group of calls has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum UseStage {
    /// The store is asked for it.
    Asked,
    /// It is on the disk; nobody can take it.
    InHand(GrantId),
    /// Its answer is in the map.
    Offered(GrantId),
    /// Its answer was gone from the map at this moment, ns of `CLOCK_BOOTTIME`.
    Taken(u64),
}

impl Engine {
    /// Spends a use for a call.
    pub(super) fn spend(&mut self, key: GroupKey, call: WaitingCall, grant: GrantId, tool: ToolId) {
        if self.ask_for_use(key, grant) {
            self.wait(key, call, Awaits::Use { tool }, IDENTITY_LIMIT);
        } else {
            self.deny_alone(key, &call, Reason::PendingLimit, Some(tool));
        }
    }

    /// False where the disk is too far behind.
    pub(super) fn ask_for_use(&mut self, key: GroupKey, grant: GrantId) -> bool {
        if self.uses.try_send(UseRequest { grant, key }).is_err() {
            return false;
        }
        if let Err(error) = self.grants.spend(grant, self.clock.now_ns()) {
            tracing::debug!(%error, "the store will refuse this use as well");
        }
        self.use_stages.insert(key, UseStage::Asked);
        true
    }

    /// A use is on the disk, or can't be.
    pub(in crate::engine) fn on_use_recorded(
        &mut self,
        id: GrantId,
        key: GroupKey,
        result: Result<Vec<Grant>, GrantStoreError>,
    ) {
        self.use_stages.remove(&key);
        let line = match result {
            Ok(line) => line,
            // Others were faster.
            Err(GrantStoreError::Use { .. }) => return self.decide_group(key),
            Err(error) => {
                tracing::error!(%error, grant = id.get(), "a use could not be recorded");
                self.tell(DaemonEvent::Alarm {
                    what: format!("a use of grant g-{} could not be recorded: {error}", id.get()),
                    remedy: "make room on the disk of the state directory".to_owned(),
                });
                if let Some(call) = self.pending.take_one(&key) {
                    self.deny_alone(key, &call, Reason::Internal, None);
                }
                return;
            }
        };
        let now_ns = self.clock.now_ns();
        let used_up = line.iter().any(|grant| grant.state(now_ns) == GrantState::UsedUp);
        for mut grant in line {
            // Uses that are still on their way to the disk count here already.
            if let Some(known) = self.grants.get(grant.id) {
                grant.uses = grant.uses.max(known.uses);
            }
            self.grants.insert(grant);
        }
        self.use_stages.insert(key, UseStage::InHand(id));
        self.decide_group(key);
        if used_up {
            self.note_ended_grants();
        }
    }

    /// Answers a group whose use is in hand: the first of its calls to come goes ahead.
    pub(super) fn offer(&mut self, key: GroupKey, tool: ToolId, allowance: &Allowance) {
        let audited = self.pending.first(&key).is_some_and(|call| self.is_audited(&call.record));
        if audited {
            // It went ahead without its answer, so there is none to take.
            if let Some(call) = self.pending.take_one(&key) {
                self.report_allowed(&call, tool, allowance);
            }
            return;
        }
        self.use_stages.insert(key, UseStage::Offered(allowance.grant));
        self.pending.wait_on(&key, Awaits::Use { tool }, allowance.expires_ns);
        let written = self.verdicts.allow(key.exec, key.destination, allowance);
        self.check(written);
        self.pending.continue_group(&key);
    }

    /// Whether an answer that admits one call is in the map for a group.
    pub(in crate::engine) fn has_offer(&self, key: &GroupKey) -> bool {
        matches!(self.use_stages.get(key), Some(UseStage::Offered(_)))
    }

    /// A call took the answer that admits one. It may have waited for it, or just have come.
    pub(super) fn on_use_taken(&mut self, taken: &CallRecord, hook: Hook) {
        let key = GroupKey::of(taken);
        let waited = self.pending.take_call(&key, taken);
        let (record, hook) = waited.map_or((*taken, hook), |call| (call.record, call.hook));
        let ending = Ending {
            outcome: Outcome::Allowed,
            reason: Reason::from_raw(taken.reason).unwrap_or(Reason::Internal),
            tool: self.tool_of(taken),
            grant: taken.grant,
        };
        self.report(&record, hook, &ending, taken.header.time_ns);
        match self.use_stages.get(&key) {
            Some(UseStage::Offered(_) | UseStage::Taken(_)) => {
                self.use_stages.remove(&key);
            }
            // It was left over from a group that is gone.
            Some(UseStage::Asked | UseStage::InHand(_)) | None => {}
        }
        self.decide_group(key);
    }

    /// Takes an answer that admits one out of the map, so that the group can be decided otherwise;
    /// false where that must wait: for the store, or to hear who took the answer.
    pub(super) fn withdraw_use(&mut self, key: &GroupKey) -> bool {
        match self.use_stages.get(key) {
            None | Some(UseStage::InHand(_)) => true,
            Some(UseStage::Asked | UseStage::Taken(_)) => false,
            Some(UseStage::Offered(grant)) => {
                let grant = *grant;
                let withdrawn = self.verdicts.withdraw(key.exec, key.destination);
                let stage = if withdrawn {
                    UseStage::InHand(grant)
                } else {
                    UseStage::Taken(self.clock.now_ns())
                };
                self.use_stages.insert(*key, stage);
                withdrawn
            }
        }
    }

    /// Calls that wait for a use, one after the other.
    pub(in crate::engine) fn retry_uses(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        for key in self.pending.keys(|_, group| matches!(group.awaits, Awaits::Use { .. })) {
            match self.use_stages.get(&key) {
                None | Some(UseStage::InHand(_)) => self.decide_group(key),
                Some(UseStage::Asked | UseStage::Offered(_) | UseStage::Taken(_)) => {}
            }
        }
    }

    /// Looks after answers that nobody has told of.
    pub(in crate::engine) fn watch_uses(&mut self, now_ns: u64) {
        let stages: Vec<_> = self.use_stages.iter().map(|(key, stage)| (*key, *stage)).collect();
        for (key, stage) in stages {
            match stage {
                // Its callers are gone; the next call of the image takes what is left in the map.
                UseStage::InHand(_) | UseStage::Offered(_)
                    if self.pending.first(&key).is_none() =>
                {
                    self.use_stages.remove(&key);
                }
                UseStage::Offered(_)
                    if !self.verdicts.has_untaken(key.exec, key.destination, now_ns) =>
                {
                    self.use_stages.insert(key, UseStage::Taken(now_ns));
                }
                // Nobody knows which of them went ahead. Those that still wait ask again.
                UseStage::Taken(since_ns) if now_ns >= since_ns + TAKER_LIMIT_NS => {
                    self.use_stages.remove(&key);
                    self.pending.take(&key);
                }
                UseStage::Asked
                | UseStage::InHand(_)
                | UseStage::Offered(_)
                | UseStage::Taken(_) => {}
            }
        }
    }
}
