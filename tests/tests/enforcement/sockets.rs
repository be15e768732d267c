//! Ways of naming a peer, and sockets with a past.

use std::net::SocketAddr;

use agent_enforcer_tests::{
    Op, Probe, Servers, TestHost, What,
    wait::{SOON, wait_until},
};
use libc::{EACCES, SOCK_DGRAM, SOCK_STREAM};

const MSG_FASTOPEN: i32 = 0x2000_0000;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const IPV6_RTHDR: i32 = 57;

fn name(name: &str) -> String {
    name.to_owned()
}

fn send_to(socket: &str, address: SocketAddr, data: &str, flags: i32) -> Op {
    Op::SendTo { name: name(socket), address, data: name(data), flags }
}

/// Nothing of it may pass: a question that is answered too late for the hook loses the datagram.
fn assert_denied(agent: &mut Probe, op: &Op) {
    wait_until(&format!("denied: {op:?}"), SOON, || agent.run(op.clone()).errno == EACCES);
}

#[test]
fn a02_fast_open_is_judged_as_a_connect() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (denied, granted) in [(host.at(50), host.at(10)), (host.at6(50), host.at6(10))] {
        assert!(agent.socket("e", denied, SOCK_STREAM).is_ok());
        assert!(agent.run(send_to("e", denied, "leak", MSG_FASTOPEN)).is_denied());
        assert!(host.servers.at(denied).is_empty());
        assert!(agent.socket("g", granted, SOCK_STREAM).is_ok());
        assert!(agent.run(send_to("g", granted, "fast", MSG_FASTOPEN)).is_ok());
        assert_eq!(agent.receive("g").data, "fast");
    }
    host.wait_denied("no_tool", agent.pid());
}

#[test]
fn a03_fast_open_connect_is_judged_as_a_connect() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (socket, peer) in [("e", host.at(50)), ("g", host.at(10))] {
        assert!(agent.socket(socket, peer, SOCK_STREAM).is_ok());
        let (level, option, value) = (libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, vec![1, 0, 0, 0]);
        assert!(agent.run(Op::SetOption { name: name(socket), level, option, value }).is_ok());
        let connected = agent.run(Op::Connect { name: name(socket), address: peer });
        // A held connect returns at once and fails when it is used.
        assert!(if socket == "g" {
            connected.is_ok()
        } else {
            connected.is_denied() || !agent.echoes("e")
        });
    }
    assert!(agent.echoes("g"));
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn a05_disconnected_socket_is_judged_anew() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for kind in [SOCK_STREAM, SOCK_DGRAM] {
        assert!(agent.socket("s", host.at(10), kind).is_ok());
        assert!(agent.run(Op::Connect { name: name("s"), address: host.at(10) }).is_ok());
        assert!(agent.echoes_soon("s"));
        assert!(agent.run(Op::Disconnect { name: name("s") }).is_ok());
        let again = agent.run(Op::Connect { name: name("s"), address: host.at(50) });
        if kind == SOCK_STREAM {
            assert!(again.is_denied(), "{again:?}");
            assert!(agent.run(Op::Connect { name: name("s"), address: host.at(10) }).is_ok());
            assert!(agent.echoes("s"));
        } else {
            wait_until("denied", SOON, || !agent.send("s", "leak").is_ok());
        }
    }
    assert!(host.servers.at(host.at(50)).is_empty());
    host.wait_denied("no_tool", agent.pid());
}

#[test]
fn a09_explicit_address_of_a_connected_datagram_socket_is_judged() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.socket("s", host.at(10), SOCK_DGRAM).is_ok());
    assert!(agent.run(Op::Connect { name: name("s"), address: host.at(10) }).is_ok());
    assert!(agent.echoes_soon("s"));
    assert_denied(&mut agent, &send_to("s", host.at(50), "leak", 0));
    assert!(agent.echoes_soon("s"));
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn a10_mapped_addresses_are_their_ipv4_addresses() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let mapped = |to: u8| -> SocketAddr { format!("[::ffff:192.0.2.{to}]:7000").parse().unwrap() };
    assert!(agent.connect("t", mapped(50)).is_denied());
    assert!(agent.is_denied_to_send("u", mapped(50)));
    let event = host.wait_denied("no_tool", agent.pid());
    assert_eq!(event.own("destination"), "192.0.2.50:7000/tcp");
    assert!(host.servers.at(host.at(50)).is_empty());
    assert!(agent.connect("t", mapped(10)).is_ok());
    assert!(agent.send_to("u", mapped(10), "hello").is_ok());
    assert_eq!(agent.receive("u").data, "hello");
}

