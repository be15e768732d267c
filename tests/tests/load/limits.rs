//! Limits of what may wait and of how often may be asked.

use agent_enforcer_tests::{GrantRequest, TestHost, load::LoadOp, wait::wait_until};

use crate::account::{LONG, alone};

#[test]
fn calls_beyond_the_pending_limit_are_denied_and_those_within_still_wait() {
    const LIMIT: u64 = 20;
    const CALLS: u64 = 50;
    let _alone = alone();
    let host = TestHost::builder().flag("--max-pending-per-instance").flag("20").build();
    let mut agent = host.agent("waits");
    assert!(agent.connect("warm", host.at(10)).is_ok());
    let tally = agent.load(LoadOp::Hold { address: host.at(20), calls: CALLS });
    assert_eq!(tally.of(libc::EINPROGRESS) + tally.of(libc::EACCES), CALLS, "{tally:?}");
    wait_until("those beyond the limit are told", LONG, || {
        host.calls("denied", "pending_limit") >= CALLS - LIMIT
    });
    assert_eq!(host.cli(&["status"])["pending"], LIMIT);
    host.grant(&GrantRequest::agent("waits", "web"));
    let settled = agent.load(LoadOp::Settle { millis: 20_000 });
    assert_eq!(settled.of(libc::ETIME), 0, "each one learns: {settled:?}");
    assert_eq!(settled.of(0), LIMIT, "the ones that waited go ahead: {settled:?}");
    assert_eq!(settled.failed() + tally.of(libc::EACCES), CALLS - LIMIT, "{settled:?}");
    assert_eq!(host.calls("denied", "pending_limit"), CALLS - LIMIT);
}

#[test]
fn calls_beyond_the_rate_are_denied_and_told() {
    const CALLS: u64 = 400;
    let _alone = alone();
    let host = TestHost::builder().flag("--requests-per-second").flag("50").build();
    let mut agent = host.agent("waits");
    assert!(agent.connect("warm", host.at(10)).is_ok());
    let tally = agent.load(LoadOp::Hold { address: host.at(20), calls: CALLS });
    let (held, refused) = (tally.of(libc::EINPROGRESS), tally.of(libc::EACCES));
    assert_eq!(held + refused, CALLS, "{tally:?}");
    assert!(refused >= CALLS / 2, "{tally:?}");
    wait_until("every denial is told, once", LONG, || {
        host.calls("denied", "rate_limited") == refused
    });
    assert_eq!(host.reason_counter("rate_limited"), refused);
    assert_eq!(host.cli(&["status"])["pending"], held);
    assert!(agent.connect("standing", host.at(10)).is_ok(), "what is decided needs no question");
}

#[test]
fn waiting_calls_outlive_a_flood_of_questions_by_their_own_agent() {
    const CALLS: u64 = 20;
    let _alone = alone();
    let host = TestHost::builder().flag("--requests-per-second").flag("21").build();
    let mut agent = host.agent("waits");
    assert!(agent.connect("warm", host.at(10)).is_ok());
    let held = agent.load(LoadOp::Hold { address: host.at(20), calls: CALLS });
    assert_eq!(held.of(libc::EINPROGRESS), CALLS, "{held:?}");
    // Long enough for held packets to ask again (once a second), which is refused now.
    let op = LoadOp::Flood { address: host.at(50), ports: 2000, calls: u64::MAX, millis: 4500 };
    let flood = agent.load(op);
    assert!(flood.of(0) == 0 && flood.total() > 1000, "{flood:?}");
    assert_eq!(host.cli(&["status"])["pending"], CALLS);
    host.grant(&GrantRequest::agent("waits", "web"));
    let settled = agent.load(LoadOp::Settle { millis: 20_000 });
    assert_eq!((settled.of(0), settled.total()), (CALLS, CALLS), "{settled:?}");
    wait_until("every call is told, once", LONG, || {
        host.calls("allowed", "allowed_grant") == CALLS
    });
}
