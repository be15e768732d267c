//! Where a socket or a process came from.

use std::{fs, net::SocketAddr, path::Path};

use agent_enforcer_tests::{
    ForkKind, Op, Probe, TestHost, Trick,
    network::{Namespace, v4},
};
use libc::{EACCES, SOCK_DGRAM, SOCK_STREAM};

use super::{super::listening::called_at, connect, name};

/// Bytes that options and storage of one socket may take.
const MEMORY: &str = "/proc/sys/net/core/optmem_max";

fn dial(host: &TestHost, to: u8) -> Op {
    Op::Dial { address: host.at(to) }
}

/// Denied to nobody's tool, allowed to a standing one, for the agent's own instance.
fn assert_is_agents(host: &TestHost, agent: &mut Probe, wrap: impl Fn(Op) -> Op) {
    assert!(agent.run(dial(host, 10)).is_ok());
    let own = host.wait_call("allowed", "allowed_standing", agent.pid());
    let denied = agent.run(wrap(dial(host, 50)));
    assert!(denied.is_denied(), "{denied:?}");
    assert!(agent.run(wrap(dial(host, 10))).is_ok());
    let event = host.wait_event("the denial", |event| event.own("reason") == "no_tool");
    assert_eq!(event.own("instance"), own.own("instance"));
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn b15_own_network_namespace_changes_no_verdict() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("before", host.at(10)).is_ok());
    assert!(agent.run(Trick::Unshare { flags: libc::CLONE_NEWNET }.into()).is_ok());
    // Where the answer comes too late for the hook there is no way either.
    let denied = agent.connect("e", host.at(50));
    assert!([EACCES, libc::ENETUNREACH].contains(&denied.errno), "{denied:?}");
    // Granted, and there is no way.
    assert_eq!(agent.connect("g", host.at(10)).errno, libc::ENETUNREACH);
    assert!(agent.echoes("before"), "a socket stays in its namespace");
    host.wait_denied("no_tool", agent.pid());
}

#[test]
fn d07_d08_inherited_listener_answers_where_its_owner_may_be_called_and_outlives_the_others() {
    let host = TestHost::builder().policy(&called_at("8000")).build();
    let mut agent = host.stranger();
    for (listener, port) in [("l", 8000), ("other", 8001)] {
        let own = SocketAddr::new(v4(1), port);
        assert!(agent.socket(listener, own, SOCK_STREAM).is_ok());
        assert!(agent.run(Op::Bind { name: name(listener), address: own }).is_ok());
        assert!(agent.run(Op::Listen { name: name(listener) }).is_ok());
    }
    let directory = host.cgroup("server").display().to_string();
    assert!(agent.run(Op::EnterCgroup { directory }).is_ok());
    host.wait_event("the start of the instance", |event| event.code() == "instance_started");
    let program = agent_enforcer_tests::binaries::probe();
    let mut outsider = Probe::start(program, &host.cgroup("strangers"), None, &host.network.remote);
    for (socket, port, is_denied) in [("g", 8000, false), ("e", 8001, true), ("again", 8000, false)]
    {
        let own = SocketAddr::new(v4(1), port);
        assert!(outsider.socket(socket, own, SOCK_STREAM).is_ok());
        assert!(outsider.run(Op::Nonblocking { name: name(socket), on: true }).is_ok());
        outsider.run(connect(socket, own));
        if is_denied {
            host.wait_denied("no_tool", agent.pid());
            let made = outsider.run(Op::Connected { name: name(socket), timeout_ms: 500 });
            assert!(!made.is_ok(), "{made:?}");
        } else {
            let made = outsider.run(Op::Connected { name: name(socket), timeout_ms: 5000 });
            assert!(made.is_ok(), "{made:?}");
            assert!(agent.run(Op::Accept { name: name("l"), connection: name("a") }).is_ok());
            assert!(agent.send("a", "answer").is_ok());
            assert_eq!(outsider.receive(socket).data, "answer");
        }
    }
}

