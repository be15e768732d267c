//! What makes the call: rings, files, pipes, threads, signals; and what it may fail with.

use std::fs;

use agent_enforcer_tests::{
    ForkKind, GrantRequest, Op, TestHost, Trick,
    trick::{RingCall, Writer},
    wait::{SOON, wait_until},
};
use libc::{AF_INET, AF_INET6, EACCES, EAGAIN, EPERM, SOCK_DGRAM, SOCK_STREAM};
use rustix::process::Signal;

use super::{assert_sends, assert_sends_nothing, connect, connected_datagrams, name, send_message};

fn ring(socket: &str, call: RingCall, polling: bool) -> Op {
    Trick::Ring { name: name(socket), call, polling }.into()
}

#[test]
fn a08_datagrams_are_judged_whatever_sends_them() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (denied, granted) in [(host.at(50), host.at(10)), (host.at6(50), host.at6(10))] {
        assert!(agent.socket("u", denied, SOCK_DGRAM).is_ok());
        let named = send_message("u", Some(denied), None);
        assert_sends_nothing(&host, &mut agent, &named, denied);
        assert_sends(&mut agent, "u", &send_message("u", Some(granted), None));
        connected_datagrams(&mut agent, "e", denied);
        assert_sends_nothing(&host, &mut agent, &send_message("e", None, None), denied);
        let send = |socket| Op::Send { name: name(socket), data: name("hello"), flags: 0 };
        assert_sends_nothing(&host, &mut agent, &send("e"), denied);
        connected_datagrams(&mut agent, "g", granted);
        assert_sends(&mut agent, "g", &send_message("g", None, None));
        assert_sends(&mut agent, "g", &send("g"));
    }
    host.wait_denied("no_tool", agent.pid());
}

#[test]
fn c01_c09_bytes_from_files_pipes_and_asynchronous_writes_are_judged() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for writer in Writer::ALL {
        let write = |socket: &str| {
            Op::from(Trick::Write { name: name(socket), data: name("hello"), writer })
        };
        connected_datagrams(&mut agent, "e", host.at(50));
        assert_sends_nothing(&host, &mut agent, &write("e"), host.at(50));
        connected_datagrams(&mut agent, "g", host.at(10));
        assert_sends(&mut agent, "g", &write("g"));
        assert!(agent.connect("t", host.at(10)).is_ok());
        assert_sends(&mut agent, "t", &write("t"));
    }
    host.wait_denied("no_tool", agent.pid());
}

fn assert_ring_is_judged(polling: bool) {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (denied, granted) in [(host.at(50), host.at(10)), (host.at6(50), host.at6(10))] {
        for (socket, peer) in [("e", denied), ("g", granted)] {
            assert!(agent.socket(socket, peer, SOCK_STREAM).is_ok());
            let connected = agent.run(ring(socket, RingCall::Connect { address: peer }, polling));
            assert_eq!(connected.is_denied(), peer == denied, "{connected:?}");
        }
        let send = RingCall::Send { data: name("hello") };
        assert_sends(&mut agent, "g", &ring("g", send.clone(), polling));
        let named = |address| RingCall::SendTo { address, data: name("hello") };
        assert!(agent.socket("u", denied, SOCK_DGRAM).is_ok());
        let leak = ring("u", named(denied), polling);
        assert_sends_nothing(&host, &mut agent, &leak, denied);
        assert_sends(&mut agent, "u", &ring("u", named(granted), polling));
        connected_datagrams(&mut agent, "c", denied);
        assert_sends_nothing(&host, &mut agent, &ring("c", send, polling), denied);
    }
    host.wait_denied("no_tool", agent.pid());
}

#[test]
fn c04_calls_by_io_uring_are_judged() {
    assert_ring_is_judged(false);
}

#[test]
fn c05_calls_by_a_polling_io_uring_are_judged() {
    assert_ring_is_judged(true);
}

#[test]
fn c06_io_uring_connect_waits_for_its_decision() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    assert!(agent.socket("s", host.at(20), SOCK_STREAM).is_ok());
    let call = || ring("s", RingCall::Connect { address: host.at(20) }, false);
    let ticket = agent.begin(call());
    host.wait_call("stalled", "stalled", agent.pid());
    assert!(host.servers.at(host.at(20)).is_empty());
    host.grant(&GrantRequest::agent("waits", "web"));
    let connected = agent.finish(ticket);
    assert!(connected.is_ok(), "{connected:?}");
    assert!(agent.echoes("s"));

    let mut hasty = host.agent("hasty");
    assert!(hasty.socket("s", host.at(30), SOCK_STREAM).is_ok());
    let denied = hasty.run(ring("s", RingCall::Connect { address: host.at(30) }, false));
    assert!(denied.is_denied(), "{denied:?}");
    assert!(host.servers.at(host.at(30)).is_empty());
}

#[test]
fn a30_denials_have_documented_errors_only() {
    let host = TestHost::start();
    for agent in ["strict", "hasty", "curt"] {
        let mut agent = host.agent(agent);
        for to in [20, 40, 50] {
            for peer in [host.at(to), host.at6(to)] {
                let stream = agent.connect("t", peer);
                assert!(agent.socket("r", peer, SOCK_STREAM).is_ok());
                let ring = agent.run(ring("r", RingCall::Connect { address: peer }, false));
                assert!(stream.is_denied() && ring.is_denied(), "{stream:?} {ring:?}");
                assert!(agent.socket("n", peer, SOCK_DGRAM).is_ok());
                assert!(agent.run(Op::Nonblocking { name: name("n"), on: true }).is_ok());
                let named = agent.run(send_message("n", Some(peer), None));
                assert!([EACCES, EAGAIN].contains(&named.errno), "{named:?}");
                connected_datagrams(&mut agent, "c", peer);
                let connected = agent.send("c", "leak");
                // Lost while it is decided.
                assert!([0, EPERM, EACCES].contains(&connected.errno), "{connected:?}");
                assert!(host.servers.at(peer).is_empty());
            }
        }
        assert!(agent.connect("g", host.at(10)).is_ok());
    }
}

