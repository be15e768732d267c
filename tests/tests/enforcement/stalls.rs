//! Calls that wait for their decision, in every form, and how they end.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt as _, time::Duration};

use agent_enforcer_tests::{
    ForkKind, GrantRequest, Op, Probe, Reply, TestHost, What,
    host::HASTE,
    planes,
    wait::{SOON, slowed, wait_until},
};
use libc::{EAGAIN, ECONNABORTED, EINPROGRESS, EINTR, ETIMEDOUT, SOCK_DGRAM, SOCK_STREAM};
use rustix::process::Signal;

fn name(name: &str) -> String {
    name.to_owned()
}

/// A blocking connect waits, is listed as pending, is granted, and goes through.
fn assert_connect_waits_for_grant(peer: impl FnOnce(&TestHost) -> (SocketAddr, SocketAddr)) {
    let host = TestHost::start();
    let (named, real) = peer(&host);
    let mut agent = host.agent("waits");
    let ticket = agent.begin_connect("a", named);
    host.wait_call("stalled", "stalled", agent.pid());
    let pending = host.pending();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0]["pid"], agent.pid());
    assert_eq!(pending[0]["tool"], "web");
    assert_eq!(pending[0]["destination"], format!("{real}/tcp"));
    assert_eq!(host.explain(agent.pid(), &format!("{real}"))["outcome"], "stalled");
    assert!(host.servers.at(real).is_empty(), "nothing on the wire before the decision");
    host.grant(&GrantRequest::agent("waits", "web"));
    let reply = agent.finish(ticket);
    assert!(reply.is_ok(), "{reply:?}");
    assert!(agent.echoes("a"));
    let event = host.wait_call("allowed", "allowed_grant", agent.pid());
    assert!(event.number("/unmapped/agent_enforcer/stalled_ns").unwrap_or_default() > 0);
    assert!(host.pending().is_empty());
    assert_eq!(host.calls("stalled", "stalled"), 1);
    assert_eq!(host.calls("allowed", "allowed_grant"), 1);
}

#[test]
fn blocking_connect_waits_for_its_grant() {
    assert_connect_waits_for_grant(|host| (host.at(20), host.at(20)));
}

#[test]
fn blocking_ipv6_connect_waits_for_its_grant() {
    assert_connect_waits_for_grant(|host| (host.at6(20), host.at6(20)));
}

#[test]
fn connect_to_mapped_address_waits_for_the_grant_of_its_ipv4_address() {
    assert_connect_waits_for_grant(|host| {
        ("[::ffff:192.0.2.20]:7000".parse().unwrap(), host.at(20))
    });
}

#[test]
fn event_loop_goes_on_while_its_connect_waits() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    assert!(agent.socket("a", host.at(20), SOCK_STREAM).is_ok());
    agent.run(Op::Nonblocking { name: name("a"), on: true });
    let begun = agent.run(Op::Connect { name: name("a"), address: host.at(20) });
    assert_eq!(begun.errno, EINPROGRESS);
    let loops = agent.begin(Op::Connected { name: name("a"), timeout_ms: 10_000 });
    host.wait_call("stalled", "stalled", agent.pid());
    assert!(agent.wait_for(loops, Duration::from_millis(100)).is_none());
    host.grant(&GrantRequest::agent("waits", "web"));
    let connected = agent.finish(loops);
    assert!(connected.is_ok(), "{connected:?}");
    assert!(connected.value >= 5, "ticks: {connected:?}");
    assert!(agent.echoes("a"));
}

#[test]
fn nonblocking_connect_that_is_denied_tells_at_once() {
    let host = TestHost::start();
    let mut agent = host.agent("hasty");
    assert!(agent.socket("a", host.at(20), SOCK_STREAM).is_ok());
    agent.run(Op::Nonblocking { name: name("a"), on: true });
    let begun = agent.run(Op::Connect { name: name("a"), address: host.at(20) });
    assert_eq!(begun.errno, EINPROGRESS);
    let connected = agent.run(Op::Connected { name: name("a"), timeout_ms: 5000 });
    assert_eq!(connected.errno, ECONNABORTED, "{connected:?}");
    assert!(connected.took() < slowed(3 * HASTE), "{connected:?}");
}

