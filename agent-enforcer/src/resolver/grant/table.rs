//! All grants in memory, found by who asks and for which tool.
//!
//! In: grants of the store. Out: the one that speaks best for a call, live or not. The table
//! follows the store: a change is durable there before it is entered here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use agent_enforcer_common::id::{GrantId, InstanceId};

use super::{Grant, GrantState, Revocation};

/// Longest line of grants that were derived from each other.
pub(super) const LINEAGE_LIMIT: usize = 8;

/// Grants by id, and by agent and tool.
#[derive(Clone, Debug, Default)]
pub struct GrantTable {
    grants: BTreeMap<GrantId, Grant>,
    by_tool: HashMap<Arc<str>, HashMap<Arc<str>, Vec<GrantId>>>,
    /// Of signed ones, by the id of their token.
    by_token: HashMap<Arc<str>, GrantId>,
}

/// What the grants say about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantMatch<'a> {
    /// There is no grant for it.
    None,
    /// The grant that speaks best for it, and how it stands.
    Best(&'a Grant, GrantState),
}

/// Why a use can't be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UseError {
    /// No such grant.
    #[error("there is no such grant; see `agent-enforcer grant list`")]
    Unknown,
    /// The grant admits any number of calls.
    #[error("the grant has no use count, so there is nothing to spend; allow the call as it is")]
    NotCounted,
    /// The grant is not live.
    #[error("the grant is {}, so it admits no call; issue a new one", .0.word())]
    NotLive(GrantState),
}

impl GrantTable {
    /// Enters a grant; replaces the one of the same id.
    pub fn insert(&mut self, grant: Grant) {
        if let Some(old) = self.grants.remove(&grant.id) {
            self.unlink(&old);
        }
        let tools = self.by_tool.entry(Arc::clone(&grant.subject.agent)).or_default();
        for tool in grant.scope.tool_names() {
            tools.entry(Arc::clone(tool)).or_default().push(grant.id);
        }
        if let Some(origin) = &grant.origin {
            self.by_token.insert(Arc::clone(&origin.jti), grant.id);
        }
        self.grants.insert(grant.id, grant);
    }

    /// Marks a grant as taken back; the first revocation stays. `None`: no such grant.
    pub fn revoke(&mut self, id: GrantId, at: SystemTime, reason: &str) -> Option<&Grant> {
        let grant = self.grants.get_mut(&id)?;
        grant.revoked.get_or_insert_with(|| Revocation { at, reason: reason.into() });
        Some(grant)
    }

    /// Spends a use of a counted grant, and of each counted one that it was derived from.
    pub fn spend(&mut self, id: GrantId, now_ns: u64) -> Result<(), UseError> {
        let grant = self.grants.get(&id).ok_or(UseError::Unknown)?;
        if !grant.is_counted() {
            return Err(UseError::NotCounted);
        }
        let state = self.state(grant, now_ns);
        if state != GrantState::Live {
            return Err(UseError::NotLive(state));
        }
        let lineage: Vec<_> = self.lineage(grant).map(|grant| grant.id).collect();
        for id in lineage {
            if let Some(grant) = self.grants.get_mut(&id).filter(|grant| grant.is_counted()) {
                grant.uses = grant.uses.saturating_add(1);
            }
        }
        Ok(())
    }

    /// A grant, the one that it was derived from, and so on.
    pub(super) fn lineage<'a>(&'a self, grant: &'a Grant) -> impl Iterator<Item = &'a Grant> {
        let parent = |grant: &&'a Grant| self.grants.get(&grant.parent()?);
        std::iter::successors(Some(grant), parent).take(LINEAGE_LIMIT)
    }

    /// How a grant stands at a moment of `CLOCK_BOOTTIME`, ns: by itself and by what it was derived
    /// from.
    pub fn state(&self, grant: &Grant, now_ns: u64) -> GrantState {
        let own = grant.state(now_ns);
        if own != GrantState::Live {
            return own;
        }
        let mut generations = 0;
        for ancestor in self.lineage(grant) {
            generations += 1;
            match ancestor.state(now_ns) {
                GrantState::Live => {}
                state @ (GrantState::UsedUp | GrantState::NotYetValid) => return state,
                GrantState::Expired
                | GrantState::Revoked
                | GrantState::ParentEnded
                | GrantState::ManifestChanged
                | GrantState::IssuerNotTrusted
                | GrantState::Unsigned
                | GrantState::BeyondPrincipal => return GrantState::ParentEnded,
            }
            if ancestor.parent().is_none() {
                return GrantState::Live;
            }
        }
        // What it was derived from is forgotten, or the line has no end.
        tracing::debug!(generations, grant = grant.id.get(), "a grant's line is broken");
        GrantState::ParentEnded
    }

    /// The grant that came of a token.
    pub fn of_token(&self, jti: &str) -> Option<&Grant> {
        self.get(*self.by_token.get(jti)?)
    }

