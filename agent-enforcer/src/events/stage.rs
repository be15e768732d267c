//! The stage's own thread: queue -> fold -> schema -> file, followers, syslog.
//!
//! In: what the queue holds. Out: lines in every sink, in one order. The thread writes at least
//! every 100 ms and whenever the queue is empty. Whatever was lost, anywhere, becomes an event as
//! soon as the file has room for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Clock, DaemonEvent, EventClass, EventQueue, EventsConfig, EventsError, LossCause,
    clock::{Moment, duration_ns},
    counters::{Counters, Losses},
    feed::Feed,
    fold::{Emission, Folder},
    queue::{self, Queued},
    schema::{Record, Schema},
    sink::{file::FileSink, syslog::SyslogSink},
};

/// The thread looks after itself at least so often.
const TICK: Duration = Duration::from_secs(1);
/// Pause after the queue was emptied. What comes meanwhile is written together, and nobody who
/// pushes it has to wake this thread: the intake has callers waiting.
const GATHER: Duration = Duration::from_millis(20);
/// Longest time between two writes while events keep coming.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// Bytes that are written without waiting for that.
const WRITE_BYTES: usize = 256 << 10;
/// How often losses of syslog receivers are told.
const TELL_SYSLOG_EVERY: Duration = Duration::from_secs(10);

/// Starts the stage.
///
/// # Errors
/// The events file cannot be used, or a thread cannot be started.
pub fn start(
    config: EventsConfig,
    clock: Arc<dyn Clock>,
) -> Result<(EventQueue, EventStage), EventsError> {
    let EventsConfig { file, syslog, facility, host, queue, fold_window, backlog_bytes } = config;
    let counters = Arc::new(Counters::default());
    let feed = Arc::new(Feed::new());
    let (file, opened) = FileSink::open(file, backlog_bytes, Arc::clone(&counters))?;
    let syslog = syslog
        .into_iter()
        .map(|target| SyslogSink::start(target, facility, &host, Arc::clone(&counters)))
        .collect::<Result<Vec<_>, _>>()?;
    let (queue, receiver) =
        EventQueue::new(queue, Arc::clone(&counters), Arc::clone(&feed), Arc::clone(&clock));
    let orders = Arc::new(Orders::default());
    let (end, ended) = sync_channel(1);
    let mut worker = Worker {
        receiver,
        orders: Arc::clone(&orders),
        folder: Folder::new(duration_ns(fold_window)),
        schema: Schema::new(host),
        untold: BTreeMap::new(),
        syslog_told_ns: clock.boot_ns(),
        written_ns: clock.boot_ns(),
        file,
        syslog,
        feed,
        counters,
        clock,
    };
    if opened.torn_lines != 0 {
        worker.untold.insert((LossCause::TornLine, EventClass::Unknown), opened.torn_lines);
    }
    let thread = thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || worker.run(&end))
        .map_err(|source| EventsError::Thread { name: "events", source })?;
    let stage = EventStage { queue: queue.clone(), orders, ended, thread: Some(thread) };
    Ok((queue, stage))
}

/// The running stage. When it is dropped the thread ends on its own; use
/// [`EventStage::shutdown`] to know that everything is written.
pub struct EventStage {
    queue: EventQueue,
    orders: Arc<Orders>,
    ended: Receiver<Result<(), EventsError>>,
    thread: Option<JoinHandle<()>>,
}

impl EventStage {
    /// Opens the events file anew, for logrotate. Returns at once.
    pub fn reopen(&self) {
        self.orders.reopen.store(true, Relaxed);
        self.queue.wake();
    }

