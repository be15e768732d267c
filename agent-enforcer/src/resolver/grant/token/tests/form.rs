//! What a token may say at all.

use super::*;

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
