//! Threads for what the intake must not wait for: the disk of counted grants and of the inventory, the
//! file system below path selectors, and the files that are closed to agents.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    engine::{Message, UseRequest},
    events::{DaemonEvent, Event, EventQueue},
    guard::Guard,
    intake::Inbox,
    resolver::{
        attestation::watcher::{Change, ExecutableWatcher, WatchError},
        grant::{GrantStore, Moment},
        inventory::Changes,
    },
};

/// Between two notes of the time: bounds what a clock set back can add to a grant over a restart.
const NOTE_TIME: Duration = Duration::from_mins(1);
/// Between two looks for grants that expired long ago.
const DROP_OUTDATED: Duration = Duration::from_hours(1);
/// Before the inventory is stored again that could not be.
const STORE_AGAIN: Duration = Duration::from_secs(5);
/// Longest wait for a change of the file system before a look at new globs.
const WATCH: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The running threads; they end when the engine does.
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Looks after guarded files until what it returns is dropped.
    pub(super) fn guard(
        &mut self,
        guard: Guard,
        events: &EventQueue,
    ) -> Result<SyncSender<Infallible>, StartError> {
        let (guarding, ends) = sync_channel(0);
        let events = events.clone();
        self.threads.push(spawn("guard", move || guard.run(&ends, &events))?);
        Ok(guarding)
    }

    pub(super) fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

/// Starts the threads.
pub(super) fn start(
    store: Arc<GrantStore>,
    inbox: Inbox,
    uses: Receiver<UseRequest>,
    globs: Receiver<Vec<String>>,
    inventory: Receiver<Changes>,
    events: &EventQueue,
) -> Result<Workers, StartError> {
    let watcher = ExecutableWatcher::new()?;
    let uses_of = (Arc::clone(&store), inbox.clone());
    let inventory_of = (store, inbox.clone(), events.clone());
    let threads = vec![
        spawn("grant-uses", move || record_uses(&uses_of.0, &uses_of.1, &uses))?,
        spawn("inventory", move || {
            let (store, inbox, events) = inventory_of;
            record_inventory(&store, &inbox, &events, &inventory);
        })?,
        spawn("executables", move || watch_executables(watcher, &inbox, &globs))?,
    ];
    Ok(Workers { threads })
}

/// Why the threads can't start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("thread `{name}`: {source}; see the task limit of the service (`TasksMax=`)")]
    Thread { name: &'static str, source: io::Error },
}

fn spawn(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|source| StartError::Thread { name, source })
}

fn record_uses(store: &GrantStore, inbox: &Inbox, uses: &Receiver<UseRequest>) {
    let mut last_drop: Option<Instant> = None;
    loop {
        if last_drop.is_none_or(|last| last.elapsed() >= DROP_OUTDATED) {
            last_drop = Some(Instant::now());
            drop_outdated(store);
        }
        match uses.recv_timeout(NOTE_TIME) {
            Ok(UseRequest { grant, key }) => {
                let Some(now) = moment() else { continue };
                let result = store.record_use(grant, &now);
                if inbox.send_waiting(Message::UseRecorded { grant, key, result }).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(now) = moment()
                    && let Err(error) = store.note_time(&now)
                {
                    tracing::warn!(%error, "the time could not be noted");
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The engine drops them from its table by the same rule; what is still stored after a crash goes
/// with the next look.
fn drop_outdated(store: &GrantStore) {
    let Some(now) = moment() else { return };
    match store.drop_outdated(&now) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "grants that expired long ago were dropped"),
        Err(error) => tracing::warn!(%error, "grants that expired long ago stay in the store"),
    }
}

/// One batch after the other. One that can't be stored is tried again until it is, or the daemon ends.
fn record_inventory(
    store: &GrantStore,
    inbox: &Inbox,
    events: &EventQueue,
    batches: &Receiver<Changes>,
) {
    let mut unsaved = Changes::default();
    let mut is_failing = false;
    loop {
        let wait = if unsaved.is_empty() { NOTE_TIME } else { STORE_AGAIN };
        let ends = match batches.recv_timeout(wait) {
            Ok(batch) => {
                unsaved.add(batch);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        if !unsaved.is_empty() {
            match store.record_inventory(&unsaved) {
                Ok(()) => {
                    unsaved = Changes::default();
                    is_failing = false;
                    // At the end nobody waits for it.
                    let _ = inbox.send_waiting(Message::InventoryStored);
                }
                Err(error) if is_failing => tracing::warn!(%error, "the inventory is not stored"),
                Err(error) => {
                    is_failing = true;
                    tracing::error!(%error, "the inventory is not stored");
                    events.push(Event::from(DaemonEvent::Alarm {
                        what: format!("the inventory is not stored: {error}"),
                        remedy: "make room on the disk of the state directory".to_owned(),
                    }));
                }
            }
        }
        if ends {
            return;
        }
    }
}

fn moment() -> Option<Moment> {
    Moment::now().inspect_err(|error| tracing::error!(%error, "no clock")).ok()
}

fn watch_executables(mut watcher: ExecutableWatcher, inbox: &Inbox, named: &Receiver<Vec<String>>) {
    let mut globs = Vec::new();
    loop {
        let mut changed = false;
        loop {
            match named.try_recv() {
                Ok(new) => {
                    globs = new;
                    changed = true;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        match watcher.drain() {
            Ok(Change::None) => {}
            Ok(Change::Possible | Change::Overflow) => changed = true,
            Err(error) => tracing::warn!(%error, "executables are not watched"),
        }
        if changed && !globs.is_empty() {
            match watcher.resolve(&globs) {
                Ok(resolution) => {
                    if inbox.send_waiting(Message::Executables(resolution)).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "executables are not looked up"),
            }
        }
        let mut fds = [PollFd::new(&watcher, PollFlags::IN)];
        // A failed wait is a short one.
        let _ = poll(&mut fds, Some(&WATCH));
    }
}
