//! Grants as signed tokens: whom they serve, for how long, once, and what is made of them.

use std::{
    process::Output,
    time::{Duration, SystemTime},
};

use agent_enforcer_tests::{
    GrantRequest, Op, Signatory, TestHost,
    wait::{SOON, wait_until},
};
use serde_json::Value;

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "host-under-test";

const POLICY: &str = r#"apiVersion: agent-enforcer/v1
keys: [@KEY@]
issuers:
  - { name: "https://issuer.example", keys: [issuer], agents: [strict, waits], tools: [web, mail, served] }
  - { name: "https://broker.example", keys: [@BROKER@], agents: [strict], tools: [web], must_attenuate: true }
tools:
  - { name: model, cidrs: [192.0.2.10], ports: ["1-65535"] }
  - { name: web, cidrs: [192.0.2.20], ports: ["1-65535"] }
  - { name: mail, cidrs: [192.0.2.30, 192.0.2.40], ports: ["1-65535"] }
  - { name: served, listen: ["198.51.100.1:8080"] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Has signed grants only
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, web, mail, served]
    on_miss: deny
    grants: { local: deny, max_lifetime: 1h }
  - name: waits
    owner: owner@example.com
    purpose: Waits for its grants
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [web, mail]
    stall_limit: @PATIENCE@
"#;

struct Stage {
    host: TestHost,
    issuer: Signatory,
    broker: Signatory,
}

impl Stage {
    fn new() -> Self {
        let flag = format!("--audience={AUDIENCE}");
        let mut host = TestHost::builder().flag(&flag).stopped().build();
        let issuer = Signatory::new(host.directory(), "issuer", "ES256");
        let broker = Signatory::new(host.directory(), "broker", "EdDSA");
        let policy = POLICY.replace("@KEY@", &issuer.jwk).replace("@BROKER@", &broker.jwk);
        host.write_policy(&policy);
        host.daemon.start();
        Self { host, issuer, broker }
    }

    /// A token for `strict` and this host.
    fn token(&self, more: &[&str]) -> Value {
        self.issuer.token(ISSUER, &for_strict(more))
    }

    fn present(&self, token: &Value) -> Result<Value, String> {
        let output = present(&self.host, token["token"].as_str().expect("a token"));
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).expect("a JSON document"));
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The id of the grant that comes of a token.
    fn granted(&self, token: &Value) -> String {
        let grant = self.present(token).expect("a token that holds");
        grant["id"].as_str().expect("an id").to_owned()
    }
}

fn for_strict<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--on-behalf-of", "ada@example.com"];
    if !more.contains(&"--agent") {
        all.extend(["--agent", "strict"]);
    }
    if !more.contains(&"--audience") {
        all.extend(["--audience", AUDIENCE]);
    }
    all.extend(more);
    all
}

fn present(host: &TestHost, token: &str) -> Output {
    let file = host.directory().join("token.jwt");
    std::fs::write(&file, token).unwrap();
    host.try_cli(&["grant", "present", file.to_str().unwrap()])
}

#[test]
fn token_becomes_a_grant_that_says_where_it_comes_from() {
    let stage = Stage::new();
    let mut agent = stage.host.agent("strict");
    assert!(agent.connect("a", stage.host.at(20)).is_denied());
    let token = stage.token(&["--tool", "web", "--txn", "change-77", "--task", "T-1"]);
    let grant = stage.present(&token).unwrap();
    assert_eq!((&grant["issuer"], &grant["jti"]), (&ISSUER.into(), &token["jti"]));
    assert!(agent.connect("b", stage.host.at(20)).is_ok());
    let allowed = stage.host.wait_call("allowed", "allowed_grant", agent.pid());
    assert_eq!((allowed.own("issuer"), allowed.own("txn")), (ISSUER, "change-77"));
    assert_eq!(allowed.own("principal"), "ada@example.com");
    let issued = stage.host.wait_event("the grant", |event| event.code() == "grant_issued");
    assert_eq!(issued.own("jti"), token["jti"].as_str().unwrap());
    // Only what it names.
    assert!(agent.connect("c", stage.host.at(30)).is_denied());
    assert!(agent.connect("d", stage.host.at(10)).is_denied());
    // Nobody but issuers can give this agent anything.
    let local = stage.host.try_cli(&[
        "grant",
        "issue",
        "--agent",
        "strict",
        "--tool",
        "web",
        "--on-behalf-of",
        "x",
        "--task",
        "t",
    ]);
    assert!(String::from_utf8_lossy(&local.stderr).contains("signed grants only"), "{local:?}");
}

