//! How an engine begins: from its parts to the policy in force, with every running process taken in.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{
    config::StateWord,
    id::{AgentId, ExecId},
};

use tokio::sync::{mpsc, watch};

use super::{
    AdoptionError, Clock, Engine, PeerError, PendingLimits, SelectorError, UseRequest,
    approvals::Questions,
    canary::Canary,
    identities::Identities,
    inventory::Keeper,
    peers::Peers,
    pending::Pending,
    queries::LOST,
    scripts::{Execs, Sought},
    selectors::Selectors,
    tallies::Tallies,
    via::ViaIndex,
};
use crate::{
    control::ApproverUsers,
    events::EventQueue,
    host::{self, Plane},
    kernel::{
        flows::FlowReset,
        held::HeldTimers,
        mapped::MappedArray,
        maps::{CounterMaps, ProcessMaps},
    },
    resolver::{
        approval::AnswerTable,
        attestation::{
            attestor::Attestor, digest::DigestCache, process::ProcessReader, worker::HashWorkers,
        },
        grant::GrantTable,
        inventory::{Changes, Inventory},
        policy::{Policy, SelectorPlan},
    },
    verdicts::{VerdictError, Verdicts},
    webhook::Order,
};

/// Everything that an engine is made of.
pub struct Parts {
    /// Policy directory, for people.
    pub policy_dir: PathBuf,
    /// What tokens for this host say in `aud`.
    pub audience: String,
    /// The policy; its manifests were admitted.
    pub policy: Policy,
    /// Ids of its agents, and of those that are not in it any more.
    pub agent_ids: Vec<(Arc<str>, AgentId)>,
    /// Grants.
    pub grants: GrantTable,
    /// What approvers have answered.
    pub answers: AnswerTable,
    /// Posts questions to the policy's webhook.
    pub webhook: mpsc::Sender<Order>,
    /// Every agent and instance that was ever seen.
    pub inventory: Inventory,
    /// Stores what changes of it.
    pub inventory_changes: SyncSender<Changes>,
    /// When an agent that does nothing is taken for unused.
    pub unused_after: Duration,
    /// Told when what is pending changes.
    pub pending_changes: watch::Sender<u64>,
    /// Told who may approve.
    pub approvers: Arc<ApproverUsers>,
    /// The verdict writer.
    pub verdicts: Verdicts,
    /// Tags of processes and sockets.
    pub processes: ProcessMaps,
    /// Selector tables.
    pub selectors: crate::kernel::maps::SelectorMaps,
    /// Counters.
    pub counters: CounterMaps,
    /// Calls that are counted.
    pub tallies: MappedArray,
    /// Events.
    pub events: EventQueue,
    /// Hashes executables and scripts.
    pub hashers: HashWorkers<(ExecId, Sought)>,
    /// Vouches for agents' processes, where somebody does.
    pub attestor: Option<Box<dyn Attestor>>,
    /// Resets flows.
    pub flows: FlowReset,
    /// Sets the timers of held connections.
    pub held_timers: HeldTimers,
    /// Records uses of counted grants.
    pub uses: SyncSender<UseRequest>,
    /// Path globs to resolve and watch.
    pub globs: SyncSender<Vec<String>>,
    /// Mount point of cgroup v2.
    pub cgroups: PathBuf,
    /// The daemon's own sockets, which are nobody's tool.
    pub own_sockets: Vec<PathBuf>,
    /// The cgroup that enforcement is attached to.
    pub cgroup_root: PathBuf,
    /// Which programs are in force.
    pub plane: Plane,
    /// Their names.
    pub programs: Vec<String>,
    /// Limits of what may wait.
    pub limits: PendingLimits,
    /// Dropped: nobody looks after guarded files any more.
    pub guarding: SyncSender<Infallible>,
}

/// Why an engine can't begin.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A map.
    #[error(transparent)]
    Verdict(#[from] VerdictError),
    /// The selector tables.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// Unix sockets.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Running processes.
    #[error(transparent)]
    Adoption(#[from] AdoptionError),
    /// /proc.
    #[error(transparent)]
    Proc(#[from] crate::resolver::attestation::ProcError),
    /// The clock.
    #[error(transparent)]
    Clock(#[from] crate::resolver::grant::ClockError),
}

impl Engine {
    /// Puts the policy in force and takes in every process that runs. The programs are attached
    /// already, so that nothing slips between.
    pub fn start(parts: Parts) -> Result<Self, EngineError> {
        let Parts {
            policy_dir,
            audience,
            policy,
            agent_ids,
            grants,
            answers,
            webhook,
            inventory,
            inventory_changes,
            unused_after,
            pending_changes,
            approvers,
            verdicts,
            processes,
            selectors,
            counters,
            tallies,
            events,
            hashers,
            attestor,
            flows,
            held_timers,
            uses,
            globs,
            cgroups,
            own_sockets,
            cgroup_root,
            plane,
            programs,
            limits,
            guarding,
        } = parts;
        let netns_cookie = host::netns_cookie().map_err(PeerError::Netns)?;
        let mut engine = Self {
            policy_dir,
            audience,
            plan: SelectorPlan::build(&policy),
            via: ViaIndex::default(),
            policy,
            agent_names: agent_ids.iter().map(|(name, id)| (*id, Arc::clone(name))).collect(),
            agent_ids: agent_ids.into_iter().collect(),
            grants,
            answers,
            questions: Questions::default(),
            webhook,
            verdicts,
            processes,
            selectors: Selectors::new(selectors, cgroups.clone()),
            counters,
            tallies: Tallies::take_over(tallies, Clock.asleep_ns()),
            events,
            reader: ProcessReader::new()?,
            digests: DigestCache::new(4096),
            hashers,
            flows,
            held_timers,
            canary: Canary::new(plane, &cgroups, cgroup_root),
            cgroups,
            plane,
            programs,
            _guarding: guarding,
            uses,
            globs,
            identities: Identities::new(attestor),
            images: HashMap::new(),
            image_order: VecDeque::new(),
            prefetch: VecDeque::new(),
            execs: Execs::default(),
            instances: HashMap::new(),
            keeper: Keeper::new(inventory, inventory_changes, unused_after),
            peers: Peers::new(&own_sockets, netns_cookie)?,
            pending: Pending::new(limits),
            pending_changes,
            approvers,
            use_stages: HashMap::new(),
            started: SystemTime::now(),
            clock: Clock,
            next_heartbeat_ns: 0,
            next_housekeeping_ns: 0,
            next_survey_ns: 0,
            next_compile_ns: 0,
            next_peers_ns: 0,
            bad_records: 0,
            policy_failures: 0,
            next_minute_ns: 0,
            lost: [0; LOST.len()],
            ended: HashMap::new(),
        };
        engine.begin()?;
        Ok(engine)
    }

    /// Takes up what is in force and what runs.
    fn begin(&mut self) -> Result<(), EngineError> {
        let tgid = std::process::id();
        self.verdicts.set(StateWord::DaemonTgid, tgid.into())?;
        self.processes.processes.mark(tgid);
        let slot = self.verdicts.word(StateWord::SelectorSlot)?;
        self.selectors.resume(u32::try_from(slot).unwrap_or_default());
        self.read_peers();
        self.lost = self.lost_records();
        self.note_ended_grants();
        self.load_policy()?;
        self.adopt()?;
        self.end_missing_instances();
        // Calls that were made while no daemon ran.
        self.tell_counted();
        Ok(())
    }
}
