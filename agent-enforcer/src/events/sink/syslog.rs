//! Events for a syslog receiver, RFC 5424.
//!
//! In: records, by a bounded queue that never blocks the stage. Out: one message per record over
//! a unix socket, UDP or TCP, from a thread of its own. A receiver that is away is tried again
//! and again; what its queue cannot hold meanwhile is counted as lost. Never touches the file.

mod connection;
mod message;
#[cfg(test)]
mod rsyslog_tests;
mod target;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::super::{EventsError, counters::Counters, schema::Record};
use connection::Connection;
use message::MessageFormat;

pub use target::{SyslogFacility, SyslogFacilityError, SyslogTarget, SyslogTargetError};

/// Records that wait for a receiver.
const QUEUE: usize = 4096;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// One receiver, as the stage sees it.
pub(in crate::events) struct SyslogSink {
    records: SyncSender<Record>,
    /// Dropped to say that no more will come, so that retries end.
    stop: SyncSender<()>,
    ended: Receiver<()>,
    counters: Arc<Counters>,
}

impl SyslogSink {
    pub(in crate::events) fn start(
        target: SyslogTarget,
        facility: SyslogFacility,
        host: &str,
        counters: Arc<Counters>,
    ) -> Result<Self, EventsError> {
        let (records, queue) = sync_channel(QUEUE);
        let (stop, stopped) = sync_channel(0);
        let (end, ended) = sync_channel(0);
        let mut sender = Sender {
            format: MessageFormat::new(facility, host),
            target,
            connection: None,
            stopped,
            counters: Arc::clone(&counters),
        };
        thread::Builder::new()
            .name("events-syslog".to_owned())
            .spawn(move || {
                sender.run(&queue);
                drop(end);
            })
            .map_err(|source| EventsError::Thread { name: "events-syslog", source })?;
        Ok(Self { records, stop, ended, counters })
    }

    /// Hands a record over, or counts it as lost.
    pub(in crate::events) fn offer(&self, record: &Record) {
        match self.records.try_send(record.clone()) {
            Ok(()) => {}
            Err(TrySendError::Full(record) | TrySendError::Disconnected(record)) => {
                self.counters.lost_syslog.add(record.class, record.count);
            }
        }
    }

    /// Sends what waits; a receiver that cannot be reached now is not waited for.
    pub(in crate::events) fn shutdown(self, deadline: Instant) {
        let Self { records, stop, ended, counters: _ } = self;
        drop(records);
        drop(stop);
        let left = deadline.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("syslog receiver did not take the last events in time");
        }
    }
}

/// The thread's own state.
struct Sender {
    format: MessageFormat,
    target: SyslogTarget,
    connection: Option<Connection>,
    stopped: Receiver<()>,
    counters: Arc<Counters>,
}

impl Sender {
    fn run(&mut self, queue: &Receiver<Record>) {
        while let Ok(record) = queue.recv() {
            if self.deliver(&record) {
                self.counters.syslog_sent.fetch_add(1, Relaxed);
            } else {
                self.counters.lost_syslog.add(record.class, record.count);
            }
        }
    }

    /// Tries until it is sent. `false`: it is too large for the transport, or the stage has
    /// ended and the receiver is away.
    fn deliver(&mut self, record: &Record) -> bool {
        let message = self.format.message(record);
        let mut pause = FIRST_RETRY;
        let mut failed_before = false;
        loop {
            let error = match self.send(&message) {
                Ok(()) => {
                    if failed_before {
                        tracing::info!(target = %self.target, "syslog receiver is back");
                    }
                    return true;
                }
                Err(error) => error,
            };
            self.counters.syslog_errors.fetch_add(1, Relaxed);
            if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) {
                tracing::warn!(target = %self.target, bytes = message.len(),
                    "event is too large for a datagram; use `tcp:`");
                return false;
            }
            self.connection = None;
            if !failed_before {
                tracing::warn!(target = %self.target, %error, "syslog receiver is away; trying on");
                failed_before = true;
            }
            if self.stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return false;
            }
            pause = (pause * 2).min(LAST_RETRY);
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(Connection::open(&self.target)?),
        };
        connection.send(message)
    }
}
