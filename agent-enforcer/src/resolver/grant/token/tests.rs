use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    testing::{NOW, Stage, changed, claims, issuer, moment, parent},
    *,
};
use crate::signing::{
    Algorithm, SigningKey,
    testing::{ed25519, key, p256},
};

fn word(outcome: &Result<VerifiedToken, TokenRefusal>) -> &'static str {
    outcome.as_ref().map_or_else(TokenRefusal::word, |_| "ok")
}

/// Entries of `authorization_details`.
fn details(entries: &[Value]) -> Value {
    changed(|claims| claims["authorization_details"] = json!(entries))
}

fn tools(names: &[&str]) -> Value {
    json!({ "type": "network_egress", "tools": names, "actions": ["connect"] })
}

fn locations(texts: &[&str]) -> Value {
    json!({ "type": "network_egress", "locations": texts, "actions": ["connect"] })
}

#[test]
fn a_sound_token_says_who_may_do_what_until_when() {
    for algorithm in Algorithm::ALL {
        let stage = Stage::with_key(key(algorithm, "k1"));
        let token = changed(|claims| {
            claims["act"] =
                json!({ "sub": "coder", "act": { "sub": "planner", "act": { "sub": "ui" } } });
            claims["aud"] = json!(["host-1", "host-7"]);
            claims["txn"] = json!("tx-9");
            claims["nbf"] = json!(NOW + 30);
            claims["max_uses"] = json!(5);
            claims["manifest_sha256"] = json!("77".repeat(32));
            claims["instance"] = json!("i-1a2b");
            claims["task"] = json!("JIRA-42");
            claims["reason"] = json!("approved in change 77");
            claims["authorization_details"] = json!([
                tools(&["code-host"]),
                { "type": "network_egress", "tools": ["code-host"], "actions": ["listen"] },
                locations(&["192.0.2.25:25/tcp"]),
            ]);
        });
        let verified = stage.judge(&token).unwrap();
        let both = Actions { connect: true, listen: true };
        let location = ScopedLocation {
            location: "192.0.2.25:25/tcp".parse().unwrap(),
            tool: "mail".into(),
            actions: Actions { connect: true, listen: false },
        };
        let expected = VerifiedToken {
            issuer: "https://issuer.example".into(),
            kid: "k1".parse().unwrap(),
            jti: "t-1".into(),
            txn: Some("tx-9".into()),
            principal: "ada@example.com".into(),
            agent: "coder".into(),
            former_actors: vec!["planner".into(), "ui".into()],
            instance: Some(InstanceId::new(0x1a2b)),
            scope: Scope { tools: [("code-host".into(), both)].into(), locations: vec![location] },
            issued: moment(NOW),
            not_before: moment(NOW + 30),
            expires: moment(NOW + 600),
            max_uses: Some(5),
            parent_jti: None,
            manifest: Some(Sha256Digest([0x77; 32])),
            task: Some("JIRA-42".into()),
            reason: Some("approved in change 77".into()),
        };
        assert_eq!(verified, expected);
    }
}

#[test]
fn each_refusal_of_content_has_its_word() {
    let mut stage = Stage::new();
    stage.world.seen.insert("t-0".into());
    let set = |claim: &'static str, value: Value| changed(move |claims| claims[claim] = value);
    for (token, expected) in [
        (claims(), "ok"),
        (set("iss", json!("https://other.example")), "token_issuer_unknown"),
        (set("iss", json!("https://issuer.example/")), "token_issuer_unknown"),
        (set("aud", json!("host-8")), "token_wrong_audience"),
        (set("aud", json!(["host-1", "HOST-7"])), "token_wrong_audience"),
        (set("act", json!({ "sub": "stranger" })), "token_agent_unknown"),
        (set("instance", json!("i-dead")), "token_instance_unknown"),
        (set("act", json!({ "sub": "spiffe://example.org/agent/other" })), "token_agent_unknown"),
        (set("jti", json!("t-0")), "token_replayed"),
        (set("manifest_sha256", json!("78".repeat(32))), "token_manifest_mismatch"),
        (set("parent_jti", json!("nobody")), "token_parent_unknown"),
        (details(&[tools(&["ftp"])]), "token_tool_unknown"),
        (details(&[tools(&["secret"])]), "token_tool_not_allowed"),
        (details(&[tools(&["code-host-shell"])]), "token_tool_not_allowed"),
        (details(&[tools(&["code-host"]), tools(&["secret"])]), "token_tool_not_allowed"),
        (details(&[locations(&["198.51.100.7:443/tcp"])]), "ok"),
        (details(&[locations(&["198.51.100.7:22/tcp"])]), "token_tool_not_allowed"),
        (details(&[locations(&["203.0.113.1"])]), "token_tool_not_allowed"),
        (details(&[locations(&["198.51.100.7"])]), "token_location"),
        (details(&[locations(&["198.51.100.7:443-444/tcp"])]), "token_location"),
        (details(&[locations(&["198.51.100.0/23:443"])]), "token_location"),
        (details(&[locations(&["8.8.8.8:53/udp"])]), "token_location"),
        (details(&[locations(&["192.0.2.025:25"])]), "token_location"),
        (details(&[locations(&["api.example.com:443"])]), "token_location"),
        (details(&[locations(&["[2001:db8::25]:25"])]), "ok"),
    ] {
        let outcome = stage.judge(&token);
        assert_eq!(word(&outcome), expected, "{token}: {outcome:?}");
    }
    // An agent without a manifest is bound to none.
    let unbound = changed(|claims| {
        claims["act"] = json!({ "sub": "idle" });
        claims["authorization_details"] = json!([tools(&["code-host"])]);
    });
    assert_eq!(word(&stage.judge(&unbound)), "token_tool_not_allowed");
    let mut narrow = issuer("https://issuer.example", &stage.key);
    narrow.agents = vec!["idle".into()];
    stage.issuers = Issuers::new(vec![narrow]).unwrap();
    assert_eq!(word(&stage.judge(&claims())), "token_agent_not_allowed");
}