#[test]
fn d10_duplicate_of_a_socket_is_the_same_socket() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (peer, is_denied) in [(host.at(50), true), (host.at(10), false)] {
        assert!(agent.socket("s", peer, SOCK_STREAM).is_ok());
        let copy = Trick::Duplicate { name: name("s"), copy: name("copy") };
        assert!(agent.run(copy.into()).is_ok());
        assert_eq!(agent.run(connect("copy", peer)).is_denied(), is_denied);
    }
    assert!(agent.echoes("s") && agent.echoes("copy"));
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn e03_child_made_in_another_cgroup_stays_the_agents() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let directory = host.cgroup("strangers").display().to_string();
    assert_is_agents(&host, &mut agent, |op| Op::Fork {
        kind: ForkKind::Into { directory: directory.clone() },
        op: Box::new(op),
    });
}

#[test]
fn e09_process_with_another_name_stays_the_agents() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.run(Trick::Rename { title: name("systemd") }.into()).is_ok());
    assert_is_agents(&host, &mut agent, |op| op);
}

#[test]
fn e13_process_of_another_pid_namespace_stays_the_agents() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.run(dial(&host, 10)).is_ok());
    let own = host.wait_call("allowed", "allowed_standing", agent.pid());
    assert!(agent.run(Trick::Unshare { flags: libc::CLONE_NEWPID }.into()).is_ok());
    // The namespace ends with its first process, so there is one child.
    let op = Box::new(dial(&host, 50));
    let denied = agent.run(Op::Fork { kind: ForkKind::Plain, op });
    assert_eq!(denied.pid, 1, "the first process of its namespace");
    assert!(denied.is_denied(), "{denied:?}");
    let event = host.wait_event("the denial", |event| event.own("reason") == "no_tool");
    assert_eq!(event.own("instance"), own.own("instance"));
    assert_ne!(event.pid(), 1, "the host's number is told");
}

#[test]
fn j08_daemon_has_no_descriptor_that_outlives_exec() {
    const CLOSES_AT_EXEC: u32 = 0o2_000_000;
    let host = TestHost::start();
    let pid = host.daemon.pid().to_string();
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a process");
    let mut seen = 0;
    for info in infos {
        let path = info.expect("a descriptor").path();
        // It may be closed meanwhile.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal");
        let number = path.file_name().expect("a number").to_string_lossy();
        let target = |process: &str| fs::read_link(format!("/proc/{process}/fd/{number}")).ok();
        // What the test itself was started with is none of the daemon's doing.
        let inherited = target("self").is_some_and(|own| target(&pid) == Some(own));
        let standard = ["0", "1", "2"].contains(&number.as_ref());
        let closes = flags & CLOSES_AT_EXEC != 0;
        assert!(closes || standard || inherited, "{}: {text}", path.display());
        seen += 1;
    }
    assert!(seen > 10, "programs, maps and sockets: {seen}");
}

/// `net.core.optmem_max` is a namespace's own since 6.7, so an agent that makes one can take the memory of
/// tags away (net/core/bpf_sk_storage.c `omem_charge`); before, it is the host's.
#[test]
fn e17_socket_without_memory_for_its_tag_is_none() {
    let host = TestHost::start();
    let own = Namespace::own();
    let has_own = host.network.agents.inside(|| Path::new(MEMORY).exists());
    let namespace = if has_own { &host.network.agents } else { &own };
    let before = namespace.inside(|| fs::read_to_string(MEMORY)).expect("a limit");
    let mut agent = host.agent("strict");
    let mut stranger = host.stranger();
    namespace.sysctl("net/core/optmem_max", "1");
    let replies: Vec<_> = [host.at(10), host.at6(10), host.at(50)]
        .into_iter()
        .flat_map(|peer| [SOCK_STREAM, SOCK_DGRAM].map(|kind| (peer, kind)))
        .map(|(peer, kind)| agent.socket("s", peer, kind))
        .collect();
    let others = stranger.connect("s", host.at(50));
    namespace.sysctl("net/core/optmem_max", before.trim());
    for reply in replies {
        assert_eq!(reply.errno, EACCES, "{reply:?}");
    }
    host.wait_denied("tag_failed", agent.pid());
    assert!(others.is_ok(), "{others:?}");
    assert!(agent.connect("s", host.at(10)).is_ok(), "there is memory again");
}
