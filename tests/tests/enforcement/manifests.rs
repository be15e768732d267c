//! Agents that must have a signed manifest: what it says, when it counts, and whose it is.

use std::fs;

use agent_enforcer_tests::{
    Op, Probe, Signatory, TestHost, binaries,
    wait::{SOON, wait_until},
};

const ID: &str = "spiffe://example.org/agent/strict";

/// `strict` must have a manifest, which `owner` may sign and `stranger` may not.
const POLICY: &str = r#"apiVersion: agent-enforcer/v1
keys:
  - @OWNER@
  - @STRANGER@
signers:
  - { key: owner, agents: [strict] }
  - { key: stranger, agents: [other] }
tools:
  - { name: model, cidrs: [192.0.2.10], ports: ["1-65535"] }
  - { name: web, cidrs: [192.0.2.20], ports: ["1-65535"] }
  - { name: code, cidrs: [192.0.2.30], ports: ["1-65535"], via: ["@DIR@/helper"] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Must have a manifest
    agent_id: spiffe://example.org/agent/strict
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, web, code]
    standing: [model, web, code]
    stall_limit: 0s
  - name: other
    owner: owner@example.com
    purpose: Needs none
    selectors: [["cgroup:path:@CG@/other"]]
    tools: [model]
    standing: [model]
    stall_limit: 0s
"#;

struct Stage {
    host: TestHost,
    owner: Signatory,
    stranger: Signatory,
}

impl Stage {
    fn new() -> Self {
        let mut host = TestHost::builder().stopped().build();
        let owner = Signatory::new(host.directory(), "owner", "EdDSA");
        let stranger = Signatory::new(host.directory(), "stranger", "ES256");
        let policy = POLICY.replace("@OWNER@", &owner.jwk).replace("@STRANGER@", &stranger.jwk);
        host.copy_of_probe("helper");
        host.write_policy(&policy);
        host.daemon.start();
        Self { host, owner, stranger }
    }

    /// Puts a manifest in force.
    fn install(&self, manifest: &str) {
        let file = self.host.daemon.policy_directory().join("strict.json");
        fs::write(file, manifest).unwrap();
        self.host.cli(&["policy", "reload"]);
    }

    fn refuses(&self, agent: &mut Probe, reason: &str) {
        assert!(agent.connect("m", self.host.at(10)).is_denied(), "{reason}");
        let denied = self.host.wait_event(reason, |event| {
            event.outcome() == "denied" && event.own("reason") == reason
        });
        assert_eq!(denied.own("agent"), "strict");
        let explained = self.host.explain(agent.pid(), &self.host.at(10).to_string());
        assert_eq!(explained["reason"], reason);
    }
}

/// Arguments of `manifest new`.
fn manifest<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--name", "strict", "--agent-id", ID, "--tool", "model,code"];
    all.extend(more);
    if !more.contains(&"--valid-for") {
        all.extend(["--valid-for", "1h"]);
    }
    all
}

/// The option that lists the probe as software.
fn probe() -> String {
    format!("probe={}", binaries::probe().display())
}

#[test]
fn agent_without_a_good_manifest_may_do_nothing() {
    let stage = Stage::new();
    let mut agent = stage.host.agent("strict");
    let mut other = stage.host.agent("other");
    stage.refuses(&mut agent, "manifest_missing");
    assert!(other.connect("o", stage.host.at(10)).is_ok(), "others need none");
    let (software, probe) = ("--software", probe());
    let new = manifest(&[software, &probe]);
    let unsigned = agent_enforcer_tests::unsigned_manifest(&new);
    stage.install(&unsigned);
    stage.refuses(&mut agent, "manifest_untrusted");
    stage.install(&stage.stranger.sign(&unsigned));
    let refused = stage.host.wait_event("the refusal", |event| event.code() == "manifest_refused");
    assert_eq!((refused.own("agent_id"), refused.own("reason")), (ID, "manifest_missing"));
    stage.refuses(&mut agent, "manifest_untrusted");
    let signed = stage.owner.sign(&unsigned);
    stage.install(&signed.replace("is tested", "is tampered with"));
    stage.refuses(&mut agent, "manifest_untrusted");
    stage.install(&signed);
    assert!(agent.connect("m", stage.host.at(10)).is_ok());
    let accepted = stage.host.wait_event("the manifest", |e| e.code() == "manifest_accepted");
    assert_eq!(accepted.own("signers/0"), "owner");
    // Approved by the policy and standing, but not meant for this agent by who answers for it.
    assert!(agent.connect("w", stage.host.at(20)).is_denied());
    stage.host.wait_denied("tool_not_in_manifest", agent.pid());
    let file = stage.host.daemon.policy_directory().join("strict.json");
    fs::remove_file(file).unwrap();
    stage.host.cli(&["policy", "reload"]);
    stage.refuses(&mut agent, "manifest_missing");
}

