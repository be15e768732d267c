//! Waiting for a condition with a deadline; the only place where a test pauses.
//!
//! Deadlines are for a machine of its own. `AGENT_ENFORCER_TEST_SLOWNESS` says how many times slower
//! this one is.

use std::{
    env,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that should happen at once; before [`slowed`].
pub const SOON: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// What a time becomes on this machine.
pub fn slowed(time: Duration) -> Duration {
    static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
        let named = env::var("AGENT_ENFORCER_TEST_SLOWNESS");
        named.map_or(1, |factor| factor.parse().expect("a whole number"))
    });
    time * *SLOWNESS
}

/// Looks until there is something; `None` after the deadline.
pub fn poll_for<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + slowed(deadline);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until `holds`; panics with `what` after the deadline.
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    assert!(
        poll_for(deadline, || holds().then_some(())).is_some(),
        "not within {deadline:?}: {what}"
    );
}