#[test]
fn a_token_counts_from_its_beginning_to_its_end_and_no_longer_than_the_agents_ceiling() {
    let stage = Stage::new();
    for (iat, nbf, exp, expected) in [
        (NOW, None, NOW + 1, "ok"),
        (NOW, None, NOW, "token_expired"),
        (NOW - 600, None, NOW - 1, "token_expired"),
        (NOW + 60, None, NOW + 600, "ok"),
        (NOW + 61, None, NOW + 600, "token_issued_in_future"),
        (NOW, Some(NOW + 60), NOW + 600, "ok"),
        (NOW, Some(NOW + 61), NOW + 600, "token_not_yet_valid"),
        (NOW, None, NOW + 900, "ok"),
        (NOW, None, NOW + 901, "token_lifetime"),
        (NOW - 1000, Some(NOW - 10), NOW + 800, "ok"),
        (NOW - 1000, None, NOW + 800, "token_lifetime"),
        // `nbf` before `iat` is no beginning.
        (NOW, Some(0), NOW + 900, "ok"),
        (NOW, Some(0), NOW + 901, "token_lifetime"),
        // Within the skew it could end before it begins.
        (NOW + 50, None, NOW + 50, "token_lifetime"),
        (NOW + 50, None, NOW + 20, "token_lifetime"),
        (0, None, 253_402_300_799, "token_lifetime"),
    ] {
        let token = changed(|claims| {
            (claims["iat"], claims["exp"]) = (json!(iat), json!(exp));
            if let Some(nbf) = nbf {
                claims["nbf"] = json!(nbf);
            }
        });
        assert_eq!(word(&stage.judge(&token)), expected, "{iat} {nbf:?} {exp}");
    }
}

#[test]
fn nothing_of_the_content_is_told_before_the_signature_holds() {
    let stage = Stage::new();
    let forger = Stage::with_key(ed25519("k1"));
    for token in [
        json!("not even claims"),
        claims(),
        changed(|claims| claims["exp"] = json!(1)),
        changed(|claims| claims["aud"] = json!("elsewhere")),
        changed(|claims| claims["act"] = json!({ "sub": "stranger" })),
        changed(|claims| claims["more"] = json!(1)),
        changed(|claims| claims["iss"] = json!("https://other.example")),
    ] {
        let outcome = stage.verify(&forger.sign(&token));
        assert_eq!(outcome, Err(TokenRefusal::BadSignature("k1".parse().unwrap())), "{token}");
    }
    let stranger = Stage::with_key(ed25519("k2"));
    assert_eq!(word(&stage.verify(&stranger.sign(&claims()))), "token_key_unknown");
    // Another kind of key under the same name.
    let other = Stage::with_key(p256("k1"));
    assert_eq!(word(&stage.verify(&other.sign(&claims()))), "token_algorithm");
    assert_eq!(word(&other.verify(&stage.sign(&claims()))), "token_algorithm");
}

/// A token with any header.
fn with_header(stage: &Stage, header: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let sound = stage.sign(&claims());
    let payload = sound.split('.').nth(1).unwrap();
    let input = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header));
    let signature = stage.key.sign(input.as_bytes()).unwrap();
    format!("{input}.{signature}")
}

