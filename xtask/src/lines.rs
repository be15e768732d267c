//! What a child process writes, line by line, with a deadline.
//!
//! In: the read end of its pipe. Out: lines. A silent child is an error, and so is an interrupt:
//! nobody waits for a program for ever.

use std::{
    io::{BufRead, BufReader, Read},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::interrupt;

/// Between two looks at the interrupt flag.
const LOOK: Duration = Duration::from_millis(100);

/// Lines to come.
pub(crate) struct Lines {
    receiver: Receiver<String>,
}

impl Lines {
    /// Reads on a thread of its own, until the end of the pipe.
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { receiver }
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&self, limit: Duration) -> Result<Option<String>> {
        let end = Instant::now() + limit;
        loop {
            interrupt::check()?;
            match self.receiver.recv_timeout(LOOK.min(limit)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                    bail!("a program was silent for {limit:?}")
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_order_and_end() {
        let lines = Lines::of("a\nb\n".as_bytes());
        let next = || lines.next(Duration::from_secs(5)).unwrap();
        assert_eq!([next(), next(), next()], [Some("a".to_owned()), Some("b".to_owned()), None]);
    }

    #[test]
    fn silence_is_an_error() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let error = Lines::of(reader).next(Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("silent"), "{error}");
    }
}
