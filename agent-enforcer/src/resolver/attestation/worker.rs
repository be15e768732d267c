//! Threads that hash executables and look for scripts, so that no one else waits for a disk or a
//! hostile file system.
//!
//! In: [`Work`] with whatever the caller wants back with the result. Out: results, through one
//! closure that is called on these threads. Queues are bounded: a full one is the caller's to deny.
//!
//! Two lanes, one thread each: small files never wait for large ones. A keeper watches the threads:
//! one that makes no progress (a FUSE server or a dead file server can block a read for ever, and
//! no signal ends that) is written off. Its caller gets [`DigestError::TimedOut`], a new thread
//! takes the lane over, and the file system is refused until it answers. At most [`STUCK_LIMIT`]
//! threads are replaced; after that the lane is closed until one of them comes back.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agent_enforcer_common::id::InstanceId;

use super::{
    digest::{DigestError, Hashed, hash},
    image::Executable,
    script::ScriptSearch,
};
use crate::decision::Unverified;

/// Largest file of the quick lane, bytes.
const QUICK_BYTES: u64 = 64 << 20;
/// What a worker must read within the limit's patience, unless it ends, bytes.
const PACE_BYTES: u64 = 1 << 20;
/// How many threads may hang in a file system at a time.
pub const STUCK_LIMIT: usize = 16;

/// What a worker does with a file: [`hash`], but for tests.
type Hasher = dyn Fn(&File, &dyn Fn(u64) -> bool) -> Result<Hashed, DigestError> + Send + Sync;

/// What is to be done.
#[derive(Debug)]
pub enum Work {
    /// Hash a file.
    Hash(Executable),
    /// Find a script, of an instance's process.
    Find(Box<ScriptSearch>, InstanceId),
}

/// What came of it.
#[derive(Debug)]
pub enum Found {
    /// The file was hashed.
    Hashed(Hashed),
    /// The script, or why there is none.
    Script(Result<Executable, Unverified>),
}

/// Who has to do with a thread that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// The device of a file.
    Device(u32),
    /// The instance for which a path is walked, over devices of its choice.
    Instance(InstanceId),
}

impl Work {
    fn place(&self) -> Place {
        match self {
            Self::Hash(file) => Place::Device(file.stamp().device),
            Self::Find(_, instance) => Place::Instance(*instance),
        }
    }

    fn lane(&self) -> Lane {
        match self {
            Self::Hash(file) if file.stamp().size > QUICK_BYTES => Lane::Long,
            Self::Hash(_) | Self::Find(..) => Lane::Quick,
        }
    }
}

/// Bounds of the workers.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// Executables that may wait in each lane.
    pub queue: usize,
    /// How long a worker may take for a mebibyte.
    pub patience: Duration,
}

impl Default for WorkerLimits {
    fn default() -> Self {
        Self { queue: 256, patience: Duration::from_secs(10) }
    }
}

/// An executable was not taken; here is what came with it.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Busy<C> {
    /// Why.
    pub why: BusyReason,
    /// What the caller gave.
    pub context: C,
}

/// Why an executable was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusyReason {
    /// The lane is full.
    #[error("too many executables wait to be hashed; deny the call and let it be made again")]
    QueueFull,
    /// Its file system hangs.
    #[error("the file system of the executable hangs; install the executable on a local one")]
    DeviceStuck,
    /// Every thread for files of that size hangs.
    #[error(
        "the threads that hash executables hang in file systems; unmount those or restart the daemon"
    )]
    NoThread,
    /// The workers stop.
    #[error("the daemon stops; ask again when it is back")]
    Closing,
}

/// The workers. Dropping them cancels what is under way and waits for it, but for stuck threads.
pub struct HashWorkers<C: Send + 'static> {
    pool: Arc<Pool<C>>,
    keeper: Option<thread::JoinHandle<()>>,
}

struct Pool<C> {
    limits: WorkerLimits,
    hasher: Box<Hasher>,
    deliver: Box<dyn Fn(C, Result<Found, DigestError>) + Send + Sync>,
    state: Mutex<State<C>>,
    /// Something changed: work, an end, closing.
    changed: Condvar,
}

