//! Calls that wait for an answer from a web service.

use std::net::SocketAddr;

use agent_enforcer_tests::{
    TestHost,
    certificates::Authority,
    wait::{SOON, wait_until},
    webhook::{ApproverKey, Turn, Webhook, digest_of_inputs},
};
use serde_json::{Value, json};

const POLICY: &str = r#"apiVersion: agent-enforcer/v1
keys:
  - @DESK@
  - @CLERK@
tools:
  - { name: mail, cidrs: [192.0.2.30, 192.0.2.40], ports: ["1-65535"], approval: required }
approvers:
  - { name: desk@example.com, key: desk }
  - { name: ada@example.com, uid: 64001 }
approvals:
  webhook: { url: "@URL@", ca: "@DIR@/ca.pem", retries: 1 }
agents:
  - name: waits
    owner: owner@example.com
    purpose: Asks before it acts
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [mail]
    standing: [mail]
    stall_limit: 1m
"#;

struct Stage {
    host: TestHost,
    service: Webhook,
    /// Signs for the approver.
    desk: &'static ApproverKey,
    /// Is defined in the policy, and no approver's.
    clerk: &'static ApproverKey,
}

impl Stage {
    fn new() -> Self {
        let [desk, clerk] =
            ["desk", "clerk"].map(|kid| &*Box::leak(Box::new(ApproverKey::new(kid))));
        let host = TestHost::builder().flag("--audience").flag("host-1").stopped();
        let mut host = host.build();
        let authority = Authority::new("web");
        authority.write(host.directory(), "ca.pem");
        let service = Webhook::start(&authority.server("127.0.0.1"), [Turn::Status(503)]);
        let policy = POLICY.replace("@DESK@", &desk.jwk()).replace("@CLERK@", &clerk.jwk());
        host.write_policy(&policy.replace("@URL@", &service.url()));
        host.daemon.start();
        Self { host, service, desk, clerk }
    }

    /// The service answers with claims that are changed first, signed by the approver.
    fn says(&self, decision: &'static str, change: fn(&mut Value)) -> Turn {
        let desk = self.desk;
        Turn::answer(move |question| {
            let mut claims = ApproverKey::claims(question, decision);
            change(&mut claims);
            desk.sign(&claims)
        })
    }
}

#[test]
fn call_waits_for_the_webhooks_yes_and_goes_on() {
    let stage = Stage::new();
    // It is down, then takes its time, then answers.
    let yes = stage.says("approve", |claims| claims["scope"] = json!("tool"));
    stage.service.turn_to([Turn::Status(503), Turn::NotYet(1), yes]);
    let mut agent = stage.host.agent("waits");
    let waiting = agent.begin_connect("a", stage.host.at(30));
    wait_until("a question", SOON, || !stage.service.questions().is_empty());
    let shown = stage.host.pending()[0]["approval"].clone();
    assert!(agent.finish(waiting).is_ok(), "{}", stage.host.daemon.log());
    assert!(agent.echoes("a"));
    let [first, second, third] = &stage.service.questions()[..] else { panic!("three requests") };
    assert_eq!((first, second), (second, third), "one question, with one nonce");
    assert_eq!((&first["question"], &first["digest"]), (&shown["id"], &shown["digest"]));
    assert_eq!((&first["audience"], &first["pid"]), (&json!("host-1"), &json!(agent.pid())));
    assert_eq!(first["destination"], format!("{}/tcp", stage.host.at(30)));
    let body = &stage.service.bodies()[0];
    assert_eq!(first["digest"], digest_of_inputs(body), "whoever shows it can check it");
    let inputs = &first["inputs"];
    assert_eq!((&inputs["agent"], &inputs["tool"]), (&json!("waits"), &json!("mail")));
    let given = stage.host.wait_event("the answer", |event| event.code() == "approval_given");
    assert_eq!(given.own("approver"), "desk@example.com");
    // For the whole tool, as it said: nobody is asked again.
    assert!(agent.connect("b", stage.host.at(40)).is_ok());
    assert_eq!(stage.service.questions().len(), 3);
}

#[test]
fn call_fails_at_the_webhooks_no() {
    let stage = Stage::new();
    stage.service.turn_to([stage.says("deny", |_| {})]);
    let mut agent = stage.host.agent("waits");
    assert!(agent.connect("a", stage.host.at(30)).is_denied());
    stage.host.wait_denied("approval_denied", agent.pid());
    let refused = stage.host.wait_event("the answer", |event| event.code() == "approval_refused");
    assert_eq!(refused.own("approver"), "desk@example.com");
    assert!(stage.host.servers.at(stage.host.at(30)).is_empty());
}

#[test]
fn answer_that_does_not_hold_is_none() {
    let stage = Stage::new();
    let mut agent = stage.host.agent("waits");
    // A good answer, to be told again.
    stage.service.turn_to([stage.says("approve", |_| {})]);
    assert!(agent.connect("good", stage.host.at(30)).is_ok());
    let replayed = stage.desk.sign(&ApproverKey::claims(&stage.service.questions()[0], "approve"));
    let nonce = stage.service.questions()[0]["nonce"].clone();
    let clerk = stage.clerk;
    let by_clerk = |question: &Value| ApproverKey::claims(question, "approve");
    let desk = stage.desk;
    let of_another = move |question: &Value| {
        let mut claims = ApproverKey::claims(question, "approve");
        claims["nonce"] = nonce.clone();
        desk.sign(&claims)
    };
    let turns = [
        ("no approver's", Turn::answer(move |question| clerk.sign(&by_clerk(question)))),
        ("has changed", stage.says("approve", |claims| claims["digest"] = json!("0".repeat(64)))),
        ("`nonce`", Turn::answer(of_another)),
        ("no call waits", Turn::answer(move |_| replayed.clone())),
        ("expired", stage.says("approve", |claims| claims["exp"] = claims["iat"].clone())),
        ("`aud`", stage.says("approve", |claims| claims["aud"] = json!("host-2"))),
        ("three parts", Turn::answer(|_| "yes".to_owned())),
        ("never followed", Turn::Redirect("https://127.0.0.1:1/".to_owned())),
    ];
    for (port, (expected, turn)) in (7001..).zip(turns) {
        stage.service.turn_to([turn]);
        let name = format!("c{port}");
        agent.begin_connect(&name, SocketAddr::new(stage.host.at(30).ip(), port));
        let failed = stage.host.wait_event(expected, |event| {
            event.code() == "webhook_failed" && event.own("reason").contains(expected)
        });
        let question = failed.own("approval");
        let waits = |call: &Value| call["approval"]["id"] == question;
        assert!(stage.host.pending().iter().any(waits), "{expected}");
    }
    // Whoever else may answer still can.
    let question = stage.host.pending()[0]["approval"]["id"].clone();
    let given = stage.host.try_cli_as(64_001, &["deny", question.as_str().unwrap()]);
    assert!(given.status.success(), "{given:?}");
}
