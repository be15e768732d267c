//! Sockets that somebody else has connected and hands over.

use std::{
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    thread::{self, JoinHandle},
};

use agent_enforcer_tests::{
    Op, Probe, TestHost, Trick, What,
    unix::path_name,
    wait::{SOON, wait_until},
};
use libc::{AF_UNIX, SOCK_STREAM};
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::host;

/// Passes a connection of a stranger to whoever connects to the granted unix socket; a thread, which
/// ends after that.
fn pass_connection(host: &TestHost, stranger: &mut Probe, to: u8) -> JoinHandle<()> {
    assert!(stranger.connect("c", host.at(to)).is_ok());
    let connected = only_socket_of(stranger);
    assert!(stranger.run(Op::Close { name: "c".to_owned() }).is_ok());
    let path = host.directory().join("granted");
    // Left by the one before.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(path).expect("an own path");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the agent connects");
        let descriptors = [connected.as_fd()];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut messages = SendAncillaryBuffer::new(&mut room);
        assert!(messages.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let byte = [IoSlice::new(b"x")];
        sendmsg(&stream, &byte, &mut messages, SendFlags::empty()).expect("it is passed");
    })
}

/// Another descriptor of the one socket that a process has.
fn only_socket_of(process: &Probe) -> OwnedFd {
    let sockets = fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("a process");
    let sockets = sockets.map(|entry| entry.expect("a descriptor").path()).filter(|path| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    });
    let sockets: Vec<_> = sockets.collect();
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    let number = sockets[0].file_name().and_then(|name| name.to_str()?.parse().ok());
    let pid = Pid::from_raw(process.pid().cast_signed()).expect("a process id");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    pidfd_getfd(pidfd, number.expect("a number"), PidfdGetfdFlags::empty()).expect("root may")
}

fn take_connection(host: &TestHost, agent: &mut Probe) {
    let (name, copy) = ("u".to_owned(), "c".to_owned());
    let op = Op::Socket { name: name.clone(), domain: AF_UNIX, kind: SOCK_STREAM, protocol: 0 };
    assert!(agent.run(op).is_ok());
    let peer = path_name(&host.directory().join("granted"));
    let connected = agent.run(Trick::ConnectBytes { name: name.clone(), peer }.into());
    assert!(connected.is_ok(), "{connected:?}");
    let taken = agent.run(Trick::TakeDescriptor { name, copy }.into());
    assert!(taken.is_ok(), "{taken:?}");
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn d02_connected_socket_that_is_passed_is_judged_as_its_new_owners() {
    let host = host().build();
    let (mut agent, mut stranger) = (host.agent("strict"), host.stranger());
    let passing = pass_connection(&host, &mut stranger, 20);
    take_connection(&host, &mut agent);
    agent.send("c", "leak");
    host.wait_denied("tool_not_approved", agent.pid());
    passing.join().expect("no panic");
    let arrived = host.servers.at(host.at(20));
    let data = arrived.iter().any(|what| matches!(what, What::Data(_)));
    assert!(!data, "{arrived:?}");
    let passing = pass_connection(&host, &mut stranger, 10);
    take_connection(&host, &mut agent);
    assert!(agent.send("c", "hello").is_ok());
    wait_until("what is granted arrives", SOON, || {
        host.servers.at(host.at(10)).contains(&What::Data(b"hello".to_vec()))
    });
    passing.join().expect("no panic");
}
