//! The daemon's state and everything that changes it, owned by the intake thread.
//!
//! In: records, messages, the clock. Out: verdicts, events, answers to operators. One owner, no
//! locks: whatever takes long (hashing, the disk, other namespaces) is done elsewhere and comes
//! back as a [`Message`].

mod adoption;
mod approvals;
mod calls;
mod canary;
mod force;
mod guarded;
mod handle;
mod held;
mod identities;
mod images;
mod inventory;
mod manifests;
mod parked;
mod peers;
mod pending;
mod queries;
mod scripts;
mod selectors;
mod start;
mod tallies;
mod via;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{
    config::StateWord,
    id::{AgentId, ExecId, Generation, GrantId, InstanceId},
    record::ProcessFacts,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot, watch};

pub use adoption::AdoptionError;
pub use handle::{DetachOrder, EngineHandle};
pub use peers::PeerError;
pub use pending::{GroupKey, PendingLimits};
pub use scripts::Sought;
pub use selectors::SelectorError;
pub use start::{EngineError, Parts};

use crate::{
    control::{
        AgentView, AnswerSpec, AnswerView, ApproverUsers, Authority, ControlError, ExplainQuestion,
        Explanation, GrantSpec, GrantView, PendingView, PolicyView, Status,
    },
    decision::Process,
    events::{DaemonEvent, EventQueue},
    host::Plane,
    intake::{DecodeError, Record},
    kernel::{
        flows::FlowReset,
        held::HeldTimers,
        maps::{CounterMaps, ProcessMaps},
    },
    resolver::{
        approval::{Answer as ApproverAnswer, AnswerTable},
        attestation::{
            attestor::{Attestation, Subject},
            digest::{DigestCache, DigestError},
            executables::Resolution,
            process::ProcessReader,
            worker::{Found, HashWorkers},
        },
        grant::{Grant, GrantStoreError, GrantTable, Moment, NewGrant},
        policy::{Policy, SelectorPlan},
    },
    verdicts::{VerdictError, Verdicts},
    webhook::Order,
};
use approvals::Questions;
use calls::UseStage;
use canary::Canary;
use identities::Identities;
use images::Image;
use inventory::Keeper;
use peers::Peers;
use pending::Pending;
use queries::LOST;
use scripts::Execs;
use selectors::Selectors;
use tallies::Tallies;
use via::ViaIndex;

/// Between two heartbeats; the kernel side waits several times as long.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// Between two looks at what ends by itself.
const HOUSEKEEPING: Duration = Duration::from_millis(10);
/// Between two looks at processes and counters.
const SURVEY: Duration = Duration::from_millis(200);
/// What an operator's command is answered through.
pub type Answer<T> = oneshot::Sender<Result<T, ControlError>>;

/// What comes from the rest of the daemon.
pub enum Message {
    /// What the workers found, for an image.
    Found(ExecId, Sought, Result<Found, DigestError>),
    /// Somebody was asked who an image is.
    Identified(Subject, Attestation),
    /// A use of a counted grant is on the disk, or is not.
    UseRecorded {
        /// The grant.
        grant: GrantId,
        /// For which calls.
        key: GroupKey,
        /// What the store said: the grant, and what it was derived from.
        result: Result<Vec<Grant>, GrantStoreError>,
    },
    /// A batch of the inventory is on the disk.
    InventoryStored,
    /// Executables that path selectors name.
    Executables(Resolution),
    /// Check a grant against the policy in force.
    CheckGrant(GrantSpec, Box<Moment>, Answer<NewGrant>),
    /// Check a token against the policy in force.
    CheckToken(String, Box<Moment>, Answer<NewGrant>),
    /// A grant was issued or revoked; it is on the disk.
    GrantChanged(Box<Grant>, Answer<GrantView>),
    /// Check an approver's answer against the question that is open.
    CheckAnswer(AnswerSpec, Authority, Box<Moment>, Answer<ApproverAnswer>),
    /// Check a signed answer against the question that is open.
    CheckSignedAnswer(String, Box<Moment>, Answer<ApproverAnswer>),
    /// An approver's answer is on the disk.
    Answered(Box<ApproverAnswer>, Answer<AnswerView>),
    /// A policy was read and its agents have ids.
    NewPolicy(Box<Policy>, Vec<(Arc<str>, AgentId)>, Answer<PolicyView>),
    /// A policy was refused.
    PolicyRejected(String),
    /// See `Control::status`.
    Status(Answer<Status>),
    /// See `Control::agents`.
    Agents(Answer<Vec<AgentView>>),
    /// See `Control::policy_show`.
    PolicyShow(Answer<PolicyView>),
    /// See `Control::grant_list`.
    GrantList(Answer<Vec<GrantView>>),
    /// See `Control::pending`.
    Pending(Authority, Answer<Vec<PendingView>>),
    /// See `Control::explain`.
    Explain(ExplainQuestion, Answer<Explanation>),
    /// End: the intake thread returns the engine.
    Stop,
}