    /// Drops what has expired long ago; returns it.
    pub fn drop_outdated(&mut self, now_ns: u64, now: SystemTime) -> Vec<GrantId> {
        let outdated = self.grants.extract_if(.., |_, grant| grant.is_outdated(now_ns, now));
        let outdated: Vec<_> = outdated.collect();
        for (_, grant) in &outdated {
            self.unlink(grant);
        }
        outdated.into_iter().map(|(id, _)| id).collect()
    }

    /// The grant of an id.
    pub fn get(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id)
    }

    /// Every grant, in the order of issue.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    /// How many grants there are, ended ones too.
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// The grant that speaks best for an agent's instance and a tool: a live one without a use
    /// count that lasts longest, else a live counted one that lasts longest, else the one whose
    /// state explains best why there is none. `standing`: how each stands; `None` where it has nothing
    /// to do with what is asked for.
    pub fn best(
        &self,
        agent: &str,
        instance: InstanceId,
        tool: &str,
        standing: impl Fn(&Grant) -> Option<GrantState>,
    ) -> GrantMatch<'_> {
        self.of_tool(agent, tool)
            .filter(|grant| grant.subject.instance.is_none_or(|only| only == instance))
            .filter_map(|grant| Some((grant, standing(grant)?)))
            .max_by_key(|(grant, state)| rank(grant, *state))
            .map_or(GrantMatch::None, |(grant, state)| GrantMatch::Best(grant, state))
    }

    /// All those that are live, in the order in which [`Self::best`] prefers them.
    pub fn live(
        &self,
        agent: &str,
        instance: InstanceId,
        tool: &str,
        standing: impl Fn(&Grant) -> Option<GrantState>,
    ) -> Vec<&Grant> {
        let mut live: Vec<&Grant> = self
            .of_tool(agent, tool)
            .filter(|grant| grant.subject.instance.is_none_or(|only| only == instance))
            .filter(|grant| standing(grant) == Some(GrantState::Live))
            .collect();
        live.sort_by_key(|grant| std::cmp::Reverse(rank(grant, GrantState::Live)));
        live
    }

    /// Every grant of an agent (or of an instance of it) for a tool.
    pub(in crate::resolver) fn of_tool(
        &self,
        agent: &str,
        tool: &str,
    ) -> impl Iterator<Item = &Grant> {
        let ids = self.by_tool.get(agent).and_then(|tools| tools.get(tool));
        ids.into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    fn unlink(&mut self, grant: &Grant) {
        if let Some(origin) = &grant.origin {
            self.by_token.remove(&origin.jti);
        }
        let Some(tools) = self.by_tool.get_mut(&grant.subject.agent) else { return };
        for tool in grant.scope.tool_names() {
            if let Some(ids) = tools.get_mut(tool) {
                ids.retain(|id| *id != grant.id);
                if ids.is_empty() {
                    tools.remove(tool);
                }
            }
        }
        if tools.is_empty() {
            self.by_tool.remove(&grant.subject.agent);
        }
    }
}

