use super::*;
use crate::signing::testing::{ed25519, p256};

/// RFC 8037 appendix A.2 and RFC 7515 appendix A.3, with names.
const ED25519: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}"#;
const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"b"}"#;

fn key(json: &str) -> PublicKey {
    serde_json::from_str(json).unwrap()
}

#[test]
fn keys_of_the_standards_are_read_and_written() {
    for (json, algorithm, more) in [
        (ED25519, Algorithm::EdDsa, r#","alg":"EdDSA","use":"sig"}"#),
        (P256, Algorithm::Es256, r#","alg":"ES256","use":"sig"}"#),
    ] {
        let key = key(json);
        assert_eq!(key.algorithm(), algorithm);
        let written = serde_json::to_string(&key).unwrap();
        assert_eq!(written, json.strip_suffix('}').unwrap().to_owned() + more);
        assert_eq!(serde_json::from_str::<PublicKey>(&written).unwrap(), key);
    }
}

#[test]
fn yaml_holds_the_same_keys() {
    let yaml: PublicKey = serde_saphyr::from_str(
        "kty: OKP\ncrv: Ed25519\nx: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\nkid: a\nuse: sig\n",
    )
    .unwrap();
    assert_eq!(yaml, key(ED25519));
    let private = serde_saphyr::from_str::<PublicKey>("kty: OKP\nd: AAAA\n").unwrap_err();
    assert!(private.to_string().contains("private member `d`"), "{private}");
}

#[test]
fn a_thumbprint_names_the_key_whatever_it_is_called() {
    // RFC 8037 appendix A.3.
    assert_eq!(key(ED25519).thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let renamed = key(P256).renamed("other".parse().unwrap());
    assert_eq!(renamed.thumbprint(), key(P256).thumbprint());
    assert_ne!(renamed, key(P256));
}

#[test]
fn what_is_no_public_key_is_refused_by_name() {
    let ed = |from: &str, to: &str| ED25519.replace(from, to);
    let ec = |from: &str, to: &str| P256.replace(from, to);
    let point = |y: &str| ed("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", y);
    for (json, expected) in [
        (ed("}", r#","d":"x"}"#), KeyError::Private("d")),
        (ec("}", r#","k":"x"}"#), KeyError::Private("k")),
        (ed("}", r#","x5c":["x"]}"#), KeyError::UnknownMember("x5c".into())),
        (ed("}", r#","key_ops":["verify"]}"#), KeyError::UnknownMember("key_ops".into())),
        (ed("}", r#","kid":"b"}"#), KeyError::DuplicateMember("kid")),
        (ed("\"crv\":\"Ed25519\",", ""), KeyError::MissingMember("crv")),
        (ed(",\"kid\":\"a\"", ""), KeyError::MissingMember("kid")),
        (ec("\"y\":", "\"use\":"), KeyError::MissingMember("y")),
        (ed("OKP", "EC"), KeyError::UnknownKind),
        (ed("OKP", "oct"), KeyError::UnknownKind),
        (ed("OKP", "RSA"), KeyError::UnknownKind),
        (ed("Ed25519", "Ed448"), KeyError::UnknownKind),
        (ed("Ed25519", "X25519"), KeyError::UnknownKind),
        (ec("P-256", "P-384"), KeyError::UnknownKind),
        (ec("P-256", "secp256k1"), KeyError::UnknownKind),
        (ed("HURo", "HURo="), KeyError::BadCoordinate("x")),
        (ed("HURo", "HURp"), KeyError::BadCoordinate("x")),
        (ed("HURo", "HU"), KeyError::BadCoordinate("x")),
        (ec("5a0", "5a0AAAA"), KeyError::BadCoordinate("y")),
        (ed("}", r#","y":"AAAA"}"#), KeyError::NeedlessY),
        (ec("f83O", "f83P"), KeyError::BadPoint),
        (ec("x_FE", "x_FF"), KeyError::BadPoint),
        (point("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), KeyError::BadPoint),
        (point("AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), KeyError::BadPoint),
        (ed("}", r#","alg":"ES256"}"#), KeyError::OtherAlgorithm("EdDSA")),
        (ed("}", r#","alg":"none"}"#), KeyError::OtherAlgorithm("EdDSA")),
        (ec("}", r#","alg":"HS256"}"#), KeyError::OtherAlgorithm("ES256")),
        (ed("}", r#","use":"enc"}"#), KeyError::OtherUse),
        (ed("\"a\"", "\"\""), KeyError::BadKeyId(KeyIdError)),
        (ed("\"a\"", "\"a b\""), KeyError::BadKeyId(KeyIdError)),
        (ed("\"a\"", "\"\u{e9}\""), KeyError::BadKeyId(KeyIdError)),
        (ed("\"a\"", &format!("\"{}\"", "x".repeat(129))), KeyError::BadKeyId(KeyIdError)),
    ] {
        let error = serde_json::from_str::<PublicKey>(&json).unwrap_err().to_string();
        assert!(error.starts_with(&expected.to_string()), "{json}: {error}");
    }
    for json in ["[]", "\"x\"", "{}", r#"{"kty":7}"#, r#"{"kty":null}"#] {
        serde_json::from_str::<PublicKey>(json).unwrap_err();
    }
}

#[test]
fn a_signature_holds_for_its_message_and_key_only() {
    for signer in [ed25519("a"), p256("a")] {
        let signature = signer.sign(b"message").unwrap();
        let key = signer.public();
        assert!(key.verifies(b"message", &signature));
        assert!(!key.verifies(b"massage", &signature));
        for other in [ed25519("a"), p256("a")] {
            assert!(!other.public().verifies(b"message", &signature));
        }
        let padded = format!("{signature}==");
        for bad in ["", "AAAA", signature.get(1..).unwrap(), padded.as_str()] {
            assert!(!key.verifies(b"message", bad), "{bad}");
        }
    }
}

#[test]
fn the_signature_of_a_standard_holds() {
    // RFC 8037 appendix A.4.
    let signing_input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert!(key(ED25519).verifies(signing_input, signature));
    // RFC 7515 appendix A.3.
    let signing_input = b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature =
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert!(key(P256).verifies(signing_input, signature));
}
