//! Every agent and instance that was ever seen: whose it was, what ran, for whom, and what it did last.
//!
//! In: policies that came into force, instances, images, decided calls, the wall clock. Out: records for
//! operators, [ghosts](Ghost), and what has changed since it was last stored ([`Inventory::take_changes`]).
//! Reads neither clock nor disk. Whatever agents do, there is room for so many ended instances of each and
//! of all; the oldest go first, of the agent that has the most, and stay in the totals of their agent.

mod ghost;
mod record;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque, btree_map::Entry},
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::id::InstanceId;

pub use ghost::Ghost;
pub use record::{
    Action, Activity, AgentRecord, ImageSeen, InstanceRecord, Place, Recent, Tallies,
};

use super::policy::Policy;
use crate::decision::{CallDecision, Outcome, Process};

/// Ended instances of one agent that are remembered.
const ENDED_PER_AGENT: usize = 256;
/// Ended instances of all agents that are remembered.
const ENDED_LIMIT: usize = 4096;
/// Instances that are stored in one step: whoever else writes to the store waits for one step at most.
const STEP: usize = 1024;

/// See the module's header.
#[derive(Debug)]
pub struct Inventory {
    agents: HashMap<Arc<str>, AgentRecord>,
    instances: HashMap<InstanceId, Remembered>,
    /// Ended instances of each agent, the oldest first.
    ended: HashMap<Arc<str>, VecDeque<InstanceId>>,
    ended_count: usize,
    changed_agents: HashSet<Arc<str>>,
    changed_instances: HashSet<InstanceId>,
    /// Stored instances that are remembered no more.
    forgotten: HashSet<InstanceId>,
    limits: Limits,
}

#[derive(Debug)]
struct Remembered {
    record: InstanceRecord,
    /// Whether the store has it, or will.
    stored: bool,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    ended_per_agent: usize,
    ended: usize,
}

/// What is to be stored.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    agents: BTreeMap<Arc<str>, AgentRecord>,
    /// `None`: it is remembered no more.
    instances: BTreeMap<InstanceId, Option<InstanceRecord>>,
}

/// An agent that became a ghost, or is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GhostChange {
    /// The agent.
    pub agent: Arc<str>,
    /// Who answers for it, as last known.
    pub owner: Arc<str>,
    /// The word of what is wrong.
    pub word: Arc<str>,
    /// Since when that is known.
    pub since: SystemTime,
    /// What it is; `None` where it is over.
    pub found: Option<Ghost>,
}

impl Default for Inventory {
    fn default() -> Self {
        Self::with_limits(Limits { ended_per_agent: ENDED_PER_AGENT, ended: ENDED_LIMIT })
    }
}

impl Inventory {
    fn with_limits(limits: Limits) -> Self {
        Self {
            agents: HashMap::new(),
            instances: HashMap::new(),
            ended: HashMap::new(),
            ended_count: 0,
            changed_agents: HashSet::new(),
            changed_instances: HashSet::new(),
            forgotten: HashSet::new(),
            limits,
        }
    }

    /// Every agent, in no order.
    pub fn agents(&self) -> impl Iterator<Item = (&Arc<str>, &AgentRecord)> {
        self.agents.iter()
    }

    /// An agent.
    pub fn agent(&self, name: &str) -> Option<&AgentRecord> {
        self.agents.get(name)
    }

