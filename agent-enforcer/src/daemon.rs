//! The daemon: what it is made of, in the order in which it starts and ends.
//!
//! Start: socket, store, policy, events, kernel side, running processes, then commands. Whatever
//! fails before the kernel side changes nothing. End: commands, intake, events; the programs stay
//! in force. The intake thread ending by itself is fatal and loud: without it nothing is decided.

mod sockets;
mod workers;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::Duration,
};

use agent_enforcer_common::{
    config::{Limits, StateWord},
    id::{AgentId, ExecId},
};
use anyhow::{Context as _, Result, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    cli::{LogFormat, RunArgs},
    control::{ApproverUsers, Control},
    engine::{DetachOrder, Engine, EngineHandle, Message, Parts, PendingLimits, Sought},
    events::{DaemonEvent, Event, EventQueue, EventStage, EventsConfig, SystemClock, start},
    guard::{Guard, GuardedPaths},
    host,
    intake::{self, Inbox, IntakeError},
    kernel::{
        flows::FlowReset,
        loader::{Kernel, KernelConfig},
        pins::Pins,
    },
    resolver::{
        approval::AnswerTable,
        attestation::{
            attestor::Attestor,
            broker::{BrokerConfig, SpiffeBroker},
            worker::{HashWorkers, WorkerLimits},
        },
        grant::{GrantStore, GrantTable, Moment},
        inventory::Inventory,
        policy::Policy,
    },
    verdicts::Verdicts,
    webhook,
};
use sockets::Sockets;

/// Age of the heartbeat from which the kernel side takes the daemon for dead.
const HEARTBEAT_STALE: Duration = Duration::from_secs(1);
/// How long the last events may take to be written.
const EVENTS_DEADLINE: Duration = Duration::from_secs(5);
/// Numbers of one epoch: more than a host can give out before it is renewed.
const EPOCH_BITS: u32 = 40;
/// Flows that may wait to be reset.
const RESETS: usize = 4096;
/// Uses of counted grants that may wait for the disk.
const USES: usize = 4096;

