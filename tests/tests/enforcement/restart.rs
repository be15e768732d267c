//! The contract when the daemon dies, stops, comes back, or is told to end enforcement.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, TestHost,
    load::LoadOp,
    wait::{SOON, slowed, wait_until},
};
use libc::{EACCES, SOCK_DGRAM};
use rustix::process::Signal;

fn dial(host: &TestHost, to: u8) -> Op {
    Op::Dial { address: host.at(to) }
}

/// Waits until the kernel takes the daemon for dead. Until then a call is held; a datagram that must
/// not block is told to try again.
fn wait_stale(host: &TestHost, agent: &mut Probe, to: u8) {
    assert!(agent.socket("stale", host.at(to), SOCK_DGRAM).is_ok());
    assert!(agent.run(Op::Nonblocking { name: "stale".to_owned(), on: true }).is_ok());
    let (name, data) = ("stale".to_owned(), "leak".to_owned());
    let send = Op::SendTo { name, address: host.at(to), data, flags: 0 };
    wait_until("the heartbeat is stale", SOON, || agent.run(send.clone()).errno == EACCES);
}

/// Enforcement without a daemon: what is granted goes on, all else is denied at once.
fn assert_contract(host: &TestHost, agent: &mut Probe, stranger: &mut Probe) {
    wait_stale(host, agent, 30);
    let denied = agent.run(dial(host, 30));
    assert_eq!(denied.errno, EACCES);
    assert!(denied.took() < slowed(Duration::from_millis(200)), "{denied:?}");
    assert!(agent.run(dial(host, 20)).is_ok(), "a granted call");
    assert!(agent.run(dial(host, 10)).is_ok(), "a standing tool");
    assert!(agent.echoes("live"), "a live granted flow");
    assert!(stranger.run(dial(host, 30)).is_ok());
}

fn prepare(host: &TestHost) -> (Probe, Probe) {
    host.grant(&GrantRequest::agent("hasty", "web"));
    let mut agent = host.agent("hasty");
    assert!(agent.connect("live", host.at(20)).is_ok());
    assert!(agent.echoes("live"));
    (agent, host.stranger())
}

#[test]
fn killed_daemon_leaves_grants_in_force_and_denies_all_else() {
    let mut host = TestHost::start();
    let (mut agent, mut stranger) = prepare(&host);
    let before = host.wait_call("allowed", "allowed_grant", agent.pid());
    host.daemon.kill();
    assert_contract(&host, &mut agent, &mut stranger);
    host.daemon.start();
    assert!(host.reason_counter("daemon_down") >= 2);
    assert!(agent.echoes("live"));
    assert!(agent.run(dial(&host, 20)).is_ok(), "grants are durable");
    assert!(agent.run(dial(&host, 40)).is_denied());
    let after = host.wait_denied("tool_not_approved", agent.pid());
    assert_eq!(after.own("instance"), before.own("instance"));
    host.wait_denied("daemon_down", agent.pid());
}

#[test]
fn stopped_daemon_leaves_grants_in_force_and_goes_on_afterwards() {
    let host = TestHost::start();
    let (mut agent, mut stranger) = prepare(&host);
    host.daemon.signal(Signal::STOP);
    assert_contract(&host, &mut agent, &mut stranger);
    host.daemon.signal(Signal::CONT);
    host.wait_denied("daemon_down", agent.pid());
    let ticket = agent.begin_connect("later", host.at(30));
    wait_until("asked again", SOON, || host.pending().len() == 1 || !host.pending().is_empty());
    host.grant(&GrantRequest::agent("hasty", "mail"));
    assert!(agent.finish(ticket).is_ok());
}

#[test]
fn grant_ends_on_time_with_the_daemon_dead() {
    let mut host = TestHost::start();
    host.grant(&GrantRequest::agent("strict", "web").lasting("2s"));
    let mut agent = host.agent("strict");
    assert!(agent.connect("live", host.at(20)).is_ok());
    host.daemon.kill();
    assert!(agent.echoes("live"));
    let stream =
        agent.begin(Op::Stream { name: "live".to_owned(), data: "x".repeat(50), pause_us: 5000 });
    wait_until("new calls end", SOON, || agent.run(dial(&host, 20)).is_denied());
    // Nobody resets the flow, but none of its bytes leaves.
    let bytes = host.servers.bytes_at(host.at(20));
    assert!(agent.wait_for(stream, Duration::from_millis(300)).is_none_or(|reply| !reply.is_ok()));
    assert_eq!(host.servers.bytes_at(host.at(20)), bytes);
    assert!(agent.run(dial(&host, 10)).is_ok());
}

#[test]
fn terminated_daemon_leaves_enforcement_and_detach_ends_it() {
    let mut host = TestHost::start();
    let (mut agent, mut stranger) = prepare(&host);
    assert!(host.daemon.stop().success());
    host.wait_event("its end", |event| event.code() == "stopped");
    assert_contract(&host, &mut agent, &mut stranger);
    let bpffs = host.daemon.bpffs().display().to_string();
    let done = host.cli(&["detach", "--yes", "--reason", "test", "--bpffs", &bpffs]);
    assert_eq!((&done["detached"], &done["by"]), (&true.into(), &"command".into()));
    assert!(agent.run(dial(&host, 30)).is_ok());
    assert!(agent.run(dial(&host, 50)).is_ok());
}

