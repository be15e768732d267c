//! Unix sockets as destinations: whoever listens there may do for an agent what it may not do itself.
//! On the LSM plane the sockets are judged, on the cgroup plane what their names lead to.

use std::{
    fs,
    os::{
        fd::AsRawFd as _,
        unix::fs::{OpenOptionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, Reply, TestHost, Trick,
    network::Namespace,
    planes,
    trick::call,
    unix::{UnixServer, abstract_name, connect, connect_op, decided, path_name, socket},
    wait::{SOON, wait_until},
};
use libc::{
    AF_UNIX, EACCES, EAGAIN, ECONNREFUSED, ENOENT, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM,
};

/// A host whose agents may use some unix sockets: `strict` at once, `waits` once they are granted.
fn host() -> TestHost {
    let policy = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: builder, endpoints: ["unix:@DIR@/granted", "unix:@ae-t1-granted"] }
  - { name: asked, endpoints: ["unix:@DIR@/asked"] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Never waits
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [builder]
    standing: [builder]
    stall_limit: 0s
  - name: waits
    owner: owner@example.com
    purpose: Waits long for its grants
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [asked]
    stall_limit: @PATIENCE@
"#;
    TestHost::builder().policy(policy).build()
}

fn send(agent: &mut Probe, peer: Vec<u8>) -> Reply {
    let (name, data) = ("u".to_owned(), "leak".to_owned());
    decided(agent, &Trick::SendMessage { name, peer, data, control: None }.into())
}

fn place(host: &TestHost, name: &str) -> PathBuf {
    host.directory().join(name)
}

#[test]
fn f01_only_sockets_of_approved_tools_can_be_reached() {
    let host = host();
    let granted = UnixServer::at(&place(&host, "granted"));
    let other = UnixServer::at(&place(&host, "other"));
    let mut agent = host.agent("strict");
    let denied = connect(&mut agent, path_name(&place(&host, "other")));
    assert_eq!(denied.errno, EACCES, "{denied:?}");
    let event = host.wait_denied("no_tool", agent.pid());
    let shown = event.text("/dst_endpoint/name");
    assert!(shown.contains(&place(&host, "other").display().to_string()), "{shown}");
    assert!(other.arrivals().is_empty());
    assert!(connect(&mut agent, path_name(&place(&host, "granted"))).is_ok());
    assert!(agent.echoes("u"));
    assert!(!granted.arrivals().is_empty());
    host.wait_call("allowed", "allowed_standing", agent.pid());
    let mut stranger = host.stranger();
    assert!(connect(&mut stranger, path_name(&place(&host, "other"))).is_ok());
}

#[test]
fn f08_every_path_to_a_socket_has_the_verdict_of_the_socket() {
    let host = host();
    let _granted = UnixServer::at(&place(&host, "granted"));
    let other = UnixServer::at(&place(&host, "other"));
    let paths = |name: &str| -> Vec<PathBuf> {
        let target = place(&host, name);
        let (soft, hard) =
            (place(&host, &format!("{name}-soft")), place(&host, &format!("{name}-hard")));
        symlink(&target, &soft).unwrap();
        fs::hard_link(&target, &hard).unwrap();
        let round = host.directory().join("run/..").join(name);
        vec![target, soft, hard, round]
    };
    let mut agent = host.agent("strict");
    for path in paths("other") {
        let denied = connect(&mut agent, path_name(&path));
        assert_eq!(denied.errno, EACCES, "{} {denied:?}", path.display());
    }
    for path in paths("granted") {
        assert!(connect(&mut agent, path_name(&path)).is_ok(), "{}", path.display());
    }
    // A handle of the file, as a path below /proc.
    let mut handle = fs::File::options();
    let handle = handle.custom_flags(libc::O_PATH).read(true).open(place(&host, "other")).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), handle.as_raw_fd());
    assert_eq!(connect(&mut agent, path_name(Path::new(&path))).errno, EACCES);
    assert!(other.arrivals().is_empty());
}

