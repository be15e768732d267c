//! A daemon that lacks the rights to enforce says so, ends, and leaves nothing behind.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

use agent_enforcer_tests::{TestHost, binaries};

use crate::attempt::{Attempt, assert_nothing_pinned};

/// Gives everything of the host's directory to a user, so that only the missing rights are in the
/// way. Returns a copy of the daemon that the user can run.
fn give_away(host: &TestHost, uid: u32) -> std::path::PathBuf {
    let copy = host.directory().join("daemon");
    fs::copy(binaries::daemon(), &copy).expect("a copy of the daemon");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&copy, open.clone()).expect("an own file");
    fs::set_permissions(host.directory(), open).expect("an own directory");
    let give = |path: &Path| chown(path, Some(uid), Some(uid)).expect("root gives files away");
    give(host.directory());
    for name in ["policy", "run", "state", "policy/policy.yaml"] {
        give(&host.directory().join(name));
    }
    copy
}

#[test]
fn without_root_it_is_refused() {
    let host = TestHost::builder().stopped().build();
    let daemon = give_away(&host, 65534);
    let options = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let refusal = Attempt::on(&host).program(&daemon).through_setpriv(&options).refused();
    refusal.expect(1, &["run as root"]);
    assert_nothing_pinned(&host);
}

#[test]
fn root_without_capabilities_is_refused() {
    let host = TestHost::builder().stopped().build();
    let options = ["--bounding-set=-all", "--inh-caps=-all"];
    let refusal = Attempt::on(&host).through_setpriv(&options).refused();
    assert!(
        refusal.error.contains("run as root") || refusal.error.contains("CAP_"),
        "no remedy in: {}",
        refusal.error
    );
    refusal.expect(1, &["agent-enforcer doctor"]);
    assert_nothing_pinned(&host);
}

#[test]
fn root_without_the_bpf_capabilities_is_refused() {
    let host = TestHost::builder().stopped().build();
    let options = ["--bounding-set=-sys_admin,-bpf", "--inh-caps=-sys_admin,-bpf"];
    let refusal = Attempt::on(&host).through_setpriv(&options).refused();
    assert!(
        refusal.error.contains("run as root") || refusal.error.contains("CAP_"),
        "no remedy in: {}",
        refusal.error
    );
    refusal.expect(1, &["agent-enforcer doctor"]);
    assert_nothing_pinned(&host);
}