#[test]
fn a_token_is_of_its_type_and_brings_no_key() {
    let stage = Stage::new();
    let typ = |typ: &str| format!(r#"{{"alg":"EdDSA","kid":"k1","typ":{typ}}}"#);
    for (header, expected) in [
        (typ("\"agent-grant+jwt\""), "ok"),
        (typ("\"AGENT-Grant+JWT\""), "ok"),
        (typ("\"application/agent-grant+jwt\""), "ok"),
        (typ("\"Application/Agent-Grant+JWT\""), "ok"),
        (typ("\"JWT\""), "token_wrong_type"),
        (typ("\"at+jwt\""), "token_wrong_type"),
        (typ("\"JOSE\""), "token_wrong_type"),
        (typ("\"text/agent-grant+jwt\""), "token_wrong_type"),
        (typ("\"application/application/agent-grant+jwt\""), "token_wrong_type"),
        (typ("\"agent-grant+jwt \""), "token_wrong_type"),
        (typ("7"), "token_malformed"),
        (r#"{"alg":"EdDSA","kid":"k1"}"#.into(), "token_wrong_type"),
        (r#"{"alg":"none","kid":"k1","typ":"agent-grant+jwt"}"#.into(), "token_algorithm"),
        (r#"{"alg":"HS256","kid":"k1","typ":"agent-grant+jwt"}"#.into(), "token_algorithm"),
        (r#"{"alg":"ES256","kid":"k1","typ":"agent-grant+jwt"}"#.into(), "token_algorithm"),
        (r#"{"alg":"EdDSA","typ":"agent-grant+jwt"}"#.into(), "token_malformed"),
        (r#"{"alg":"EdDSA","kid":"k9","typ":"agent-grant+jwt"}"#.into(), "token_key_unknown"),
        (
            r#"{"alg":"EdDSA","kid":"k1","typ":"agent-grant+jwt","jwk":{}}"#.into(),
            "token_malformed",
        ),
        (
            r#"{"alg":"EdDSA","kid":"k1","typ":"agent-grant+jwt","jku":"x"}"#.into(),
            "token_malformed",
        ),
        (
            r#"{"alg":"EdDSA","kid":"k1","typ":"agent-grant+jwt","crit":[]}"#.into(),
            "token_malformed",
        ),
    ] {
        assert_eq!(word(&stage.verify(&with_header(&stage, &header))), expected, "{header}");
    }
    for (text, expected) in [
        (String::new(), "token_malformed"),
        ("a.b.c".into(), "token_malformed"),
        ("x".repeat((16 << 10) + 1), "token_too_large"),
    ] {
        assert_eq!(word(&stage.verify(&text)), expected);
    }
    let twice = claims().to_string().replacen('{', "{\"sub\":\"eve@example.com\",", 1);
    let twice = Compact::sign(twice.as_bytes(), &stage.key, TYPE).unwrap();
    assert_eq!(word(&stage.verify(&twice)), "token_malformed");
}

#[test]
fn a_key_speaks_for_its_own_issuer_only() {
    let (one, other) = (ed25519("k1"), ed25519("k1"));
    let issuers = |a: &SigningKey, b: &SigningKey| {
        Issuers::new(vec![issuer("https://issuer.example", a), issuer("https://other.example", b)])
            .unwrap()
    };
    // Two issuers call two keys the same: each speaks for the one that has it.
    let mut stage = Stage::with_key(other);
    stage.issuers = issuers(&one, &stage.key);
    assert_eq!(word(&stage.judge(&claims())), "token_issuer_unknown");
    let own = changed(|claims| claims["iss"] = json!("https://other.example"));
    assert_eq!(&*stage.judge(&own).unwrap().issuer, "https://other.example");
    // Two issuers share one key.
    stage.issuers = issuers(&stage.key, &stage.key);
    assert_eq!(&*stage.judge(&claims()).unwrap().issuer, "https://issuer.example");
    assert_eq!(&*stage.judge(&own).unwrap().issuer, "https://other.example");
}

#[test]
fn documentation_names_every_word_and_what_to_do() {
    let page = include_str!("../../../../../docs/tokens.md");
    let text = String::new;
    for refusal in [
        TokenRefusal::Malformed(text()),
        TokenRefusal::TooLarge { length: 0, limit: 0 },
        TokenRefusal::WrongType,
        TokenRefusal::Algorithm(text()),
        TokenRefusal::KeyUnknown("k".parse().unwrap()),
        TokenRefusal::BadSignature("k".parse().unwrap()),
        TokenRefusal::IssuerUnknown(text()),
        TokenRefusal::WrongAudience,
        TokenRefusal::Expired,
        TokenRefusal::NotYetValid,
        TokenRefusal::IssuedInFuture,
        TokenRefusal::Lifetime { lifetime: SKEW, ceiling: SKEW },
        TokenRefusal::Replayed(text()),
        TokenRefusal::AgentUnknown(text()),
        TokenRefusal::AgentNotAllowed { agent: text(), issuer: text() },
        TokenRefusal::ToolUnknown(text()),
        TokenRefusal::ToolNotAllowed { tool: text(), by: text() },
        TokenRefusal::Location(text()),
        TokenRefusal::ManifestMismatch,
        TokenRefusal::ParentUnknown(text()),
        TokenRefusal::ParentNotLive(text()),
        TokenRefusal::ExceedsParent(ExceededLimit::Scope),
        TokenRefusal::MustAttenuate,
    ] {
        let row = page.lines().find(|row| row.starts_with(&format!("| `{}` |", refusal.word())));
        let row = row.unwrap_or_else(|| panic!("docs/tokens.md lacks `{}`", refusal.word()));
        assert!(row.contains(&format!("| {} |", refusal.remedy())), "{row}");
    }
}

mod attenuation;
mod form;
mod properties;