#[test]
fn running_daemon_ends_enforcement_when_told_and_tells_of_it() {
    let mut host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.run(dial(&host, 50)).is_denied());
    let done = host.cli(&["detach", "--yes", "--reason", "the test is over"]);
    assert_eq!(done["by"], "daemon");
    assert!(host.daemon.wait().success());
    let event = host.wait_event("the end", |event| event.code() == "detached");
    assert!(event.0.to_string().contains("the test is over"));
    assert!(agent.run(dial(&host, 50)).is_ok());
    // And it can begin again.
    host.daemon.start();
    assert!(agent.run(dial(&host, 50)).is_denied());
}

#[test]
fn there_is_no_moment_without_enforcement_while_daemons_change() {
    let mut host = TestHost::start();
    let (mut agent, mut second) = (host.agent("strict"), host.agent("hasty"));
    assert!(agent.run(dial(&host, 10)).is_ok());
    let before = host.wait_call("allowed", "allowed_standing", agent.pid());
    // What must not block is never held, so it tries without a pause; what may is held meanwhile.
    assert!(agent.socket("u", host.at(50), SOCK_DGRAM).is_ok());
    assert!(agent.run(Op::Nonblocking { name: "u".to_owned(), on: true }).is_ok());
    let (name, data) = ("u".to_owned(), "leak".to_owned());
    let denied = Op::SendTo { name, address: host.at(50), data, flags: 0 };
    let (held, standing) = (dial(&host, 50), dial(&host, 10));
    let (done, tries, slips) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                slips.fetch_add(u64::from(agent.run(denied.clone()).is_ok()), Ordering::Relaxed);
                assert!(agent.run(standing.clone()).is_ok(), "a standing tool is denied");
                tries.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                slips.fetch_add(u64::from(second.run(held.clone()).is_ok()), Ordering::Relaxed);
            }
        });
        for round in 0..4 {
            if round % 2 == 0 {
                host.daemon.kill();
            } else {
                host.daemon.stop();
            }
            host.daemon.start();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(slips.into_inner(), 0);
    assert!(tries.into_inner() > 100);
    assert!(host.servers.at(host.at(50)).is_empty());
    assert!(agent.run(dial(&host, 40)).is_denied());
    let after = host.wait_denied("tool_not_approved", agent.pid());
    assert_eq!(after.own("instance"), before.own("instance"));
}

#[test]
fn programs_of_another_release_stay_until_their_successors_know_the_agents() {
    let mut host = TestHost::start();
    let mut agent = host.agent("strict");
    host.daemon.kill();
    let pins = host.daemon.bpffs().join("agent-enforcer");
    let own = std::fs::read_dir(&pins).unwrap().next().unwrap().unwrap().path();
    let other = pins.join("v0");
    std::fs::rename(&own, &other).unwrap();
    let (address, calls) = (host.at(50), u64::MAX);
    let flood = agent.begin_load(LoadOp::Flood { address, ports: 1, calls, millis: 5000 });
    host.daemon.start();
    assert!(!other.exists() && own.exists());
    let tally = agent.finish_load(flood);
    assert!(tally.total() > 1000 && tally.of(0) == 0, "{tally:?}");
    assert!(host.servers.at(host.at(50)).is_empty());
    assert!(agent.run(dial(&host, 10)).is_ok());
}

#[test]
fn tables_in_force_keep_their_size_whatever_the_next_daemon_is_told() {
    for size in ["--ring-bytes=65536", "--ring-bytes=16777216"] {
        let mut host = TestHost::builder().flag("--requests-per-second=1000000").build();
        let mut agent = host.agent("strict");
        // More records than the smaller ring holds: from here on the sizes are not alike.
        let (address, calls) = (host.at(50), 2000);
        agent.load(LoadOp::Flood { address, ports: 1, calls, millis: 20_000 });
        host.daemon.stop();
        host.daemon.add_flag(size);
        host.daemon.start();
        let mut new = host.agent("strict");
        assert!(new.run(dial(&host, 10)).is_ok());
        assert!(new.run(dial(&host, 50)).is_denied());
        host.wait_denied("no_tool", new.pid());
        assert!(host.daemon.log().contains("keeps its size"), "{}", host.daemon.log());
    }
}

#[test]
fn process_that_began_and_forked_while_no_daemon_ran_is_known_afterwards() {
    let mut host = TestHost::start();
    host.cgroup("strict");
    host.daemon.kill();
    let mut agent = host.agent("strict");
    wait_stale(&host, &mut agent, 10);
    host.daemon.start();
    assert!(agent.run(dial(&host, 10)).is_ok());
    assert!(agent.run(dial(&host, 50)).is_denied());
    host.wait_denied("no_tool", agent.pid());
}

#[test]
fn second_daemon_on_the_same_directories_is_refused() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let output = host.daemon.command().output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("another daemon") || error.contains("already"), "{error}");
    assert!(agent.run(dial(&host, 50)).is_denied());
    assert!(agent.run(dial(&host, 10)).is_ok());
}