struct State<C> {
    lanes: [VecDeque<Job<C>>; 2],
    running: HashMap<u64, Running<C>>,
    /// Where threads hang, and how many.
    stuck: HashMap<Place, usize>,
    /// Threads that serve each lane: started, not ended, not written off.
    threads: [usize; 2],
    next_id: u64,
    closing: bool,
}

struct Job<C> {
    work: Work,
    context: C,
}

struct Running<C> {
    context: C,
    lane: Lane,
    place: Place,
    progress: Arc<AtomicU64>,
    seen: u64,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Quick,
    Long,
}

impl<C: Send + 'static> HashWorkers<C> {
    /// Starts the threads. `deliver` is called on them, once for each executable taken; it must not
    /// block.
    pub fn start(
        limits: WorkerLimits,
        deliver: impl Fn(C, Result<Found, DigestError>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start_with(limits, Box::new(hash), deliver)
    }

    fn start_with(
        limits: WorkerLimits,
        hasher: Box<Hasher>,
        deliver: impl Fn(C, Result<Found, DigestError>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = State {
            lanes: [VecDeque::new(), VecDeque::new()],
            running: HashMap::new(),
            stuck: HashMap::new(),
            threads: [0; 2],
            next_id: 0,
            closing: false,
        };
        let pool = Arc::new(Pool {
            limits,
            hasher,
            deliver: Box::new(deliver),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        // From here on dropping stops what was started.
        let mut workers = Self { pool: Arc::clone(&pool), keeper: None };
        for lane in [Lane::Quick, Lane::Long] {
            spawn_worker(&pool, &mut pool.state(), lane)?;
        }
        let keeper = thread::Builder::new().name("hash-keeper".to_owned());
        workers.keeper = Some(keeper.spawn(move || pool.keep())?);
        Ok(workers)
    }

    /// Takes work; its result is delivered later, with `context`.
    pub fn submit(&self, work: Work, context: C) -> Result<(), Busy<C>> {
        let lane = work.lane();
        let mut state = self.pool.state();
        let waiting = state.lane(lane).len();
        let why = if state.closing {
            BusyReason::Closing
        } else if state.is_stuck(work.place()) {
            BusyReason::DeviceStuck
        } else if *state.threads(lane) == 0 {
            BusyReason::NoThread
        } else if waiting >= self.pool.limits.queue {
            BusyReason::QueueFull
        } else {
            state.lane(lane).push_back(Job { work, context });
            drop(state);
            self.pool.changed.notify_all();
            return Ok(());
        };
        Err(Busy { why, context })
    }
}

impl<C: Send + 'static> Drop for HashWorkers<C> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.closing = true;
        let waiting: Vec<_> = state.lanes.iter_mut().flat_map(|lane| lane.drain(..)).collect();
        drop(state);
        self.pool.changed.notify_all();
        for job in waiting {
            (self.pool.deliver)(job.context, Err(DigestError::Cancelled));
        }
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            tracing::error!("the thread that watches the hash workers panicked");
        }
    }
}

