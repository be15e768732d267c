//! The way into the stage.
//!
//! In: events from any thread. Out: the same, in order, to the stage's own thread. A push never
//! blocks and never waits for a disk; a full queue is a counted loss. The last places are kept
//! for daemon events, so that an agent's flood of calls cannot hide a revocation.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use super::{Clock, DaemonEvent, Event, EventClass, counters::Counters, feed::Feed};
use crate::{
    control::EventFeed,
    decision::{Attempt, CallDecision},
};

/// Places that calls cannot take.
const DAEMON_RESERVE: u64 = 1024;

/// What travels in the queue: small, as every place is allocated beforehand.
#[derive(Debug)]
pub(super) enum Queued {
    Call(Box<CallDecision>),
    Attempt(Box<Attempt>),
    Daemon(Box<StampedEvent>),
    /// Look at your flags.
    Wake,
}

/// A daemon event and when it was pushed.
#[derive(Debug)]
pub(super) struct StampedEvent {
    pub(super) time_ns: u64,
    pub(super) event: DaemonEvent,
}

/// Where events go. Cheap to clone.
#[derive(Clone)]
pub struct EventQueue {
    sender: SyncSender<Queued>,
    places: u64,
    counters: Arc<Counters>,
    feed: Arc<Feed>,
    clock: Arc<dyn Clock>,
}

impl EventQueue {
    pub(super) fn new(
        places: usize,
        counters: Arc<Counters>,
        feed: Arc<Feed>,
        clock: Arc<dyn Clock>,
    ) -> (Self, Receiver<Queued>) {
        let reserve = usize::try_from(DAEMON_RESERVE).unwrap_or(0);
        // One place more for a wake-up.
        let (sender, receiver) = sync_channel(places.saturating_add(reserve).saturating_add(1));
        let places = u64::try_from(places).unwrap_or(u64::MAX);
        (Self { sender, places, counters, feed, clock }, receiver)
    }

    /// Hands an event over. Never blocks; when the queue is full, or the stage has ended, the
    /// event is counted as lost and an `events_lost` event tells so as soon as there is room.
    pub fn push(&self, event: Event) {
        let (queued, class, count, places) = match event {
            Event::Call(call) => {
                let (class, count) = (EventClass::from(call.outcome), call.count);
                (Queued::Call(call), class, count, self.places)
            }
            Event::Attempt(attempt) => {
                (Queued::Attempt(attempt), EventClass::Guarded, 1, self.places)
            }
            Event::Daemon(event) => {
                let stamped = StampedEvent { time_ns: self.clock.boot_ns(), event: *event };
                let places = self.places.saturating_add(DAEMON_RESERVE);
                (Queued::Daemon(Box::new(stamped)), EventClass::Daemon, 1, places)
            }
        };
        // Counted before it is sent: the stage subtracts after it has received.
        let taken = self.counters.queued.fetch_add(1, Relaxed);
        if taken < places && self.sender.try_send(queued).is_ok() {
            self.counters.received.fetch_add(count, Relaxed);
        } else {
            self.counters.queued.fetch_sub(1, Relaxed);
            self.counters.lost_queue.add(class, count);
        }
    }

    /// The newest 1,000 events and those to come, without a gap between.
    pub fn subscribe(&self) -> EventFeed {
        self.feed.subscribe()
    }

    /// What the stage has done so far, by name: totals since the start, except `events_queued`
    /// (events) and `events_backlog_bytes`, which are of this moment.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }

    /// Wakes the stage; when there is no room it is awake anyway.
    pub(super) fn wake(&self) {
        drop(self.sender.try_send(Queued::Wake));
    }
}

/// Marks an event as out of the queue.
pub(super) fn taken(queued: &AtomicU64) {
    queued.fetch_sub(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::testing::{TestClock, call};

    fn queue(places: usize) -> (EventQueue, Receiver<Queued>) {
        EventQueue::new(
            places,
            Arc::new(Counters::default()),
            Arc::new(Feed::new()),
            Arc::new(TestClock::new(1, 1)),
        )
    }

    #[test]
    fn counts_calls_that_find_no_room_by_outcome() {
        let (queue, receiver) = queue(2);
        for _ in 0..4 {
            queue.push(Event::Call(Box::new(call())));
        }
        queue.push(Event::Call(Box::new(CallDecision { count: 40, ..call() })));
        assert_eq!(
            queue.counters.lost_queue.take().collect::<Vec<_>>(),
            [(EventClass::Denied, 42)]
        );
        assert_eq!(queue.counters.received.load(Relaxed), 2);
        assert_eq!(receiver.try_iter().count(), 2);
    }

    #[test]
    fn a_flood_of_calls_leaves_room_for_daemon_events() {
        let (queue, receiver) = queue(2);
        for _ in 0..10 {
            queue.push(Event::Call(Box::new(call())));
        }
        queue.push(Event::from(DaemonEvent::Stopped));
        let last = receiver.try_iter().last().unwrap();
        assert!(matches!(last, Queued::Daemon(_)));
    }

    #[test]
    fn counts_as_lost_what_is_pushed_after_the_stage_ended() {
        let (queue, receiver) = queue(2);
        drop(receiver);
        queue.push(Event::from(DaemonEvent::Stopped));
        assert_eq!(queue.counters.lost_queue.take().collect::<Vec<_>>(), [(EventClass::Daemon, 1)]);
        assert_eq!(queue.counters.queued.load(Relaxed), 0);
    }

    #[test]
    fn queue_handles_cross_threads() {
        fn check<T: Clone + Send + Sync>() {}
        check::<EventQueue>();
        assert!(size_of::<Queued>() <= 16);
    }
}
