//! A daemon that does not answer: stopped by a signal, or killed in the middle of a decision.

use std::time::Duration;

use agent_enforcer_tests::{GrantRequest, TestHost, wait::wait_until};
use rustix::process::Signal;

/// Long enough for the timers of a held connection, however slow the machine is.
const LONG: Duration = Duration::from_secs(20);
/// Much less than any timer: denied in the call itself.
const AT_ONCE_US: u64 = 500_000;

#[test]
fn stopped_daemon_denies_what_is_new_and_leaves_what_is_granted() {
    let host = TestHost::start();
    let grant = GrantRequest::agent("waits", "web");
    host.grant(&grant);
    let mut agent = host.agent("waits");
    let mut stranger = host.stranger();
    assert!(agent.connect("live", host.at(20)).is_ok());

    host.daemon.signal(Signal::STOP);
    // Asked while the heartbeat was fresh: held, and ended by its own timer.
    let held = agent.begin_connect("held", host.at(30));
    let ended = agent.wait_for(held, LONG).expect("the held caller returns without a daemon");
    assert!(!ended.is_ok(), "{ended:?}");
    let denied = agent.connect("denied", host.at(30));
    assert_eq!(denied.errno, libc::EACCES, "{denied:?}");
    assert!(denied.micros < AT_ONCE_US, "{denied:?}");
    let denied = agent.send_to("datagram", host.at(30), "denied");
    assert_eq!(denied.errno, libc::EACCES, "{denied:?}");
    assert!(agent.echoes("live"), "a granted flow goes on");
    assert!(agent.connect("granted", host.at(20)).is_ok(), "so does a granted destination");
    assert!(agent.connect("standing", host.at(10)).is_ok());
    assert!(stranger.connect("host", host.at(30)).is_ok());
    assert!(stranger.echoes("host"));
    assert_eq!(host.servers.bytes_at(host.at(30)), "echo".len(), "the stranger's alone");

    host.daemon.signal(Signal::CONT);
    host.wait_denied("daemon_down", agent.pid());
    assert!(host.reason_counter("daemon_down") >= 2);
    let stalled = agent.begin_connect("again", host.at(30));
    wait_until("a call is pending", LONG, || {
        host.pending().iter().any(|call| call["destination"] == "192.0.2.30:7000/tcp")
    });
    host.grant(&GrantRequest::agent("waits", "mail"));
    let allowed = agent.finish(stalled);
    assert!(allowed.is_ok(), "{allowed:?}");
    assert!(agent.echoes("again"));
}

#[test]
fn caller_held_by_a_killed_daemon_returns_and_the_next_daemon_decides() {
    let mut host = TestHost::start();
    let mut agent = host.agent("waits");
    let ticket = agent.begin_connect("held", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    host.daemon.kill();
    let ended = agent.wait_for(ticket, LONG).expect("the held caller returns without a daemon");
    assert!(!ended.is_ok(), "{ended:?}");
    assert_eq!(agent.connect("denied", host.at(20)).errno, libc::EACCES);
    assert!(agent.connect("standing", host.at(10)).is_ok(), "a live verdict needs no daemon");
    assert!(host.servers.at(host.at(20)).is_empty(), "nothing was let out");

    host.daemon.start();
    host.wait_denied("daemon_down", agent.pid());
    let ticket = agent.begin_connect("stalled", host.at(20));
    wait_until("the call is pending", LONG, || !host.pending().is_empty());
    host.grant(&GrantRequest::agent("waits", "web"));
    let allowed = agent.finish(ticket);
    assert!(allowed.is_ok(), "{allowed:?}");
    assert!(agent.echoes("stalled"));
}

#[test]
fn grant_issued_before_the_kill_holds_after_the_restart() {
    let mut host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("waits", "web"));
    let mut agent = host.agent("waits");
    assert!(agent.connect("live", host.at(20)).is_ok());
    host.daemon.kill();
    assert!(agent.echoes("live"), "a granted flow outlives the daemon");
    host.daemon.start();
    assert!(agent.echoes("live"), "and the next one's start");
    assert!(agent.connect("new", host.at(20)).is_ok());
    assert_eq!(host.grant_view(&grant)["state"], "live");
}