impl<C: Send + 'static> Pool<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        // A panic elsewhere leaves no half-made state: every change is one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread of a lane.
    fn work(&self, lane: Lane) {
        while let Some((id, work, progress)) = self.take(lane) {
            let place = work.place();
            let go_on = |bytes| {
                progress.store(bytes, Ordering::Relaxed);
                let state = self.state();
                !state.closing && state.running.contains_key(&id)
            };
            let result = match work {
                Work::Hash(executable) => executable
                    .open()
                    .map_err(DigestError::from)
                    .and_then(|file| (self.hasher)(&file, &go_on))
                    .map(Found::Hashed),
                Work::Find(search, _) => Ok(Found::Script(search.run())),
            };
            let mut state = self.state();
            let Some(running) = state.running.remove(&id) else {
                // Written off meanwhile.
                state.answered(place);
                if state.closing || *state.threads(lane) > 0 {
                    return;
                }
                *state.threads(lane) += 1;
                continue;
            };
            drop(state);
            self.changed.notify_all();
            (self.deliver)(running.context, result);
        }
        *self.state().threads(lane) -= 1;
        self.changed.notify_all();
    }

    /// Waits for a job of the lane; `None` at the end.
    fn take(&self, lane: Lane) -> Option<(u64, Work, Arc<AtomicU64>)> {
        let mut state = self.state();
        loop {
            if state.closing {
                return None;
            }
            if let Some(Job { work, context }) = state.lane(lane).pop_front() {
                let id = state.next_id;
                state.next_id += 1;
                let progress = Arc::new(AtomicU64::new(0));
                let running = Running {
                    context,
                    lane,
                    place: work.place(),
                    progress: Arc::clone(&progress),
                    seen: 0,
                    since: Instant::now(),
                };
                state.running.insert(id, running);
                drop(state);
                self.changed.notify_all();
                return Some((id, work, progress));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The keeper: writes off threads that hang, until every other has ended.
    fn keep(self: Arc<Self>) {
        let mut state = self.state();
        loop {
            let overdue = state.overdue(self.limits.patience);
            if overdue.is_empty() {
                if state.closing && state.threads == [0; 2] {
                    return;
                }
                state = if state.running.is_empty() {
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                } else {
                    let nap = self.limits.patience / 4;
                    self.changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner).0
                };
                continue;
            }
            let given_up: Vec<_> =
                overdue.into_iter().flat_map(|id| self.write_off(&mut state, id)).collect();
            drop(state);
            for context in given_up {
                (self.deliver)(context, Err(DigestError::TimedOut));
            }
            state = self.state();
        }
    }

    /// Ends waiting for a thread; returns those who waited for it.
    fn write_off(self: &Arc<Self>, state: &mut State<C>, id: u64) -> Vec<C> {
        let Some(Running { context, lane, place, .. }) = state.running.remove(&id) else {
            return Vec::new();
        };
        *state.threads(lane) -= 1;
        *state.stuck.entry(place).or_default() += 1;
        let stuck: usize = state.stuck.values().sum();
        tracing::warn!(
            ?place,
            stuck,
            "a file system does not answer; executables there are denied"
        );
        let mut given_up = vec![context];
        if !state.closing
            && stuck <= STUCK_LIMIT
            && let Err(error) = spawn_worker(self, state, lane)
        {
            tracing::error!(%error, ?lane, "no thread to hash executables; restart the daemon");
        }
        if *state.threads(lane) == 0 {
            given_up.extend(state.lane(lane).drain(..).map(|job| job.context));
        }
        given_up
    }
}

impl<C> State<C> {
    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Job<C>> {
        let [quick, long] = &mut self.lanes;
        match lane {
            Lane::Quick => quick,
            Lane::Long => long,
        }
    }

    fn threads(&mut self, lane: Lane) -> &mut usize {
        let [quick, long] = &mut self.threads;
        match lane {
            Lane::Quick => quick,
            Lane::Long => long,
        }
    }

    /// A disk is slow, but is everyone's; only an anonymous device can be one caller's own making.
    fn is_stuck(&self, place: Place) -> bool {
        let is_of_one_caller = match place {
            Place::Device(device) => device >> 20 == 0,
            Place::Instance(_) => true,
        };
        is_of_one_caller && self.stuck.contains_key(&place)
    }

    fn overdue(&mut self, patience: Duration) -> Vec<u64> {
        let mut overdue = Vec::new();
        for (&id, running) in &mut self.running {
            let progress = running.progress.load(Ordering::Relaxed);
            if progress - running.seen >= PACE_BYTES {
                running.seen = progress;
                running.since = Instant::now();
            } else if running.since.elapsed() >= patience {
                overdue.push(id);
            }
        }
        overdue
    }

    fn answered(&mut self, place: Place) {
        if let Some(threads) = self.stuck.get_mut(&place) {
            *threads -= 1;
            if *threads == 0 {
                self.stuck.remove(&place);
            }
        }
    }
}

fn spawn_worker<C: Send + 'static>(
    pool: &Arc<Pool<C>>,
    state: &mut State<C>,
    lane: Lane,
) -> io::Result<()> {
    let name = match lane {
        Lane::Quick => "hash-quick",
        Lane::Long => "hash-long",
    };
    let worker = Arc::clone(pool);
    // Detached: the keeper, which is joined, waits until each has ended or was written off.
    thread::Builder::new().name(name.to_owned()).spawn(move || worker.work(lane))?;
    *state.threads(lane) += 1;
    Ok(())
}

#[cfg(test)]
mod tests;
