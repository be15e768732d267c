//! Peers: every port, every spelling, every place where they might hide.

use std::net::SocketAddr;

use agent_enforcer_tests::{
    Op, Servers, TestHost, Trick,
    host::POLICY,
    wait::{SOON, wait_until},
};
use libc::{AF_INET, AF_INET6, EACCES, SOCK_DGRAM, SOCK_STREAM};

use super::{assert_sends, assert_sends_nothing, bytes, connect, name, send_message, set_int};

fn at_port(address: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}

#[test]
fn a01_every_port_is_judged() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for denied in [host.at(50), host.at6(50)] {
        for port in [0, 1, 1023, 65535] {
            let peer = at_port(denied, port);
            assert!(agent.connect("e", peer).is_denied(), "{peer}");
        }
    }
    // Nobody named port 0, so it belongs to no tool of a granted address either.
    assert!(agent.connect("e", at_port(host.at(10), 0)).is_denied());
    host.wait_denied("no_tool", agent.pid());
    let granted = [host.at(10), host.at6(10)];
    let granted = granted.map(|peer| [at_port(peer, 1023), at_port(peer, 65535)]).concat();
    let _servers = Servers::start(&host.network.remote, &granted);
    for peer in granted {
        assert!(agent.connect("g", peer).is_ok(), "{peer}");
        assert!(agent.echoes("g"), "{peer}");
    }
}

#[test]
fn a07_names_of_wrong_family_or_length_reach_nobody() {
    let host = TestHost::start();
    let (mut agent, mut stranger) = (host.agent("strict"), host.stranger());
    let (v4, v6) = (bytes(host.at(50)), bytes(host.at6(50)));
    let unix = [&1_u16.to_ne_bytes()[..], b"\0name"].concat();
    let padded = |name: &[u8], length| [name, &vec![0; length - name.len()]].concat();
    let names = [
        (AF_INET, v4[..2].to_vec()),
        (AF_INET, v4[..15].to_vec()),
        (AF_INET, v6.clone()),
        (AF_INET, unix.clone()),
        (AF_INET, padded(&unix, 16)),
        (AF_INET, padded(&v4, 129)),
        (AF_INET6, v4.clone()),
        (AF_INET6, padded(&v4, 28)),
        (AF_INET6, v6[..8].to_vec()),
        (AF_INET6, v6[..23].to_vec()),
        (AF_INET6, padded(&unix, 28)),
    ];
    for (domain, peer) in names {
        let socket = Op::Socket { name: name("s"), domain, kind: SOCK_STREAM, protocol: 0 };
        let attempt = Op::from(Trick::ConnectBytes { name: name("s"), peer });
        let [ours, theirs] = [&mut agent, &mut stranger].map(|probe| {
            assert!(probe.run(socket.clone()).is_ok());
            probe.run(attempt.clone()).errno
        });
        assert_ne!(theirs, 0, "{attempt:?}");
        assert!(ours == theirs || ours == EACCES, "{attempt:?}: {ours}, and {theirs} elsewhere");
    }
    // Longer than it need be, and an IPv4 name of an IPv6 datagram socket: the kernel takes both.
    let long = |peer| Trick::ConnectBytes { name: name("t"), peer: padded(&bytes(peer), 128) };
    for (peer, denied) in [(host.at(50), true), (host.at6(50), true), (host.at(10), false)] {
        assert!(agent.socket("t", peer, SOCK_STREAM).is_ok());
        assert_eq!(agent.run(long(peer).into()).is_denied(), denied, "{peer}");
    }
    assert!(agent.echoes("t"));
    assert!(agent.socket("u", host.at6(50), SOCK_DGRAM).is_ok());
    let leak = send_message("u", Some(host.at(50)), None);
    assert_sends_nothing(&host, &mut agent, &leak, host.at(50));
    assert_sends(&mut agent, "u", &send_message("u", Some(host.at(10)), None));
    assert!(host.servers.at(host.at6(50)).is_empty());
}

