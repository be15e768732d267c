//! What the kernel side settles alone: exact verdicts for it to find, and the calls that it counts
//! there instead of recording each.

use agent_enforcer_common::record::{CallRecord, Hook};

use super::Resolution;
use crate::{
    engine::{Engine, pending::GroupKey},
    verdicts::{Allowance, Extent},
};

impl Engine {
    /// Spares the next call of an image to the same destination the search for a prefix, and its
    /// record.
    pub(super) fn make_exact(&mut self, record: &CallRecord, hook: Hook) {
        let key = GroupKey::of(record);
        // What is in the map may be a use that somebody waits for.
        if record.generation != self.verdicts.generation().get()
            || self.use_stages.contains_key(&key)
        {
            return;
        }
        let now_ns = self.clock.now_ns();
        // Only connect() counts, and not where the agent's sockets are marked.
        let is_exact = self
            .verdicts
            .in_force(key.exec, key.destination, now_ns)
            .is_some_and(|found| hook != Hook::Connect || found.flags != 0 || found.tally != 0);
        if is_exact {
            return;
        }
        let Resolution::Allow { tool: _, allowance } = self.resolve(record) else { return };
        if allowance.extent != Extent::Any {
            return;
        }
        let tally = if hook == Hook::Connect && !allowance.marks {
            self.tallies.slot_of(&template(record, &allowance), now_ns)
        } else {
            None
        };
        let written = match tally {
            Some(tally) => {
                self.verdicts.allow_counted(key.exec, key.destination, &allowance, tally)
            }
            None => self.verdicts.allow(key.exec, key.destination, &allowance),
        };
        self.check(written);
    }

    /// Tells of all calls that were counted so far. Before anything changes that their events name.
    pub(in crate::engine) fn tell_counted(&mut self) {
        let now_ns = self.clock.now_ns();
        for slot in self.tallies.untold() {
            if let Some(counted) = self.tallies.take(slot, now_ns) {
                self.report_counted(&counted);
            }
        }
        self.tallies.looked_at(now_ns, self.clock.asleep_ns());
    }

    /// Frees tallies for calls that have none.
    pub(in crate::engine) fn make_room_to_count(&mut self, now_ns: u64) {
        for (slot, key) in self.tallies.idle(now_ns) {
            let named = self
                .verdicts
                .in_force(key.exec, key.destination, now_ns)
                .is_some_and(|found| found.tally == slot);
            if !named || self.verdicts.withdraw(key.exec, key.destination) {
                self.tallies.retire(slot, now_ns);
            }
        }
        self.tallies.release(now_ns);
    }
}

/// What is the same of all calls under an allowance.
fn template(record: &CallRecord, allowance: &Allowance) -> CallRecord {
    let Allowance { expires_ns: _, grant, tool, reason, extent: _, marks: _ } = *allowance;
    CallRecord { socket_cookie: 0, grant, tool, reason: reason.raw(), ..*record }
}
