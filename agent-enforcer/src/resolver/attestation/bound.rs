//! A process for longer than one look: its number can't become another's unnoticed.

use std::os::fd::OwnedFd;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::procfs::{ProcError, ProcRoot, same_start};

/// A process that ran under its number when this was made.
#[derive(Debug)]
pub(super) struct BoundProcess(OwnedFd);

impl BoundProcess {
    /// The process of a number that started then, ns of `CLOCK_BOOTTIME`. The pidfd comes first: as
    /// long as it has not ended, the number is that process's.
    pub(super) fn open(pid: u32, start_ns: u64) -> Result<Self, ProcError> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcError::Gone)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH | Errno::INVAL => ProcError::Gone,
            error => ProcError::NoProc { source: error.into() },
        })?;
        let directory = ProcRoot::open()?.process(pid)?;
        if !same_start(directory.stat(&mut Vec::new())?.start_ns(), start_ns) {
            return Err(ProcError::Gone);
        }
        let bound = Self(pidfd);
        if bound.runs() { Ok(bound) } else { Err(ProcError::Gone) }
    }

    /// Whether it has not ended. Where that can't be told, it has.
    pub(super) fn runs(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready == 0)
    }
}
