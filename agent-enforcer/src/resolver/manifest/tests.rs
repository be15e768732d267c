use std::time::SystemTime;

use serde_json::json;

use super::{
    testing::{changed, document, signed},
    *,
};
use crate::{
    rfc3339,
    signing::{
        Algorithm, KeySet,
        testing::{ed25519, key, p256},
    },
};

fn refusal(document: &Value) -> String {
    Manifest::parse(document.to_string().as_bytes()).map(drop).unwrap_err().to_string()
}

fn at(text: &str) -> SystemTime {
    rfc3339::parse(text).unwrap()
}

fn noon() -> SystemTime {
    at("2030-02-01T12:00:00Z")
}

/// Trusts keys for the agent of the test document.
fn trust<'key>(keys: &'key KeySet) -> impl Fn(&str, &SpiffeId) -> Option<&'key PublicKey> {
    |kid, agent| keys.get(kid).filter(|_| agent.as_str() == "spiffe://example.org/agent/coder")
}

fn set(keys: &[&SigningKey]) -> KeySet {
    KeySet::new(keys.iter().map(|key| key.public().clone())).unwrap()
}

#[test]
fn a_sound_manifest_is_read_signed_and_verified() {
    for algorithm in Algorithm::ALL {
        let (one, other) = (key(algorithm, "one"), ed25519("other"));
        let manifest = signed(&document(), &[&one, &other]);
        let keys = set(&[&one]);
        let verified = manifest.verify(trust(&keys)).unwrap();
        assert_eq!(verified.signers(), [one.public().kid().clone()]);
        let judgement = verified.judge(noon(), None);
        assert_eq!(judgement.standing, Ok(()));
        let known = KnownVersion { version: 3, digest: manifest.manifest().digest() };
        assert_eq!(judgement.known, Some(known));
        assert_eq!(&*verified.manifest().document().name, "coding-agent");
    }
}

#[test]
fn the_digest_is_of_the_content_however_it_is_written_and_whoever_signs() {
    let plain = Manifest::parse(document().to_string().as_bytes()).unwrap();
    let signed = signed(&document(), &[&ed25519("a"), &p256("b")]);
    assert_eq!(signed.manifest().digest(), plain.digest());
    let pretty = serde_json::to_string_pretty(&document()).unwrap();
    let escaped = pretty.replace('\u{fc}', "\\u00fc");
    assert_ne!(pretty, escaped);
    assert_eq!(Manifest::parse(escaped.as_bytes()).unwrap().digest(), plain.digest());
    let other = changed(|document| document["version"] = json!(4));
    assert_ne!(Manifest::parse(other.to_string().as_bytes()).unwrap().digest(), plain.digest());
}

#[test]
fn software_is_found_by_its_digests() {
    let manifest = Manifest::parse(document().to_string().as_bytes()).unwrap();
    let software = manifest.software();
    let digest = |byte| Sha256Digest([byte; 32]);
    let name = |found: Option<&Software>| found.map(|found| found.name.to_string());
    assert_eq!(name(software.with_sha256(&digest(0x11))).as_deref(), Some("coder"));
    assert_eq!(name(software.with_sha256(&digest(0x22))).as_deref(), Some("python3"));
    assert_eq!(
        name(software.with_fsverity(&FsverityDigest(digest(0x33)))).as_deref(),
        Some("python3")
    );
    assert_eq!(
        name(software.with_fsverity(&FsverityDigest(digest(0x44)))).as_deref(),
        Some("run.py")
    );
    assert_eq!(software.with_sha256(&digest(0x44)), None);
    assert_eq!(software.with_fsverity(&FsverityDigest(digest(0x11))), None);
    assert_eq!(software.with_sha256(&digest(0x11)).unwrap().kind, SoftwareKind::Executable);
    assert_eq!(software.with_sha256(&digest(0x22)).unwrap().language, Some(Language::Python));
}