#[test]
fn a_socket_put_in_the_place_of_a_granted_one_is_what_the_policy_names_now() {
    let host = host();
    let mut agent = host.agent("strict");
    for _ in 0..3 {
        // A service that was restarted.
        let server = UnixServer::at(&place(&host, "granted"));
        assert!(connect(&mut agent, path_name(&place(&host, "granted"))).is_ok());
        assert!(agent.echoes("u"));
        assert!(!server.arrivals().is_empty());
    }
    // What has moved away is no tool any more.
    let server = UnixServer::at(&place(&host, "granted"));
    fs::rename(place(&host, "granted"), place(&host, "moved")).unwrap();
    let denied = connect(&mut agent, path_name(&place(&host, "moved")));
    assert_eq!(denied.errno, EACCES, "{denied:?}");
    assert!(server.arrivals().is_empty());
}

#[test]
fn f09_abstract_names_are_destinations_of_the_hosts_namespace() {
    let host = host();
    let (granted, other) = (UnixServer::named("ae-t1-granted"), UnixServer::named("ae-t1-other"));
    let mut agent = Probe::start(
        agent_enforcer_tests::binaries::probe(),
        &host.cgroup("strict"),
        None,
        &Namespace::own(),
    );
    wait_until("the granted name can be reached", SOON, || {
        connect(&mut agent, abstract_name("ae-t1-granted")).is_ok()
    });
    assert!(agent.echoes("u"));
    assert!(!granted.arrivals().is_empty());
    let denied = connect(&mut agent, abstract_name("ae-t1-other"));
    assert_eq!(denied.errno, EACCES, "{denied:?}");
    assert!(other.arrivals().is_empty());
    // The same name in a namespace that an agent may have made is somebody else's.
    let server = host.network.agents.inside(|| UnixServer::named("ae-t1-granted"));
    let mut elsewhere = host.agent("strict");
    let denied = connect(&mut elsewhere, abstract_name("ae-t1-granted"));
    assert_eq!(denied.errno, EACCES, "{denied:?}");
    assert!(server.arrivals().is_empty());
}

#[test]
fn f10_datagrams_and_packets_are_judged_as_streams_are() {
    let host = host();
    let other = UnixServer::datagrams(&place(&host, "other"));
    let granted = UnixServer::datagrams(&place(&host, "granted"));
    let mut agent = host.agent("strict");
    let (bad, good) = (path_name(&place(&host, "other")), path_name(&place(&host, "granted")));
    socket(&mut agent, SOCK_DGRAM);
    assert_eq!(send(&mut agent, bad.clone()).errno, EACCES);
    assert!(send(&mut agent, good.clone()).is_ok());
    socket(&mut agent, SOCK_DGRAM);
    assert_eq!(decided(&mut agent, &connect_op(bad.clone())).errno, EACCES);
    assert!(decided(&mut agent, &connect_op(good)).is_ok());
    assert!(agent.send("u", "leak").is_ok());
    // Of another type than its server's: the kernel's own error, which tells nothing.
    socket(&mut agent, SOCK_SEQPACKET);
    assert!(!agent.run(connect_op(bad)).is_ok());
    wait_until("the granted ones arrive", SOON, || granted.arrivals().len() == 2);
    assert!(other.arrivals().is_empty());
}

#[test]
fn l11_an_instance_talks_to_itself() {
    let host = host();
    let mut agent = host.agent("strict");
    let path = path_name(&place(&host, "own"));
    let listener =
        Op::Socket { name: "l".to_owned(), domain: AF_UNIX, kind: SOCK_STREAM, protocol: 0 };
    assert!(agent.run(listener).is_ok());
    let bind = Trick::BindBytes { name: "l".to_owned(), own: path.clone() };
    assert!(agent.run(bind.into()).is_ok());
    assert!(agent.run(Op::Listen { name: "l".to_owned() }).is_ok());
    assert!(connect(&mut agent, path.clone()).is_ok());
    // Another instance of the same agent is somebody else.
    let mut sibling = host.agent("strict");
    assert_eq!(connect(&mut sibling, path).errno, EACCES);
}

