//! Tools that only certain executables may use.

use std::fs;

use agent_enforcer_tests::{TestHost, binaries};

const POLICY: &str = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: model, cidrs: [192.0.2.10], ports: ["1-65535"] }
  - { name: web, cidrs: [192.0.2.20], ports: ["1-65535"], via: ["@DIR@/trusted"] }
  - { name: mail, cidrs: [192.0.2.30], ports: ["1-65535"], via: ["sha256:@SHA256@", no-such-program] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Uses tools by programs
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, web, mail]
    standing: [model, web, mail]
    stall_limit: 0s
"#;

/// A policy whose last tool is for whatever has this digest.
fn policy(sha256: &str) -> String {
    POLICY.replace("@SHA256@", sha256)
}

#[test]
fn tool_is_used_by_its_executables_only() {
    let host = TestHost::builder().policy(&policy(&"00".repeat(32))).stopped().build();
    let trusted = host.copy_of_probe("trusted");
    let mut host = host;
    host.daemon.start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("g", host.at(10)).is_ok());
    assert!(agent.connect("e", host.at(20)).is_denied());
    host.wait_denied("not_via", agent.pid());
    let found = host.explain(agent.pid(), &host.at(20).to_string());
    assert_eq!((&found["outcome"], &found["reason"]), (&"denied".into(), &"not_via".into()));
    agent.become_program(&trusted, false);
    assert!(agent.connect("v", host.at(20)).is_ok());
    // The same content, the same name, another place.
    fs::create_dir(host.directory().join("elsewhere")).unwrap();
    let twin = host.directory().join("elsewhere/trusted");
    fs::copy(&trusted, &twin).unwrap();
    agent.become_program(&twin, false);
    assert!(agent.connect("t", host.at(20)).is_denied());
    // A link to it is it; what is put in its place is not, until it is looked at again.
    let link = host.directory().join("link");
    std::os::unix::fs::symlink(&trusted, &link).unwrap();
    agent.become_program(&link, false);
    assert!(agent.connect("l", host.at(20)).is_ok());
    assert!(host.servers.at(host.at(30)).is_empty());
}

#[test]
fn tool_is_used_by_what_has_its_digest_wherever_it_is() {
    let mut host = TestHost::builder().policy(&policy(&"00".repeat(32))).build();
    let mut agent = host.agent("strict");
    assert!(agent.connect("e", host.at(30)).is_denied());
    let agents = host.cli(&["agents"]);
    let sha256 = agents[0]["instances"][0]["sha256"].as_str().unwrap().to_owned();
    assert_eq!(sha256.len(), 64, "{agents}");
    host.write_policy(&policy(&sha256));
    host.cli(&["policy", "reload"]);
    assert!(agent.connect("g", host.at(30)).is_ok());
    // One byte more is another program.
    let other = host.copy_of_probe("other");
    let mut bytes = fs::read(binaries::probe()).unwrap();
    bytes.push(0);
    fs::write(&other, bytes).unwrap();
    agent.become_program(&other, false);
    assert!(agent.connect("o", host.at(30)).is_denied());
    host.daemon.stop();
}
