//! A cgroup plane that falls silent is told, and what is left denies.

use std::{fs, path::Path, time::Duration};

use agent_enforcer_tests::{Op, TestHost, Trick, Word};

/// The daemon looks once a second, and thrice before it tells.
const TOLD: Duration = Duration::from_secs(15);

fn bpf(command: i64, attributes: Word) -> Op {
    let arguments = vec![command.into(), attributes, 64_i64.into()];
    Trick::Call { number: libc::SYS_bpf, arguments }.into()
}

/// Detaches a pinned link, as whoever has the capability may.
fn detach(host: &TestHost, program: &str) {
    // include/uapi/linux/bpf.h
    const OBJ_GET: i64 = 7;
    const LINK_DETACH: i64 = 34;
    let version = fs::read_dir(host.daemon.bpffs().join("agent-enforcer")).expect("the pins");
    let version = version.map(|entry| entry.expect("a version").path()).next().expect("a version");
    let mut to = version.join("links").join(program).into_os_string().into_encoded_bytes();
    to.push(0);
    let mut stranger = host.stranger();
    let link = stranger.run(bpf(OBJ_GET, Word::Pointing { bytes: vec![0; 64], at: 0, to }));
    assert!(link.is_ok(), "{link:?}");
    let mut attributes = vec![0; 64];
    attributes[..8].copy_from_slice(&link.value.to_ne_bytes());
    let detached = stranger.run(bpf(LINK_DETACH, Word::Bytes(attributes)));
    assert!(detached.is_ok(), "{detached:?}");
}

fn move_daemon(host: &TestHost, cgroup: &Path) {
    let processes = cgroup.join("cgroup.procs");
    fs::write(processes, host.daemon.pid().to_string()).expect("a cgroup of the test");
}

#[test]
fn silent_cgroup_plane_is_told_and_what_is_left_denies() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    // The programs see what is below their cgroup.
    move_daemon(&host, &host.cgroup("daemon"));
    detach(&host, "ae_connect4");
    let event = host.wait_event_for("the silence", TOLD, |event| event.code() == "plane_silent");
    assert_eq!(event.own("plane"), "cgroup");
    assert_eq!(event.number("/severity_id"), Some(5));
    let problems = host.cli(&["status"])["problems"].to_string();
    assert!(problems.contains("cgroup plane is silent"), "{problems}");
    assert!(!host.try_cli(&["doctor"]).status.success());
    assert!(agent.is_denied_to_send("u", host.at(50)));
    assert!(agent.send_to("g", host.at(10), "hello").is_ok());
    assert_eq!(agent.receive("g").data, "hello");
}

#[test]
fn planes_that_run_are_not_said_to_be_silent() {
    let host = TestHost::start();
    move_daemon(&host, &host.cgroup("daemon"));
    let deadline = std::time::Instant::now() + TOLD / 2;
    // As long as it would take to be told.
    while std::time::Instant::now() < deadline {
        assert_eq!(host.cli(&["status"])["problems"].to_string(), "[]");
    }
    assert!(host.events().iter().all(|event| event.code() != "plane_silent"));
}