#[test]
fn b07_smc_reaches_nobody() {
    const AF_SMC: i32 = 43;
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (protocol, denied) in [(0, host.at(50)), (1, host.at6(50))] {
        let socket = Op::Socket { name: name("s"), domain: AF_SMC, kind: SOCK_STREAM, protocol };
        if agent.run(socket).is_ok() {
            let connected = agent.run(connect("s", denied));
            assert!(connected.is_denied(), "{connected:?}");
        }
        assert!(host.servers.at(denied).is_empty());
    }
    assert!(agent.connect("g", host.at(10)).is_ok());
}

#[test]
fn b13_internet_sockets_are_tcp_and_udp_and_nothing_else() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for domain in [AF_INET, AF_INET6] {
        let made = agent.run(Trick::Sweep { domain }.into()).data;
        assert_eq!(made, "1/0 1/6 2/0 2/17");
    }
    host.wait_denied("protocol_not_allowed", agent.pid());
    assert!(agent.connect("g", host.at(10)).is_ok());
}

#[test]
fn h01_continued_caller_goes_on_waiting() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let ticket = agent.begin_connect("s", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    for signal in [Signal::CONT, Signal::STOP, Signal::CONT] {
        agent.signal(signal);
    }
    assert!(agent.wait_for(ticket, std::time::Duration::from_millis(500)).is_none());
    assert_eq!(host.pending().len(), 1);
    assert!(host.servers.at(host.at(20)).is_empty());
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(ticket).is_ok());
    assert!(agent.echoes("s"));
}

#[test]
fn h04_send_timeout_ends_the_call_and_not_the_wait() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    assert!(agent.socket("s", host.at(20), SOCK_STREAM).is_ok());
    // A third of a second, as struct timeval.
    let value = [0_i64.to_ne_bytes(), 300_000_i64.to_ne_bytes()].concat();
    let (level, option) = (libc::SOL_SOCKET, libc::SO_SNDTIMEO);
    assert!(agent.run(Op::SetOption { name: name("s"), level, option, value }).is_ok());
    let timed_out = agent.run(connect("s", host.at(20)));
    assert_eq!(timed_out.errno, libc::EINPROGRESS, "{timed_out:?}");
    assert!(host.servers.at(host.at(20)).is_empty());
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.run(Op::Connected { name: name("s"), timeout_ms: 5000 }).is_ok());
    assert!(agent.echoes("s"));
}

#[test]
fn h07_process_forks_and_runs_programs_while_a_thread_waits() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let ticket = agent.begin_connect("s", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    let probe = agent_enforcer_tests::binaries::probe().display().to_string();
    for (to, is_denied) in [(50, true), (10, false)] {
        let op = Op::Dial { address: host.at(to) };
        let once = serde_json::to_string(&op).unwrap();
        let forked = agent.run(Op::Fork { kind: ForkKind::Plain, op: Box::new(op) });
        assert_eq!(forked.is_denied(), is_denied, "{forked:?}");
        let spawned = agent.run(Op::Run { argv: vec![probe.clone(), name("once"), once] });
        assert_eq!(spawned.is_denied(), is_denied, "{spawned:?}");
    }
    assert_eq!(host.pending().len(), 1);
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(ticket).is_ok());
    assert!(agent.echoes("s"));
}

#[test]
fn i05_verdict_is_for_one_image_protocol_and_port() {
    let host = TestHost::start();
    host.grant(&GrantRequest::agent("hasty", "web"));
    let (mut granted, mut other) = (host.agent("hasty"), host.agent("strict"));
    // The same program: what tells them apart is whose it is.
    for _ in 0..3 {
        assert!(granted.connect("t", host.at(20)).is_ok());
        assert!(other.connect("t", host.at(20)).is_denied());
        assert!(granted.send_to("u", host.at(20), "hello").is_ok());
        assert_eq!(granted.receive("u").data, "hello");
        assert!(other.is_denied_to_send("u", host.at(20)));
    }
    host.wait_denied("no_grant", other.pid());
}

#[test]
fn i07_connection_that_is_being_made_ends_with_its_grant() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let grant = host.grant(&GrantRequest::agent("strict", "web"));
    // Nobody has that hardware address: the SYN is never answered.
    host.network.agents.ip("neigh replace 192.0.2.20 lladdr 02:00:00:00:00:20 dev veth0\n");
    let ticket = agent.begin_connect("s", host.at(20));
    host.wait_call("allowed", "allowed_grant", agent.pid());
    host.revoke(&grant);
    let ended = agent.finish(ticket);
    assert!(ended.is_denied(), "{ended:?}");
    host.wait_denied("grant_revoked", agent.pid());
    assert!(agent.connect("g", host.at(10)).is_ok());
}

#[test]
fn l15_waiting_process_does_not_look_stopped() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let ticket = agent.begin_connect("s", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    wait_until("every thread sleeps", SOON, || {
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("a process");
        let stats = tasks.map(|task| fs::read_to_string(task.expect("a task").path().join("stat")));
        stats.map(Result::unwrap_or_default).all(|stat| stat.contains(") S "))
    });
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(ticket).is_ok());
}
