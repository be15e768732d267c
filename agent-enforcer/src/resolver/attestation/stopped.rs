//! Processes that the kernel side has stopped, bound to their start: continued when they are let go.

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::procfs::{ProcError, ProcRoot, same_start};

/// Why a stopped process can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoppedError {
    /// It is gone, or /proc can't be read.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// No pidfd could be had.
    #[error("cannot open a pidfd: {0}; raise the daemon's LimitNOFILE")]
    Pidfd(#[source] Errno),
}

/// A process that is stopped, or about to be. It is continued when this is dropped.
#[derive(Debug)]
pub struct Stopped {
    pidfd: OwnedFd,
}

impl Stopped {
    /// The process with this id that started at `start_ns`, ns of `CLOCK_BOOTTIME`.
    pub fn of(pid: u32, start_ns: u64) -> Result<Self, StoppedError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcError::Gone)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::SRCH => ProcError::Gone.into(),
            _ => StoppedError::Pidfd(errno),
        })?;
        let directory = ProcRoot::open()?.process(pid)?;
        if !same_start(directory.stat(&mut Vec::new())?.start_ns(), start_ns) {
            return Err(ProcError::Gone.into());
        }
        Ok(Self { pidfd })
    }
}

impl Drop for Stopped {
    /// One that was killed meanwhile needs nothing.
    fn drop(&mut self) {
        match pidfd_send_signal(&self.pidfd, Signal::CONT) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::error!(%error, "a stopped process of an agent is not continued"),
        }
    }
}

/// Whether a thread is stopped at this moment.
pub fn is_stopped(pid: u32, tid: u32) -> Result<bool, ProcError> {
    let thread = ProcRoot::open()?.process(pid)?.thread(tid)?;
    Ok(thread.stat(&mut Vec::new())?.is_stopped())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::resolver::attestation::testing::eventually;

    struct Sleeper(Child);

    impl Sleeper {
        fn stopped() -> Self {
            let sleeper = Self(Command::new("sleep").arg("60").spawn().unwrap());
            let pid = Pid::from_child(&sleeper.0);
            rustix::process::kill_process(pid, Signal::STOP).unwrap();
            eventually("it stops", || sleeper.is_stopped());
            sleeper
        }

        fn is_stopped(&self) -> bool {
            is_stopped(self.0.id(), self.0.id()).unwrap()
        }

        fn start_ns(&self) -> u64 {
            let directory = ProcRoot::open().unwrap().process(self.0.id()).unwrap();
            directory.stat(&mut Vec::new()).unwrap().start_ns()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_process_is_continued_when_it_is_let_go() {
        let sleeper = Sleeper::stopped();
        let stopped = Stopped::of(sleeper.0.id(), sleeper.start_ns()).unwrap();
        assert!(sleeper.is_stopped());
        drop(stopped);
        eventually("it goes on", || !sleeper.is_stopped());
    }

    #[test]
    fn another_process_with_the_same_number_is_left_alone() {
        let sleeper = Sleeper::stopped();
        let other = Stopped::of(sleeper.0.id(), sleeper.start_ns() + 1_000_000_000);
        assert!(matches!(other, Err(StoppedError::Proc(ProcError::Gone))));
        assert!(sleeper.is_stopped());
    }
}