    /// Whether the thread lives. When it does not, no evidence is kept: end the daemon.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Writes everything that was pushed before this call, and ends the thread.
    ///
    /// # Errors
    /// Something could not be written before the time limit, or the thread had ended before.
    pub fn shutdown(mut self, limit: Duration) -> Result<(), EventsError> {
        let deadline = Instant::now() + limit;
        self.stop(deadline);
        // A little later than the thread's own deadline, so that it can say what is unwritten.
        match self.ended.recv_timeout(limit + WRITE_EVERY) {
            Ok(result) => {
                if let Some(thread) = self.thread.take() {
                    thread.join().map_err(|_| EventsError::Died)?;
                }
                result
            }
            Err(RecvTimeoutError::Timeout) => Err(EventsError::Hung(limit)),
            Err(RecvTimeoutError::Disconnected) => Err(EventsError::Died),
        }
    }

    fn stop(&self, deadline: Instant) {
        let mut stop = self.orders.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_none() {
            *stop = Some(deadline);
            self.queue.wake();
        }
    }
}

impl Drop for EventStage {
    fn drop(&mut self) {
        self.stop(Instant::now() + TICK);
    }
}

/// What the thread is told from outside.
#[derive(Default)]
struct Orders {
    reopen: AtomicBool,
    /// End, and be done by then.
    stop: Mutex<Option<Instant>>,
}

struct Worker {
    receiver: Receiver<Queued>,
    orders: Arc<Orders>,
    folder: Folder,
    schema: Schema,
    /// Losses that wait for room in the file.
    untold: BTreeMap<(LossCause, EventClass), u64>,
    syslog_told_ns: u64,
    written_ns: u64,
    file: FileSink,
    syslog: Vec<SyslogSink>,
    feed: Arc<Feed>,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
}