#[test]
fn a12_unspecified_address_is_judged_as_loopback() {
    let host = TestHost::start();
    let listen: Vec<SocketAddr> = ["127.0.0.1:7001", "[::1]:7001", "127.0.0.1:7002", "[::1]:7002"]
        .map(|address| address.parse().unwrap())
        .to_vec();
    let local = Servers::start(&host.network.agents, &listen);
    let mut agent = host.agent("strict");
    for (named, real) in [("0.0.0.0:7002", listen[2]), ("[::]:7002", listen[3])] {
        assert!(agent.connect("t", named.parse().unwrap()).is_denied());
        host.wait_event(named, |event| event.own("destination") == format!("{real}/tcp"));
        assert!(local.at(real).is_empty());
    }
    for named in ["0.0.0.0:7001", "[::]:7001"] {
        assert!(agent.connect("t", named.parse().unwrap()).is_ok(), "{named}");
        assert!(agent.echoes("t"));
    }
}

#[test]
fn a17_a18_broadcast_multicast_and_metadata_are_denied() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let peers = [
        "255.255.255.255:5353",
        "192.0.2.255:5353",
        "224.0.0.251:5353",
        "[ff02::fb%2]:5353",
        "169.254.169.254:80",
        "[fd00:ec2::254]:80",
    ];
    for peer in peers {
        let peer: SocketAddr = peer.parse().unwrap();
        assert!(agent.socket("u", peer, SOCK_DGRAM).is_ok());
        let (level, option, value) = (libc::SOL_SOCKET, libc::SO_BROADCAST, vec![1, 0, 0, 0]);
        assert!(agent.run(Op::SetOption { name: name("u"), level, option, value }).is_ok());
        assert_denied(&mut agent, &send_to("u", peer, "leak", 0));
    }
    assert!(agent.connect("t", "169.254.169.254:80".parse().unwrap()).is_denied());
}

/// A datagram that names a granted peer and would go by another is dropped and told.
fn assert_source_route(
    host: &TestHost,
    agent: &mut Probe,
    socket: &str,
    peer: SocketAddr,
    via: SocketAddr,
) {
    let _sent = agent.run(send_to(socket, peer, "leak", 0));
    host.wait_denied("source_route", agent.pid());
    assert!(host.servers.at(via).is_empty() && host.servers.at(peer).is_empty());
    assert!(agent.send_to("twin", peer, "hello").is_ok());
    assert_eq!(agent.receive("twin").data, "hello");
}

#[test]
fn a31_ipv6_routing_header_is_dropped() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.socket("u", host.at6(10), SOCK_DGRAM).is_ok());
    // Segment routing header (RFC 8754): type 4, two segments, the last one is the first hop.
    let mut value = vec![0, 4, 4, 1, 1, 0, 0, 0];
    for hop in [host.at6(10), host.at6(50)] {
        let SocketAddr::V6(hop) = hop else { panic!("an IPv6 address") };
        value.extend(hop.ip().octets());
    }
    let set =
        Op::SetOption { name: name("u"), level: libc::IPPROTO_IPV6, option: IPV6_RTHDR, value };
    let set = agent.run(set);
    assert!(set.is_ok(), "this kernel takes no routing header: {set:?}");
    assert_source_route(&host, &mut agent, "u", host.at6(10), host.at6(50));
}

#[test]
fn a21_ipv4_source_route_is_dropped() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.socket("u", host.at(10), SOCK_DGRAM).is_ok());
    // Loose source route by .50 (RFC 791), and the end of the options.
    let value = vec![131, 7, 4, 192, 0, 2, 50, 0];
    let set =
        Op::SetOption { name: name("u"), level: libc::IPPROTO_IP, option: libc::IP_OPTIONS, value };
    let set = agent.run(set);
    assert!(set.is_ok(), "this kernel takes no source route: {set:?}");
    assert_source_route(&host, &mut agent, "u", host.at(10), host.at(50));
}

