//! What every load test counts by, and that only one runs at a time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_enforcer_tests::{Event, TestHost};

/// Generous: machines of a CI are slow.
pub(crate) const LONG: Duration = Duration::from_secs(40);

/// Held by the test that runs.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that another could trip over.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the events say of calls.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    /// Calls that were denied.
    pub denied: u64,
    /// Calls that were allowed.
    pub allowed: u64,
    /// Calls that waited.
    pub stalled: u64,
    /// Denials that were lost on the way, and say so.
    pub lost: u64,
}

impl Account {
    /// Of every event so far.
    pub(crate) fn of(host: &TestHost) -> Self {
        let mut account = Self::default();
        for event in host.events() {
            if event.is_call() {
                match event.outcome() {
                    "denied" => account.denied += event.count(),
                    "allowed" => account.allowed += event.count(),
                    "stalled" => account.stalled += event.count(),
                    other => panic!("outcome {other}: {event:?}"),
                }
            } else if is_lost_denial(&event) {
                account.lost += event.count();
            }
        }
        account
    }
}

fn is_lost_denial(event: &Event) -> bool {
    ["events_lost", "records_lost"].contains(&event.code()) && event.own("lost") == "denied"
}

/// Sum of the kernel's counters of denials.
pub(crate) fn kernel_denials(host: &TestHost) -> u64 {
    let status = host.cli(&["status"]);
    let reasons = status["reasons"].as_object().expect("a map");
    let denies =
        |word: &str| !matches!(word, "allowed_standing" | "allowed_grant" | "audited" | "stalled");
    reasons.iter().filter(|(word, _)| denies(word)).filter_map(|(_, count)| count.as_u64()).sum()
}