#[test]
fn manifest_that_is_none_leaves_the_policy_before_in_force() {
    let stage = Stage::new();
    let probe = probe();
    stage.install(&stage.owner.manifest(&manifest(&["--software", &probe])));
    let mut agent = stage.host.agent("strict");
    assert!(agent.connect("m", stage.host.at(10)).is_ok());
    let file = stage.host.daemon.policy_directory().join("strict.json");
    for bad in ["", "{}", "[1]", "{\"schema\":\"agent-enforcer/manifest/v2\"}"] {
        fs::write(&file, bad).unwrap();
        let refused = stage.host.try_cli(&["policy", "reload"]);
        assert!(!refused.status.success(), "{bad}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("strict.json: $"), "{refused:?}");
        assert!(agent.connect("n", stage.host.at(10)).is_ok());
    }
}

#[test]
fn program_outside_the_manifest_keeps_only_the_tools_that_name_it() {
    let stage = Stage::new();
    let probe = probe();
    stage.install(&stage.owner.manifest(&manifest(&["--software", &probe])));
    let mut agent = stage.host.agent("strict");
    assert!(agent.connect("m", stage.host.at(10)).is_ok());
    let helper = stage.host.directory().join("helper");
    let mut text = fs::read(&helper).unwrap();
    text.push(0);
    fs::write(&helper, text).unwrap();
    let other = stage.host.directory().join("other");
    fs::copy(&helper, &other).unwrap();
    agent.become_program(&other, false);
    assert!(agent.connect("t", stage.host.at(10)).is_denied());
    stage.host.wait_denied("software_not_approved", agent.pid());
    assert!(agent.connect("c", stage.host.at(30)).is_denied());
    stage.host.wait_denied("not_via", agent.pid());
    // `code` names the helper, so it may, and nothing else.
    stage.host.cli(&["policy", "reload"]);
    agent.become_program(&helper, false);
    assert!(agent.connect("h", stage.host.at(30)).is_ok());
    assert!(agent.connect("i", stage.host.at(10)).is_denied());
    // A later manifest takes it in, without a restart of the process.
    let helper = format!("helper={}", helper.display());
    let second = ["--version", "2", "--software", &helper, "--software", &probe];
    let second = stage.owner.manifest(&manifest(&second));
    stage.install(&second);
    assert!(agent.connect("j", stage.host.at(10)).is_ok());
    // And the next one takes it out again.
    let third = stage.owner.manifest(&manifest(&["--version", "3", "--software", &probe]));
    stage.install(&third);
    assert!(agent.connect("k", stage.host.at(10)).is_denied());
}

#[test]
fn manifest_expires_and_takes_live_flows_along() {
    let stage = Stage::new();
    let probe = probe();
    let short = ["--software", &probe, "--valid-for", "4s"];
    stage.install(&stage.owner.manifest(&manifest(&short)));
    let mut agent = stage.host.agent("strict");
    assert!(agent.connect("live", stage.host.at(10)).is_ok());
    let stream =
        agent.begin(Op::Stream { name: "live".to_owned(), data: "x".to_owned(), pause_us: 5000 });
    assert!(!agent.finish(stream).is_ok(), "it goes on after the end of its agent's manifest");
    stage.refuses(&mut agent, "manifest_expired");
    let reason = |event: &agent_enforcer_tests::Event| {
        event.code() == "manifest_refused" && event.own("reason") == "manifest_expired"
    };
    stage.host.wait_event("the end of the manifest", reason);
}

#[test]
fn older_version_is_refused_also_by_the_next_daemon() {
    let mut stage = Stage::new();
    let probe = probe();
    let versions: Vec<String> = ["1", "2", "2", "3"]
        .iter()
        .map(|version| {
            let new = ["--software", &probe, "--version", version];
            stage.owner.manifest(&manifest(&new))
        })
        .collect();
    stage.install(&versions[1]);
    let mut agent = stage.host.agent("strict");
    assert!(agent.connect("a", stage.host.at(10)).is_ok());
    stage.install(&versions[0]);
    stage.refuses(&mut agent, "manifest_rolled_back");
    stage.install(&versions[2]);
    stage.refuses(&mut agent, "manifest_rolled_back");
    stage.host.daemon.kill();
    stage.host.daemon.start();
    wait_until("the same refusal", SOON, || agent.connect("b", stage.host.at(10)).is_denied());
    stage.install(&versions[1]);
    assert!(agent.connect("c", stage.host.at(10)).is_ok());
    // One that ends the agent is remembered like any other.
    let revoked = ["--software", &probe, "--version", "4", "--lifecycle", "revoked"];
    stage.install(&stage.owner.manifest(&manifest(&revoked)));
    stage.refuses(&mut agent, "manifest_revoked");
    stage.install(&versions[3]);
    stage.refuses(&mut agent, "manifest_rolled_back");
    let suspended = ["--software", &probe, "--version", "5", "--lifecycle", "suspended"];
    stage.install(&stage.owner.manifest(&manifest(&suspended)));
    stage.refuses(&mut agent, "manifest_suspended");
}
