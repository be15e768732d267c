//! Calls that need a person's yes.

use std::{net::SocketAddr, process::Output, time::Duration};

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, TestHost,
    wait::{SOON, wait_until},
};
use libc::{EAGAIN, SOCK_DGRAM};
use serde_json::Value;

const APPROVER: u32 = 64_001;
const SOMEBODY: u32 = 64_002;

/// `.20` needs a grant and an approver, `.30` an approver only, `.10` neither.
const POLICY: &str = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: model, cidrs: [192.0.2.10], ports: ["1-65535"], protocol: [tcp, udp] }
  - { name: web, cidrs: [192.0.2.20], ports: ["1-65535"], protocol: [tcp, udp], approval: required }
  - { name: mail, cidrs: [192.0.2.30, 192.0.2.40], ports: ["1-65535"], protocol: [tcp, udp], approval: required }
approvers:
  - { name: ada@example.com, uid: 64001 }
approvals: { wait: @WAIT@, mode: @MODE@ }
agents:
  - name: waits
    owner: owner@example.com
    purpose: Asks before it acts
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [model, web, mail]
    standing: [model, mail]
    stall_limit: @PATIENCE@
  - name: strict
    owner: owner@example.com
    purpose: Never waits
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, mail]
    standing: [model, mail]
    stall_limit: 0s
  - name: watched
    owner: owner@example.com
    purpose: Is only watched
    selectors: [["cgroup:path:@CG@/watched"]]
    tools: [model, mail]
    standing: [model, mail]
    mode: audit
"#;

fn host_with(wait: &str, mode: &str) -> TestHost {
    let policy = POLICY.replace("@WAIT@", wait).replace("@MODE@", mode);
    TestHost::builder().policy(&policy).build()
}

fn host() -> TestHost {
    host_with("5m", "attended")
}

/// The one question that is open.
fn question(host: &TestHost) -> Value {
    let mut found = Value::Null;
    wait_until("a question", SOON, || {
        let pending = host.pending();
        found = pending
            .iter()
            .map(|call| call["approval"].clone())
            .find(Value::is_object)
            .unwrap_or_default();
        found.is_object()
    });
    found
}

fn id(question: &Value) -> &str {
    question["id"].as_str().expect("a question has an id")
}

