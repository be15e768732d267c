//! Waiting for a condition with a deadline; the only place where a test pauses.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that should happen at once.
pub const SOON: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until there is something; `None` after the deadline.
pub fn poll_for<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
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