#[test]
fn a11_socket_that_changes_its_family_is_judged_as_before() {
    const IPV6_ADDRFORM: i32 = 1;
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let mapped: SocketAddr = "[::ffff:192.0.2.10]:7000".parse().unwrap();
    for (socket, kind) in [("t", SOCK_STREAM), ("u", SOCK_DGRAM)] {
        assert!(agent.socket(socket, mapped, kind).is_ok());
        assert!(agent.run(connect(socket, mapped)).is_ok());
        let changed = agent.run(set_int(socket, libc::IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET));
        assert!(changed.is_ok(), "{changed:?}");
        assert!(agent.echoes_soon(socket));
    }
    let named = send_message("u", Some(host.at(50)), None);
    assert_sends_nothing(&host, &mut agent, &named, host.at(50));
    assert!(agent.run(Op::Disconnect { name: name("t") }).is_ok());
    assert!(agent.run(connect("t", host.at(50))).is_denied());
    assert!(agent.run(connect("t", host.at(10))).is_ok());
    assert!(agent.echoes("t"));
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn a13_a14_own_addresses_need_a_grant() {
    let host = TestHost::start();
    let parse = |address: &str| address.parse::<SocketAddr>().unwrap();
    let denied = ["127.0.0.9:7001", "127.0.0.1:7002", "192.0.2.1:7001", "[2001:db8::1]:7001"];
    let denied = denied.map(parse);
    let granted = ["127.0.0.1:7001", "[::1]:7001"].map(parse);
    let local = Servers::start(&host.network.agents, &[&denied[..], &granted].concat());
    let mut agent = host.agent("strict");
    for peer in denied {
        assert!(agent.connect("e", peer).is_denied(), "{peer}");
        let named = send_message("u", Some(peer), None);
        assert!(agent.socket("u", peer, SOCK_DGRAM).is_ok());
        wait_until("denied", SOON, || agent.run(named.clone()).errno == EACCES);
        assert!(local.at(peer).is_empty(), "{peer}");
    }
    for peer in granted {
        assert!(agent.connect("g", peer).is_ok(), "{peer}");
        assert!(agent.echoes("g"), "{peer}");
    }
}

#[test]
fn a15_addresses_inside_addresses_are_not_granted() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    // Of .10, which is granted, and of .50: none of them is their IPv4 address.
    for last in ["0a", "32"] {
        for form in [
            "64:ff9b::c000:2",       // NAT64, RFC 6052
            "64:ff9b:1::c000:2",     // NAT64 of a site, RFC 8215
            "::c000:2",              // IPv4-compatible, RFC 4291
            "::ffff:0:c000:2",       // translated, RFC 2765
            "2001:db8::5efe:c000:2", // ISATAP, RFC 5214
        ] {
            let peer: SocketAddr = format!("[{form}{last}]:7000").parse().unwrap();
            assert!(agent.connect("e", peer).is_denied(), "{peer}");
        }
        // 6to4, RFC 3056.
        let peer: SocketAddr = format!("[2002:c000:2{last}::1]:7000").parse().unwrap();
        assert!(agent.connect("e", peer).is_denied(), "{peer}");
    }
    host.wait_denied("no_tool", agent.pid());
    assert!(host.servers.arrivals().is_empty());
    assert!(agent.connect("g", "[::ffff:192.0.2.10]:7000".parse().unwrap()).is_ok());
    assert!(agent.echoes("g"));
}

#[test]
fn a16_link_local_addresses_are_judged_on_every_interface() {
    let policy = POLICY.replace(r#""2001:db8::10"]"#, r#""2001:db8::10", "fe80::10"]"#);
    assert_ne!(policy, POLICY);
    let host = TestHost::builder().policy(&policy).build();
    host.network
        .remote
        .ip("addr add fe80::10/64 dev veth0 nodad\naddr add fe80::50/64 dev veth0 nodad\n");
    host.network.agents.ip("link add veth1 index 7 type veth peer name veth2\nlink set veth1 up\n");
    let veth0 = host.network.agents.index_of("veth0");
    let at = |host: u8, scope: u32| -> SocketAddr {
        format!("[fe80::{host}%{scope}]:7100").parse().unwrap()
    };
    // The servers' side has its own number for the same cable.
    let far = host.network.remote.index_of("veth0");
    let servers = Servers::start(&host.network.remote, &[at(10, far), at(50, far)]);
    let mut agent = host.agent("strict");
    for scope in [veth0, 7] {
        assert!(agent.connect("e", at(50, scope)).is_denied(), "{scope}");
        assert!(agent.is_denied_to_send("e", at(50, scope)), "{scope}");
    }
    // The interface is named by the socket.
    assert!(agent.socket("b", at(50, 0), SOCK_STREAM).is_ok());
    let (level, option, value) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"veth0\0".to_vec());
    assert!(agent.run(Op::SetOption { name: name("b"), level, option, value }).is_ok());
    assert!(agent.run(connect("b", at(50, 0))).is_denied());
    assert!(servers.arrivals().is_empty());
    // Until then the agent's own link-local address is not.
    wait_until("its own address is usable", SOON, || agent.connect("g", at(10, veth0)).is_ok());
    assert!(agent.echoes("g"));
}

#[test]
fn a25_address_that_changes_during_the_call_is_judged_as_it_is_used() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    // Both are decided first, so that the race is between lookups and copies alone.
    assert!(agent.connect("g", host.at(10)).is_ok());
    assert!(agent.connect("e", host.at(50)).is_denied());
    assert!(agent.is_denied_to_send("e", host.at(50)));
    let race = Trick::Race { one: host.at(10), other: host.at(50), rounds: 2000 };
    let went = agent.run(race.into()).value;
    assert!((1..4000).contains(&went), "the addresses took turns: {went}");
    assert!(host.servers.at(host.at(50)).is_empty());
    assert!(!host.servers.at(host.at(10)).is_empty());
}

#[test]
fn a26_second_connect_does_not_change_the_peer() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.socket("s", host.at(10), SOCK_STREAM).is_ok());
    assert!(agent.run(Op::Nonblocking { name: name("s"), on: true }).is_ok());
    agent.run(connect("s", host.at(10)));
    // Where the first is made already, this one says so without a look at its peer.
    let second = agent.run(connect("s", host.at(50)));
    assert!([0, libc::EALREADY, libc::EISCONN].contains(&second.errno), "{second:?}");
    assert!(agent.run(Op::Connected { name: name("s"), timeout_ms: 5000 }).is_ok());
    agent.run(connect("s", host.at(50)));
    assert_eq!(agent.run(connect("s", host.at(50))).errno, libc::EISCONN);
    assert!(agent.echoes("s"));
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn a27_socket_that_connects_to_itself_is_judged() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (own, denied) in [("127.0.0.1:7002", true), ("127.0.0.1:7001", false)] {
        let own: SocketAddr = own.parse().unwrap();
        assert!(agent.socket("s", own, SOCK_STREAM).is_ok());
        assert!(agent.run(Op::Bind { name: name("s"), address: own }).is_ok());
        assert_eq!(agent.run(connect("s", own)).is_denied(), denied, "{own}");
    }
    assert!(agent.echoes("s"));
}
