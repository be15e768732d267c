//! Options and protocols of a socket that must change no verdict, and calls of another ABI.

use std::net::SocketAddr;

use agent_enforcer_tests::{Op, Probe, TestHost, Trick, host::POLICY, trick::Control};
use libc::{IPPROTO_IP, IPPROTO_IPV6, SO_BINDTODEVICE, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET};

use super::{assert_sends, assert_sends_nothing, connect, name, send_message, set_int};

/// Sets an option, then connects: denied and granted as without it.
fn assert_changes_no_verdict(
    agent: &mut Probe,
    set: impl Fn(&str) -> Op,
    denied: SocketAddr,
    granted: SocketAddr,
) {
    for (peer, is_denied) in [(denied, true), (granted, false)] {
        assert!(agent.socket("s", peer, SOCK_STREAM).is_ok());
        let option = agent.run(set("s"));
        assert!(option.is_ok(), "{option:?} {:?}", set("s"));
        let connected = agent.run(connect("s", peer));
        assert_eq!(connected.is_denied(), is_denied, "{connected:?} {:?}", set("s"));
    }
    assert!(agent.echoes("s"), "{:?}", set("s"));
}

#[test]
fn a19_options_that_choose_the_way_change_no_verdict() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let index = host.network.agents.index_of("veth0").cast_signed();
    let (level, option, value) = (SOL_SOCKET, SO_BINDTODEVICE, b"veth0\0".to_vec());
    let bind =
        |socket: &str| Op::SetOption { name: name(socket), level, option, value: value.clone() };
    assert_changes_no_verdict(&mut agent, bind, host.at(50), host.at(10));
    assert_changes_no_verdict(&mut agent, bind, host.at6(50), host.at6(10));
    for (option, value) in
        [(libc::IP_UNICAST_IF, index.to_be()), (libc::IP_FREEBIND, 1), (libc::IP_TRANSPARENT, 1)]
    {
        let set = |socket: &str| set_int(socket, IPPROTO_IP, option, value);
        assert_changes_no_verdict(&mut agent, set, host.at(50), host.at(10));
    }
    // struct in_pktinfo and in6_pktinfo: the interface, and any source.
    let v4 = [&index.to_ne_bytes()[..], &[0; 8]].concat();
    let v6 = [&[0; 16][..], &index.to_ne_bytes()].concat();
    for (level, kind, value, denied, granted) in [
        (IPPROTO_IP, libc::IP_PKTINFO, v4, host.at(50), host.at(10)),
        (IPPROTO_IPV6, libc::IPV6_PKTINFO, v6, host.at6(50), host.at6(10)),
    ] {
        let control = Some(Control { level, kind, value });
        assert!(agent.socket("u", denied, SOCK_DGRAM).is_ok());
        let leak = send_message("u", Some(denied), control.clone());
        assert_sends_nothing(&host, &mut agent, &leak, denied);
        assert_sends(&mut agent, "u", &send_message("u", Some(granted), control));
    }
    assert!(host.servers.at(host.at(50)).is_empty() && host.servers.at(host.at6(50)).is_empty());
}

#[test]
fn a20_marks_change_no_verdict() {
    /// Sockets of this agent's approved calls have it.
    const MARK: i32 = 42;
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (option, value) in [(libc::SO_MARK, MARK), (libc::SO_PRIORITY, 6)] {
        let set = |socket: &str| set_int(socket, SOL_SOCKET, option, value);
        assert_changes_no_verdict(&mut agent, set, host.at(50), host.at(10));
    }
    let (level, kind, value) = (SOL_SOCKET, libc::SO_MARK, MARK.to_ne_bytes().to_vec());
    let control = Some(Control { level, kind, value });
    assert!(agent.socket("u", host.at(50), SOCK_DGRAM).is_ok());
    let leak = send_message("u", Some(host.at(50)), control.clone());
    assert_sends_nothing(&host, &mut agent, &leak, host.at(50));
    assert_sends(&mut agent, "u", &send_message("u", Some(host.at(10)), control));
}

#[test]
fn a22_connection_without_handshake_is_judged() {
    const TCP_REPAIR: i32 = 19;
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.socket("s", host.at(50), SOCK_STREAM).is_ok());
    assert!(agent.run(set_int("s", libc::IPPROTO_TCP, TCP_REPAIR, 1)).is_ok());
    let connected = agent.run(connect("s", host.at(50)));
    if connected.is_ok() {
        // Its answer came too late for the hook; egress has it by the first packet.
        agent.run(set_int("s", libc::IPPROTO_TCP, TCP_REPAIR, 0));
        agent.send("s", "leak");
    } else {
        assert!(connected.is_denied(), "{connected:?}");
    }
    host.wait_denied("no_tool", agent.pid());
    assert!(host.servers.at(host.at(50)).is_empty());
    assert!(agent.connect("g", host.at(10)).is_ok());
    assert!(agent.echoes("g"));
}

#[test]
fn a23_grant_for_one_protocol_is_none_for_another() {
    const PORTS: &str = r#"ports: ["1-65535"], protocol: [tcp, udp]"#;
    let policy = POLICY.replacen(PORTS, "ports: [7000], protocol: [tcp]", 1);
    assert_ne!(policy, POLICY);
    let host = TestHost::builder().policy(&policy).build();
    let mut agent = host.agent("strict");
    let twin = SocketAddr::new(host.at(10).ip(), 7001);
    for peer in [host.at(10), host.at6(10)] {
        assert!(agent.is_denied_to_send("u", peer));
        assert!(host.servers.at(peer).is_empty());
    }
    assert!(agent.connect("e", twin).is_denied());
    for peer in [host.at(10), host.at6(10)] {
        assert!(agent.connect("g", peer).is_ok());
        assert!(agent.echoes("g"));
        assert!(agent.is_denied_to_send("u", peer), "after its twin was allowed");
    }
}

#[test]
fn a24_calls_of_the_i386_abi_are_judged() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (peer, is_denied) in [(host.at(50), true), (host.at(10), false)] {
        assert!(agent.socket("s", peer, SOCK_STREAM).is_ok());
        let connected = agent.run(Trick::Compat { name: name("s"), address: peer }.into());
        assert_eq!(connected.is_denied(), is_denied, "{connected:?}");
    }
    assert!(agent.echoes("s"));
    assert!(host.servers.at(host.at(50)).is_empty());
    host.wait_denied("no_tool", agent.pid());
}