/// Greater speaks better. The last part makes the choice one: of equals, the oldest.
fn rank(grant: &Grant, state: GrantState) -> (u8, bool, u64, std::cmp::Reverse<GrantId>) {
    let state = match state {
        GrantState::Live => 8,
        GrantState::BeyondPrincipal => 7,
        GrantState::Unsigned => 6,
        GrantState::ManifestChanged => 5,
        GrantState::IssuerNotTrusted => 4,
        GrantState::NotYetValid => 3,
        GrantState::UsedUp => 2,
        GrantState::ParentEnded | GrantState::Expired => 1,
        GrantState::Revoked => 0,
    };
    (state, !grant.is_counted(), grant.expires_ns, std::cmp::Reverse(grant.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::grant::testing::{counted, for_instance, grant, wall};

    const HERE: InstanceId = InstanceId::new(1);

    fn table(grants: &[Grant]) -> GrantTable {
        let mut table = GrantTable::default();
        grants.iter().cloned().for_each(|grant| table.insert(grant));
        table
    }

    fn best(table: &GrantTable, now_ns: u64) -> Option<(u64, GrantState)> {
        match table.best("bot", HERE, "mail", |grant| Some(grant.state(now_ns))) {
            GrantMatch::None => None,
            GrantMatch::Best(grant, state) => Some((grant.id.get(), state)),
        }
    }

    #[test]
    fn prefers_uncounted_grants_then_the_one_that_lasts_longest() {
        let table = table(&[
            counted(grant(1, "bot", &["mail"], 0, 900), 5, 0),
            grant(2, "bot", &["mail"], 0, 100),
            for_instance(grant(3, "bot", &["mail"], 0, 200), 1),
            for_instance(grant(4, "bot", &["mail"], 0, 800), 2),
            grant(5, "bot", &["web"], 0, 800),
            grant(6, "cat", &["mail"], 0, 800),
        ]);
        assert_eq!(best(&table, 50), Some((3, GrantState::Live)));
        assert_eq!(best(&table, 200), Some((1, GrantState::Live)));
        assert_eq!(best(&table, 900), Some((3, GrantState::Expired)));
    }

    #[test]
    fn explains_a_miss_by_what_comes_closest() {
        let mut grants = Vec::new();
        assert_eq!(best(&table(&grants), 50), None);
        let mut revoked = grant(1, "bot", &["mail"], 0, 100);
        revoked.revoked = Some(Revocation { at: wall(0), reason: "done".into() });
        grants.push(revoked);
        assert_eq!(best(&table(&grants), 50), Some((1, GrantState::Revoked)));
        grants.push(grant(2, "bot", &["mail"], 0, 10));
        assert_eq!(best(&table(&grants), 50), Some((2, GrantState::Expired)));
        grants.push(counted(grant(3, "bot", &["mail"], 0, 100), 2, 2));
        assert_eq!(best(&table(&grants), 50), Some((3, GrantState::UsedUp)));
        grants.push(grant(4, "bot", &["mail"], 60, 100));
        assert_eq!(best(&table(&grants), 50), Some((4, GrantState::NotYetValid)));
        grants.push(grant(5, "bot", &["mail"], 0, 100));
        assert_eq!(best(&table(&grants), 50), Some((5, GrantState::Live)));
    }

    #[test]
    fn spends_uses_until_there_are_none() {
        let mut table = table(&[
            counted(grant(1, "bot", &["mail"], 10, 100), 2, 0),
            grant(2, "bot", &["mail"], 0, 100),
        ]);
        let counted = GrantId::new(1);
        assert_eq!(table.spend(counted, 5), Err(UseError::NotLive(GrantState::NotYetValid)));
        assert_eq!(table.spend(counted, 10), Ok(()));
        assert_eq!(table.spend(counted, 10), Ok(()));
        assert_eq!(table.spend(counted, 10), Err(UseError::NotLive(GrantState::UsedUp)));
        assert_eq!(table.spend(GrantId::new(2), 10), Err(UseError::NotCounted));
        assert_eq!(table.spend(GrantId::new(3), 10), Err(UseError::Unknown));
    }

    #[test]
    fn a_revoked_grant_stays_revoked_as_it_was_first() {
        let mut table = table(&[grant(1, "bot", &["mail"], 0, 100)]);
        table.revoke(GrantId::new(1), wall(1), "first").unwrap();
        let grant = table.revoke(GrantId::new(1), wall(2), "second").unwrap();
        assert_eq!(grant.revoked.as_ref().map(|revoked| &*revoked.reason), Some("first"));
        assert_eq!(best(&table, 50), Some((1, GrantState::Revoked)));
        assert!(table.revoke(GrantId::new(2), wall(1), "none").is_none());
    }

    #[test]
    fn a_grant_is_dropped_a_day_after_its_expiry_and_leaves_nothing() {
        const SECOND: u64 = 1_000_000_000;
        const DAY: u64 = 24 * 60 * 60;
        let until = |id, seconds| {
            let mut grant = grant(id, "bot", &["mail", "web"], 0, seconds * SECOND);
            grant.expires = wall(seconds);
            grant
        };
        let mut spent = counted(until(2, 100), 1, 1);
        spent.revoked = Some(Revocation { at: wall(1), reason: "done".into() });
        let mut table = table(&[until(1, 100), spent, until(3, 101), until(4, 900 + DAY)]);
        let mut dropped = |seconds| -> Vec<u64> {
            let ids = table.drop_outdated(seconds * SECOND, wall(seconds));
            ids.into_iter().map(GrantId::get).collect()
        };
        assert!(dropped(DAY + 99).is_empty());
        assert_eq!(dropped(DAY + 100), [1, 2]);
        assert_eq!(dropped(DAY + 101), [3]);
        assert!(dropped(DAY + 899).is_empty());
        assert_eq!(best(&table, 100 * SECOND), Some((4, GrantState::Live)));
        table.drop_outdated(u64::MAX, wall(0));
        assert!(table.is_empty() && table.by_tool.is_empty());
    }

    #[test]
    fn the_wall_clock_alone_drops_no_grant_and_keeps_none_for_ever() {
        let mut grant = grant(1, "bot", &["mail"], 0, 100);
        grant.expires = wall(0);
        let two_days = wall(48 * 60 * 60);
        assert!(!grant.is_outdated(99, two_days), "it lives by the clock of decisions");
        assert!(grant.is_outdated(100, two_days), "it expired before the host was started");
        assert!(!grant.is_outdated(100, wall(10)));
    }

    #[test]
    fn a_replaced_grant_is_found_under_its_new_tools_only() {
        let mut table = table(&[grant(1, "bot", &["mail"], 0, 100)]);
        table.insert(grant(1, "bot", &["web"], 0, 100));
        assert_eq!(best(&table, 50), None);
        assert_eq!(table.len(), 1);
    }
}
