//! Sockets that skip one hook or another are refused when they are made.

use agent_enforcer_tests::{Op, TestHost};
use libc::{
    AF_INET, AF_INET6, EACCES, EPROTONOSUPPORT, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM,
};

const MPTCP: i32 = 262;
const UDP_LITE: i32 = 136;
const SCTP: i32 = 132;
const DCCP: i32 = 33;
const L2TP: i32 = 115;
const SOCK_DCCP: i32 = 6;

/// Whether this kernel has such sockets at all: asked of a stranger.
fn assert_refused(kinds: &[(i32, i32)], must_exist: bool) {
    let host = TestHost::start();
    host.network.agents.sysctl("net/ipv4/ping_group_range", "0 2147483647");
    let (mut agent, mut stranger) = (host.agent("strict"), host.stranger());
    let mut refused = 0;
    for domain in [AF_INET, AF_INET6] {
        for (kind, protocol) in kinds {
            let op = Op::Socket { name: "s".to_owned(), domain, kind: *kind, protocol: *protocol };
            let theirs = stranger.run(op.clone());
            let absent = matches!(theirs.errno, EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT);
            assert!(theirs.is_ok() || (absent && !must_exist), "{op:?} {theirs:?}");
            let ours = agent.run(op.clone());
            if theirs.is_ok() {
                assert_eq!(ours.errno, EACCES, "{op:?}");
                refused += 1;
            } else {
                assert!(!ours.is_ok(), "{op:?}");
            }
        }
    }
    if refused > 0 {
        let event = host.wait_denied("protocol_not_allowed", agent.pid());
        assert_eq!(event.own("hook"), "socket_create");
        assert_eq!(host.reason_counter("protocol_not_allowed"), refused);
    }
    assert!(agent.connect("g", host.at(10)).is_ok());
    assert!(agent.send_to("u", host.at(10), "hello").is_ok());
}

#[test]
fn b02_refuses_raw_sockets() {
    assert_refused(
        &[(SOCK_RAW, libc::IPPROTO_ICMP), (SOCK_RAW, libc::IPPROTO_RAW), (SOCK_RAW, 6)],
        true,
    );
}

#[test]
fn b03_refuses_ping_sockets() {
    let host = TestHost::start();
    host.network.agents.sysctl("net/ipv4/ping_group_range", "0 2147483647");
    let (mut agent, mut stranger) = (host.agent("strict"), host.stranger());
    for (domain, protocol) in [(AF_INET, libc::IPPROTO_ICMP), (AF_INET6, libc::IPPROTO_ICMPV6)] {
        let op = Op::Socket { name: "s".to_owned(), domain, kind: SOCK_DGRAM, protocol };
        assert!(stranger.run(op.clone()).is_ok(), "{op:?}");
        assert_eq!(agent.run(op).errno, EACCES);
    }
    host.wait_denied("protocol_not_allowed", agent.pid());
}

#[test]
fn b06_refuses_mptcp_sockets() {
    assert_refused(&[(SOCK_STREAM, MPTCP)], true);
}

/// Linux 7 has none any more.
#[test]
fn b16_refuses_udp_lite_sockets_where_the_kernel_has_them() {
    assert_refused(&[(SOCK_DGRAM, UDP_LITE)], false);
}

#[test]
fn b05_b12_refuses_sctp_dccp_and_l2tp_sockets_where_the_kernel_has_them() {
    assert_refused(
        &[(SOCK_STREAM, SCTP), (SOCK_SEQPACKET, SCTP), (SOCK_DCCP, DCCP), (SOCK_DGRAM, L2TP)],
        false,
    );
}

#[test]
fn unix_sockets_and_routes_stay_usable() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (domain, kind) in [(libc::AF_UNIX, SOCK_STREAM), (libc::AF_NETLINK, SOCK_RAW)] {
        let op = Op::Socket { name: "s".to_owned(), domain, kind, protocol: 0 };
        assert!(agent.run(op).is_ok());
    }
}