/// Runs the daemon until it is told to end.
pub fn run(args: RunArgs) -> Result<()> {
    init_log(args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the command threads; see the task limit (`TasksMax=`)")?;
    runtime.block_on(serve(args))
}

/// Removes the pins that an ended daemon left; returns what was there.
pub fn detach_offline(bpffs: &Path, reason: &str) -> Result<Vec<String>> {
    let pins = Pins::take(bpffs)?;
    let programs = pins.programs_in_force();
    pins.remove_all()?;
    // No daemon, no events file: the system's log keeps the evidence.
    init_log(LogFormat::Journald).or_else(|_no_journal| init_log(LogFormat::Text))?;
    tracing::warn!(reason, "enforcement was ended without the daemon");
    Ok(programs)
}

/// How the daemon was ended.
enum End {
    Signal(&'static str),
    Detach(DetachOrder),
    Intake(Box<Result<Result<Engine, IntakeError>, oneshot::error::RecvError>>),
}

fn started(engine: &Engine, plane: host::Plane) -> DaemonEvent {
    DaemonEvent::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: engine.generation(),
        plane: plane.to_string(),
    }
}

/// What the state directory and the policy directory have.
struct Kept {
    store: Arc<GrantStore>,
    policy: Policy,
    agent_ids: Vec<(Arc<str>, AgentId)>,
    grants: GrantTable,
    answers: AnswerTable,
    inventory: Inventory,
}

fn load(args: &RunArgs) -> Result<Kept> {
    let store = Arc::new(GrantStore::open(&args.state_dir)?);
    let now = Moment::now()?;
    let grants = store.load(&now)?;
    let answers = store.load_answers(&now)?;
    let mut policy = Policy::load(&args.policy)?;
    store.admit_manifests(&mut policy, &now)?;
    let names: Vec<_> = policy.agents().iter().map(|agent| agent.name.as_ref()).collect();
    store.agent_ids(names)?;
    let agent_ids = store.known_agents()?;
    let inventory = store.load_inventory()?;
    Ok(Kept { store, policy, agent_ids, grants, answers, inventory })
}

/// Attaches the programs and begins. What was attached must not stay behind a daemon that could not
/// begin.
fn enforce(mut kernel: Kernel, parts: Parts) -> Result<(Kernel, Engine)> {
    let takes_over = kernel.takes_over();
    kernel.attach()?;
    let engine = match Engine::start(parts) {
        Ok(engine) => engine,
        Err(error) if takes_over => return Err(error.into()),
        Err(error) => {
            kernel.withdraw()?;
            return Err(error.into());
        }
    };
    kernel.end_other_versions()?;
    Ok((kernel, engine))
}

async fn serve(args: RunArgs) -> Result<()> {
    let cgroup_root = host::cgroup2_root(args.cgroup_root.as_deref())?;
    let cgroups = host::cgroup2_mount()?;
    if !host::is_hierarchy_root(&cgroup_root) {
        tracing::warn!(path = %cgroup_root.display(), "enforcing below one cgroup only: sockets made outside escape");
    }
    let plane = args.plane.resolve()?;
    let sockets = Sockets::bind(&args.runtime_dir)?;
    let Kept { store, policy, agent_ids, grants, answers, inventory } = load(&args)?;
    let (changes_told, pending_changes) = watch::channel(0);
    let (questions, questions_asked) = mpsc::channel(webhook::QUEUE);
    let approvers = Arc::new(ApproverUsers::default());
    let (events, stage) = start_events(&args)?;

    let (mut kernel, maps) = Kernel::load(kernel_config(&args, plane, cgroup_root.clone()))?;
    let takes_over = kernel.takes_over();
    let mut verdicts = Verdicts::new(maps.verdicts, maps.state)?;
    prepare_words(&mut verdicts, &store)?;
    let (inbox, mailbox) = intake::inbox()?;
    let (uses, uses_asked) = sync_channel(USES);
    let (globs, globs_named) = sync_channel(16);
    let (inventory_changes, inventory_batches) = sync_channel(1);
    let mut workers = workers::start(
        Arc::clone(&store),
        inbox.clone(),
        uses_asked,
        globs_named,
        inventory_batches,
        &events,
    )?;
    let guarding = workers.guard(Guard::new(guarded_paths(&args), maps.guarded)?, &events)?;
    let parts = Parts {
        policy_dir: args.policy.clone(),
        audience: args.audience.clone().unwrap_or_else(host::name),
        policy,
        agent_ids,
        grants,
        answers,
        webhook: questions,
        inventory,
        inventory_changes,
        unused_after: args.unused_after,
        pending_changes: changes_told,
        approvers: Arc::clone(&approvers),
        verdicts,
        processes: maps.processes,
        selectors: maps.selectors,
        counters: maps.counters,
        tallies: maps.tallies,
        events: events.clone(),
        hashers: hash_workers(&inbox)?,
        attestor: args.broker().map(|config| attestor(config, &inbox)),
        flows: flow_reset()?,
        held_timers: kernel.held_timers()?,
        uses,
        globs,
        cgroups,
        cgroup_root,
        own_sockets: sockets.paths(),
        plane,
        programs: kernel.programs(),
        limits: pending_limits(&args)?,
        guarding,
    };
    let (kernel, engine) = enforce(kernel, parts)?;
    events.push(started(&engine, plane).into());
    let (ended, intake_ended) = oneshot::channel();
    let ring = maps.ring;
    let intake = thread::Builder::new().name("intake".to_owned()).spawn(move || {
        // Nobody is left to tell when the receiver is gone.
        let _ = ended.send(intake::run(ring, engine, &mailbox));
    })?;
    let (detach, mut detach_orders) = mpsc::channel(1);
    let control = EngineHandle::new(
        inbox.clone(),
        Arc::clone(&store),
        events.clone(),
        args.policy.clone(),
        pending_changes,
        approvers,
        detach,
    );
    let answering: Arc<dyn Control> = Arc::new(control.clone());
    tokio::spawn(webhook::run(questions_asked, control.clone()));
    let served = sockets.serve(&answering);
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(takes_over, "enforcing");

    let end = wait_for_end(&stage, &control, intake_ended, &mut detach_orders).await?;
    notify(&[sd_notify::NotifyState::Stopping]);
    let result = finish(end, kernel, &inbox, &events).await;
    served.end().await?;
    if intake.join().is_err() {
        tracing::error!("the intake thread panicked");
    }
    workers.join();
    let written = tokio::task::spawn_blocking(move || stage.shutdown(EVENTS_DEADLINE)).await?;
    result?;
    written?;
    Ok(())
}

/// Waits, and does what signals ask for meanwhile.
async fn wait_for_end(
    stage: &EventStage,
    control: &EngineHandle,
    mut intake_ended: oneshot::Receiver<Result<Engine, IntakeError>>,
    detach: &mut mpsc::Receiver<DetachOrder>,
) -> Result<End> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut watch = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(End::Signal("SIGTERM")),
            _ = interrupt.recv() => return Ok(End::Signal("SIGINT")),
            ended = &mut intake_ended => return Ok(End::Intake(Box::new(ended))),
            Some(order) = detach.recv() => return Ok(End::Detach(order)),
            _ = hangup.recv() => {
                stage.reopen();
                match control.reload().await {
                    Ok(view) => tracing::info!(generation = view.generation, "the policy was read again"),
                    Err(error) => tracing::error!(%error, "the policy before stays in force"),
                }
            }
            _ = watch.tick() => {
                if !stage.is_running() {
                    return Err(anyhow!("the events stage has ended: no evidence is kept; restart the daemon"));
                }
                // The watchdog sees that this thread lives; the kernel side sees the intake.
                notify(&[sd_notify::NotifyState::Watchdog]);
            }
        }
    }
}