fn say(host: &TestHost, uid: u32, arguments: &[&str]) -> Value {
    let output = host.try_cli_as(uid, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("a JSON document")
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn call_waits_for_its_approver_and_goes_on() {
    let host = host();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("a", host.at(30));
    let asked = question(&host);
    assert!(agent.connect("g", host.at(10)).is_ok(), "others go on meanwhile");
    let event = host.wait_event("the question", |event| event.code() == "approval_asked");
    assert_eq!(event.own("approval"), id(&asked));
    assert_eq!((event.own("tool"), event.own("agent")), ("mail", "waits"));
    let given = say(&host, APPROVER, &["approve", id(&asked), "--for", "10m"]);
    assert_eq!(given["approver"], "ada@example.com");
    assert!(agent.finish(waiting).is_ok());
    assert!(agent.echoes("a"));
    let allowed = host.wait_call("allowed", "allowed_standing", agent.pid());
    assert_eq!(allowed.own("approver"), "");
    let allowed = host.wait_event("the approver in the event", |event| {
        event.outcome() == "allowed" && event.own("tool") == "mail"
    });
    assert_eq!(allowed.own("approver"), "ada@example.com");
    assert_eq!(allowed.own("approval"), id(&asked));
    host.wait_event("the answer", |event| event.code() == "approval_given");
    // The same program again, at the same place: nobody is asked.
    assert!(agent.connect("again", host.at(30)).is_ok());
    // Another place of the tool is another question.
    let other = agent.begin_connect("b", host.at(40));
    let asked = question(&host);
    say(&host, APPROVER, &["approve", id(&asked), "--tool"]);
    assert!(agent.finish(other).is_ok());
    assert!(host.pending().is_empty());
}

#[test]
fn grant_is_asked_for_before_the_approver() {
    let host = host();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("a", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    assert_eq!(host.pending()[0]["reason"], "no_grant");
    let grant = host.grant(&GrantRequest::agent("waits", "web"));
    let asked = question(&host);
    assert_eq!(
        (&asked["grant"], &asked["principal"]),
        (&grant.as_str().into(), &"ada@example.com".into())
    );
    say(&host, APPROVER, &["approve", id(&asked)]);
    assert!(agent.finish(waiting).is_ok());
    // Another grant is another question: nothing carries over.
    host.revoke(&grant);
    host.grant(&GrantRequest::agent("waits", "web"));
    let waiting = agent.begin_connect("b", host.at(20));
    let again = question(&host);
    assert_ne!(id(&again), id(&asked));
    say(&host, APPROVER, &["deny", id(&again)]);
    assert!(agent.finish(waiting).is_denied());
    host.wait_denied("approval_denied", agent.pid());
}

#[test]
fn denied_call_fails_at_once_and_so_do_those_after_it() {
    let host = host();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("a", host.at(30));
    let asked = question(&host);
    say(&host, APPROVER, &["deny", id(&asked)]);
    assert!(agent.finish(waiting).is_denied());
    host.wait_event("the answer", |event| event.code() == "approval_refused");
    assert!(agent.connect("b", host.at(30)).is_denied());
    assert!(host.servers.at(host.at(30)).is_empty());
    // Who changes their mind says so.
    let late = host.try_cli_as(APPROVER, &["approve", id(&asked)]);
    assert!(refusal(&late).contains("no call waits"), "{late:?}");
}

#[test]
fn nobody_answers_in_time() {
    let host = host_with("1s", "attended");
    let mut agent = host.agent("waits");
    assert!(agent.connect("a", host.at(30)).is_denied());
    host.wait_denied("approval_timeout", agent.pid());
    assert!(host.pending().is_empty());
    assert!(agent.connect("g", host.at(10)).is_ok());
}

#[test]
fn nobody_is_there_or_the_caller_may_not_wait() {
    let host = host_with("5m", "unattended");
    let mut agent = host.agent("waits");
    assert!(agent.connect("a", host.at(30)).is_denied());
    host.wait_denied("approval_unattended", agent.pid());
    let mut hasty = host.agent("strict");
    assert!(hasty.connect("a", host.at(30)).is_denied());
    let denied = host.wait_event("a denial of who may not wait", |event| {
        event.outcome() == "denied" && event.pid() == u64::from(hasty.pid())
    });
    assert_eq!(denied.own("reason"), "needs_approval");
    let mut watched = host.agent("watched");
    assert!(watched.connect("a", host.at(30)).is_ok());
    let audited = host.wait_event("what would be denied", |event| event.outcome() == "audited");
    assert_eq!(audited.own("audited_reason"), "needs_approval");
}

#[test]
fn only_approvers_answer_and_no_agent_answers_itself() {
    let host = host();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("a", host.at(30));
    let asked = question(&host);
    let approve = ["approve", id(&asked)];
    assert!(refusal(&host.try_cli_as(SOMEBODY, &approve)).contains("approvers"));
    assert!(refusal(&host.try_cli_as(SOMEBODY, &["pending"])).contains("approvers"));
    assert!(refusal(&host.try_cli(&approve)).contains("user 0 is no approver"));
    // Commands of root are for root.
    assert!(!host.try_cli_as(APPROVER, &["grant", "list"]).status.success());
    assert!(host.try_cli_as(APPROVER, &["pending"]).status.success());
    assert!(host.servers.at(host.at(30)).is_empty());
    say(&host, APPROVER, &approve);
    assert!(agent.finish(waiting).is_ok());
    // An agent that runs as the approver's user.
    let program = host.copy_of_probe("approver");
    let mut twin = host.probe(&program, "waits", Some(APPROVER));
    twin.begin_connect("a", host.at(30));
    let asked = question(&host);
    let refused = refusal(&host.try_cli_as(APPROVER, &["approve", id(&asked)]));
    assert!(refused.contains("somebody else must approve"), "{refused}");
    twin.kill();
}

#[test]
fn approval_holds_for_what_was_shown_and_for_nothing_else() {
    let host = host();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("a", host.at(30));
    let asked = question(&host);
    let wrong = "0".repeat(64);
    let refused = host.try_cli_as(APPROVER, &["approve", id(&asked), "--digest", &wrong]);
    assert!(refusal(&refused).contains("has changed since it was shown"));
    let digest = asked["digest"].as_str().unwrap();
    say(&host, APPROVER, &["approve", id(&asked), "--digest", digest, "--tool"]);
    assert!(agent.finish(waiting).is_ok());
    // Another program in the same process tree has to ask for itself.
    let other = host.copy_of_probe("other");
    let mut text = std::fs::read(&other).unwrap();
    text.push(b'x');
    std::fs::write(&other, text).unwrap();
    agent.become_program(&other, false);
    let waiting = agent.begin_connect("b", host.at(30));
    let again = question(&host);
    assert_ne!(again["digest"], asked["digest"]);
    say(&host, APPROVER, &["deny", id(&again)]);
    assert!(agent.finish(waiting).is_denied());
    // A policy that says otherwise about the tool asks anew.
    let mut second = host.agent("waits");
    let waiting = second.begin_connect("a", host.at(30));
    let asked = question(&host);
    let policy = POLICY.replace("@WAIT@", "5m").replace("@MODE@", "attended");
    host.write_policy(&policy.replace("192.0.2.40]", "192.0.2.50]"));
    host.cli(&["policy", "reload"]);
    wait_until("another question", SOON, || id(&question(&host)) != id(&asked));
    let late = host.try_cli_as(APPROVER, &["approve", id(&asked)]);
    assert!(refusal(&late).contains("no call waits"));
    say(&host, APPROVER, &["approve", id(&question(&host))]);
    assert!(second.finish(waiting).is_ok());
}

#[test]
fn approval_ends_and_takes_live_flows_along() {
    let host = host();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("a", host.at(30));
    let asked = question(&host);
    say(&host, APPROVER, &["approve", id(&asked), "--for", "2s"]);
    assert!(agent.finish(waiting).is_ok());
    let cut =
        agent.begin(Op::Stream { name: "a".to_owned(), data: "x".to_owned(), pause_us: 20_000 });
    let cut = agent.wait_for(cut, Duration::from_secs(20)).expect("an end");
    assert!(!cut.is_ok(), "{cut:?}");
    let waiting = agent.begin_connect("b", host.at(30));
    say(&host, APPROVER, &["approve", id(&question(&host))]);
    assert!(agent.finish(waiting).is_ok());
}

#[test]
fn approval_outlives_the_daemon() {
    let mut host = host();
    let mut agent = host.agent("waits");
    let waiting = agent.begin_connect("a", host.at(30));
    let asked = question(&host);
    say(&host, APPROVER, &["approve", id(&asked)]);
    assert!(agent.finish(waiting).is_ok());
    host.daemon.kill();
    host.daemon.start();
    wait_until("the same answer", SOON, || agent.connect("b", host.at(30)).is_ok());
    assert!(host.pending().is_empty());
}

fn send(agent: &mut Probe, socket: &str, to: SocketAddr) -> i32 {
    let data = "x".to_owned();
    agent
        .run(Op::SendTo { name: socket.to_owned(), address: to, data, flags: libc::MSG_DONTWAIT })
        .errno
}

#[test]
fn who_asks_for_too_much_is_denied_and_others_are_heard() {
    let host = host();
    let mut greedy = host.agent("waits");
    assert!(greedy.socket("s", host.at(30), SOCK_DGRAM).is_ok());
    let mut errors = Vec::new();
    for port in 1..=40 {
        let to = SocketAddr::new(host.at(30).ip(), port);
        errors.push(send(&mut greedy, "s", to));
    }
    let waiting = errors.iter().filter(|error| **error == EAGAIN).count();
    assert!(waiting <= 16, "{errors:?}");
    host.wait_denied("approval_limit", greedy.pid());
    let mut modest = host.agent("waits");
    let waits = modest.begin_connect("a", host.at(40));
    let own = |call: &Value| call["pid"] == u64::from(modest.pid()) && call["approval"].is_object();
    wait_until("its question", SOON, || host.pending().iter().any(own));
    let pending = host.pending();
    let asked = pending.iter().find(|call| own(call)).expect("its question");
    say(&host, APPROVER, &["approve", asked["approval"]["id"].as_str().unwrap()]);
    assert!(modest.finish(waits).is_ok());
}
