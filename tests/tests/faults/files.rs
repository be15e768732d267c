//! Policy and state on disk that can't be used.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use agent_enforcer_tests::{GrantRequest, TestHost};

use crate::attempt::{Attempt, assert_nothing_pinned};

const HUGE: u64 = 100 << 20;

fn put_huge_policy(host: &TestHost) {
    let path = host.daemon.policy_directory().join("huge.yaml");
    File::create(path).and_then(|file| file.set_len(HUGE)).expect("a sparse file");
}

#[test]
fn huge_policy_file_is_refused_at_start() {
    let host = TestHost::builder().stopped().build();
    put_huge_policy(&host);
    let words = ["huge.yaml", "104857600 bytes, more than 1048576", "split it"];
    Attempt::on(&host).refused().expect(1, &words);
    assert_nothing_pinned(&host);
}

#[test]
fn huge_policy_file_is_refused_at_reload_and_the_old_policy_stays() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let generation = host.cli(&["status"])["generation"].clone();
    put_huge_policy(&host);
    let reload = host.try_cli(&["policy", "reload"]);
    assert_eq!(reload.status.code(), Some(1));
    let error = String::from_utf8_lossy(&reload.stderr);
    assert!(error.contains("huge.yaml") && error.contains("split it"), "{error}");
    host.wait_event("policy_rejected", |event| event.code() == "policy_rejected");
    assert_eq!(host.cli(&["status"])["generation"], generation);
    assert!(agent.connect("standing", host.at(10)).is_ok());
    assert!(agent.connect("denied", host.at(50)).is_denied());
}

#[test]
fn policy_that_vanishes_is_refused_at_reload_and_the_old_policy_stays() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    fs::remove_file(host.daemon.policy_directory().join("policy.yaml")).expect("the policy");
    host.daemon.signal(rustix::process::Signal::HUP);
    host.wait_event("policy_rejected", |event| {
        event.code() == "policy_rejected" && event.text("/message").contains("has no `*.yaml`")
    });
    assert!(agent.connect("standing", host.at(10)).is_ok());
    assert!(agent.connect("denied", host.at(50)).is_denied());
}

#[test]
fn state_directory_that_others_can_write_is_refused() {
    let host = TestHost::builder().stopped().build();
    let state = host.daemon.state_directory();
    for mode in [0o777, 0o720] {
        fs::set_permissions(&state, Permissions::from_mode(mode)).expect("an own directory");
        Attempt::on(&host).refused().expect(1, &["state can be written by others", "chmod 700"]);
    }
    assert_nothing_pinned(&host);
}

#[test]
fn damaged_grant_store_is_refused_and_left_as_it_is() {
    let mut host = TestHost::start();
    host.grant(&GrantRequest::agent("waits", "web"));
    host.daemon.stop();
    let path = host.daemon.state_directory().join("grants.redb");
    let good = fs::read(&path).expect("the store");
    let mut torn = good.clone();
    torn.truncate(good.len() / 2);
    let mut overwritten = good.clone();
    overwritten[..256].fill(0x5a);
    let words = ["grants.redb is damaged or not a grant store", "restore it from a backup"];
    for damaged in [b"no store".to_vec(), torn, overwritten] {
        fs::write(&path, &damaged).expect("an own file");
        Attempt::on(&host).refused().expect(1, &words);
        assert_eq!(fs::read(&path).expect("the store"), damaged, "it is kept for its repair");
    }
    fs::write(&path, &good).expect("an own file");
    host.daemon.start();
    assert_eq!(host.cli(&["grant", "list"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn refused_restart_leaves_the_pinned_programs_in_force() {
    let mut host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("standing", host.at(10)).is_ok());
    host.daemon.stop();
    put_huge_policy(&host);
    Attempt::on(&host).refused().expect(1, &["huge.yaml"]);
    assert!(agent.connect("denied", host.at(50)).is_denied());
    assert!(agent.connect("again", host.at(10)).is_ok(), "a live verdict needs no daemon");
}
