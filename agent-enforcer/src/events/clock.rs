//! The two clocks of an event: boot time orders and measures, wall time is what people read.
//!
//! In: nanoseconds of `CLOCK_BOOTTIME`, as the kernel programs stamp them. Out: milliseconds
//! since the epoch. The offset is sampled at each conversion, never kept: the wall clock moves.

use std::time::{Duration, SystemTime};

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// `CLOCK_BOOTTIME`, ns.
    fn boot_ns(&self) -> u64;
    /// The wall clock.
    fn wall(&self) -> SystemTime;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot_ns(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    boot_ns: u64,
    epoch_ns: i128,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Self {
        Self { boot_ns: clock.boot_ns(), epoch_ns: epoch_ns(clock.wall()) }
    }

    /// Milliseconds since the epoch.
    pub(super) fn now_ms(&self) -> u64 {
        self.epoch_ms(self.boot_ns)
    }

    /// Milliseconds since the epoch of a moment of boot time.
    pub(super) fn epoch_ms(&self, boot_ns: u64) -> u64 {
        let age = i128::from(self.boot_ns) - i128::from(boot_ns);
        u64::try_from((self.epoch_ns - age) / 1_000_000).unwrap_or(0)
    }
}

/// Milliseconds since the epoch, 0 before it.
pub(super) fn epoch_ms(time: SystemTime) -> u64 {
    u64::try_from(epoch_ns(time) / 1_000_000).unwrap_or(0)
}

/// A duration in whole nanoseconds.
pub(super) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn epoch_ns(time: SystemTime) -> i128 {
    let signed = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => signed(after),
        Err(before) => -signed(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::testing::TestClock;

    #[test]
    fn boot_time_becomes_wall_time() {
        let clock = TestClock::new(5_000_000_000, 1_700_000_000_000);
        let moment = Moment::now(&clock);
        assert_eq!(moment.epoch_ms(5_000_000_000), 1_700_000_000_000);
        assert_eq!(moment.epoch_ms(4_000_000_000), 1_699_999_999_000);
        assert_eq!(moment.epoch_ms(6_000_000_000), 1_700_000_001_000);
    }

    #[test]
    fn time_before_the_epoch_is_zero() {
        let before = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(9)).unwrap();
        assert_eq!(epoch_ms(before), 0);
    }

    #[test]
    fn system_clocks_advance() {
        let first = SystemClock.boot_ns();
        assert!(first > 0);
        assert!(SystemClock.boot_ns() >= first);
    }
}