/// What the intake does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Goes on.
    Continue,
    /// Returns.
    Stop,
}

/// A running tree of processes of an agent.
#[derive(Debug)]
struct Instance {
    agent: Arc<str>,
    process: Arc<Process>,
    started: SystemTime,
    /// Why nothing of it may act, where an image of it did not hold.
    refused: Option<agent_enforcer_common::reason::Reason>,
    announced: bool,
}

/// Asks the store for a use of a counted grant.
#[derive(Debug, Clone, Copy)]
pub struct UseRequest {
    /// The grant.
    pub grant: GrantId,
    /// For which calls.
    pub key: GroupKey,
}

/// See the module's header.
pub struct Engine {
    policy_dir: PathBuf,
    audience: String,
    policy: Policy,
    plan: SelectorPlan,
    agent_ids: HashMap<Arc<str>, AgentId>,
    agent_names: HashMap<AgentId, Arc<str>>,
    grants: GrantTable,
    answers: AnswerTable,
    questions: Questions,
    webhook: mpsc::Sender<Order>,
    via: ViaIndex,
    verdicts: Verdicts,
    processes: ProcessMaps,
    selectors: Selectors,
    counters: CounterMaps,
    tallies: Tallies,
    events: EventQueue,
    reader: ProcessReader,
    digests: DigestCache,
    hashers: HashWorkers<(ExecId, Sought)>,
    flows: FlowReset,
    held_timers: HeldTimers,
    cgroups: PathBuf,
    plane: Plane,
    programs: Vec<String>,
    canary: Canary,
    _guarding: SyncSender<Infallible>,
    uses: SyncSender<UseRequest>,
    globs: SyncSender<Vec<String>>,
    identities: Identities,
    images: HashMap<ExecId, Image>,
    image_order: VecDeque<ExecId>,
    prefetch: VecDeque<ProcessFacts>,
    execs: Execs,
    instances: HashMap<InstanceId, Instance>,
    keeper: Keeper,
    peers: Peers,
    pending: Pending,
    pending_changes: watch::Sender<u64>,
    approvers: Arc<ApproverUsers>,
    use_stages: HashMap<GroupKey, UseStage>,
    started: SystemTime,
    clock: Clock,
    next_heartbeat_ns: u64,
    next_housekeeping_ns: u64,
    next_survey_ns: u64,
    next_compile_ns: u64,
    next_peers_ns: u64,
    bad_records: u64,
    /// Calls denied because a policy could not be evaluated.
    policy_failures: u64,
    /// When the policies' time is another, ns of `CLOCK_BOOTTIME`.
    next_minute_ns: u64,
    lost: [u64; LOST.len()],
    ended: HashMap<GrantId, crate::resolver::grant::GrantState>,
}

