//! How an engine begins: from its parts to the policy in force, with every running process taken in.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, mpsc::SyncSender},
    time::SystemTime,
};

use agent_enforcer_common::{
    config::StateWord,
    id::{AgentId, ExecId},
};

use tokio::sync::watch;

use super::{
    AdoptionError, Clock, Engine, PeerError, PendingLimits, SelectorError, UseRequest,
    approvals::Questions,
    canary::Canary,
    peers::Peers,
    pending::Pending,
    queries::LOST,
    scripts::{Execs, Subject},
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
        attestation::{digest::DigestCache, process::ProcessReader, worker::HashWorkers},
        grant::GrantTable,
        policy::{Policy, SelectorPlan},
    },
    verdicts::{VerdictError, Verdicts},
};

/// Everything that an engine is made of.
pub struct Parts {
    /// Policy directory, for people.
    pub policy_dir: PathBuf,
    /// What tokens for this host say in `aud`.
    pub audience: String,
    /// The policy; its manifests were admitted.
    pub policy: Policy,
    /// Ids of its agents.
    pub agent_ids: Vec<(Arc<str>, AgentId)>,
    /// Grants.
    pub grants: GrantTable,
    /// What approvers have answered.
    pub answers: AnswerTable,
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
    pub hashers: HashWorkers<(ExecId, Subject)>,
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
            pending_changes,
            approvers,
            verdicts,
            processes,
            selectors,
            counters,
            tallies,
            events,
            hashers,
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
            images: HashMap::new(),
            image_order: VecDeque::new(),
            prefetch: VecDeque::new(),
            execs: Execs::default(),
            instances: HashMap::new(),
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
            lost: [0; LOST.len()],
            ended: HashMap::new(),
        };
        let tgid = std::process::id();
        engine.verdicts.set(StateWord::DaemonTgid, tgid.into())?;
        engine.processes.processes.mark(tgid);
        let slot = engine.verdicts.word(StateWord::SelectorSlot)?;
        engine.selectors.resume(u32::try_from(slot).unwrap_or_default());
        engine.read_peers();
        engine.lost = engine.lost_records();
        engine.note_ended_grants();
        engine.load_policy()?;
        engine.adopt()?;
        // Calls that were made while no daemon ran.
        engine.tell_counted();
        Ok(engine)
    }
}
