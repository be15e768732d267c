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

fn child(change: impl FnOnce(&mut Value)) -> Value {
    changed(|claims| {
        claims["parent_jti"] = json!("parent");
        change(claims);
    })
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
fn claims_that_are_not_understood_are_refused() {
    let stage = Stage::new();
    let refused = |claim: &str, value: Value| {
        let outcome = stage.judge(&changed(|claims| claims[claim] = value));
        let Err(TokenRefusal::Malformed(problem)) = outcome else { panic!("{claim}: {outcome:?}") };
        problem
    };
    for (claim, value, expected) in [
        ("scope", json!("all"), "$.scope (line 1"),
        ("cnf", json!({}), "member `cnf` is not known"),
        ("iss", json!(""), "$.iss (line 1"),
        ("sub", json!(" "), "the text is empty"),
        ("sub", json!("a\u{202e}b"), "control, direction or invisible"),
        ("sub", json!("x".repeat(513)), "more than 512 bytes"),
        ("sub", Value::Null, "$.sub (line 1"),
        ("act", json!("coder"), "$.act (line 1"),
        ("act", json!({ "sub": "coder", "iss": "x" }), "$.act.iss (line 1"),
        ("aud", json!([]), "1 to 16 hosts"),
        ("aud", json!(["host-7", 7]), "$.aud[1] (line 1"),
        ("aud", json!(vec!["host-7"; 17]), "1 to 16 hosts"),
        ("jti", json!(""), "$.jti (line 1"),
        ("jti", json!("a b"), "$.jti (line 1"),
        ("jti", json!("x".repeat(129)), "$.jti (line 1"),
        ("txn", json!("\u{e9}"), "$.txn (line 1"),
        ("iat", json!("1900000000"), "whole seconds from 1970 to 9999"),
        ("iat", json!(1_900_000_000.5), "whole seconds"),
        ("exp", json!(-1), "whole seconds"),
        ("exp", json!(253_402_300_800_u64), "whole seconds"),
        ("exp", json!(1e300), "beyond 2^53 - 1"),
        ("nbf", Value::Null, "$.nbf (line 1"),
        ("max_uses", json!(0), "$.max_uses (line 1"),
        ("max_uses", json!(1_u64 << 32), "$.max_uses (line 1"),
        ("max_uses", json!("1"), "$.max_uses (line 1"),
        ("manifest_sha256", json!("AB"), "$.manifest_sha256 (line 1"),
        ("parent_jti", json!(7), "$.parent_jti (line 1"),
        ("instance", json!("i-0"), "$.instance (line 1"),
        ("instance", json!("i-001A"), "$.instance (line 1"),
        ("task", json!("a\nb"), "$.task (line 1"),
        ("reason", json!("x".repeat(513)), "$.reason (line 1"),
        ("authorization_details", json!([]), "1 to 16 entries are needed; there are 0"),
        ("authorization_details", json!(vec![tools(&["mail"]); 17]), "there are 17"),
    ] {
        let problem = refused(claim, value);
        assert!(problem.contains(expected), "{claim}: {problem}");
    }
    for claim in ["iss", "sub", "act", "aud", "jti", "iat", "exp", "authorization_details"] {
        let token = changed(|claims| {
            claims.as_object_mut().unwrap().remove(claim);
        });
        assert_eq!(word(&stage.judge(&token)), "token_malformed", "{claim}");
    }
    // Whole floats are dates too (RFC 7519 section 2).
    let floats = claims().to_string().replace("1900000600", "1900000600.0");
    let token = Compact::sign(floats.as_bytes(), &stage.key, TYPE).unwrap();
    assert_eq!(stage.verify(&token).unwrap().expires, moment(NOW + 600));
}

#[test]
fn entries_that_are_not_understood_are_refused() {
    let stage = Stage::new();
    for (entry, expected) in [
        (
            json!({ "type": "payment", "tools": ["mail"], "actions": ["connect"] }),
            "unknown variant",
        ),
        (json!({ "tools": ["mail"], "actions": ["connect"] }), "member `type` is missing"),
        (json!({ "type": "network_egress", "tools": ["mail"] }), "member `actions` is missing"),
        (
            json!({ "type": "network_egress", "tools": ["mail"], "actions": [] }),
            "`actions` is empty",
        ),
        (
            json!({ "type": "network_egress", "tools": ["mail"], "actions": ["bind"] }),
            "unknown variant",
        ),
        (
            json!({ "type": "network_egress", "tools": ["mail"], "actions": ["connect", "connect"] }),
            "stands twice",
        ),
        (json!({ "type": "network_egress", "actions": ["connect"] }), "`tools` or `locations`"),
        (
            json!({ "type": "network_egress", "tools": ["mail"], "locations": ["192.0.2.25"], "actions": ["connect"] }),
            "`tools` or `locations`",
        ),
        (tools(&["Mail"]), ".tools[0] (line 1"),
        (tools(&["mail", "mail"]), "stands twice"),
        (locations(&["192.0.2.25", "192.0.2.25"]), "stands twice"),
        (
            json!({ "type": "network_egress", "tools": ["mail"], "actions": ["connect"], "privileges": [] }),
            ".privileges (line 1",
        ),
    ] {
        let outcome = stage.judge(&details(&[entry]));
        let Err(TokenRefusal::Malformed(problem)) = outcome else { panic!("{outcome:?}") };
        assert!(problem.contains(expected), "{problem}");
    }
    let many: Vec<String> = (0..257).map(|number| format!("t{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let outcome = stage.judge(&details(&[tools(&many)]));
    assert_eq!(word(&outcome), "token_malformed");
}

#[test]
fn chains_of_actors_end() {
    let chain = |length: usize| {
        (1..length)
            .fold(json!({ "sub": "coder" }), |inner, _| json!({ "sub": "coder", "act": inner }))
    };
    let stage = Stage::new();
    for (length, expected) in [(8, "ok"), (9, "token_malformed"), (40, "token_malformed")] {
        let outcome = stage.judge(&changed(|claims| claims["act"] = chain(length)));
        assert_eq!(word(&outcome), expected, "{length}");
    }
    // The outermost acts; whoever acted before permits nothing.
    let outcome = stage.judge(&changed(|claims| {
        claims["act"] = json!({ "sub": "stranger", "act": { "sub": "coder" } });
    }));
    assert_eq!(word(&outcome), "token_agent_unknown");
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
fn a_child_stays_within_its_parent() {
    let mut stage = Stage::new();
    stage.world.parents.insert("parent".into(), parent());
    let entry = |tool: &str, actions: &[&str]| json!({ "type": "network_egress", "tools": [tool], "actions": actions });
    let with =
        |entries: Vec<Value>| child(|claims| claims["authorization_details"] = json!(entries));
    for (token, expected) in [
        (child(|_| ()), None),
        (child(|claims| claims["exp"] = json!(NOW + 700)), None),
        (child(|claims| claims["exp"] = json!(NOW + 701)), Some(ExceededLimit::Expiry)),
        (child(|claims| claims["sub"] = json!("eve@example.com")), Some(ExceededLimit::Principal)),
        (child(|claims| claims["max_uses"] = json!(1)), None),
        (child(|claims| claims["instance"] = json!("i-5")), None),
        (with(vec![entry("mail", &["connect"])]), Some(ExceededLimit::Scope)),
        (with(vec![entry("code-host", &["connect", "listen"])]), Some(ExceededLimit::Scope)),
        (
            with(vec![entry("code-host", &["connect"]), entry("mail", &["connect"])]),
            Some(ExceededLimit::Scope),
        ),
        (with(vec![locations(&["198.51.100.7:443/tcp"])]), None),
        (with(vec![locations(&["192.0.2.25:25-100/tcp"])]), None),
        (with(vec![locations(&["192.0.2.25:30/tcp"])]), None),
        (with(vec![locations(&["192.0.2.25:25-101/tcp"])]), Some(ExceededLimit::Scope)),
        (with(vec![locations(&["192.0.2.25"])]), Some(ExceededLimit::Scope)),
        (with(vec![locations(&["[2001:db8::25]:25"])]), Some(ExceededLimit::Scope)),
    ] {
        let outcome = stage.judge(&token);
        let exceeded = match &outcome {
            Ok(_) => None,
            Err(TokenRefusal::ExceedsParent(limit)) => Some(*limit),
            Err(other) => panic!("{token}: {other}"),
        };
        assert_eq!(exceeded, expected, "{token}");
    }
    let mut other = parent();
    other.agent = "idle".into();
    stage.world.parents.insert("parent".into(), other);
    assert_eq!(stage.judge(&child(|_| ())), Err(TokenRefusal::ExceedsParent(ExceededLimit::Agent)));
}

#[test]
fn a_child_begins_with_its_parent_and_takes_of_its_uses_and_instance() {
    let mut stage = Stage::new();
    let mut judge = |change: &dyn Fn(&mut ParentGrant), token: &Value| {
        let mut parent = parent();
        change(&mut parent);
        stage.world.parents.insert("parent".into(), parent);
        stage.judge(token)
    };
    let uses = |uses: u32| child(|claims| claims["max_uses"] = json!(uses));
    let later = judge(&|parent| parent.not_before = moment(NOW + 40), &child(|_| ())).unwrap();
    assert_eq!(later.not_before, moment(NOW + 40));
    for (left, token, expected) in [
        (Some(3), uses(3), "ok"),
        (Some(3), uses(4), "token_exceeds_parent"),
        (Some(3), child(|_| ()), "token_exceeds_parent"),
        (Some(0), uses(1), "token_exceeds_parent"),
        (None, uses(9), "ok"),
    ] {
        let outcome = judge(&|parent| parent.uses_left = left, &token);
        assert_eq!(word(&outcome), expected, "{left:?} {token}");
    }
    let here = |parent: &mut ParentGrant| parent.instance = Some(InstanceId::new(5));
    let instance = |id: &str| child(|claims| claims["instance"] = json!(id));
    for (token, expected) in [
        (instance("i-5"), "ok"),
        (instance("i-6"), "token_exceeds_parent"),
        (child(|_| ()), "token_exceeds_parent"),
    ] {
        assert_eq!(word(&judge(&here, &token)), expected, "{token}");
    }
    let revoked = judge(&|parent| parent.is_live = false, &child(|_| ()));
    assert_eq!(word(&revoked), "token_parent_not_live");
    let over = judge(&|parent| parent.expires = moment(NOW), &child(|_| ()));
    assert_eq!(word(&over), "token_parent_not_live");
}

#[test]
fn an_issuer_that_must_attenuate_issues_nothing_of_its_own() {
    let mut stage = Stage::new();
    stage.world.parents.insert("parent".into(), parent());
    let mut issuer = issuer("https://issuer.example", &stage.key);
    issuer.must_attenuate = true;
    stage.issuers = Issuers::new(vec![issuer]).unwrap();
    assert_eq!(word(&stage.judge(&claims())), "token_must_attenuate");
    assert_eq!(word(&stage.judge(&child(|_| ()))), "ok");
}

#[test]
fn what_is_signed_here_holds_here() {
    let stage = Stage::new();
    let typed: TokenClaims = serde_json::from_value(claims()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), claims());
    let token = sign_token(&typed, &stage.key).unwrap();
    assert_eq!(&*stage.verify(&token).unwrap().agent, "coder");
    let empty = TokenClaims { authorization_details: Vec::new(), ..typed.clone() };
    assert!(matches!(sign_token(&empty, &stage.key), Err(SignTokenError::Refused(_))));
    let mut long = typed;
    let texts: Vec<LocationText> = (0..250)
        .map(|number| format!("[2001:db8::{number:x}]:10000-20000/tcp").parse().unwrap())
        .collect();
    let entry: Detail = serde_json::from_value(locations(&["192.0.2.25"])).unwrap();
    long.authorization_details = vec![Detail { locations: texts, ..entry }; 4];
    let refused = sign_token(&long, &stage.key).unwrap_err().to_string();
    assert!(refused.contains("more than 16384"), "{refused}");
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

mod properties;
