//! Allowed calls that the kernel counts by itself: the counts in events stay exact.

use agent_enforcer_tests::{
    GrantRequest, Probe, TestHost,
    load::LoadOp,
    wait::{SOON, wait_until},
};

const CALLS: u64 = 5000;

fn flood(host: &TestHost, calls: u64) -> LoadOp {
    LoadOp::Flood { address: host.at(10), ports: 1, calls, millis: 30_000 }
}

fn make_calls(host: &TestHost, agent: &mut Probe, calls: u64) {
    let tally = agent.load(flood(host, calls));
    assert_eq!((tally.of(0), tally.total()), (calls, calls), "{tally:?}");
}

/// All calls are told, and the last words of the daemon add none.
fn assert_told(host: &mut TestHost, calls: u64) {
    let told = |host: &TestHost| host.calls("allowed", "allowed_standing");
    wait_until("every call has its event", SOON, || told(host) >= calls);
    host.daemon.stop();
    assert_eq!(told(host), calls);
}

#[test]
fn allowed_calls_of_one_kind_do_not_fill_the_ring_and_are_all_told() {
    let mut host = TestHost::builder().flag("--ring-bytes").flag("65536").build();
    let mut agent = host.agent("hasty");
    make_calls(&host, &mut agent, CALLS);
    assert_eq!(host.counter("lost_allowed"), 0);
    assert_eq!(host.reason_counter("allowed_standing"), CALLS);
    assert_told(&mut host, CALLS);
    let events = host.events();
    assert!(events.iter().all(|event| event.code() != "records_lost"));
    let folded = events.iter().find(|event| event.is_call() && event.count() > 100).unwrap();
    assert_eq!(folded.0["unmapped"]["agent_enforcer"]["pids"][0], agent.pid());
    assert!(folded.0.pointer("/connection_info/uid").is_none(), "a cookie of many sockets");
    assert!(folded.number("/start_time") <= folded.number("/end_time"));
}

#[test]
fn no_call_is_lost_or_told_twice_when_generations_change_under_it() {
    let mut host = TestHost::start();
    let mut agent = host.agent("hasty");
    let ticket = agent.begin_load(flood(&host, CALLS));
    let grants: Vec<_> =
        (0..4).map(|_| host.grant(&GrantRequest::agent("waits", "mail"))).collect();
    for grant in grants {
        host.revoke(&grant);
    }
    let tally = agent.finish_load(ticket);
    assert_eq!((tally.of(0), tally.total()), (CALLS, CALLS), "{tally:?}");
    assert_told(&mut host, CALLS);
}

#[test]
fn calls_that_were_counted_while_no_daemon_ran_are_told_afterwards() {
    let mut host = TestHost::start();
    let mut agent = host.agent("hasty");
    make_calls(&host, &mut agent, CALLS);
    let told = |host: &TestHost| host.calls("allowed", "allowed_standing");
    wait_until("every call has its event", SOON, || told(&host) == CALLS);
    host.daemon.kill();
    make_calls(&host, &mut agent, CALLS);
    assert_eq!(told(&host), CALLS);
    host.daemon.start();
    make_calls(&host, &mut agent, CALLS);
    assert_told(&mut host, 3 * CALLS);
}
