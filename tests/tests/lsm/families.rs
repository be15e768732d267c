//! Families other than INET, and TCP callers that are stopped because their agent's profile says so.

use std::fs;

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, Trick,
    trick::RingCall,
    wait::{SOON, wait_until},
};
use libc::{
    AF_INET, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, EACCES, EAGAIN, NETLINK_AUDIT,
    NETLINK_ROUTE, NETLINK_SOCK_DIAG, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM,
};

use crate::host;

const AF_ALG: i32 = 38;
const AF_QIPCRTR: i32 = 42;
const AF_XDP: i32 = 44;
const SOCK_PACKET: i32 = 10;
/// Of the tool `builder`.
const VSOCK_GRANTED: u32 = 7;
const VSOCK_OTHER: u32 = 8;

fn socket(domain: i32, kind: i32, protocol: i32) -> Op {
    Op::Socket { name: "s".to_owned(), domain, kind, protocol }
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn b01_families_without_a_tool_have_no_sockets() {
    let host = host().build();
    let (mut agent, mut stranger) = (host.agent("strict"), host.stranger());
    assert!(stranger.run(socket(AF_PACKET, SOCK_DGRAM, 0)).is_ok());
    for (domain, kind) in [
        (AF_INET, SOCK_PACKET),
        (AF_PACKET, SOCK_DGRAM),
        (AF_PACKET, SOCK_RAW),
        (AF_ALG, 5),
        (AF_QIPCRTR, SOCK_DGRAM),
        (AF_XDP, SOCK_RAW),
    ] {
        let denied = agent.run(socket(domain, kind, 0));
        assert_eq!(denied.errno, EACCES, "{domain} {denied:?}");
    }
    let event = host.wait_denied("no_tool", agent.pid());
    assert_eq!(event.own("hook"), "lsm_socket_create");
    for kind in [SOCK_STREAM, SOCK_DGRAM] {
        assert!(agent.run(socket(AF_UNIX, kind, 0)).is_ok());
    }
    assert!(agent.connect("g", host.at(10)).is_ok());
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn netlink_is_routes_and_what_a_tool_names() {
    let host = host().build();
    let mut agent = host.agent("strict");
    assert!(agent.run(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)).is_ok());
    assert!(agent.run(socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG)).is_ok());
    let denied = agent.run(socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));
    assert_eq!(denied.errno, EACCES, "{denied:?}");
    let mut patient = host.agent("waits");
    let made = patient.begin(socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));
    host.wait_call("stalled", "stalled", patient.pid());
    host.grant(&GrantRequest::agent("waits", "asked"));
    assert!(patient.finish(made).is_ok());
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn b08_vsock_peers_are_destinations_and_nobody_dials_in() {
    const HYPERVISOR: u32 = 2;
    const LOOPBACK: u32 = 1;
    let host = host().build();
    let (mut agent, mut stranger) = (host.agent("strict"), host.stranger());
    let name = || "s".to_owned();
    let mut listener = host.stranger();
    for port in [VSOCK_GRANTED, VSOCK_OTHER] {
        assert!(listener.run(socket(AF_VSOCK, SOCK_STREAM, 0)).is_ok());
        let bound = Trick::BindBytes { name: name(), own: vsock_name(LOOPBACK, port) };
        assert!(listener.run(bound.into()).is_ok());
        assert!(listener.run(Op::Listen { name: name() }).is_ok());
        assert!(
            listener.run(Trick::Duplicate { name: name(), copy: port.to_string() }.into()).is_ok()
        );
    }
    let connect = |probe: &mut Probe, cid: u32, port: u32| {
        assert!(probe.run(socket(AF_VSOCK, SOCK_STREAM, 0)).is_ok());
        probe.run(Trick::ConnectBytes { name: name(), peer: vsock_name(cid, port) }.into())
    };
    for (cid, port) in [(HYPERVISOR, 1024), (LOOPBACK, VSOCK_OTHER)] {
        let denied = connect(&mut agent, cid, port);
        assert_eq!(denied.errno, EACCES, "{cid}:{port} {denied:?}");
    }
    let event = host.wait_denied("no_tool", agent.pid());
    assert_eq!(event.text("/dst_endpoint/name"), format!("vsock:{HYPERVISOR}:1024"));
    let granted = connect(&mut agent, LOOPBACK, VSOCK_GRANTED);
    assert!(granted.is_ok(), "{granted:?}");
    let reached = connect(&mut stranger, LOOPBACK, VSOCK_OTHER);
    assert!(reached.is_ok(), "{reached:?}");
    assert!(agent.run(socket(AF_VSOCK, SOCK_STREAM, 0)).is_ok());
    assert_eq!(agent.run(Op::Listen { name: name() }).errno, EACCES);
}

/// `sockaddr_vm`, include/uapi/linux/vm_sockets.h.
fn vsock_name(cid: u32, port: u32) -> Vec<u8> {
    let family = u16::try_from(AF_VSOCK).expect("a small number");
    [&family.to_ne_bytes()[..], &[0; 2], &port.to_ne_bytes(), &cid.to_ne_bytes(), &[0; 4]].concat()
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn blocking_connect_of_an_agent_that_parks_is_stopped_until_it_is_decided() {
    let host = host().build();
    let mut agent = host.agent("parks");
    let connected = agent.begin_connect("t", host.at(20));
    wait_until("the caller is stopped", SOON, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
        stat.contains(") T ")
    });
    assert!(host.servers.at(host.at(20)).is_empty());
    host.grant(&GrantRequest::agent("parks", "web"));
    let reply = agent.finish(connected);
    assert!(reply.is_ok(), "{reply:?}");
    assert!(agent.echoes("t"));
    assert_eq!(host.calls("stalled", "stalled"), 1);
    assert_eq!(host.calls("allowed", "allowed_grant"), 1);
    let mut hasty = host.agent("hasty");
    let denied = hasty.connect("t", host.at(20));
    assert_eq!(denied.errno, EACCES, "{denied:?}");
    host.wait_denied("stall_timeout", hasty.pid());
    assert_eq!(host.calls("denied", "stall_timeout"), 1);
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn c04_c05_a_ring_is_told_to_try_again_and_never_to_restart() {
    let host = host().build();
    let mut agent = host.agent("waits");
    for polling in [false, true] {
        assert!(agent.socket("u", host.at(20), SOCK_DGRAM).is_ok());
        let call = RingCall::SendTo { address: host.at(20), data: "leak".to_owned() };
        let reply = agent.run(Trick::Ring { name: "u".to_owned(), call, polling }.into());
        assert_eq!(reply.errno, EAGAIN, "{polling} {reply:?}");
    }
    assert!(host.servers.at(host.at(20)).is_empty());
}