#[test]
fn each_refusal_has_its_word_and_changes_nothing() {
    let stage = Stage::new();
    let token = stage.token(&["--tool", "web"]);
    stage.granted(&token);
    let text = token["token"].as_str().unwrap();
    let (header, rest) = text.split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    // {"alg":"none","typ":"agent-grant+jwt","kid":"issuer"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiYWdlbnQtZ3JhbnQrand0Iiwia2lkIjoiaXNzdWVyIn0";
    let signature = "A".repeat(86);
    let other = |arguments: &[&str]| stage.token(arguments)["token"].as_str().unwrap().to_owned();
    let expired = {
        let token = other(&["--tool", "web", "--for", "1s"]);
        let made = SystemTime::now();
        let over = || made.elapsed().is_ok_and(|since| since > Duration::from_secs(2));
        wait_until("its end", SOON, over);
        token
    };
    let local = Signatory::new(stage.host.directory(), "nobody", "EdDSA");
    let unknown = local.token(ISSUER, &for_strict(&["--tool", "web"]));
    let foreign = stage.broker.token(ISSUER, &for_strict(&["--tool", "web"]));
    let spontaneous = stage.broker.token("https://broker.example", &for_strict(&["--tool", "web"]));
    let text_of = |token: &Value| token["token"].as_str().unwrap().to_owned();
    for (token, word) in [
        (text.to_owned(), "token_replayed"),
        (format!("{none}.{payload}."), "token_algorithm"),
        (format!("{none}.{payload}.{signature}"), "token_algorithm"),
        (format!("{header}.{payload}.{signature}"), "token_bad_signature"),
        ("x".repeat(20_000), "token_too_large"),
        (String::new(), "token_malformed"),
        (other(&["--tool", "web", "--audience", "elsewhere"]), "token_wrong_audience"),
        (other(&["--tool", "web", "--for", "2h"]), "token_lifetime"),
        (other(&["--tool", "web", "--agent", "nobody"]), "token_agent_unknown"),
        (other(&["--tool", "model"]), "token_tool_not_allowed"),
        (other(&["--tool", "none"]), "token_tool_unknown"),
        (other(&["--tool", "web", "--instance", "i-99"]), "token_instance_unknown"),
        (other(&["--location", "192.0.2.99"]), "token_location"),
        (other(&["--tool", "web", "--parent", "none"]), "token_parent_unknown"),
        (other(&["--tool", "web", "--manifest", &"0".repeat(64)]), "token_manifest_mismatch"),
        (expired, "token_expired"),
        (text_of(&unknown), "token_key_unknown"),
        (text_of(&foreign), "token_issuer_unknown"),
        (text_of(&spontaneous), "token_must_attenuate"),
    ] {
        let output = present(&stage.host, &token);
        assert!(!output.status.success(), "{word}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(word), "{word}: {error}");
        stage.host.wait_event(word, |event| {
            event.code() == "grant_refused" && event.own("reason") == word
        });
    }
    let grants = stage.host.cli(&["grant", "list"]);
    assert_eq!(grants.as_array().unwrap().len(), 1);
}

#[test]
fn locations_permit_a_part_of_a_tool() {
    let stage = Stage::new();
    let mut agent = stage.host.agent("strict");
    stage.granted(&stage.token(&["--location", "192.0.2.40:7000/tcp"]));
    assert!(agent.connect("a", stage.host.at(40)).is_ok());
    assert!(agent.connect("b", stage.host.at(30)).is_denied());
    let closed = std::net::SocketAddr::new(stage.host.at(40).ip(), 7001);
    assert!(agent.connect("c", closed).is_denied());
    let found = stage.host.explain(agent.pid(), &stage.host.at(40).to_string());
    assert_eq!(found["reason"], "allowed_grant");
}

#[test]
fn single_use_is_spent_once_by_whoever_is_first() {
    let mut stage = Stage::new();
    let grant = stage.granted(&stage.token(&["--tool", "web", "--max-uses", "1"]));
    let mut agents: Vec<_> = (0..8).map(|_| stage.host.agent("strict")).collect();
    let calls: Vec<_> =
        agents.iter_mut().map(|agent| agent.begin_connect("a", stage.host.at(20))).collect();
    let mut through = 0;
    for (agent, call) in agents.iter_mut().zip(calls) {
        through += usize::from(agent.finish(call).is_ok());
    }
    assert_eq!(through, 1);
    let view = stage.host.grant_view(&grant);
    assert_eq!((&view["uses"], &view["state"]), (&1.into(), &"used_up".into()));
    stage.host.daemon.kill();
    stage.host.daemon.start();
    let mut late = stage.host.agent("strict");
    assert!(late.connect("a", stage.host.at(20)).is_denied());
}

#[test]
fn child_stays_within_its_parent_and_ends_with_it() {
    let stage = Stage::new();
    let parent = stage.token(&["--tool", "web", "--for", "30m", "--max-uses", "2"]);
    let parent_grant = stage.granted(&parent);
    let jti = parent["jti"].as_str().unwrap();
    let child = |more: &[&str]| {
        let mut all = vec!["--parent", jti];
        all.extend(more);
        stage.broker.token("https://broker.example", &for_strict(&all))
    };
    for more in [
        &["--tool", "web", "--for", "40m", "--max-uses", "1"][..],
        &["--tool", "web", "--for", "10m"],
        &["--tool", "web", "--for", "10m", "--max-uses", "3"],
        &["--tool", "web", "--for", "10m", "--max-uses", "1", "--action", "connect,listen"],
    ] {
        let refused = stage.present(&child(more)).unwrap_err();
        assert!(refused.contains("token_exceeds_parent"), "{more:?}: {refused}");
    }
    let child = child(&["--tool", "web", "--for", "10m", "--max-uses", "2"]);
    let grant = stage.present(&child).unwrap();
    assert_eq!(grant["parent"], parent_grant.as_str());
    let id = grant["id"].as_str().unwrap();
    let mut agent = stage.host.agent("strict");
    // A use of the child is one of its parent's; two in all, whoever spends them.
    assert!(agent.connect("a", stage.host.at(20)).is_ok());
    assert!(agent.connect("b", stage.host.at(20)).is_ok());
    assert!(agent.connect("c", stage.host.at(20)).is_denied());
    let uses = |grant: &str| stage.host.grant_view(grant)["uses"].as_u64().unwrap();
    assert_eq!(
        uses(&parent_grant),
        2,
        "child and parent have {} and {}",
        uses(id),
        uses(&parent_grant)
    );
}

#[test]
fn revoked_parent_takes_its_children_and_their_flows_along() {
    let stage = Stage::new();
    let parent = stage.token(&["--tool", "web", "--for", "30m"]);
    let parent_grant = stage.granted(&parent);
    let jti = parent["jti"].as_str().unwrap().to_owned();
    let more = ["--tool", "web", "--for", "10m", "--parent", &jti];
    let child = stage.broker.token("https://broker.example", &for_strict(&more));
    let grant = stage.granted(&child);
    let mut agent = stage.host.agent("strict");
    assert!(agent.connect("live", stage.host.at(20)).is_ok());
    let stream =
        agent.begin(Op::Stream { name: "live".to_owned(), data: "x".to_owned(), pause_us: 2000 });
    stage.host.revoke(&parent_grant);
    assert!(!agent.finish(stream).is_ok());
    assert!(agent.connect("new", stage.host.at(20)).is_denied());
    assert_eq!(stage.host.grant_view(&grant)["state"], "parent_ended");
    let late = stage.broker.token("https://broker.example", &for_strict(&more));
    assert!(stage.present(&late).unwrap_err().contains("token_parent_not_live"));
}

#[test]
fn issuer_that_leaves_the_policy_takes_its_grants_along() {
    let stage = Stage::new();
    let grant = stage.granted(&stage.token(&["--tool", "web"]));
    let mut agent = stage.host.agent("strict");
    assert!(agent.connect("live", stage.host.at(20)).is_ok());
    let stream =
        agent.begin(Op::Stream { name: "live".to_owned(), data: "x".to_owned(), pause_us: 2000 });
    let policy = POLICY.replace("@KEY@", &stage.issuer.jwk).replace("@BROKER@", &stage.broker.jwk);
    stage.host.write_policy(&policy.replace("tools: [web, mail, served] }", "tools: [mail] }"));
    stage.host.cli(&["policy", "reload"]);
    assert!(!agent.finish(stream).is_ok());
    assert_eq!(stage.host.grant_view(&grant)["state"], "issuer_not_trusted");
    assert!(agent.connect("new", stage.host.at(20)).is_denied());
    stage.host.write_policy(&policy);
    stage.host.cli(&["policy", "reload"]);
    wait_until("it counts again", SOON, || agent.connect("again", stage.host.at(20)).is_ok());
}

#[test]
fn unsigned_grant_ends_where_the_policy_wants_signed_ones() {
    let stage = Stage::new();
    let grant = stage.host.grant(&GrantRequest::agent("waits", "web"));
    let mut agent = stage.host.agent("waits");
    assert!(agent.connect("a", stage.host.at(20)).is_ok());
    let policy = POLICY.replace("@KEY@", &stage.issuer.jwk).replace("@BROKER@", &stage.broker.jwk);
    let patience = "    stall_limit: @PATIENCE@";
    let signed = format!("{patience}\n    grants: {{ local: deny }}");
    stage.host.write_policy(&policy.replace(patience, &signed));
    stage.host.cli(&["policy", "reload"]);
    assert_eq!(stage.host.grant_view(&grant)["state"], "unsigned");
    let waiting = agent.begin_connect("b", stage.host.at(20));
    wait_until("it waits", SOON, || {
        stage.host.pending().first().is_some_and(|call| call["reason"] == "grant_unsigned")
    });
    stage.granted(&stage.token(&["--tool", "web", "--agent", "waits"]));
    assert!(agent.finish(waiting).is_ok());
}