#[test]
fn what_a_manifest_may_not_say_is_refused_with_its_path() {
    let long = "x".repeat(501);
    let refused =
        |member: &str, value: Value| refusal(&changed(|document| document[member] = value));
    for (member, value, expected) in [
        ("schema", json!("agent-enforcer/manifest/v2"), "$.schema (line 1, column "),
        ("record_id", json!("0f8fad5b-d9cb-469f-a165-70867728950e"), "$.record_id (line 1"),
        ("record_id", json!("urn:uuid:0F8FAD5B-D9CB-469F-A165-70867728950E"), "small letters"),
        ("version", json!(0), "$.version (line 1"),
        ("version", json!(1.5), "$.version (line 1"),
        ("version", json!(1_u64 << 53), "$.version (line 1"),
        ("version", json!("3"), "$.version (line 1"),
        ("agent_id", json!("spiffe://example.org"), "names a trust domain and no workload"),
        ("agent_id", json!("https://example.org/a"), "$.agent_id (line 1"),
        ("name", json!("Coding Agent"), "$.name (line 1"),
        ("owner", json!(""), "$.owner (line 1, column "),
        ("owner", json!("x".repeat(201)), "more than 200 bytes"),
        ("sponsor", json!("a\u{202e}b"), "control, direction or invisible"),
        ("purpose", json!(long), "more than 500 bytes"),
        ("environment", Value::Null, "$.environment (line 1"),
        ("model", json!({ "provider": "p", "name": "n" }), "member `version` is missing"),
        (
            "model",
            json!({ "provider": "p", "name": "n", "version": "1", "x": 1 }),
            "$.model.x (line 1",
        ),
        ("tools", json!(["a", "a"]), "$.tools[1]: this stands twice"),
        ("tools", json!(["A"]), "$.tools[0] (line 1"),
        ("tools", json!(vec!["a"; 257]), "$.tools: there are more than 256"),
        ("selectors", json!([[]]), "$.selectors[0]: a term needs"),
        ("selectors", json!([["a\n"]]), "$.selectors[0][0] (line 1"),
        ("selectors", json!([vec!["a"; 9]]), "$.selectors[0]: there are more than 8"),
        ("selectors", json!(vec![["a"]; 1025]), "$.selectors: there are more than 1024"),
        ("lifecycle", json!("retired"), "unknown variant `retired`, expected one of `active`"),
        ("issued_at", json!("2030-01-31"), "$.issued_at (line 1"),
        (
            "valid_until",
            json!("2030-01-31T12:00:00Z"),
            "$.valid_until: the manifest would end before",
        ),
        ("signature", json!([]), "$.signature (line 1"),
        ("signatures", json!(["x"]), "$.signatures[0] (line 1"),
        ("software", json!({}), "$.software (line 1"),
    ] {
        let error = refused(member, value);
        assert!(error.contains(expected), "{member}: {error}");
    }
    for member in [
        "software",
        "tools",
        "selectors",
        "schema",
        "record_id",
        "version",
        "agent_id",
        "name",
        "owner",
        "sponsor",
        "purpose",
        "lifecycle",
        "issued_at",
        "valid_until",
    ] {
        let error = refusal(&changed(|document| {
            document.as_object_mut().unwrap().remove(member);
        }));
        assert!(error.contains(&format!("member `{member}` is missing")), "{error}");
    }
}

#[test]
fn software_that_could_be_mistaken_is_refused() {
    let digest = "11".repeat(32);
    let fsverity = format!("sha256:{digest}");
    for (software, expected) in [
        (json!({ "name": "a", "kind": "executable" }), "$.software[0]: the software has neither"),
        (json!({ "name": "a", "kind": "interpreter", "sha256": digest }), "needs `language`"),
        (
            json!({ "name": "a", "kind": "script", "sha256": digest, "language": "python" }),
            "`language` is an interpreter's",
        ),
        (json!({ "name": "a", "kind": "library", "sha256": digest }), "$.software[0].kind (line"),
        (json!({ "name": "a", "kind": "script", "sha256": "11" }), "$.software[0].sha256 (line"),
        (
            json!({ "name": "a", "kind": "script", "sha256": digest.to_uppercase().replace('1', "A") }),
            "64 digits",
        ),
        (json!({ "name": "a", "kind": "script", "fsverity": digest }), "$.software[0].fsverity"),
        (
            json!({ "name": "a", "kind": "script", "sha256": digest, "fsverity": null }),
            "invalid type: null",
        ),
        (
            json!({ "name": "a", "kind": "interpreter", "sha256": digest, "language": "lua" }),
            "$.software[0].language (line",
        ),
        (json!({ "name": "a", "kind": "script", "sha512": digest }), "$.software[0].sha512 (line"),
    ] {
        let error = refusal(&changed(|document| document["software"] = json!([software])));
        assert!(error.contains(expected), "{error}");
    }
    let entry =
        |member: &str, digest: &str| json!({ "name": "a", "kind": "script", member: digest });
    for twin in [entry("sha256", &digest), entry("fsverity", &fsverity)] {
        let error = refusal(&changed(|document| document["software"] = json!([twin, twin])));
        assert!(error.contains("$.software[1]: another piece of software"), "{error}");
    }
    let many = json!(vec![entry("sha256", &digest); 1025]);
    let error = refusal(&changed(|document| document["software"] = many));
    assert!(error.contains("$.software: there are more than 1024"), "{error}");
}