impl Worker {
    fn run(&mut self, end: &SyncSender<Result<(), EventsError>>) {
        let deadline = loop {
            let stop = *self.orders.stop.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(deadline) = stop {
                break deadline;
            }
            let mut emptied = false;
            match self.receiver.recv_timeout(self.pause()) {
                Ok(queued) => {
                    self.take(queued);
                    emptied = self.take_more();
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Every handle is gone, the stage's own too: as a stop.
                Err(RecvTimeoutError::Disconnected) => break Instant::now() + TICK,
            }
            self.keep_house();
            self.file.flush(self.clock.boot_ns());
            self.written_ns = self.clock.boot_ns();
            if emptied {
                thread::sleep(GATHER);
            }
        };
        // Nobody waits for the result when the stage was dropped.
        drop(end.try_send(self.finish(deadline)));
    }

    /// Takes what is there, until it is empty (true) or something is due.
    fn take_more(&mut self) -> bool {
        loop {
            match self.receiver.try_recv() {
                Ok(queued) => self.take(queued),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
            let age = self.clock.boot_ns().saturating_sub(self.written_ns);
            if age >= duration_ns(WRITE_EVERY) || self.file.buffered() >= WRITE_BYTES {
                return false;
            }
        }
    }

    fn take(&mut self, queued: Queued) {
        let now_ns = self.clock.boot_ns();
        let mut out = Vec::new();
        match queued {
            Queued::Wake => return,
            Queued::Call(call) => {
                queue::taken(&self.counters.queued);
                self.folder.call(call, now_ns, &mut out);
            }
            Queued::Attempt(attempt) => {
                queue::taken(&self.counters.queued);
                self.folder.attempt(attempt, now_ns, &mut out);
            }
            Queued::Daemon(stamped) => {
                queue::taken(&self.counters.queued);
                if let DaemonEvent::RecordsLost { kind, count } = stamped.event {
                    self.folder.records_lost(kind, count, now_ns, &mut out);
                } else {
                    self.tell_daemon(&stamped.event, (stamped.time_ns, stamped.time_ns));
                }
            }
        }
        self.tell_all(out);
    }

    /// What is due without an event: windows, losses, a new file.
    fn keep_house(&mut self) {
        let mut out = Vec::new();
        self.folder.end_due(self.clock.boot_ns(), &mut out);
        self.tell_all(out);
        self.tell_losses(false);
        if self.orders.reopen.swap(false, Relaxed)
            && let Err(error) = self.file.reopen()
        {
            tracing::error!(%error, "the open events file stays in use");
        }
    }

    fn tell_all(&mut self, emissions: Vec<Emission>) {
        for emission in emissions {
            match emission {
                Emission::Call(folded) => {
                    let moment = Moment::now(&*self.clock);
                    let sequence = self.file.next_sequence();
                    self.counters.folded.fetch_add(folded.count - 1, Relaxed);
                    let record = self.schema.call(&folded, &moment, sequence);
                    self.hand_out(record, EventClass::from(folded.call.outcome), folded.count);
                }
                Emission::Attempt(folded) => {
                    let moment = Moment::now(&*self.clock);
                    let sequence = self.file.next_sequence();
                    self.counters.folded.fetch_add(folded.count - 1, Relaxed);
                    let record = self.schema.attempt(&folded, &moment, sequence);
                    self.hand_out(record, EventClass::Guarded, folded.count);
                }
                Emission::RecordsLost(sum) => {
                    let event = DaemonEvent::RecordsLost { kind: sum.kind, count: sum.count };
                    self.tell_daemon(&event, (sum.first_ns, sum.last_ns));
                }
            }
        }
    }

    fn tell_daemon(&mut self, event: &DaemonEvent, span_ns: (u64, u64)) {
        let moment = Moment::now(&*self.clock);
        let sequence = self.file.next_sequence();
        let record = self.schema.daemon(event, span_ns, &moment, sequence);
        self.hand_out(record, EventClass::Daemon, 1);
    }

    fn hand_out(&mut self, record: serde_json::Result<Record>, class: EventClass, count: u64) {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%error, "an event could not be put into words");
                self.counters.lost_disk.add(class, count);
                return;
            }
        };
        if record.sequence.is_some() {
            self.file.append(&record.line);
        } else {
            self.counters.lost_disk.add(record.class, record.count);
        }
        self.feed.publish(&record.line);
        for syslog in &self.syslog {
            syslog.offer(&record);
        }
    }

    fn tell_losses(&mut self, is_last: bool) {
        let now_ns = self.clock.boot_ns();
        let counters = Arc::clone(&self.counters);
        self.collect(LossCause::Queue, &counters.lost_queue);
        self.collect(LossCause::Disk, &counters.lost_disk);
        let since_ns = now_ns.saturating_sub(self.syslog_told_ns);
        if is_last || since_ns >= duration_ns(TELL_SYSLOG_EVERY) {
            self.syslog_told_ns = now_ns;
            self.collect(LossCause::Syslog, &counters.lost_syslog);
        }
        while self.file.next_sequence().is_some()
            && let Some(((why, what), count)) = self.untold.pop_first()
        {
            self.tell_daemon(&DaemonEvent::EventsLost { what, count, why }, (now_ns, now_ns));
        }
    }

    fn collect(&mut self, why: LossCause, losses: &Losses) {
        for (what, count) in losses.take() {
            *self.untold.entry((why, what)).or_default() += count;
        }
    }

    /// How long the thread may sleep.
    fn pause(&self) -> Duration {
        let now_ns = self.clock.boot_ns();
        [self.folder.next_end_ns(), self.file.retry_at_ns()]
            .into_iter()
            .flatten()
            .map(|at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns)))
            .chain([TICK])
            .min()
            .unwrap_or(TICK)
    }

    fn finish(&mut self, deadline: Instant) -> Result<(), EventsError> {
        while let Ok(queued) = self.receiver.try_recv() {
            self.take(queued);
            if self.file.buffered() >= WRITE_BYTES {
                self.file.flush(self.clock.boot_ns());
            }
        }
        let mut out = Vec::new();
        self.folder.end_all(&mut out);
        self.tell_all(out);
        self.tell_losses(true);
        let result = self.file.finish(&*self.clock, deadline);
        self.syslog.drain(..).for_each(|syslog| syslog.shutdown(deadline));
        for ((why, what), count) in &self.untold {
            tracing::error!(count, what = what.word(), why = why.word(), "lost events");
        }
        result
    }
}

#[cfg(test)]
mod tests;
