//! Tables and rings with no room left: what finds none is denied and counted, never let through.

use agent_enforcer_tests::{
    Event, GrantRequest, TestHost, events,
    load::{LoadOp, Tally},
    wait::wait_until,
};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

/// Denied calls as the events tell them, whatever the reason.
fn denied(events: &[Event]) -> u64 {
    events
        .iter()
        .filter(|event| event.is_call() && event.outcome() == "denied")
        .map(Event::count)
        .sum()
}

/// Records that the events say were lost.
fn lost(events: &[Event], kind: &str) -> u64 {
    let lost = |event: &&Event| event.code() == "records_lost" && event.own("lost") == kind;
    events.iter().filter(lost).map(Event::count).sum()
}

#[test]
fn process_that_finds_no_room_is_denied_everything_until_it_ends() {
    const ROOM: u64 = 1024;
    const CROWD: u32 = 1100;
    let host = TestHost::builder().flag("--max-processes").flag("1024").build();
    let mut agent = host.agent("strict");
    assert!(agent.connect("warm", host.at(10)).is_ok());
    host.wait_call("allowed", "allowed_standing", agent.pid());
    let before = host.calls("allowed", "allowed_standing");

    let tally = agent.load(LoadOp::Crowd { address: host.at(10), processes: CROWD });
    // The table also has the probe itself.
    let refused = u64::from(CROWD) + 1 - ROOM;
    assert_eq!(tally.total(), u64::from(CROWD));
    assert_eq!(tally.denied(), refused, "{tally:?}");
    assert_eq!(tally.of(0), u64::from(CROWD) - refused, "{tally:?}");
    wait_until("every allowed call is told: none was a stranger's", LONG, || {
        host.calls("allowed", "allowed_standing") - before == tally.of(0)
    });
    wait_until("every denied call is told", LONG, || {
        host.calls("denied", "process_table_full") == refused
    });
    host.wait_event("table_full", |event| {
        event.code() == "table_full" && event.own("table") == "AE_PROCS"
    });
    let status = host.cli(&["status"]);
    assert_eq!(status["processes"], ROOM);
    assert!(status["problems"].to_string().contains("--max-processes"), "{status}");
    // One that finds no room is no stranger either, whatever it becomes.
    let mut late = host.agent("strict");
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        assert_eq!(late.socket("denied", host.at(10), kind).errno, libc::EACCES);
    }
    late.kill();

    agent.load(LoadOp::Disperse);
    wait_until("the table has room again", LONG, || host.cli(&["status"])["processes"] == 1);
    let status = host.cli(&["status"]);
    assert!(!status["problems"].to_string().contains("--max-processes"), "{status}");
    let mut next = host.agent("strict");
    assert!(next.connect("standing", host.at(10)).is_ok());
    assert!(agent.connect("standing", host.at(10)).is_ok());
}

#[test]
fn full_verdict_table_only_asks_again() {
    const PORTS: u16 = 2500;
    let host = TestHost::builder()
        .flag("--max-verdicts")
        .flag("1024")
        .flag("--requests-per-second")
        .flag("1000000")
        .build();
    host.grant(&GrantRequest::agent("waits", "web"));
    let mut agent = host.agent("waits");
    for round in 1..=2 {
        let calls = u64::from(PORTS);
        let op = LoadOp::Flood { address: host.at(50), ports: PORTS, calls, millis: 60_000 };
        let tally = agent.load(op);
        assert_eq!(tally.total(), calls);
        assert_eq!(tally.of(0), 0, "{tally:?}");
        for (name, address) in [("standing", host.at(10)), ("granted", host.at(20))] {
            assert!(agent.connect(name, address).is_ok(), "{name}");
            assert!(agent.echoes(name), "{name}");
        }
        wait_until("every denied call is told, once", LONG, || {
            host.calls("denied", "no_tool") == calls * round
        });
    }
    assert_eq!(denied(&host.events()), u64::from(PORTS) * 2, "and for no other reason");
}

#[test]
fn full_ring_loses_no_denial_and_counts_every_lost_record() {
    const AGENTS: usize = 4;
    const CALLS: u64 = 8_000;
    let host = TestHost::builder().flag("--ring-bytes").flag("65536").build();
    let mut agents: Vec<_> = (0..AGENTS).map(|_| host.agent("strict")).collect();
    for agent in &mut agents {
        // From here on the kernel side denies without asking.
        assert!(!agent.connect("first", host.at(50)).is_ok());
    }
    let flood = LoadOp::Flood { address: host.at(50), ports: 1, calls: CALLS, millis: 60_000 };
    let tickets: Vec<_> = agents.iter_mut().map(|agent| agent.begin_load(flood.clone())).collect();
    let mut made = u64::try_from(AGENTS).expect("a few");
    for (agent, ticket) in agents.iter_mut().zip(tickets) {
        let Tally { errnos, .. } = agent.finish_load(ticket);
        let denials = [libc::EACCES, libc::ECONNABORTED];
        assert!(errnos.keys().all(|errno| denials.contains(errno)), "{errnos:?}");
        made += errnos.values().sum::<u64>();
    }
    assert_eq!(made, (CALLS + 1) * 4);
    assert!(host.counter("lost_denied") > 0, "the ring did not overflow: raise CALLS");
    wait_until("every call is told or counted as lost", LONG, || {
        let events = host.events();
        denied(&events) + lost(&events, "denied") == made
    });
    let events = host.events();
    assert_eq!(lost(&events, "denied"), host.counter("lost_denied"));
    assert!(host.servers.at(host.at(50)).is_empty(), "nothing went out");
    assert!(host.cli(&["status"])["problems"].to_string().contains("--ring-bytes"));
    assert_eq!(events::calls(&events, "allowed", "allowed_standing"), 0);
    assert!(agents[0].connect("standing", host.at(10)).is_ok());
}
