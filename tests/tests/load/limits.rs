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
    // Ports of their own, so that no answer serves two of them.
    let op = LoadOp::Flood { address: host.at(50), ports: 400, calls: CALLS, millis: 40_000 };
    let tally = agent.load(op);
    assert_eq!((tally.of(0), tally.total()), (0, CALLS), "{tally:?}");
    wait_until("every denial is told", LONG, || {
        host.calls("denied", "rate_limited") + host.calls("denied", "no_tool") == CALLS
    });
    assert!(host.calls("denied", "rate_limited") >= CALLS / 2);
    assert!(host.reason_counter("rate_limited") >= CALLS / 2);
    assert!(agent.connect("standing", host.at(10)).is_ok(), "what is decided needs no question");
}
