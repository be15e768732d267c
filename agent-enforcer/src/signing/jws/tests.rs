use super::*;
use crate::signing::{
    SigningKey, base64url,
    testing::{ed25519, p256},
};

const LIMIT: usize = 1000;

/// A compact text with any header, signed all the same.
fn signed(header: &str, key: &SigningKey) -> String {
    let input =
        format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(b"payload"));
    let signature = key.sign(input.as_bytes()).unwrap();
    format!("{input}.{signature}")
}

fn refusal(text: &str, key: &PublicKey) -> JwsError {
    Compact::parse(text, LIMIT).and_then(|jws| jws.verify(key).map(drop)).unwrap_err()
}

#[test]
fn what_was_signed_comes_out_again() {
    for key in [ed25519("a"), p256("a")] {
        let text = Compact::sign(b"payload", &key, "x+jwt").unwrap();
        let jws = Compact::parse(&text, LIMIT).unwrap();
        assert_eq!(jws.verify(key.public()).unwrap(), b"payload");
        assert_eq!(jws.header().kid().as_str(), "a");
        assert!(jws.header().is_type("X+JWT") && !jws.header().is_type("x"));
        let detached = Detached::sign(b"payload", &key).unwrap();
        detached.verify(b"payload", key.public()).unwrap();
        assert!(detached.verify(b"Payload", key.public()).is_err());
    }
}

