//! The inventory as the engine feeds, judges, stores and shows it.
//!
//! In: policies, instances, images, decided calls, the clock. Out: changes for the thread that stores them,
//! in batches and never on the path of a call; events of agents that became ghosts; views for operators.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::mpsc::{SyncSender, TrySendError},
    time::{Duration, SystemTime},
};

use agent_enforcer_common::id::{GrantId, InstanceId};

use super::{Engine, Instance, nanoseconds};
use crate::{
    control::{
        ActionView, ActivityView, AgentView, GhostView, ImageView, InstanceView, ManifestSeenView,
        RecentView, TalliesView,
    },
    decision::{CallDecision, grant_name, instance_name},
    events::{DaemonEvent, GhostFacts},
    resolver::{
        inventory::{
            Action, Activity, AgentRecord, Changes, Ghost, GhostChange, ImageSeen, InstanceRecord,
            Inventory, Recent, Tallies,
        },
        policy::Agent,
    },
};

/// Between two batches: what a crash may lose.
const STORE: Duration = Duration::from_secs(2);

/// The inventory, and how far it is stored.
pub(super) struct Keeper {
    pub(super) inventory: Inventory,
    changes: SyncSender<Changes>,
    /// A batch is on its way to the disk.
    is_storing: bool,
    unused_after: Duration,
    next_ns: u64,
}

impl Keeper {
    pub(super) const fn new(
        inventory: Inventory,
        changes: SyncSender<Changes>,
        unused_after: Duration,
    ) -> Self {
        Self { inventory, changes, is_storing: false, unused_after, next_ns: 0 }
    }
}

impl Engine {
    /// A policy is in force, or its manifests stand otherwise.
    pub(super) fn note_policy(&mut self) {
        self.keeper.inventory.note_policy(&self.policy, SystemTime::now());
        self.keeper.next_ns = 0;
    }

    /// Every process that runs is known: what else was running has ended.
    pub(super) fn end_missing_instances(&mut self) {
        let instances = &self.instances;
        let lives = |id| instances.contains_key(&id);
        self.keeper.inventory.end_others(lives, SystemTime::now());
    }

    /// A call was decided.
    pub(super) fn note_call(&mut self, decision: &CallDecision) {
        self.keeper.inventory.note_call(decision, self.clock.wall(decision.last_ns));
    }

