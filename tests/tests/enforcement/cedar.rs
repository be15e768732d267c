//! Permits and forbids in Cedar beside the YAML: what they close, what they open, and what tells of it.

use std::fs;

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, TestHost,
    wait::{SOON, wait_until},
};
use serde_json::Value;

const POLICY: &str = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: model, cidrs: [192.0.2.10], ports: ["1-65535"] }
  - { name: web, cidrs: [192.0.2.20], ports: ["1-65535"] }
  - { name: mail, cidrs: [192.0.2.30], ports: ["1-65535"] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Is told at once
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, web]
    standing: [model]
    on_miss: deny
  - name: waits
    owner: owner@example.com
    purpose: Waits for grants
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [model, web]
    standing: [model]
    stall_limit: @HASTE@
"#;

fn write(host: &TestHost, cedar: &str) {
    fs::write(host.daemon.policy_directory().join("more.cedar"), cedar).unwrap();
}

fn host_with(cedar: &str) -> TestHost {
    let mut host = TestHost::builder().policy(POLICY).stopped().build();
    write(&host, cedar);
    host.daemon.start();
    host
}

/// The event of a call by a policy, which names it.
fn told(host: &TestHost, outcome: &str, agent: &Probe) -> Value {
    let pid = u64::from(agent.pid());
    let event = host.wait_event("a decision of a policy", |event| {
        event.outcome() == outcome && event.pid() == pid && !named(&event.0).is_null()
    });
    named(&event.0)
}

fn named(event: &Value) -> Value {
    event["unmapped"]["agent_enforcer"]["policy_ids"].clone()
}

#[test]
fn forbid_closes_a_standing_tool_and_the_event_names_it() {
    let host = host_with(
        r#"@id("model-is-off") forbid (principal in Agent::"strict", action, resource in Tool::"model");"#,
    );
    let mut agent = host.agent("strict");
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_denied());
    let denied = host.wait_event("the denial", |event| event.outcome() == "denied");
    assert_eq!(denied.own("miss_reason"), "policy_forbids");
    assert_eq!(named(&denied.0), serde_json::json!(["model-is-off"]));
    let steps = host.explain(agent.pid(), &host.at(10).to_string());
    assert!(steps.to_string().contains("policies `model-is-off` forbid it"), "{steps}");
    // Of another agent it says nothing.
    let mut other = host.agent("waits");
    assert!(other.run(Op::Dial { address: host.at(10) }).is_ok());
}

#[test]
fn forbid_that_looks_at_the_call_wins_over_standing_tools_and_grants() {
    let host = host_with(
        r#"@id("not-ada") forbid (principal, action, resource)
when { context has grant && context.grant.principal == "ada@example.com" };
@id("no-root") forbid (principal in Agent::"waits", action, resource in Tool::"model")
when { principal has uid && principal.uid == 0 };"#,
    );
    let mut agent = host.agent("waits");
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_denied());
    assert_eq!(told(&host, "denied", &agent), serde_json::json!(["no-root"]));
    host.wait_denied("policy_forbids", agent.pid());
    let mut strict = host.agent("strict");
    assert!(strict.run(Op::Dial { address: host.at(10) }).is_ok());
    host.grant(&GrantRequest::agent("strict", "web"));
    assert!(strict.run(Op::Dial { address: host.at(20) }).is_denied());
    assert_eq!(told(&host, "denied", &strict), serde_json::json!(["not-ada"]));
}

#[test]
fn conditional_permit_lets_an_approved_tool_be_used_and_nothing_else() {
    let host = host_with(
        r#"@id("as-root") permit (principal, action, resource)
when { principal has uid && principal.uid == 0 && context.time.hour >= 0 };"#,
    );
    for name in ["waits", "strict"] {
        let mut agent = host.agent(name);
        assert!(agent.connect("web", host.at(20)).is_ok(), "{name}");
        assert!(agent.echoes("web"));
        host.wait_call("allowed", "allowed_policy", agent.pid());
        assert_eq!(told(&host, "allowed", &agent), serde_json::json!(["as-root"]));
        assert!(agent.run(Op::Dial { address: host.at(30) }).is_denied(), "{name}");
    }
}

#[test]
fn policy_that_cannot_be_evaluated_denies_and_is_counted() {
    let host = host_with(
        r#"@id("broken") forbid (principal, action, resource in Tool::"model")
when { principal has uid && principal.uid - 9223372036854775807 - 2 > 0 };"#,
    );
    let mut agent = host.agent("waits");
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_denied());
    host.wait_denied("policy_failed", agent.pid());
    assert_eq!(told(&host, "denied", &agent), serde_json::json!(["broken"]));
    assert!(host.counter("policy_failures") > 0);
}

#[test]
fn forbid_that_is_added_cuts_live_flows() {
    let host = host_with("");
    let grant = host.grant(&GrantRequest::agent("waits", "web").uses(1));
    let mut agent = host.agent("waits");
    for (name, server) in [("standing", 10), ("granted", 20)] {
        assert!(agent.connect(name, host.at(server)).is_ok());
        assert!(agent.echoes(name));
    }
    write(
        &host,
        r#"@id("all-off") forbid (principal, action, resource) when { principal has uid };"#,
    );
    host.cli(&["policy", "reload"]);
    for name in ["standing", "granted"] {
        wait_until("the flow is cut", SOON, || !agent.echoes(name));
    }
    assert_eq!(told(&host, "denied", &agent), serde_json::json!(["all-off"]));
    assert_eq!(host.grant_view(&grant)["state"], "used_up");
    // A file that is wrong changes nothing.
    write(&host, "permit (principal, action, resource);");
    let refused = host.try_cli(&["policy", "reload"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("@id"), "{refused:?}");
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_denied());
    write(&host, "");
    host.cli(&["policy", "reload"]);
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_ok());
}

#[test]
fn what_decides_can_be_read_as_cedar() {
    let own = "@id(\"mine\") forbid (principal, action, resource in Tool::\"mail\");\n";
    let host = host_with(own);
    let shown = host.cli(&["policy", "show", "--cedar"]);
    let files = shown.as_object().unwrap();
    let yaml = files["yaml.cedar"].as_str().unwrap();
    assert!(yaml.contains("@id(\"yaml/strict/standing\")"), "{yaml}");
    let more = files.iter().find(|(file, _)| file.ends_with("/more.cedar")).unwrap().1;
    assert_eq!(more, own);
    let directory = host.daemon.policy_directory().display().to_string();
    host.cli(&["policy", "check", &directory]);
    write(&host, "@id(\"x\") permit (principal, action, resource in Tool::\"nowhere\");");
    let refused = host.try_cli(&["policy", "check", &directory]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stdout).contains("more.cedar:1:1"), "{refused:?}");
}
