//! A blocking call to a unix socket waits for its decision, stopped; what is the same on both planes
//! is in tests/enforcement/unix.rs.

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, Ticket,
    unix::{UnixServer, connect_op, path_name, socket},
    wait::{SOON, wait_until},
};
use libc::{EAGAIN, SOCK_STREAM};

use crate::host;

fn begin_connect(agent: &mut Probe, peer: Vec<u8>) -> Ticket {
    socket(agent, SOCK_STREAM);
    agent.begin(connect_op(peer))
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn blocking_connect_waits_for_its_grant_and_a_nonblocking_one_tries_again() {
    let host = host().build();
    let server = UnixServer::at(&host.directory().join("asked"));
    let peer = path_name(&host.directory().join("asked"));
    let mut impatient = host.agent("waits");
    socket(&mut impatient, SOCK_STREAM);
    impatient.run(Op::Nonblocking { name: "u".to_owned(), on: true });
    assert_eq!(impatient.run(connect_op(peer.clone())).errno, EAGAIN);
    let mut agent = host.agent("waits");
    let connected = begin_connect(&mut agent, peer.clone());
    host.wait_call("stalled", "stalled", agent.pid());
    assert_eq!(host.pending().len(), 2);
    assert!(server.arrivals().is_empty());
    host.grant(&GrantRequest::agent("waits", "asked"));
    assert!(agent.finish(connected).is_ok());
    assert!(agent.echoes("u"));
    wait_until("the other one may go on", SOON, || impatient.run(connect_op(peer.clone())).is_ok());
}