    /// Looks for ghosts, and hands on what is to be stored.
    pub(super) fn tend_inventory(&mut self, now_ns: u64) {
        if now_ns < self.keeper.next_ns {
            return;
        }
        self.keeper.next_ns = now_ns + nanoseconds(STORE);
        let Keeper { inventory, unused_after, .. } = &mut self.keeper;
        for change in inventory.judge_ghosts(&self.policy, *unused_after, SystemTime::now()) {
            self.tell_ghost(change);
        }
        if !self.keeper.is_storing
            && let Some(changes) = self.keeper.inventory.take_changes()
        {
            match self.keeper.changes.try_send(changes) {
                Ok(()) => self.keeper.is_storing = true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    tracing::error!("the inventory is not stored any more; restart the daemon");
                }
            }
        }
    }

    /// How many records of it differ from what is stored; a batch on its way to the disk counts as one.
    pub(super) fn unstored_records(&self) -> u64 {
        let untaken = u64::try_from(self.keeper.inventory.untaken()).unwrap_or(u64::MAX);
        untaken.saturating_add(u64::from(self.keeper.is_storing))
    }

    /// A batch is on the disk.
    pub(super) const fn on_inventory_stored(&mut self) {
        self.keeper.is_storing = false;
    }

    /// Hands on all that is not stored yet: the engine ends.
    pub(super) fn store_whole_inventory(&mut self) {
        while let Some(changes) = self.keeper.inventory.take_changes() {
            if self.keeper.changes.send(changes).is_err() {
                tracing::error!("the last changes of the inventory are not stored");
                return;
            }
        }
    }

    fn tell_ghost(&self, change: GhostChange) {
        let GhostChange { agent, owner, word, since, found } = change;
        let remedy = found.map_or("nothing to do", Ghost::remedy);
        let facts = Box::new(GhostFacts { agent, owner, word, since, remedy });
        self.tell(match found {
            Some(_) => DaemonEvent::GhostFound(facts),
            None => DaemonEvent::GhostGone(facts),
        });
    }

    /// Every agent of the policy, in its order, then those that were seen before.
    pub(super) fn agents(&self) -> Vec<AgentView> {
        let mut running: HashMap<&str, Vec<InstanceView>> = HashMap::new();
        for (id, instance) in &self.instances {
            running.entry(&instance.agent).or_default().push(self.running_view(*id, instance));
        }
        let mut ended: HashMap<&str, Vec<InstanceView>> = HashMap::new();
        for (id, record) in self.keeper.inventory.instances() {
            if record.ended.is_some() {
                ended.entry(&record.agent).or_default().push(ended_view(id, record));
            }
        }
        let in_policy = self.policy.agents().iter().map(|agent| (&agent.name, Some(agent)));
        let known = self.keeper.inventory.agents().map(|(name, _)| name);
        let mut former: Vec<_> = known.filter(|name| self.policy.agent(name).is_none()).collect();
        former.sort_unstable();
        in_policy
            .chain(former.into_iter().map(|name| (name, None)))
            .filter_map(|(name, agent)| {
                let record = self.keeper.inventory.agent(name)?;
                let of_agent = |from: &mut HashMap<&str, Vec<InstanceView>>| {
                    let mut instances = from.remove(&**name).unwrap_or_default();
                    instances.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
                    instances
                };
                let (running, ended) = (of_agent(&mut running), of_agent(&mut ended));
                Some(self.agent_view(name, agent, record, running, ended))
            })
            .collect()
    }

    fn agent_view(
        &self,
        name: &str,
        agent: Option<&Agent>,
        record: &AgentRecord,
        instances: Vec<InstanceView>,
        ended_instances: Vec<InstanceView>,
    ) -> AgentView {
        let names = |tools: &[agent_enforcer_common::id::ToolId]| {
            let name = |id: &_| self.policy.tool(*id).map(|tool| tool.name.to_string());
            tools.iter().filter_map(name).collect()
        };
        let last_seen =
            if instances.is_empty() { record.last_seen } else { Some(SystemTime::now()) };
        let ghosts = record
            .ghosts
            .iter()
            .map(|(word, since)| GhostView { word: word.to_string(), since: *since });
        AgentView {
            name: name.to_owned(),
            owner: record.owner.to_string(),
            purpose: record.purpose.to_string(),
            mode: agent.map_or("none", |agent| agent.mode.word()).to_owned(),
            tools: agent.map(|agent| names(&agent.tools)).unwrap_or_default(),
            standing: agent.map(|agent| names(&agent.standing)).unwrap_or_default(),
            instances,
            in_policy: agent.is_some(),
            ghosts: ghosts.collect(),
            agent_id: record.agent_id.as_ref().map(ToString::to_string),
            manifest: record.manifest.map(|manifest| ManifestSeenView {
                version: manifest.version,
                digest: manifest.digest.to_string(),
            }),
            first_seen: record.first_seen,
            last_seen,
            instances_ever: record.instances,
            instances_forgotten: record.forgotten,
            activity: activity_view(&record.activity),
            ended_instances,
        }
    }

    fn running_view(&self, id: InstanceId, instance: &Instance) -> InstanceView {
        let process = &instance.process;
        let script = process.code.script();
        let record = self.keeper.inventory.instance(id);
        InstanceView {
            id: instance_name(id),
            pid: process.pid,
            exe: process.exe.clone().unwrap_or_default(),
            sha256: process.sha256.map(|digest| digest.to_string()).unwrap_or_default(),
            script: script.map(|script| script.path.clone()).unwrap_or_default(),
            script_sha256: script.map(|script| script.sha256.to_string()).unwrap_or_default(),
            unverified: process.code.unverified().to_owned(),
            container: process.container.as_ref().map(|it| it.id.clone()).unwrap_or_default(),
            spiffe_id: process.spiffe_id.as_ref().map(ToString::to_string),
            started: instance.started,
            processes: self
                .processes
                .instances
                .get(&id, 0)
                .map_or(0, |state| usize::try_from(state.processes).unwrap_or_default()),
            ended: None,
            images: record.map(image_views).unwrap_or_default(),
            more_images: record.map_or(0, |record| record.more_images),
            activity: record.map(|record| activity_view(&record.activity)).unwrap_or_default(),
        }
    }
}

fn ended_view(id: InstanceId, record: &InstanceRecord) -> InstanceView {
    let InstanceRecord { agent: _, pid, started, ended, images, more_images, activity } = record;
    let last = images.last();
    let sha256 = last.and_then(|image| image.sha256);
    InstanceView {
        id: instance_name(id),
        pid: *pid,
        exe: last.map(|image| PathBuf::from(&*image.exe)).unwrap_or_default(),
        sha256: sha256.map(|digest| digest.to_string()).unwrap_or_default(),
        // What it ran in the end is not kept with it.
        script: PathBuf::new(),
        script_sha256: String::new(),
        unverified: String::new(),
        container: String::new(),
        spiffe_id: None,
        started: *started,
        processes: 0,
        ended: *ended,
        images: image_views(record),
        more_images: *more_images,
        activity: activity_view(activity),
    }
}

fn image_views(record: &InstanceRecord) -> Vec<ImageView> {
    let view = |ImageSeen { exe, sha256 }: &ImageSeen| ImageView {
        exe: exe.to_string(),
        sha256: sha256.map(|digest| digest.to_string()),
    };
    record.images.iter().map(view).collect()
}

fn activity_view(activity: &Activity) -> ActivityView {
    let Activity { calls: Tallies { allowed, denied, audited }, last, principals, grants } =
        activity;
    ActivityView {
        calls: TalliesView { allowed: *allowed, denied: *denied, audited: *audited },
        last_action: last.as_ref().map(|action| {
            let Action { at, outcome, reason, destination, tool } = action;
            ActionView {
                at: *at,
                outcome: outcome.word().to_owned(),
                reason: reason.to_string(),
                destination: destination.to_string(),
                tool: tool.as_ref().map(ToString::to_string),
            }
        }),
        principals: recent_view(principals, ToString::to_string),
        grants: recent_view(grants, |id| grant_name(GrantId::new(*id))),
    }
}

fn recent_view<T>(recent: &Recent<T>, text: impl Fn(&T) -> String) -> RecentView {
    let Recent { count, latest } = recent;
    RecentView { count: *count, latest: latest.iter().rev().map(text).collect() }
}
