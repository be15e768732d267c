//! 1. Ring buffer -> records, on a thread of its own.
//!
//! In: the kernel's ring, messages from the rest of the daemon, the clock. Out: calls into the
//! [`Engine`], which this thread owns: nothing on the path of a stalled call takes a lock or hops
//! to another thread. This thread's heartbeat is what the kernel side takes for the daemon's life.

mod decode;
mod seat;

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    process::setpriority_process,
};

pub use decode::{DecodeError, Record, decode};

use self::seat::Seat;
use crate::engine::{Engine, Message, Next};

/// How long the thread looks again before it sleeps: waking it costs the next caller more.
const SPIN: Duration = Duration::from_micros(60);
/// Longest sleep: bounds the age of records that do not wake, and of the heartbeat.
const SLEEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Nice value of the thread.
const PRIORITY: i32 = -20;
/// Records between two looks at messages and the clock.
const BATCH: usize = 256;
/// Messages that may wait.
const INBOX: usize = 4096;

/// The thread can't go on.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// No event descriptor.
    #[error("cannot make an event descriptor: {0}; raise the limit of open files")]
    Eventfd(#[source] io::Error),
    /// Waiting failed.
    #[error("cannot wait for the kernel's records: {0}; restart the daemon")]
    Poll(#[source] io::Error),
    /// Everybody who could send is gone.
    #[error("nobody is left to command the intake; restart the daemon")]
    Orphaned,
}

/// The engine does not take messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// Too many wait.
    #[error("the daemon is too busy to take commands; try again")]
    Full,
    /// The intake has ended.
    #[error("the daemon is stopping; start it again")]
    Closed,
}

/// Sends messages to the engine and wakes it.
#[derive(Clone)]
pub struct Inbox {
    sender: SyncSender<Message>,
    wake: Arc<OwnedFd>,
}

impl Inbox {
    /// Sends, without waiting.
    pub fn send(&self, message: Message) -> Result<(), InboxError> {
        self.sender.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => InboxError::Full,
            TrySendError::Disconnected(_) => InboxError::Closed,
        })?;
        self.wake();
        Ok(())
    }

    /// Sends from a worker, which waits where there is no room.
    pub fn send_waiting(&self, message: Message) -> Result<(), InboxError> {
        self.sender.send(message).map_err(|_closed| InboxError::Closed)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // A full counter means that it is awake already.
        let _awake = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// The receiving end, for [`run`].
pub struct Mailbox {
    receiver: Receiver<Message>,
    wake: Arc<OwnedFd>,
}

/// Makes the way into the engine.
pub fn inbox() -> Result<(Inbox, Mailbox), IntakeError> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| IntakeError::Eventfd(error.into()))?;
    let wake = Arc::new(wake);
    let (sender, receiver) = sync_channel(INBOX);
    Ok((Inbox { sender, wake: Arc::clone(&wake) }, Mailbox { receiver, wake }))
}

/// Runs until the engine is told to stop. Returns the engine for its last words.
pub fn run(
    mut ring: RingBuf<MapData>,
    mut engine: Engine,
    mailbox: &Mailbox,
) -> Result<Engine, IntakeError> {
    // A caller that waits in its hook waits for this thread to get a CPU. Threads have priorities of
    // their own (setpriority(2)); without the capability it is only slower.
    if let Err(error) = setpriority_process(None, PRIORITY) {
        tracing::info!(%error, "the intake runs at normal priority");
    }
    // With one CPU, looking again only keeps the caller from running.
    let spins = thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    let mut seat = Seat::of_this_thread();
    let mut last_work = Instant::now();
    loop {
        let mut worked = false;
        for _ in 0..BATCH {
            let Some(bytes) = ring.next() else { break };
            worked = true;
            match decode(&bytes) {
                Ok(record) => {
                    engine.on_record(&record);
                    if let Record::Request(question, _) = record {
                        seat.leave_to(question.cpu);
                    }
                }
                Err(error) => engine.on_bad_record(&error),
            }
        }
        loop {
            match mailbox.receiver.try_recv() {
                Ok(message) => {
                    worked = true;
                    if engine.on_message(message) == Next::Stop {
                        return Ok(engine);
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(IntakeError::Orphaned),
            }
        }
        engine.on_tick();
        if worked {
            last_work = Instant::now();
        } else if !engine.on_idle() && (!spins || last_work.elapsed() >= SPIN) {
            // SAFETY: the ring outlives the borrow.
            let ring_fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
            sleep(ring_fd, mailbox.wake.as_fd())?;
        } else {
            std::hint::spin_loop();
        }
    }
}

fn sleep(ring: BorrowedFd<'_>, wake: BorrowedFd<'_>) -> Result<(), IntakeError> {
    let mut fds = [PollFd::new(&ring, PollFlags::IN), PollFd::new(&wake, PollFlags::IN)];
    match poll(&mut fds, Some(&SLEEP)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(IntakeError::Poll(error.into())),
    }
    let mut counter = [0; 8];
    // Nothing to read is no error.
    let _woken = rustix::io::read(wake, &mut counter);
    Ok(())
}