/// Ends enforcement or leaves it in place, as the end demands.
async fn finish(end: End, kernel: Kernel, inbox: &Inbox, events: &EventQueue) -> Result<()> {
    match end {
        End::Signal(signal) => {
            tracing::info!(signal, "stopping; enforcement stays in force");
            inbox.send(Message::Stop)?;
            events.push(Event::from(DaemonEvent::Stopped));
            Ok(())
        }
        End::Detach(DetachOrder { reason, done }) => {
            tracing::warn!(%reason, "enforcement ends");
            let detached = tokio::task::spawn_blocking(move || kernel.detach()).await?;
            inbox.send(Message::Stop)?;
            let answer = match &detached {
                Ok(()) => Ok(()),
                Err(error) => Err(crate::control::ControlError::Internal(error.to_string())),
            };
            if detached.is_ok() {
                events.push(Event::from(DaemonEvent::Detached { reason }));
            }
            // The client may have gone.
            let _ = done.send(answer);
            Ok(detached?)
        }
        End::Intake(ended) => match *ended {
            Ok(Ok(_engine)) => Ok(()),
            Ok(Err(error)) => Err(error).context("the intake has ended"),
            Err(_panicked) => {
                Err(anyhow!("the intake has panicked: new calls are denied; restart the daemon"))
            }
        },
    }
}

/// State words that must be right before any program runs.
fn prepare_words(verdicts: &mut Verdicts, store: &GrantStore) -> Result<()> {
    if verdicts.word(StateWord::NextId)? == 0 {
        verdicts.set(StateWord::NextId, (store.next_epoch()? << EPOCH_BITS) | 1)?;
    }
    // Counted by programs that may have been replaced in the middle of a wait.
    verdicts.set(StateWord::Waiters, 0)?;
    Ok(())
}

fn pending_limits(args: &RunArgs) -> Result<PendingLimits> {
    Ok(PendingLimits {
        total: usize::try_from(args.max_pending)?,
        per_instance: usize::try_from(args.max_pending_per_instance)?,
    })
}

fn kernel_config(args: &RunArgs, plane: host::Plane, cgroup_root: PathBuf) -> KernelConfig {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let waiters = u32::try_from(cpus.saturating_sub(1)).unwrap_or(u32::MAX);
    KernelConfig {
        plane,
        bpffs: args.bpffs.clone(),
        cgroup_root,
        limits: Limits {
            // A call that keeps the only CPU busy would wait for a daemon that can't run.
            wait_turns: if waiters == 0 { 0 } else { args.wait_turns },
            waiters,
            heartbeat_stale_ns: u64::try_from(HEARTBEAT_STALE.as_nanos()).unwrap_or(u64::MAX),
            requests_per_second: args.requests_per_second,
        },
        max_processes: args.max_processes,
        max_verdicts: args.max_verdicts,
        ring_bytes: args.ring_bytes,
    }
}

fn guarded_paths(args: &RunArgs) -> GuardedPaths {
    let mut trees = vec![
        args.state_dir.clone(),
        args.runtime_dir.clone(),
        args.policy.clone(),
        Pins::directory(&args.bpffs),
    ];
    // Where it can't be told, what would be closed is what nobody can find either.
    trees.extend(std::env::current_exe());
    // Devices that send, some under numbers that are given out at run time (`rdma_cm`).
    trees.push(PathBuf::from("/dev/infiniband"));
    let read_only = args.agents_read_only.clone();
    GuardedPaths { trees, read_only, events: args.events.clone() }
}

fn start_events(args: &RunArgs) -> Result<(EventQueue, EventStage)> {
    let mut config = EventsConfig::new(&args.events);
    config.syslog.clone_from(&args.syslog);
    config.facility = args.syslog_facility;
    Ok(start(config, Arc::new(SystemClock))?)
}

fn hash_workers(inbox: &Inbox) -> Result<HashWorkers<(ExecId, Sought)>> {
    let inbox = inbox.clone();
    HashWorkers::start(WorkerLimits::default(), move |(exec, subject), result| {
        // At the end nobody waits for it.
        let _ = inbox.send_waiting(Message::Found(exec, subject, result));
    })
    .context("cannot start the threads that hash executables")
}

fn attestor(config: BrokerConfig, inbox: &Inbox) -> Box<dyn Attestor> {
    let inbox = inbox.clone();
    Box::new(SpiffeBroker::start(config, move |subject, answer| {
        // At the end nobody waits for it.
        let _ = inbox.send_waiting(Message::Identified(subject, answer));
    }))
}

fn flow_reset() -> Result<FlowReset> {
    Ok(FlowReset::start(RESETS, |cookie, result| match result {
        Ok(reset) => tracing::debug!(cookie, ?reset, "a denied flow was reset"),
        Err(error) => tracing::warn!(cookie, %error, "a denied flow was not reset"),
    })?)
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn init_log(format: LogFormat) -> Result<()> {
    let filter = EnvFilter::try_from_env("AGENT_ENFORCER_LOG")
        .unwrap_or_else(|_unset| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Journald => registry
            .with(tracing_journald::layer().context("no journal; use `--log text`")?)
            .try_init()?,
        LogFormat::Text => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
            .try_init()?,
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr))
            .try_init()?,
    }
    Ok(())
}