#[test]
fn connect_that_nobody_grants_ends_after_the_stall_limit() {
    let host = TestHost::start();
    let mut agent = host.agent("hasty");
    for (socket, peer) in [("4", host.at(20)), ("6", host.at6(20))] {
        let reply = agent.connect(socket, peer);
        assert_eq!(reply.errno, ECONNABORTED, "{reply:?}");
        assert!((slowed(HASTE * 9 / 10)..slowed(3 * HASTE)).contains(&reply.took()), "{reply:?}");
        assert!(host.servers.at(peer).is_empty());
    }
    host.wait_denied("stall_timeout", agent.pid());
    wait_until("two denials", SOON, || host.calls("denied", "stall_timeout") == 2);
    assert_eq!(host.calls("stalled", "stalled"), 2);
    assert!(host.pending().is_empty());
    assert!(agent.connect("g", host.at(10)).is_ok());
}

/// How often the SYN of the only connection attempt to a port was sent again, as seen by a process.
fn syn_retransmissions(pid: u32, to: SocketAddr) -> Option<u32> {
    const SYN_SENT: &str = "02";
    let port = format!(":{:04X}", to.port());
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("its connections");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut attempts = fields.filter(|it| it[2].ends_with(&port) && it[3] == SYN_SENT);
    attempts.next().map(|it| u32::from_str_radix(it[6], 16).expect("a number"))
}

#[test]
fn timers_are_set_where_agents_are_and_nowhere_else() {
    let mut host = TestHost::start();
    let mut stranger = host.stranger();
    assert!(stranger.connect("host", host.at(30)).is_ok());
    assert!(host.daemon.held_cgroups().is_empty());
    let mut agent = host.agent("waits");
    let cgroup = fs::metadata(host.cgroup("waits")).expect("the agent's cgroup").ino();
    let ticket = agent.begin_connect("a", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    assert_eq!(host.daemon.held_cgroups(), [cgroup]);
    // They would take half a minute if each came after twice the time, even from one jiffy on.
    wait_until("the SYN comes often", SOON, || {
        syn_retransmissions(agent.pid(), host.at(20)).is_some_and(|count| count >= 16)
    });
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(ticket).is_ok());
    host.daemon.stop();
    assert_eq!(host.daemon.held_cgroups(), [cgroup], "the timers outlive the daemon");
    host.daemon.start();
    wait_until("the next daemon sets them", SOON, || host.daemon.held_cgroups() == [cgroup]);
    drop(agent);
    wait_until("nobody is left to set timers for", SOON, || host.daemon.held_cgroups().is_empty());
}

/// A nonblocking connect by `connect`, whose socket the daemon does not find once it is denied, ends
/// by its own timers, with one denial.
fn assert_ends_by_its_own_timers(
    host: &TestHost,
    agent: &mut Probe,
    connect: impl Fn(&mut Probe, Op) -> Reply,
) {
    assert!(agent.socket("a", host.at(20), SOCK_STREAM).is_ok());
    agent.run(Op::Nonblocking { name: name("a"), on: true });
    let begun = connect(agent, Op::Connect { name: name("a"), address: host.at(20) });
    assert_eq!(begun.errno, EINPROGRESS, "{begun:?}");
    let ended = agent.begin(Op::Connected { name: name("a"), timeout_ms: 30_000 });
    let ended = agent.wait_for(ended, Duration::from_secs(40)).expect("an end");
    assert_eq!(ended.errno, ETIMEDOUT, "{ended:?}");
    assert_eq!(denials(host), 1);
    assert!(host.pending().is_empty());
    assert!(host.servers.at(host.at(20)).is_empty());
}

fn denials(host: &TestHost) -> usize {
    host.events().iter().filter(|event| event.is_call() && event.outcome() == "denied").count()
}