fn read_clock(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Converts moments of `CLOCK_BOOTTIME` for people.
#[derive(Debug, Clone, Copy)]
struct Clock;

impl Clock {
    #[expect(clippy::unused_self, reason = "a clock is something one has")]
    fn now_ns(self) -> u64 {
        read_clock(ClockId::Boottime)
    }

    /// How long the machine was suspended: by so much is `CLOCK_BOOTTIME` ahead of `CLOCK_MONOTONIC`.
    fn asleep_ns(self) -> u64 {
        let monotonic_ns = read_clock(ClockId::Monotonic);
        self.now_ns().saturating_sub(monotonic_ns)
    }

    fn wall(self, at_ns: u64) -> SystemTime {
        let (now, now_ns) = (SystemTime::now(), self.now_ns());
        if at_ns >= now_ns {
            now + Duration::from_nanos(at_ns - now_ns)
        } else {
            now - Duration::from_nanos(now_ns - at_ns)
        }
    }
}

impl Engine {
    /// One record of the kernel side.
    pub fn on_record(&mut self, record: &Record) {
        match record {
            Record::Request(record, hook) => self.on_request(record, *hook),
            Record::Denied(record, hook) => self.on_denied(record, *hook),
            Record::Allowed(record, hook) => self.on_allowed(record, *hook),
            Record::Audited(record, hook) => self.on_audited(record, *hook),
            Record::FlowDenied(record, _hook) => self.reset_flow(record),
            Record::Joined(record) => {
                self.tag_inherited_sockets(&record.process);
                self.on_joined(&record.process);
            }
            Record::Classified(record) => {
                self.tag_inherited_sockets(&record.process);
                self.on_executed(record);
            }
            Record::Guarded(record, guard) => self.on_guarded(record, *guard),
            Record::Executed(record) => self.on_executed(record),
            Record::Peer(record) => self.peers.learn_record(record),
            Record::Path(record) => self.on_path(record),
            Record::InstanceEnded(record) => self.on_instance_ended(&record.process),
            Record::TableFull(record) => {
                let table = if record.process.tgid == 0 {
                    agent_enforcer_common::names::CGROUPS
                } else {
                    agent_enforcer_common::names::PROCS
                };
                self.tell(DaemonEvent::TableFull { table });
            }
        }
    }

    /// A record that is none: counted and said, never silently dropped.
    pub fn on_bad_record(&mut self, error: &DecodeError) {
        self.bad_records += 1;
        tracing::error!(%error, "a record of the kernel side was refused");
    }

    /// One message.
    pub fn on_message(&mut self, message: Message) -> Next {
        match message {
            Message::Found(exec, subject, result) => self.on_found(exec, subject, result),
            Message::Identified(subject, answer) => self.on_identified(subject, answer),
            Message::UseRecorded { grant, key, result } => self.on_use_recorded(grant, key, result),
            Message::InventoryStored => self.on_inventory_stored(),
            Message::Executables(resolution) => self.on_executables(&resolution),
            Message::CheckGrant(spec, now, answer) => {
                let _ = answer.send(self.check_grant(&spec, &now));
            }
            Message::CheckToken(token, now, answer) => {
                let _ = answer.send(self.check_token(&token, &now));
            }
            Message::GrantChanged(grant, answer) => {
                let _ = answer.send(self.on_grant_changed(*grant));
            }
            Message::CheckAnswer(spec, authority, now, answer) => {
                let _ = answer.send(self.check_answer(&spec, authority, &now));
            }
            Message::CheckSignedAnswer(text, now, answer) => {
                let _ = answer.send(self.check_signed_answer(&text, &now));
            }
            Message::Answered(given, answer) => {
                let _ = answer.send(Ok(self.on_answer(*given)));
            }
            Message::NewPolicy(policy, ids, answer) => {
                let _ = answer.send(self.on_new_policy(*policy, ids));
            }
            Message::PolicyRejected(error) => self.tell(DaemonEvent::PolicyRejected { error }),
            Message::Status(answer) => {
                let _ = answer.send(Ok(self.status()));
            }
            Message::Agents(answer) => {
                let _ = answer.send(Ok(self.agents()));
            }
            Message::PolicyShow(answer) => {
                let _ = answer.send(Ok(self.policy_view()));
            }
            Message::GrantList(answer) => {
                let grants = self.grants.iter().map(|grant| self.grant_view(grant)).collect();
                let _ = answer.send(Ok(grants));
            }
            Message::Pending(authority, answer) => {
                let _ = answer.send(self.pending_for(authority));
            }
            Message::Explain(question, answer) => {
                let _ = answer.send(self.explain(&question));
            }
            Message::Stop => {
                // From now on nobody decides: calls without a verdict are denied at once.
                let silent = self.verdicts.heartbeat(0);
                self.check(silent);
                self.pending.continue_all();
                self.processes.processes.unmark(std::process::id());
                let gone = self.verdicts.set(StateWord::DaemonTgid, 0);
                self.check(gone);
                self.tell_counted();
                self.store_whole_inventory();
                return Next::Stop;
            }
        }
        Next::Continue
    }

    /// What is due.
    pub fn on_tick(&mut self) {
        let now_ns = self.clock.now_ns();
        if now_ns >= self.next_heartbeat_ns {
            self.next_heartbeat_ns = now_ns + nanoseconds(HEARTBEAT);
            let beat = self.verdicts.heartbeat(now_ns);
            self.check(beat);
        }
        if now_ns >= self.next_housekeeping_ns {
            self.next_housekeeping_ns = now_ns + nanoseconds(HOUSEKEEPING);
            self.end_overdue(now_ns);
            self.retry_uses();
            self.tell_watchers();
            if now_ns >= self.next_compile_ns {
                self.recompile();
            }
            self.note_minute(now_ns);
        }
        if now_ns >= self.next_survey_ns {
            self.next_survey_ns = now_ns + nanoseconds(SURVEY);
            self.watch_uses(now_ns);
            self.drop_dead_callers();
            self.tend_questions(now_ns);
            self.continue_forgotten(now_ns);
            self.let_timers_go();
            self.watch_manifests();
            self.watch_identities(now_ns);
            self.note_ended_grants();
            self.drop_outdated_grants();
            self.tell_lost_records();
            self.tell_counted();
            self.make_room_to_count(now_ns);
            self.tend_inventory(now_ns);
            self.watch_planes(now_ns);
        }
    }

    /// Work for idle moments: attests an image before it asks. False when there was none.
    pub fn on_idle(&mut self) -> bool {
        let Some(facts) = self.prefetch.pop_front() else { return false };
        self.attest_ahead(&facts);
        true
    }

    /// The generation in force.
    pub const fn generation(&self) -> Generation {
        self.verdicts.generation()
    }

    /// Executables of the policy came, changed or went.
    fn on_executables(&mut self, resolution: &Resolution) {
        if self.note_executables(resolution) {
            // Verdicts were made for files that may be others now.
            self.recompile();
        }
        if let Err(error) = self.selectors.set_executables(&self.plan, resolution) {
            tracing::error!(%error, "executables of the policy could not be loaded");
            self.tell(DaemonEvent::Alarm {
                what: format!("executables of the policy could not be loaded: {error}"),
                remedy: "name fewer executables in `unix:path:` selectors".to_owned(),
            });
        }
    }

    /// True where what tools name has changed.
    fn note_executables(&mut self, resolution: &Resolution) -> bool {
        let changed = self.via.set_files(resolution, self.plan.executables().len());
        let unexpected = |problem: &&_| !self.via.is_expected(problem);
        for problem in resolution.problems.iter().filter(unexpected) {
            tracing::warn!(%problem, "a path of the policy is incomplete");
        }
        changed
    }

    /// Tells who watches the pending calls.
    fn tell_watchers(&self) {
        let changes = self.pending.changes();
        self.pending_changes.send_if_modified(|told| std::mem::replace(told, changes) != changes);
    }

    fn tell(&self, event: DaemonEvent) {
        self.events.push(event.into());
    }

    /// A verdict that can't be written leaves its call undecided, which the kernel side denies in
    /// the end; here it is only said.
    fn check(&self, result: Result<(), VerdictError>) {
        if let Err(error) = result {
            tracing::error!(%error, "a verdict could not be written");
            self.tell(DaemonEvent::Alarm {
                what: error.to_string(),
                remedy: "see `agent-enforcer status`; raise `--max-verdicts`".to_owned(),
            });
        }
    }

    fn tell_lost_records(&mut self) {
        let now = self.lost_records();
        for (((_, kind), before), now) in LOST.into_iter().zip(self.lost).zip(now) {
            let count = now.saturating_sub(before);
            if count > 0 {
                self.tell(DaemonEvent::RecordsLost { kind, count });
            }
        }
        self.lost = now;
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