#[test]
fn c02_sendmmsg_stops_at_the_first_denied_address() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.socket("u", host.at(10), SOCK_DGRAM).is_ok());
    // Decided first: a datagram whose decision is open would be lost without an error.
    assert!(agent.is_denied_to_send("first", host.at(50)));
    let addresses = vec![host.at(10), host.at(50), host.at(10)];
    let sent = agent.run(Op::SendMany { name: name("u"), addresses, data: name("part") });
    assert_eq!(sent.value, 1, "{sent:?}");
    assert_eq!(agent.receive("u").data, "part");
    host.wait_denied("no_tool", agent.pid());
    assert_eq!(host.servers.at(host.at(10)).len(), 1);
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn c03_corked_datagram_goes_to_the_peer_that_was_judged() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.socket("u", host.at(10), SOCK_DGRAM).is_ok());
    // Decided first: a datagram whose decision is open would be corked.
    assert!(agent.is_denied_to_send("first", host.at(50)));
    assert_denied(&mut agent, &send_to("u", host.at(50), "leak", libc::MSG_MORE));
    assert!(agent.run(send_to("u", host.at(10), "one", libc::MSG_MORE)).is_ok());
    // The kernel ignores the second address; whatever it answers, .50 gets nothing.
    agent.run(send_to("u", host.at(50), "two", 0));
    agent.run(send_to("u", host.at(10), "three", 0));
    host.servers.wait_for(host.at(10), &What::Datagram(b"onetwo".to_vec()), SOON);
    assert!(host.servers.at(host.at(50)).is_empty());
}

/// A stranger makes sockets and then becomes an agent's process.
fn stranger_with_sockets(host: &TestHost) -> Probe {
    let mut probe = host.stranger();
    assert!(probe.socket("fresh", host.at(10), SOCK_STREAM).is_ok());
    assert!(probe.socket("other", host.at(10), SOCK_STREAM).is_ok());
    assert!(probe.socket("unconnected", host.at(10), SOCK_DGRAM).is_ok());
    assert!(probe.socket("datagrams", host.at(50), SOCK_DGRAM).is_ok());
    assert!(probe.run(Op::Connect { name: name("datagrams"), address: host.at(50) }).is_ok());
    assert!(probe.connect("live", host.at(40)).is_ok());
    assert!(probe.echoes("live") && probe.echoes_soon("datagrams"));
    let directory = host.cgroup("strict").display().to_string();
    assert!(probe.run(Op::EnterCgroup { directory }).is_ok());
    // Sockets that are connected already are tagged by the daemon, just before it tells.
    host.wait_event("the start of the instance", |event| event.code() == "instance_started");
    probe
}

#[test]
fn inherited_socket_is_judged_when_it_connects_or_names_a_peer() {
    let host = TestHost::start();
    let mut agent = stranger_with_sockets(&host);
    let connect = |socket: &str, address| Op::Connect { name: name(socket), address };
    assert!(agent.run(connect("fresh", host.at(50))).is_denied());
    assert!(agent.run(connect("other", host.at(10))).is_ok());
    assert_denied(&mut agent, &send_to("unconnected", host.at(50), "leak", 0));
    assert!(agent.run(send_to("unconnected", host.at(10), "hello", 0)).is_ok());
    host.wait_denied("no_tool", agent.pid());
}

#[test]
fn inherited_connection_is_judged_when_it_is_used() {
    let host = TestHost::start();
    let mut agent = stranger_with_sockets(&host);
    assert!(!agent.echoes("live"), "a connection from before goes on");
    assert_eq!(host.servers.bytes_at(host.at(40)), 4);
    host.wait_denied("tool_not_approved", agent.pid());
}

#[test]
fn inherited_connected_datagram_socket_is_judged_when_it_is_used() {
    let host = TestHost::start();
    let mut agent = stranger_with_sockets(&host);
    let before = host.servers.bytes_at(host.at(50));
    agent.send("datagrams", "leak");
    assert_ne!(agent.receive("datagrams").data, "leak", "a connected datagram socket goes on");
    assert_eq!(host.servers.bytes_at(host.at(50)), before);
    host.wait_denied("no_tool", agent.pid());
}