#[test]
fn denied_flow_that_is_never_reset_ends_once_and_its_socket_may_ask_anew() {
    let host = TestHost::start();
    let mut agent = host.agent("hasty");
    assert_ends_by_its_own_timers(&host, &mut agent, |agent, connect| {
        let begun = agent.run(connect);
        // The daemon looks for the socket where its caller is now.
        assert!(agent.run(Op::LeaveNetwork).is_ok());
        begun
    });
    assert_eq!(host.calls("denied", "stall_timeout"), 1);
    assert_eq!(host.calls("stalled", "stalled"), 1);
    // Another connect() is another call.
    assert!(agent.run(Op::Disconnect { name: name("a") }).is_ok());
    let again = agent.run(Op::Connect { name: name("a"), address: host.at(20) });
    assert_eq!(again.errno, EINPROGRESS, "{again:?}");
    wait_until("stalled again", SOON, || host.calls("stalled", "stalled") == 2);
    wait_until("denied again", SOON, || host.calls("denied", "stall_timeout") == 2);
    host.grant(&GrantRequest::agent("hasty", "web"));
    // It comes too late for that one.
    let late = agent.begin(Op::Connected { name: name("a"), timeout_ms: 30_000 });
    let late = agent.wait_for(late, Duration::from_secs(40)).expect("an end");
    assert_eq!(late.errno, ETIMEDOUT, "{late:?}");
    assert!(host.servers.at(host.at(20)).is_empty());
    assert_eq!(denials(&host), 2);
    assert!(agent.run(Op::Disconnect { name: name("a") }).is_ok());
    agent.run(Op::Connect { name: name("a"), address: host.at(20) });
    assert!(agent.run(Op::Connected { name: name("a"), timeout_ms: 5000 }).is_ok());
    assert!(agent.echoes("a"));
}

#[test]
fn denied_flow_whose_caller_is_gone_ends_once_for_who_shares_its_socket() {
    let host = TestHost::start();
    let mut agent = host.agent("hasty");
    assert_ends_by_its_own_timers(&host, &mut agent, |agent, connect| {
        agent.run(Op::Fork { kind: ForkKind::Plain, op: Box::new(connect) })
    });
}

#[test]
fn denied_socket_connects_after_a_grant() {
    let host = TestHost::start();
    let mut agent = host.agent("hasty");
    assert_eq!(agent.connect("a", host.at(20)).errno, ECONNABORTED);
    host.grant(&GrantRequest::agent("hasty", "web"));
    let again = agent.run(Op::Connect { name: name("a"), address: host.at(20) });
    assert!(again.is_ok(), "{again:?}");
    assert!(agent.echoes("a"));
}

#[test]
fn nonblocking_datagram_is_told_to_try_again_while_undecided() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    for (socket, peer) in [("4", host.at(20)), ("6", host.at6(20))] {
        assert!(agent.socket(socket, peer, SOCK_DGRAM).is_ok());
        agent.run(Op::Nonblocking { name: name(socket), on: true });
        let send = Op::SendTo { name: name(socket), address: peer, data: name("early"), flags: 0 };
        assert_eq!(agent.run(send.clone()).errno, EAGAIN);
        assert!(host.servers.at(peer).is_empty());
    }
    host.wait_call("stalled", "stalled", agent.pid());
    host.grant(&GrantRequest::agent("waits", "web"));
    for (socket, peer) in [("4", host.at(20)), ("6", host.at6(20))] {
        let send = Op::SendTo { name: name(socket), address: peer, data: name("late"), flags: 0 };
        assert!(agent.run(send).is_ok());
        assert_eq!(agent.receive(socket).data, "late");
        assert_eq!(host.servers.at(peer), [What::Datagram(b"late".to_vec())]);
    }
}

/// A blocking datagram of an open decision: on the LSM plane its caller waits, elsewhere it is lost.
#[test]
fn blocking_datagram_waits_or_is_lost_while_undecided_and_goes_once_granted() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let peer = host.at(20);
    let send = |data| Op::SendTo { name: name("a"), address: peer, data: name(data), flags: 0 };
    assert!(agent.socket("a", peer, SOCK_DGRAM).is_ok());
    let early = agent.begin(send("early"));
    host.wait_call("stalled", "stalled", agent.pid());
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(early).is_ok());
    assert!(agent.run(send("late")).is_ok());
    let expected: &[&str] = if planes::lsm_is_promised() { &["early", "late"] } else { &["late"] };
    for data in expected {
        assert_eq!(agent.receive("a").data, *data);
    }
    let expected: Vec<_> =
        expected.iter().map(|data| What::Datagram(data.as_bytes().to_vec())).collect();
    assert_eq!(host.servers.at(peer), expected);
}

