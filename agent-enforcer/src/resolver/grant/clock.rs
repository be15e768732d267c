//! The two clocks of a grant: wall time for people, `CLOCK_BOOTTIME` for decisions.
//!
//! In: the kernel's clocks and boot id, read together. Out: [`Moment`]s, and deadlines carried
//! over a restart of the host without ever growing.

use std::{
    fmt, fs, io,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Identifies one boot of the host: `CLOCK_BOOTTIME` values of two boots can't be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(String);

/// One moment on both clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Wall time.
    pub wall: SystemTime,
    /// `CLOCK_BOOTTIME`, ns.
    pub boot_ns: u64,
    /// The boot that `boot_ns` counts from.
    pub boot: BootId,
}

/// The moment can't be told.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The boot id can't be read.
    #[error("{BOOT_ID} can't be read; mount /proc for the daemon")]
    BootId(#[source] io::Error),
    /// `CLOCK_BOOTTIME` is out of range.
    #[error("CLOCK_BOOTTIME is out of range; leave the time namespace of the daemon alone")]
    Boottime,
}

impl BootId {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Moment {
    /// Now, in this boot.
    pub fn now() -> Result<Self, ClockError> {
        let boot = BootId::new(&fs::read_to_string(BOOT_ID).map_err(ClockError::BootId)?);
        let elapsed = Duration::try_from(clock_gettime(ClockId::Boottime))
            .map_err(|_out_of_range| ClockError::Boottime)?;
        let boot_ns =
            u64::try_from(elapsed.as_nanos()).map_err(|_out_of_range| ClockError::Boottime)?;
        Ok(Self { wall: SystemTime::now(), boot_ns, boot })
    }

    /// `CLOCK_BOOTTIME` at a wall time, as the wall clock stands now; never before this boot.
    pub(super) fn boot_ns_at(&self, wall: SystemTime) -> u64 {
        match wall.duration_since(self.wall) {
            Ok(ahead) => self.boot_ns.saturating_add(nanoseconds(ahead)),
            Err(behind) => self.boot_ns.saturating_sub(nanoseconds(behind.duration())),
        }
    }
}

/// Whole nanoseconds of a duration, at most `u64::MAX`.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_the_moment() {
        let first = Moment::now().unwrap();
        let second = Moment::now().unwrap();
        assert_eq!(first.boot, second.boot);
        assert!(first.boot_ns > 0 && first.boot_ns <= second.boot_ns);
        assert_eq!(first.boot.as_str().len(), 36);
    }
}
