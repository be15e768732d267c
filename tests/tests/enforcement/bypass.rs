//! Cases of `tests/bypass.json` that are ways round and nothing else; each test begins with the ids
//! of those it shows.

mod addresses;
mod calls;
mod options;
mod origins;

use std::net::SocketAddr;

use agent_enforcer_tests::{
    Op, Probe, TestHost,
    trick::{Control, Trick},
    wait::{SOON, wait_until},
};
use libc::SOCK_DGRAM;

fn name(name: &str) -> String {
    name.to_owned()
}

fn connect(socket: &str, address: SocketAddr) -> Op {
    Op::Connect { name: name(socket), address }
}

fn set_int(socket: &str, level: i32, option: i32, value: i32) -> Op {
    Op::SetOption { name: name(socket), level, option, value: value.to_ne_bytes().to_vec() }
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn bytes(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let family = u16::try_from(family).unwrap().to_ne_bytes();
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(v4) => [&family[..], &port, &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => {
            let scope = v6.scope_id().to_ne_bytes();
            [&family[..], &port, &[0; 4], &v6.ip().octets(), &scope].concat()
        }
    }
}

fn send_message(socket: &str, peer: Option<SocketAddr>, control: Option<Control>) -> Op {
    let peer = peer.map(bytes).unwrap_or_default();
    Trick::SendMessage { name: name(socket), peer, data: name("hello"), control }.into()
}

/// A datagram socket of the agent that is connected, which is no call.
fn connected_datagrams(agent: &mut Probe, socket: &str, peer: SocketAddr) {
    assert!(agent.socket(socket, peer, SOCK_DGRAM).is_ok());
    assert!(agent.run(connect(socket, peer)).is_ok());
}

/// Fails in the end, and nothing of it arrives: a datagram whose answer comes too late for the hook
/// is lost without an error.
fn assert_sends_nothing(host: &TestHost, agent: &mut Probe, op: &Op, to: SocketAddr) {
    wait_until(&format!("denied: {op:?}"), SOON, || !agent.run(op.clone()).is_ok());
    assert!(host.servers.at(to).is_empty(), "{op:?} reached {to}");
}

/// Arrives and is answered in the end.
fn assert_sends(agent: &mut Probe, socket: &str, op: &Op) {
    wait_until(&format!("answered: {op:?}"), SOON, || {
        let receive = Op::Receive { name: name(socket), timeout_ms: 200 };
        let sent = agent.run(op.clone());
        sent.is_ok() && agent.run(receive).data == "hello"
    });
}
