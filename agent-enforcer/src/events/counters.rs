//! What the stage has done, and what it had to let go, in numbers.
//!
//! In: the queue, the stage and the sinks count. Out: totals for `status`, and losses that are
//! not yet told in an event. A loss is never forgotten: it is taken only by who tells it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::EventClass;

/// Losses of one place, by class.
#[derive(Debug, Default)]
pub(super) struct Losses {
    total: AtomicU64,
    untold: [AtomicU64; EventClass::ALL.len()],
}

impl Losses {
    pub(super) fn add(&self, class: EventClass, count: u64) {
        self.total.fetch_add(count, Relaxed);
        if let Some(untold) = self.untold.get(class as usize) {
            untold.fetch_add(count, Relaxed);
        }
    }

    /// Takes what was not yet told.
    pub(super) fn take(&self) -> impl Iterator<Item = (EventClass, u64)> + '_ {
        EventClass::ALL
            .iter()
            .zip(&self.untold)
            .map(|(&class, untold)| (class, untold.swap(0, Relaxed)))
            .filter(|&(_, count)| count != 0)
    }

    pub(super) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }
}

/// All numbers of the stage.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Events taken by the queue.
    pub(super) received: AtomicU64,
    /// Events in the queue at this moment.
    pub(super) queued: AtomicU64,
    /// Lines that are in the file.
    pub(super) written: AtomicU64,
    /// Calls that have no line of their own, as another line counts them.
    pub(super) folded: AtomicU64,
    /// Bytes that wait for the file at this moment.
    pub(super) backlog_bytes: AtomicU64,
    /// Failed attempts to write the file.
    pub(super) disk_errors: AtomicU64,
    /// Messages handed to syslog receivers.
    pub(super) syslog_sent: AtomicU64,
    /// Failed attempts to reach a syslog receiver.
    pub(super) syslog_errors: AtomicU64,
    pub(super) lost_queue: Losses,
    pub(super) lost_disk: Losses,
    pub(super) lost_syslog: Losses,
}

impl Counters {
    pub(super) fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("events_received", self.received.load(Relaxed)),
            ("events_queued", self.queued.load(Relaxed)),
            ("events_written", self.written.load(Relaxed)),
            ("events_folded", self.folded.load(Relaxed)),
            ("events_backlog_bytes", self.backlog_bytes.load(Relaxed)),
            ("events_disk_errors", self.disk_errors.load(Relaxed)),
            ("events_lost_queue", self.lost_queue.total()),
            ("events_lost_disk", self.lost_disk.total()),
            ("syslog_sent", self.syslog_sent.load(Relaxed)),
            ("syslog_errors", self.syslog_errors.load(Relaxed)),
            ("syslog_lost", self.lost_syslog.total()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_and_stays_in_the_total() {
        let losses = Losses::default();
        losses.add(EventClass::Denied, 3);
        losses.add(EventClass::Daemon, 1);
        losses.add(EventClass::Denied, 2);
        let told: Vec<_> = losses.take().collect();
        assert_eq!(told, [(EventClass::Denied, 5), (EventClass::Daemon, 1)]);
        assert_eq!(losses.take().count(), 0);
        assert_eq!(losses.total(), 6);
    }
}