#[test]
fn documents_that_readers_could_take_for_different_things_are_refused() {
    let text = document().to_string();
    let twice = text.replacen('{', "{\"version\":3,", 1);
    let inner = text.replace("\"provider\":", "\"name\":\"x\",\"provider\":");
    let deep = text.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(16), "]".repeat(16)), 1);
    for (text, expected) in [
        (twice, "$.version (line 1, column "),
        (inner, "$.model.name (line 1, column "),
        (deep, "nested deeper"),
        (text.clone() + "{}", "trailing characters"),
        (text.clone() + &" ".repeat(256 << 10), "more than 262144"),
        (String::new(), "EOF"),
    ] {
        let error = Manifest::parse(text.as_bytes()).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn signatures_that_can_not_be_read_refuse_the_manifest() {
    let sound = signed(&document(), &[&ed25519("a")]).manifest().document().signatures[0].clone();
    let sound = serde_json::to_value(sound).unwrap();
    let with = |signatures: Value| changed(|document| document["signatures"] = signatures);
    let altered = |member: &str, value: Value| {
        let mut signature = sound.clone();
        signature[member] = value;
        with(json!([signature]))
    };
    for (document, expected) in [
        (with(json!([sound, sound])), "$.signatures[1]: key a signed twice"),
        (with(json!(vec![sound.clone(); 9])), "$.signatures: there are more than 8"),
        (altered("protected", json!("!")), "$.signatures[0]: the header is not base64url"),
        (altered("protected", json!("e30")), "$.signatures[0]: the header has no `alg`"),
        (altered("signature", json!("A")), "$.signatures[0]: the signature is not base64url"),
        (altered("header", json!({ "jwk": {} })), "$.signatures[0]: the header has `jwk`"),
        (altered("header", json!([])), "$.signatures[0].header (line 1"),
        (altered("payload", json!("")), "$.signatures[0].payload (line 1"),
    ] {
        let error = refusal(&document);
        assert!(error.contains(expected), "{error}");
    }
    let unsigned = SignedManifest::parse(document().to_string().as_bytes()).map(drop).unwrap_err();
    assert!(matches!(unsigned, ManifestError::Unsigned), "{unsigned}");
    let unsigned = SignedManifest::parse(with(json!([])).to_string().as_bytes()).map(drop);
    assert!(matches!(unsigned, Err(ManifestError::Unsigned)));
}

#[test]
fn a_signature_is_replaced_and_not_added_when_its_key_signs_again() {
    let (old, new, other) = (ed25519("a"), p256("a"), ed25519("b"));
    let manifest = signed(&document(), &[&old, &other, &new]);
    assert_eq!(manifest.manifest().signatures().len(), 2);
    manifest.verify(trust(&set(&[&new, &other]))).unwrap();
    manifest.verify(trust(&set(&[&old]))).map(drop).unwrap_err();
    let keys: Vec<SigningKey> = (0..8).map(|number| ed25519(&format!("k{number}"))).collect();
    let full = signed(&document(), &keys.iter().collect::<Vec<_>>());
    full.manifest().clone().sign(&keys[0]).unwrap();
    full.manifest().clone().sign(&other).map(drop).unwrap_err();
}

#[test]
fn documentation_names_every_word_and_what_to_do() {
    let page = include_str!("../../../../docs/manifests.md");
    let kid = ed25519("a").public().kid().clone();
    let error = crate::signing::JwsError::BadSignature(kid.clone());
    let known = KnownVersion { version: 1, digest: Sha256Digest([0; 32]) };
    for refusal in [
        ManifestRefusal::UnknownSigner,
        ManifestRefusal::BadSignature { kid, error },
        ManifestRefusal::RolledBack { known },
        ManifestRefusal::NotYetIssued,
        ManifestRefusal::Revoked,
        ManifestRefusal::Suspended,
        ManifestRefusal::Expired,
    ] {
        let row = format!("| {} |", refusal.remedy());
        let row = page.lines().find(|line| line.ends_with(&row));
        let row = row.unwrap_or_else(|| panic!("docs/manifests.md lacks {refusal:?}"));
        assert!(row.starts_with(&format!("| `{}` |", refusal.word())), "{row}");
    }
}

#[test]
fn a_record_id_is_made_of_random_bytes() {
    let id = RecordId::of_random([0xff; 16]).to_string();
    assert_eq!(id, "urn:uuid:ffffffff-ffff-4fff-bfff-ffffffffffff");
    let id = RecordId::of_random([0; 16]).to_string();
    assert_eq!(id, "urn:uuid:00000000-0000-4000-8000-000000000000");
    id.parse::<RecordId>().unwrap();
}

mod properties;
mod standing;
