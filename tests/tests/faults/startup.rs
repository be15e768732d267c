//! Command lines and hosts on which a daemon must not start, and what it says about them.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, symlink},
};

use agent_enforcer_tests::{TestHost, daemon, wait::SOON};

use crate::attempt::{Attempt, assert_nothing_pinned};

/// A host whose daemon does not run.
fn host() -> TestHost {
    TestHost::builder().stopped().build()
}

#[test]
fn refuses_each_bad_flag_by_its_name_and_changes_nothing() {
    let host = host();
    let bad = [
        ("--ring-bytes", "70000", "power of two"),
        ("--ring-bytes", "4096", "65536"),
        ("--max-processes", "3", "1024"),
        ("--max-verdicts", "0", "1024"),
        ("--wait-turns", "1000001", "1000000"),
        ("--max-pending", "0", "1048576"),
        ("--max-pending-per-instance", "many", "digit"),
        ("--max-pending-per-instance", "99999", "--max-pending"),
        ("--requests-per-second", "0", "10000000"),
        ("--log", "shiny", "journald"),
        ("--syslog", "carrier-pigeon", "unix:"),
        ("--no-such-flag", "1", "--help"),
    ];
    for (flag, value, remedy) in bad {
        Attempt::on(&host).with(flag, value).refused().expect(2, &[flag, remedy]);
    }
    assert_nothing_pinned(&host);
    assert!(!host.daemon.events_file().exists());
    let state = fs::read_dir(host.daemon.state_directory()).expect("the state directory").count();
    assert_eq!(state, 0, "nothing is in the state directory");
}

#[test]
fn refuses_policy_directory_that_is_missing_empty_or_unreadable() {
    let host = host();
    let missing = host.directory().join("missing");
    let empty = host.directory().join("empty");
    fs::create_dir(&empty).expect("a new directory");
    // Permissions don't stop root; a link to itself does.
    let circle = host.directory().join("circle");
    symlink(&circle, &circle).expect("a new link");
    let file = host.directory().join("file");
    fs::write(&file, "").expect("a new file");
    let bad = [
        (&missing, "there is no such directory"),
        (&empty, "has no `*.yaml`"),
        (&circle, "can't be read"),
        (&file, "not a directory"),
    ];
    for (path, words) in bad {
        let name = path.display().to_string();
        Attempt::on(&host).with("--policy", path).refused().expect(1, &[&name, words]);
    }
    assert_nothing_pinned(&host);
}

#[test]
fn refuses_cgroup_root_without_cgroup_v2() {
    let host = host();
    let refusal = Attempt::on(&host).with("--cgroup-root", "/tmp").refused();
    refusal.expect(1, &["/tmp is not a cgroup v2 directory", "--cgroup-root"]);
    assert_nothing_pinned(&host);
}

#[test]
fn refuses_bpffs_that_is_none() {
    let host = host();
    let refusal = Attempt::on(&host).with("--bpffs", host.directory()).refused();
    refusal.expect(1, &["is not a BPF file system", "mount -t bpf bpf"]);
    let missing = host.directory().join("missing");
    Attempt::on(&host).with("--bpffs", &missing).refused().expect(1, &["missing", "No such file"]);
    assert!(!host.directory().join("agent-enforcer").exists());
}

#[test]
fn second_daemon_on_the_same_directories_is_refused_and_the_first_goes_on() {
    let host = TestHost::start();
    Attempt::on(&host).refused().expect(1, &["another daemon is running", "control.sock"]);
    assert!(host.daemon.cli(&["status"]).status.success());
}

#[test]
fn second_daemon_on_the_same_state_is_refused_and_the_first_goes_on() {
    let host = TestHost::start();
    let other = host.directory().join("other-run");
    let refusal = Attempt::on(&host).with("--runtime-dir", &other).refused();
    refusal.expect(1, &["grants.redb is in use by another daemon", "--state-dir"]);
    let mut agent = host.agent("strict");
    assert!(agent.connect("standing", host.at(10)).is_ok());
    assert!(agent.connect("denied", host.at(20)).is_denied());
    host.wait_denied("no_grant", agent.pid());
}

#[test]
fn second_daemon_on_the_same_pins_is_refused_and_the_first_goes_on() {
    let mut host = TestHost::start();
    let [run, state] = ["other-run", "other-state"].map(|name| host.directory().join(name));
    fs::DirBuilder::new().mode(0o700).create(&state).expect("a new directory");
    let second = || {
        Attempt::on(&host)
            .with("--runtime-dir", &run)
            .with("--state-dir", &state)
            .with("--events", host.directory().join("other-events.jsonl"))
    };
    second().refused().expect(1, &["bpf/agent-enforcer is held by a running daemon", "--bpffs"]);
    let mut agent = host.agent("strict");
    assert!(agent.connect("standing", host.at(10)).is_ok());
    assert!(agent.connect("denied", host.at(20)).is_denied());
    host.wait_denied("no_grant", agent.pid());

    // Nor does a `detach` that finds no daemon pull the pins away under it.
    let bpffs = host.daemon.bpffs().display().to_string();
    let arguments = ["detach", "--yes", "--reason", "test", "--bpffs", &bpffs];
    let detach = daemon::cli(&run, &arguments);
    let error = String::from_utf8_lossy(&detach.stderr);
    assert_eq!(detach.status.code(), Some(1), "{error}");
    assert!(error.contains("is held by a running daemon"), "{error}");
    assert!(agent.connect("denied again", host.at(20)).is_denied());

    // The lock ends with its process.
    host.daemon.kill();
    assert!(host.daemon.start() < SOON);
}

#[test]
fn control_socket_path_taken_by_something_else_is_left_alone() {
    let host = host();
    let path = host.directory().join("run/control.sock");
    let taken = ["run/control.sock is in the way", "not a socket"];

    fs::write(&path, "precious").expect("a new file");
    Attempt::on(&host).refused().expect(1, &taken);
    assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
    fs::remove_file(&path).expect("the file");

    fs::create_dir(&path).expect("a new directory");
    Attempt::on(&host).refused().expect(1, &taken);
    fs::remove_dir(&path).expect("the directory");

    let target = host.directory().join("target");
    fs::write(&target, "precious").expect("a new file");
    symlink(&target, &path).expect("a new link");
    Attempt::on(&host).refused().expect(1, &taken);
    assert_eq!(fs::read_to_string(&target).expect("the file"), "precious");
    assert_nothing_pinned(&host);
}

#[test]
fn socket_of_a_killed_daemon_is_replaced() {
    let mut host = TestHost::start();
    host.daemon.kill();
    assert!(host.directory().join("run/control.sock").exists(), "nobody removed it");
    assert!(host.daemon.start() < SOON);
}