#[test]
fn no_header_chooses_its_key_or_algorithm() {
    let (ed, ec) = (ed25519("a"), p256("a"));
    let header = |more: &str| format!(r#"{{"alg":"EdDSA","kid":"a"{more}}}"#);
    for (header, expected) in [
        (header(r#","crit":["exp"]"#), JwsError::Forbidden("crit")),
        (header(r#","crit":[]"#), JwsError::Forbidden("crit")),
        (header(r#","b64":false"#), JwsError::Forbidden("b64")),
        (
            header(r#","jku":"https://192.0.2.1/"#),
            JwsError::Header(JsonError {
                path: "$.jku".into(),
                line: 1,
                column: 51,
                problem: "EOF while parsing a string".into(),
            }),
        ),
        (header(r#","jku":"https://192.0.2.1/""#), JwsError::Forbidden("jku")),
        (header(r#","jwk":{"kty":"OKP"}"#), JwsError::Forbidden("jwk")),
        (header(r#","x5u":"https://192.0.2.1/""#), JwsError::Forbidden("x5u")),
        (header(r#","x5c":["MII="]"#), JwsError::Forbidden("x5c")),
        (header(r#","typ":7"#), JwsError::MissingMember("typ")),
        (r#"{"alg":"none","kid":"a"}"#.into(), JwsError::UnknownAlgorithm),
        (r#"{"alg":"None","kid":"a"}"#.into(), JwsError::UnknownAlgorithm),
        (r#"{"alg":"eddsa","kid":"a"}"#.into(), JwsError::UnknownAlgorithm),
        (r#"{"alg":"HS256","kid":"a"}"#.into(), JwsError::UnknownAlgorithm),
        (r#"{"alg":"RS256","kid":"a"}"#.into(), JwsError::UnknownAlgorithm),
        (r#"{"alg":"ES384","kid":"a"}"#.into(), JwsError::UnknownAlgorithm),
        (r#"{"alg":["EdDSA"],"kid":"a"}"#.into(), JwsError::MissingMember("alg")),
        (r#"{"kid":"a"}"#.into(), JwsError::MissingMember("alg")),
        (r#"["EdDSA"]"#.into(), JwsError::MissingMember("alg")),
        (r#"{"alg":"EdDSA"}"#.into(), JwsError::MissingMember("kid")),
        (r#"{"alg":"EdDSA","kid":""}"#.into(), JwsError::BadKeyId),
        (r#"{"alg":"EdDSA","kid":"b"}"#.into(), JwsError::BadSignature("a".parse().unwrap())),
        (
            r#"{"alg":"ES256","kid":"a"}"#.into(),
            JwsError::OtherAlgorithm {
                header: Algorithm::Es256,
                key: Algorithm::EdDsa,
                kid: "a".parse().unwrap(),
            },
        ),
    ] {
        assert_eq!(refusal(&signed(&header, &ed), ed.public()), expected, "{header}");
    }
    // The pinned key is for ES256: a signature by Ed25519 can't make it one for EdDSA.
    let text = signed(r#"{"alg":"EdDSA","kid":"a"}"#, &ed);
    assert!(matches!(refusal(&text, ec.public()), JwsError::OtherAlgorithm { .. }));
    let twice = signed(r#"{"alg":"EdDSA","kid":"a","kid":"a"}"#, &ed);
    assert!(matches!(refusal(&twice, ed.public()), JwsError::Header(_)));
    let harmless = signed(r#"{"alg":"EdDSA","kid":"a","x5t":"AAAA","cty":"JWT"}"#, &ed);
    Compact::parse(&harmless, LIMIT).unwrap().verify(ed.public()).unwrap();
}

#[test]
fn forms_that_are_none_are_refused() {
    let key = ed25519("a");
    let text = Compact::sign(b"payload", &key, "x").unwrap();
    let [header, payload, signature] = text.split('.').collect::<Vec<_>>()[..] else { panic!() };
    for (text, expected) in [
        (String::new(), JwsError::Parts),
        ("a.b".to_owned(), JwsError::Parts),
        (format!("{text}."), JwsError::Parts),
        (format!("{text}.{signature}"), JwsError::Parts),
        (format!("{header}=.{payload}.{signature}"), JwsError::Base64("header")),
        (format!("{header}.{payload}=.{signature}"), JwsError::Base64("payload")),
        (format!("{header}.{payload} .{signature}"), JwsError::Base64("payload")),
        (format!("{header}.{payload}.{signature}=="), JwsError::Base64("signature")),
        (format!("{header}.{payload}.{signature}\n"), JwsError::Base64("signature")),
        (format!("{header}.{payload}."), JwsError::BadSignature("a".parse().unwrap())),
        (format!("{header}..{signature}"), JwsError::BadSignature("a".parse().unwrap())),
        ("x".repeat(LIMIT + 1), JwsError::TooLarge { length: LIMIT + 1, limit: LIMIT }),
    ] {
        assert_eq!(refusal(&text, key.public()), expected, "{text}");
    }
    let long = format!("{}.{payload}.{signature}", "A".repeat(6000));
    assert!(matches!(Compact::parse(&long, 10_000), Err(JwsError::TooLarge { .. })));
}

#[test]
fn a_detached_signature_is_of_its_own_type() {
    let key = ed25519("a");
    let form = |protected: &str, header: &str| {
        let protected = base64url::encode(protected.as_bytes());
        let input = format!("{protected}.{}", base64url::encode(b"payload"));
        let signature = key.sign(input.as_bytes()).unwrap();
        let header = serde_json::from_str(header).unwrap();
        Detached::parse(DetachedForm { protected, signature, header })
    };
    let sound = r#"{"alg":"EdDSA","kid":"a"}"#;
    for header in ["null", "{}", r#"{"note":"x"}"#] {
        form(sound, header).unwrap().verify(b"payload", key.public()).unwrap();
    }
    for name in ["crit", "b64", "jku", "jwk", "x5u", "x5c", "alg", "kid", "typ"] {
        let header = format!(r#"{{"{name}":"x"}}"#);
        assert_eq!(form(sound, &header), Err(JwsError::Forbidden(name)));
    }
    form(r#"{"alg":"EdDSA","kid":"a","typ":"jose"}"#, "null").unwrap();
    let token = r#"{"alg":"EdDSA","kid":"a","typ":"agent-grant+jwt"}"#;
    assert_eq!(form(token, "null"), Err(JwsError::Forbidden("typ")));
    let unknown = r#"{"protected":"","signature":"","payload":""}"#;
    serde_json::from_str::<DetachedForm>(unknown).unwrap_err();
}

proptest::proptest! {
    #[test]
    fn no_text_is_more_than_refused(text in "[A-Za-z0-9_.=-]{0,100}") {
        let key = ed25519("a");
        proptest::prop_assert!(
            Compact::parse(&text, LIMIT).and_then(|jws| jws.verify(key.public()).map(drop)).is_err()
        );
    }
}
