//! A policy that changes while processes run.

use agent_enforcer_tests::{
    GrantRequest, Op, TestHost, What,
    host::POLICY,
    wait::{SOON, wait_until},
};
use libc::EACCES;
use rustix::process::Signal;

fn without_mail_for_strict() -> String {
    POLICY.replace("tools: [model, web, mail, local]", "tools: [model, web, local]")
}

#[test]
fn reload_by_command_is_in_force_when_it_returns() {
    let host = TestHost::start();
    host.grant(&GrantRequest::agent("strict", "mail"));
    let mut agent = host.agent("strict");
    assert!(agent.run(Op::Dial { address: host.at(30) }).is_ok());
    let before = host.cli(&["policy", "show"])["generation"].as_u64().unwrap();
    host.write_policy(&without_mail_for_strict());
    let after = host.cli(&["policy", "reload"])["generation"].as_u64().unwrap();
    assert!(after > before);
    assert_eq!(agent.run(Op::Dial { address: host.at(30) }).errno, EACCES);
    host.wait_denied("tool_not_approved", agent.pid());
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_ok());
}

#[test]
fn reload_by_signal_is_told() {
    let host = TestHost::start();
    host.grant(&GrantRequest::agent("strict", "mail"));
    let mut agent = host.agent("strict");
    let loaded = |host: &TestHost| {
        host.events().iter().filter(|event| event.code() == "policy_loaded").count()
    };
    let before = loaded(&host);
    host.write_policy(&without_mail_for_strict());
    host.daemon.signal(Signal::HUP);
    wait_until("the policy is loaded", SOON, || loaded(&host) > before);
    assert_eq!(agent.run(Op::Dial { address: host.at(30) }).errno, EACCES);
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_ok());
}

#[test]
fn invalid_policy_keeps_the_one_before() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let before = host.cli(&["policy", "show"]);
    host.write_policy(&POLICY.replace("on_miss: deny", "on_miss: permit"));
    let refused = host.try_cli(&["policy", "reload"]);
    assert_eq!(refused.status.code(), Some(1));
    let event = host.wait_event("the refusal", |event| event.code() == "policy_rejected");
    assert!(event.0.to_string().contains("on_miss"), "{}", event.0);
    host.daemon.signal(Signal::HUP);
    wait_until("refused again", SOON, || {
        host.events().iter().filter(|event| event.code() == "policy_rejected").count() == 2
    });
    assert_eq!(host.cli(&["policy", "show"]), before);
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_ok());
    assert_eq!(agent.run(Op::Dial { address: host.at(20) }).errno, EACCES);
}

#[test]
fn processes_of_a_removed_agent_are_denied_everything() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("live", host.at(10)).is_ok());
    assert!(agent.echoes("live"));
    let removed =
        POLICY.find("  - name: strict").unwrap()..POLICY.find("  - name: watched").unwrap();
    let mut policy = POLICY.to_owned();
    policy.replace_range(removed, "");
    host.write_policy(&policy);
    host.cli(&["policy", "reload"]);
    assert_eq!(agent.run(Op::Dial { address: host.at(10) }).errno, EACCES);
    host.wait_denied("agent_unknown", agent.pid());
    assert!(!agent.echoes("live"));
    host.servers.wait_for(host.at(10), &What::Reset, SOON);
    host.write_policy(POLICY);
    host.cli(&["policy", "reload"]);
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_ok());
}

#[test]
fn live_flow_ends_when_its_tool_is_no_longer_standing() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("live", host.at(10)).is_ok());
    assert!(agent.echoes("live"));
    host.write_policy(&POLICY.replace("standing: [model, local]", "standing: [local]"));
    host.cli(&["policy", "reload"]);
    agent.send("live", "leak");
    host.servers.wait_for(host.at(10), &What::Reset, SOON);
    host.wait_denied("no_grant", agent.pid());
    assert_eq!(host.servers.bytes_at(host.at(10)), 4);
}

#[test]
fn stalled_call_is_decided_by_a_new_policy() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let ticket = agent.begin_connect("a", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    host.write_policy(&POLICY.replacen("standing: [model]", "standing: [model, web]", 1));
    host.cli(&["policy", "reload"]);
    assert!(agent.finish(ticket).is_ok());
    assert!(agent.echoes("a"));
}

#[test]
fn agents_of_a_new_policy_are_recognised_while_they_run() {
    let host = TestHost::start();
    let mut probe = host.agent("latecomers");
    assert!(probe.run(Op::Dial { address: host.at(50) }).is_ok());
    host.write_policy(&POLICY.replace("@CG@/strict", "@CG@/latecomers"));
    host.cli(&["policy", "reload"]);
    assert_eq!(probe.run(Op::Dial { address: host.at(50) }).errno, EACCES);
    assert!(probe.run(Op::Dial { address: host.at(10) }).is_ok());
}