    /// Every instance that is remembered, in no order.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceId, &InstanceRecord)> {
        self.instances.iter().map(|(id, remembered)| (*id, &remembered.record))
    }

    /// An instance.
    pub fn instance(&self, id: InstanceId) -> Option<&InstanceRecord> {
        self.instances.get(&id).map(|remembered| &remembered.record)
    }

    /// A policy is in force, or its manifests have changed.
    pub fn note_policy(&mut self, policy: &Policy, now: SystemTime) {
        for agent in policy.agents() {
            let record = self.agents.entry(Arc::clone(&agent.name));
            let record = record.or_insert_with(|| AgentRecord::new(now));
            if record.describe(agent, policy.principals()) {
                self.changed_agents.insert(Arc::clone(&agent.name));
            }
        }
    }

    /// An instance began, or goes on. One that has ended does not begin again.
    pub fn begin(
        &mut self,
        id: InstanceId,
        agent: &Arc<str>,
        process: &Process,
        started: SystemTime,
        now: SystemTime,
    ) {
        if self.instances.contains_key(&id) {
            return;
        }
        let record = InstanceRecord::new(Arc::clone(agent), process.pid, started);
        self.instances.insert(id, Remembered { record, stored: false });
        self.changed_instances.insert(id);
        let of = self.agents.entry(Arc::clone(agent)).or_insert_with(|| AgentRecord::new(now));
        of.instances += 1;
        of.see(now);
        self.changed_agents.insert(Arc::clone(agent));
    }

    /// An instance runs an image.
    pub fn note_image(&mut self, id: InstanceId, process: &Process) {
        let Some(Remembered { record, .. }) = self.instances.get_mut(&id) else { return };
        if record.note_image(process) {
            self.changed_instances.insert(id);
        }
    }

    /// A call was decided, or several were. `at` is when the last of them was seen.
    pub fn note_call(&mut self, call: &CallDecision, at: SystemTime) {
        match call.outcome {
            Outcome::Allowed | Outcome::Denied | Outcome::Audited => {}
            // Its end is told as well.
            Outcome::Stalled => return,
        }
        let Some(record) = self.agents.get_mut(&call.agent) else { return };
        record.activity.note(call, at);
        record.see(at);
        self.changed_agents.insert(Arc::clone(&call.agent));
        if let Some(Remembered { record, .. }) = self.instances.get_mut(&call.instance) {
            record.activity.note(call, at);
            self.changed_instances.insert(call.instance);
        }
    }

    /// The last process of an instance ended.
    pub fn end(&mut self, id: InstanceId, now: SystemTime) {
        let Some(Remembered { record, .. }) = self.instances.get_mut(&id) else { return };
        if record.ended.is_some() {
            return;
        }
        record.ended = Some(now);
        let agent = Arc::clone(&record.agent);
        self.changed_instances.insert(id);
        if let Some(record) = self.agents.get_mut(&agent) {
            record.see(now);
            self.changed_agents.insert(Arc::clone(&agent));
        }
        self.keep_ended(id, agent);
    }

    /// Ends what ended while nobody looked.
    pub fn end_others(&mut self, lives: impl Fn(InstanceId) -> bool, now: SystemTime) {
        let unended = self.instances().filter(|(id, record)| record.ended.is_none() && !lives(*id));
        let mut over: Vec<_> = unended.map(|(id, record)| (record.started, id)).collect();
        over.sort_unstable();
        for (_, id) in over {
            self.end(id, now);
        }
    }

    /// Looks which agents are ghosts. Out: what has changed since this was last asked, restarts included.
    pub fn judge_ghosts(
        &mut self,
        policy: &Policy,
        unused_after: Duration,
        now: SystemTime,
    ) -> Vec<GhostChange> {
        let mut changes = Vec::new();
        for (name, record) in &mut self.agents {
            let found = ghost::judge(record, policy.agent(name), policy, unused_after, now);
            let known = record.ghosts.len();
            let change = |word: &Arc<str>, since, found| GhostChange {
                agent: Arc::clone(name),
                owner: Arc::clone(&record.owner),
                word: Arc::clone(word),
                since,
                found,
            };
            record.ghosts.retain(|word, since| {
                let stays = found.iter().any(|ghost| *ghost.word() == **word);
                if !stays {
                    changes.push(change(word, *since, None));
                }
                stays
            });
            let mut is_changed = record.ghosts.len() != known;
            for ghost in found {
                let word: Arc<str> = ghost.word().into();
                if let Entry::Vacant(unknown) = record.ghosts.entry(Arc::clone(&word)) {
                    changes.push(change(&word, now, Some(ghost)));
                    unknown.insert(now);
                    is_changed = true;
                }
            }
            if is_changed {
                self.changed_agents.insert(Arc::clone(name));
            }
        }
        changes.sort_by(|a, b| (&a.agent, &a.word).cmp(&(&b.agent, &b.word)));
        changes
    }

    /// How many records have changed since they were last taken.
    pub fn untaken(&self) -> usize {
        self.changed_agents.len() + self.changed_instances.len() + self.forgotten.len()
    }

    /// What has changed since it was last taken, or one step of it; `None` where nothing has.
    pub fn take_changes(&mut self) -> Option<Changes> {
        let mut changes = Changes::default();
        let forgotten: Vec<_> = self.forgotten.iter().copied().take(STEP).collect();
        for id in forgotten {
            self.forgotten.remove(&id);
            changes.instances.insert(id, None);
        }
        let room = STEP.saturating_sub(changes.instances.len());
        let instances: Vec<_> = self.changed_instances.iter().copied().take(room).collect();
        for id in instances {
            self.changed_instances.remove(&id);
            let Some(remembered) = self.instances.get_mut(&id) else { continue };
            remembered.stored = true;
            changes.instances.insert(id, Some(remembered.record.clone()));
        }
        for name in self.changed_agents.drain() {
            if let Some(record) = self.agents.get(&name) {
                changes.agents.insert(name, record.clone());
            }
        }
        (!changes.is_empty()).then_some(changes)
    }

    fn keep_ended(&mut self, id: InstanceId, agent: Arc<str>) {
        let of_agent = self.ended.entry(agent).or_default();
        of_agent.push_back(id);
        self.ended_count += 1;
        if of_agent.len() > self.limits.ended_per_agent {
            let oldest = of_agent.pop_front();
            self.forget(oldest);
        }
        while self.ended_count > self.limits.ended {
            let longest = self.ended.values_mut().max_by_key(|of_agent| of_agent.len());
            let oldest = longest.and_then(VecDeque::pop_front);
            self.forget(oldest);
        }
    }

    fn forget(&mut self, id: Option<InstanceId>) {
        self.ended_count -= 1;
        let Some((id, Remembered { record, stored })) =
            id.and_then(|id| Some((id, self.instances.remove(&id)?)))
        else {
            return;
        };
        self.changed_instances.remove(&id);
        if stored {
            self.forgotten.insert(id);
        }
        if let Some(of) = self.agents.get_mut(&record.agent) {
            of.forgotten += 1;
            self.changed_agents.insert(record.agent);
        }
    }
}

impl Changes {
    /// Adds what was taken after these.
    pub fn add(&mut self, later: Self) {
        let Self { agents, instances } = later;
        self.agents.extend(agents);
        self.instances.extend(instances);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty() && self.instances.is_empty()
    }
}
