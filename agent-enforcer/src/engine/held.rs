//! Where calls may come to be held: the cgroups that the kernel side sets timers in.

use agent_enforcer_common::record::ProcessFacts;

use super::Engine;
use crate::kernel::held::HeldError;

impl Engine {
    /// A process of an agent is in this cgroup: has timers set there.
    pub(super) fn expect_held(&mut self, pid: u32, cgroup: &str) {
        if cgroup.is_empty() {
            // It could not be read.
            return;
        }
        let path = self.cgroups.join(cgroup.trim_start_matches('/'));
        let set = self.held_timers.set(&path);
        tell(pid, set);
    }

    /// A process asks from a cgroup in which it was not seen before.
    pub(super) fn expect_held_of(&mut self, facts: &ProcessFacts) {
        // No cgroup: a packet asks, of a connection that has its timers.
        if facts.cgroup == 0 || self.held_timers.are_set(facts.cgroup) {
            return;
        }
        match self.reader.cgroup_of(facts.tgid) {
            Ok(cgroup) => self.expect_held(facts.tgid, &cgroup),
            Err(error) => tell(facts.tgid, Err(error.into())),
        }
    }

    /// Ends timers where nobody is left.
    pub(super) fn let_timers_go(&mut self) {
        if let Err(error) = self.held_timers.review_one() {
            tracing::warn!(%error, "the pin of a link to an empty cgroup was not removed");
        }
    }
}

fn tell(pid: u32, set: Result<(), HeldError>) {
    const COST: &str = "held connections of a process wait for TCP's own timers";
    match set {
        Ok(()) => {}
        // It ended or moved.
        Err(error @ (HeldError::Cgroup { .. } | HeldError::Process(_))) => {
            tracing::debug!(pid, %error, "{COST}");
        }
        Err(error) => tracing::warn!(pid, %error, "{COST}"),
    }
}
