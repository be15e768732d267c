//! Uses of counted grants: each is spent before its call goes ahead, and is on the disk before that.

use agent_enforcer_common::{
    id::{GrantId, ToolId},
    reason::Reason,
};

use super::IDENTITY_LIMIT;
use crate::{
    engine::{
        Engine, UseRequest,
        pending::{Awaits, GroupKey, WaitingCall},
    },
    events::DaemonEvent,
    resolver::grant::{Grant, GrantState, GrantStoreError},
    verdicts::{Allowance, Extent},
};

impl Engine {
    /// A use is spent before the call goes ahead, and is on the disk before that.
    pub(super) fn spend(&mut self, key: GroupKey, call: WaitingCall, grant: GrantId, tool: ToolId) {
        let asked = self.is_use_on_its_way(&key) || self.ask_for_use(key, grant);
        if asked {
            self.wait(key, call, Awaits::Use { tool }, IDENTITY_LIMIT);
        } else {
            self.deny_without_room(key, &call, Some(tool));
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
        self.uses_in_flight.insert(key);
        true
    }

    /// A use is on the disk: one waiting call goes ahead.
    pub(in crate::engine) fn on_use_recorded(
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
    pub(in crate::engine) fn retry_uses(&mut self) {
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
    pub(super) fn is_use_on_its_way(&self, key: &GroupKey) -> bool {
        self.uses_in_flight.contains(key)
            || self.verdicts.has_untaken(key.exec, key.destination, self.clock.now_ns())
    }
}
