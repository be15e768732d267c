//! What `doctor` finds on the very kernel that enforces.

use agent_enforcer_tests::{TestHost, planes};
use serde_json::Value;

#[test]
fn doctor_finds_nothing_missing_where_the_daemon_enforces() {
    let host = TestHost::start();
    let bpffs = host.daemon.bpffs().display().to_string();
    let report = host.cli(&["doctor", "--bpffs", &bpffs]);
    let checks = report["checks"].as_array().expect("a list");
    let failed: Vec<&Value> = checks.iter().filter(|check| check["level"] == "fail").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let found = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.unwrap_or_else(|| panic!("no check {name}"))["found"].to_string()
    };
    assert!(found("socket_destroy").contains("can be ended"), "{}", found("socket_destroy"));
    if planes::lsm_is_promised() {
        assert!(found("lsm_plane").contains("bpf"), "{}", found("lsm_plane"));
    }
}