#[test]
fn k01_the_control_socket_is_nobodys_tool() {
    let host = host();
    let control = host.directory().join("run/control.sock");
    assert!(control.exists());
    let mut agent = host.agent("strict");
    let denied = connect(&mut agent, path_name(&control));
    assert_eq!(denied.errno, EACCES, "{denied:?}");
    host.wait_denied("guarded", agent.pid());
}

#[test]
fn f08_relative_paths_begin_where_the_caller_stands() {
    let host = host();
    let _granted = UnixServer::at(&place(&host, "granted"));
    let other = UnixServer::at(&place(&host, "other"));
    let mut agent = host.agent("strict");
    assert!(agent.run(call(libc::SYS_chdir, [host.directory().into()])).is_ok());
    assert!(connect(&mut agent, path_name(Path::new("granted"))).is_ok());
    assert!(connect(&mut agent, path_name(Path::new("./run/../granted"))).is_ok());
    assert_eq!(connect(&mut agent, path_name(Path::new("other"))).errno, EACCES);
    assert!(other.arrivals().is_empty());
}

#[test]
fn f08_another_root_makes_other_paths() {
    let host = host();
    let _granted = UnixServer::at(&place(&host, "granted"));
    let jail = place(&host, "jail");
    let inside = jail.join(place(&host, "granted").strip_prefix("/").unwrap());
    fs::create_dir_all(inside.parent().unwrap()).unwrap();
    let other = UnixServer::at(&inside);
    fs::hard_link(place(&host, "granted"), jail.join("hard")).unwrap();
    symlink("/hard", jail.join("soft")).unwrap();
    let mut agent = host.agent("strict");
    assert!(agent.run(call(libc::SYS_chroot, [jail.as_path().into()])).is_ok());
    assert_eq!(connect(&mut agent, path_name(&place(&host, "granted"))).errno, EACCES);
    for path in ["/hard", "/../../hard", "/soft"] {
        assert!(connect(&mut agent, path_name(Path::new(path))).is_ok(), "{path}");
    }
    assert!(other.arrivals().is_empty());
}

#[test]
fn names_that_lead_to_nobody_fail_as_ever() {
    let host = host();
    fs::write(place(&host, "file"), "").unwrap();
    let mut agent = host.agent("strict");
    for name in [path_name(&place(&host, "missing")), abstract_name("ae-t1-nobody")] {
        let refused = connect(&mut agent, name);
        assert!([ENOENT, ECONNREFUSED].contains(&refused.errno), "{refused:?}");
    }
    let refused = connect(&mut agent, path_name(&place(&host, "file")));
    assert_eq!(refused.errno, ECONNREFUSED, "{refused:?}");
    assert_eq!(host.calls("denied", "no_tool"), 0);
}

#[test]
fn undecided_connect_tries_again_until_it_is_granted() {
    let host = host();
    let server = UnixServer::at(&place(&host, "asked"));
    let peer = path_name(&place(&host, "asked"));
    let mut agent = host.agent("waits");
    socket(&mut agent, SOCK_STREAM);
    // Who may be stopped is, on the LSM plane (tests/lsm/unix.rs).
    let nonblocking = Op::Nonblocking { name: "u".to_owned(), on: planes::lsm_is_promised() };
    assert!(agent.run(nonblocking).is_ok());
    wait_until("it is asked about", SOON, || {
        assert_eq!(agent.run(connect_op(peer.clone())).errno, EAGAIN);
        host.pending().len() == 1
    });
    host.wait_call("stalled", "stalled", agent.pid());
    assert_eq!(agent.run(connect_op(peer.clone())).errno, EAGAIN);
    assert_eq!(host.pending().len(), 1);
    assert!(server.arrivals().is_empty());
    host.grant(&GrantRequest::agent("waits", "asked"));
    wait_until("it may go on", SOON, || agent.run(connect_op(peer.clone())).is_ok());
    wait_until("it arrives", SOON, || !server.arrivals().is_empty());
}
