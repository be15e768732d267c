//! The events file: one line per event, with a sequence that has no gaps.
//!
//! In: lines, numbered by [`FileSink::next_sequence`]. Out: the same lines, whole and in order,
//! appended to the file. While the disk refuses, lines wait in a bounded backlog; when that is
//! full no number is given out until there is room, so a gap is never made. The file may be
//! renamed, removed or truncated under the sink. It never follows a symbolic link.

mod open;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::super::{Clock, EventsError, clock::duration_ns, counters::Counters};
use tail::TornLine;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

pub(in crate::events) struct FileSink {
    path: PathBuf,
    file: File,
    /// Device and inode of `file`; `None` for a character device, which is never rotated.
    identity: Option<(u64, u64)>,
    sequence: u64,
    /// Whole lines; the first `offset` bytes of the first are in the file already.
    buffer: Vec<u8>,
    offset: usize,
    limit: usize,
    /// The backlog was full; until half of it is written no line is taken.
    full: bool,
    /// Size of the file when a line was left torn in it.
    torn_size: Option<u64>,
    /// The file may end in a torn line that is not ours to complete.
    check_end: bool,
    retry: Option<Retry>,
    counters: Arc<Counters>,
}

#[derive(Clone, Copy)]
struct Retry {
    at_ns: u64,
    pause: Duration,
}

/// What the file held when it was opened.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::events) struct Opened {
    /// Lines that were torn when the daemon ended: 0 or 1.
    pub(in crate::events) torn_lines: u64,
}

impl FileSink {
    pub(in crate::events) fn open(
        path: PathBuf,
        limit: usize,
        counters: Arc<Counters>,
    ) -> Result<(Self, Opened), EventsError> {
        let (file, identity) = open::open(&path)?;
        let tail = match identity {
            Some(_) => tail::read(&file)
                .map_err(|source| EventsError::ReadEnd { path: path.clone(), source })?,
            None => tail::Tail::default(),
        };
        let sink = Self {
            path,
            file,
            identity,
            sequence: tail.last_sequence,
            buffer: Vec::new(),
            offset: 0,
            limit,
            full: false,
            torn_size: None,
            check_end: tail.torn != TornLine::None,
            retry: None,
            counters,
        };
        Ok((sink, Opened { torn_lines: u64::from(tail.torn == TornLine::Broken) }))
    }

    /// The number that the next line must carry; `None` while there is no room for a line.
    pub(in crate::events) fn next_sequence(&mut self) -> Option<u64> {
        if self.buffer.len() >= self.limit {
            self.full = true;
        } else if self.buffer.len() <= self.limit / 2 {
            self.full = false;
        }
        (!self.full).then_some(self.sequence + 1)
    }

    /// Takes a line that carries [`Self::next_sequence`].
    pub(in crate::events) fn append(&mut self, line: &str) {
        self.sequence += 1;
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        self.note_backlog();
    }

    pub(in crate::events) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// When a failed write is tried again, ns of `CLOCK_BOOTTIME`.
    pub(in crate::events) fn retry_at_ns(&self) -> Option<u64> {
        self.retry.map(|retry| retry.at_ns)
    }

    /// Writes what waits, unless a failure was too short ago.
    pub(in crate::events) fn flush(&mut self, now_ns: u64) {
        if self.buffer.is_empty() || self.retry.is_some_and(|retry| now_ns < retry.at_ns) {
            return;
        }
        let result = self.write_buffer();
        self.note_backlog();
        match result {
            Ok(()) => {
                if self.retry.take().is_some() {
                    tracing::info!(path = %self.path.display(), "events file is written again");
                }
            }
            Err(error) => self.note_failure(now_ns, &error),
        }
    }

    /// Opens the path anew, for logrotate; on failure the open file stays in use.
    pub(in crate::events) fn reopen(&mut self) -> Result<(), EventsError> {
        let (file, identity) = open::open(&self.path)?;
        if identity.is_none() || identity != self.identity {
            self.switch_to(file, identity);
        }
        Ok(())
    }