#[test]
fn connected_datagram_socket_is_judged_when_it_sends() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let peers = [("4", host.at(20)), ("6", host.at6(20))];
    for (socket, peer) in peers {
        assert!(agent.socket(socket, peer, SOCK_DGRAM).is_ok());
        // It must not wait: where LSM programs are in force, blocking ones do.
        assert!(agent.run(Op::Nonblocking { name: name(socket), on: true }).is_ok());
        // Resolvers do that to learn a route: no question yet.
        assert!(agent.run(Op::Connect { name: name(socket), address: peer }).is_ok());
        let judged =
            |event: &agent_enforcer_tests::Event| event.is_call() && event.own("hook") == "connect";
        assert!(!host.events().iter().any(judged));
        agent.send(socket, "early");
    }
    let hook = if planes::lsm_is_promised() { "lsm_socket_sendmsg" } else { "egress" };
    host.wait_event("both", |event| event.outcome() == "stalled" && event.own("hook") == hook);
    assert!(peers.iter().all(|(_, peer)| host.servers.at(*peer).is_empty()));
    host.grant(&GrantRequest::agent("waits", "web"));
    for (socket, peer) in peers {
        assert!(agent.send(socket, "late").is_ok());
        assert_eq!(agent.receive(socket).data, "late");
        assert_eq!(host.servers.at(peer), [What::Datagram(b"late".to_vec())]);
    }
}

#[test]
fn several_calls_to_one_destination_wait_for_one_decision() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let tickets: Vec<_> =
        (0..8).map(|n| agent.begin_connect(&n.to_string(), host.at(20))).collect();
    wait_until("eight stalled", SOON, || host.calls("stalled", "stalled") == 8);
    let pending = host.pending();
    assert_eq!((pending.len(), &pending[0]["calls"]), (1, &8.into()));
    host.grant(&GrantRequest::agent("waits", "web"));
    for ticket in tickets {
        assert!(agent.finish(ticket).is_ok());
    }
    wait_until("eight allowed", SOON, || host.calls("allowed", "allowed_grant") == 8);
}

#[test]
fn threads_get_a_verdict_each() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("p", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    // The others go on meanwhile.
    assert!(agent.connect("g", host.at(10)).is_ok());
    assert!(agent.connect("e", host.at(50)).is_denied());
    assert!(agent.echoes("g"));
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(waiting).is_ok());
}

/// The call of a process that ends takes its question along.
fn assert_gone(end: impl FnOnce(&mut Probe)) {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let pid = agent.pid();
    agent.begin_connect("a", host.at(20));
    host.wait_call("stalled", "stalled", pid);
    end(&mut agent);
    host.wait_denied("caller_gone", pid);
    assert!(host.pending().is_empty());
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(!host.servers.at(host.at(20)).contains(&What::Connected));
    let mut twin = host.agent("waits");
    assert!(twin.connect("a", host.at(20)).is_ok());
}

#[test]
fn killed_caller_takes_its_question_along() {
    assert_gone(Probe::kill);
}

#[test]
fn caller_that_exits_takes_its_question_along() {
    assert_gone(|agent| {
        agent.begin(Op::Exit);
    });
}

#[test]
fn interrupted_caller_gets_eintr_and_its_connection_after_the_grant() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    assert!(agent.socket("a", host.at(20), SOCK_STREAM).is_ok());
    assert!(agent.run(Op::Alarm { after_ms: 300, restart: false }).is_ok());
    // Not aside: a signal goes to the leading thread while others block in the same way.
    let reply = agent.run(Op::Connect { name: name("a"), address: host.at(20) });
    assert_eq!(reply.errno, EINTR, "{reply:?}");
    assert!(!host.servers.at(host.at(20)).contains(&What::Connected));
    host.grant(&GrantRequest::agent("waits", "web"));
    // POSIX: the connection goes on being made.
    assert!(agent.run(Op::Connected { name: name("a"), timeout_ms: 5000 }).is_ok());
    assert!(agent.echoes("a"));
}

#[test]
fn restarted_caller_goes_on_waiting() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    assert!(agent.socket("a", host.at(20), SOCK_STREAM).is_ok());
    assert!(agent.run(Op::Alarm { after_ms: 200, restart: true }).is_ok());
    let pid = agent.pid();
    let ticket = agent.begin(Op::Connect { name: name("a"), address: host.at(20) });
    host.wait_call("stalled", "stalled", pid);
    agent.signal(Signal::ALARM);
    assert!(agent.wait_for(ticket, Duration::from_millis(400)).is_none());
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(ticket).is_ok());
}