    /// Writes everything and hands it to the disk; tries until the deadline.
    pub(in crate::events) fn finish(
        &mut self,
        clock: &dyn Clock,
        deadline: Instant,
    ) -> Result<(), EventsError> {
        loop {
            self.retry = None;
            self.flush(clock.boot_ns());
            let left = deadline.saturating_duration_since(Instant::now());
            if self.buffer.is_empty() || left.is_zero() {
                break;
            }
            thread::sleep(left.min(FIRST_RETRY));
        }
        if !self.buffer.is_empty() {
            let lines = newlines(&self.buffer);
            return Err(EventsError::Unwritten { path: self.path.clone(), lines });
        }
        match self.identity {
            Some(_) => self
                .file
                .sync_data()
                .map_err(|source| EventsError::Open { path: self.path.clone(), source }),
            None => Ok(()),
        }
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.follow_path()?;
        self.mend()?;
        while !self.buffer.is_empty() {
            let rest = self.buffer.get(self.offset..).unwrap_or_default();
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.wrote(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn_size = (self.offset != 0).then(|| self.size()).transpose()?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Lets go of the lines that are whole in the file; a partial one is kept in full, as it
    /// may have to be written again to another file.
    fn wrote(&mut self, length: usize) {
        self.offset += length;
        let written = self.buffer.get(..self.offset).unwrap_or_default();
        if let Some(end) = written.iter().rposition(|&byte| byte == b'\n') {
            let lines = newlines(written);
            self.buffer.drain(..=end);
            self.offset -= end + 1;
            self.counters.written.fetch_add(lines, Relaxed);
        }
    }

    /// Goes over to a new file when the path names another one, or none.
    fn follow_path(&mut self) -> io::Result<()> {
        let Some(identity) = self.identity else { return Ok(()) };
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == identity => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return self.stay_unless_removed(io::Error::other(error)),
        }
        match open::open(&self.path) {
            Ok((file, identity)) => {
                self.switch_to(file, identity);
                Ok(())
            }
            Err(error) => self.stay_unless_removed(io::Error::other(error)),
        }
    }

    /// A renamed file still keeps lines; a removed one would lose them.
    fn stay_unless_removed(&self, error: io::Error) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 { Err(error) } else { Ok(()) }
    }

    fn switch_to(&mut self, file: File, identity: Option<(u64, u64)>) {
        if self.offset != 0 {
            // Ends the torn line in the old file; the whole line goes to the new one.
            if let Err(error) = self.file.write_all(b"\n") {
                tracing::warn!(%error, "the events file before ends in a torn line");
            }
        }
        self.file = file;
        self.identity = identity;
        self.offset = 0;
        self.torn_size = None;
        self.check_end = true;
        // A new file may be on a disk that has room.
        self.retry = None;
    }

    /// Sees to it that the next byte begins a line, or goes on with the one left torn.
    fn mend(&mut self) -> io::Result<()> {
        if self.identity.is_none() {
            return Ok(());
        }
        if self.offset != 0 && self.torn_size != Some(self.size()?) {
            // The file was truncated: the beginning of the line is gone, or somebody wrote.
            self.offset = 0;
            self.check_end = true;
        }
        self.torn_size = None;
        if self.check_end {
            let size = self.size()?;
            let mut last = [b'\n'];
            if size != 0 {
                self.file.read_exact_at(&mut last, size - 1)?;
            }
            if last != [b'\n'] {
                self.file.write_all(b"\n")?;
            }
            self.check_end = false;
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn note_failure(&mut self, now_ns: u64, error: &io::Error) {
        self.counters.disk_errors.fetch_add(1, Relaxed);
        let pause = if let Some(before) = self.retry {
            (before.pause * 2).min(LAST_RETRY)
        } else {
            tracing::error!(
                path = %self.path.display(), %error,
                "events file cannot be written; make room on its file system"
            );
            FIRST_RETRY
        };
        self.retry = Some(Retry { at_ns: now_ns.saturating_add(duration_ns(pause)), pause });
    }

    fn note_backlog(&self) {
        let bytes = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        self.counters.backlog_bytes.store(bytes, Relaxed);
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte == b'\n')).sum()
}
