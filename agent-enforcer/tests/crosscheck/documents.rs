//! Keys, manifests and tokens, both ways and for both algorithms.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent_enforcer::{
    resolver::{
        grant::token::{
            DEFAULT_CEILING, Issuer, Issuers, Location, ParentGrant, SKEW, TokenAgent, TokenClaims,
            TokenContext, TokenRefusal, TokenWorld, ToolStanding, VerifiedToken, sign_token,
            verify_token,
        },
        manifest::{Manifest, ManifestRefusal, SignedManifest},
    },
    signing::{Algorithm, KeySet, SigningKey},
};
use agent_enforcer_common::id::InstanceId;
use serde_json::{Value, json};

use crate::other::ask;

const NOW: u64 = 1_900_000_000;

/// Our key of an algorithm, and its file.
fn ours(dir: &Path, algorithm: Algorithm) -> (SigningKey, String) {
    let path = dir.join(format!("ours-{}.pem", algorithm.word()));
    let key = SigningKey::create(&path, algorithm, Some("ours".parse().unwrap())).unwrap();
    (key, fs::read_to_string(path).unwrap())
}

/// Their key of an algorithm, read by us from the file that they wrote.
fn theirs(dir: &Path, algorithm: Algorithm) -> (SigningKey, Value) {
    let answer = ask(&json!({ "ask": "new_key", "algorithm": algorithm.word() }));
    let path = dir.join(format!("theirs-{}.pem", algorithm.word()));
    fs::write(&path, answer["pem"].as_str().unwrap()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    (SigningKey::load(&path, Some("theirs".parse().unwrap())).unwrap(), answer)
}

fn same_point(ours: &SigningKey, theirs: &Value) {
    let jwk = serde_json::to_value(ours.public()).unwrap();
    for member in ["kty", "crv", "x", "y"] {
        assert_eq!(jwk.get(member), theirs["jwk"].get(member), "{member}");
    }
    assert_eq!(Some(ours.public().thumbprint().as_str()), theirs["thumbprint"].as_str());
}

#[test]
#[ignore = "needs the environment that `cargo xtask setup` makes; run with `--ignored`"]
fn key_files_and_thumbprints_are_the_same_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    for algorithm in Algorithm::ALL {
        let (key, pem) = ours(dir.path(), algorithm);
        same_point(&key, &ask(&json!({ "ask": "show_key", "pem": pem })));
        let (key, answer) = theirs(dir.path(), algorithm);
        same_point(&key, &answer);
    }
}

fn manifest() -> Value {
    json!({
        "schema": "agent-enforcer/manifest/v1",
        "record_id": "urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e",
        "version": 9_007_199_254_740_991_u64,
        "agent_id": "spiffe://example.org/agent/coder",
        "name": "coder",
        "owner": "\u{fc}ber \"quoted\" \\ / \u{1f600} \u{fb33}",
        "sponsor": "s",
        "purpose": "p",
        "software": [{ "name": "\u{20ac}", "kind": "executable", "sha256": "11".repeat(32) }],
        "tools": ["git"],
        "selectors": [],
        "lifecycle": "active",
        "issued_at": "2030-01-31T12:00:00Z",
        "valid_until": "2030-04-30T12:00:00+01:00",
    })
}

fn verify(manifest: &Value, key: &SigningKey) -> Result<(), ManifestRefusal> {
    let manifest = SignedManifest::parse(manifest.to_string().as_bytes()).unwrap();
    let keys = KeySet::new([key.public().clone()]).unwrap();
    manifest.verify(|kid, _| keys.get(kid)).map(drop)
}

#[test]
#[ignore = "needs the environment that `cargo xtask setup` makes; run with `--ignored`"]
fn a_manifest_holds_where_it_was_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    for algorithm in Algorithm::ALL {
        let (key, _) = ours(dir.path(), algorithm);
        let signed =
            Manifest::parse(manifest().to_string().as_bytes()).unwrap().sign(&key).unwrap();
        let mut signed: Value =
            serde_json::from_str(&signed.manifest().to_json().unwrap()).unwrap();
        let holds = |manifest: &Value| {
            ask(&json!({ "ask": "verify_manifest", "manifest": manifest, "jwk": key.public() }))
        };
        assert_eq!(holds(&signed), json!({ "holds": true }));
        signed["version"] = json!(1);
        assert_eq!(holds(&signed)["holds"], json!(false));

        let (key, answer) = theirs(dir.path(), algorithm);
        let question = json!({
            "ask": "sign_manifest",
            "manifest": manifest(),
            "pem": answer["pem"],
            "algorithm": algorithm.word(),
            "kid": "theirs",
        });
        let mut signed = ask(&question)["manifest"].take();
        assert_eq!(verify(&signed, &key), Ok(()));
        signed["version"] = json!(1);
        assert_eq!(verify(&signed, &key).unwrap_err().word(), "manifest_untrusted");
    }
}

fn claims() -> Value {
    json!({
        "iss": "broker",
        "sub": "ad\u{e4}@example.com",
        "act": { "sub": "coder" },
        "aud": ["host-7"],
        "jti": "t-1",
        "iat": NOW,
        "exp": NOW + 600,
        "authorization_details": [
            { "type": "network_egress", "tools": ["git"], "actions": ["connect"] },
        ],
        "max_uses": 3,
    })
}

/// A host on which `coder` may use `git`.
struct Host;

impl TokenWorld for Host {
    fn agent(&self, actor: &str) -> Option<TokenAgent> {
        let agent = TokenAgent { name: "coder".into(), ceiling: DEFAULT_CEILING, manifest: None };
        (actor == "coder").then_some(agent)
    }

    fn runs(&self, _: &str, _: InstanceId) -> bool {
        false
    }

    fn tool(&self, _: &str, tool: &str) -> ToolStanding {
        if tool == "git" { ToolStanding::Approved } else { ToolStanding::Unknown }
    }

    fn tool_of(&self, _: &Location) -> Option<Arc<str>> {
        None
    }

    fn was_seen(&self, _: &str) -> bool {
        false
    }

    fn parent(&self, _: &str) -> Option<ParentGrant> {
        None
    }
}

fn judge(token: &str, key: &SigningKey) -> Result<VerifiedToken, TokenRefusal> {
    let issuer = Issuer {
        name: "broker".into(),
        keys: KeySet::new([key.public().clone()]).unwrap(),
        agents: vec!["coder".into()],
        tools: vec!["git".into()],
        must_attenuate: false,
    };
    let issuers = Issuers::new(vec![issuer]).unwrap();
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(NOW);
    let (skew, world) = (SKEW, &Host);
    verify_token(token, &TokenContext { issuers: &issuers, audience: "host-7", now, skew, world })
}

#[test]
#[ignore = "needs the environment that `cargo xtask setup` makes; run with `--ignored`"]
fn a_token_holds_where_it_was_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    for algorithm in Algorithm::ALL {
        let (key, _) = ours(dir.path(), algorithm);
        let typed: TokenClaims = serde_json::from_value(claims()).unwrap();
        let token = sign_token(&typed, &key).unwrap();
        let read = |token: &str| {
            ask(&json!({ "ask": "verify_token", "token": token, "jwk": key.public() }))
        };
        let answer = read(&token);
        assert_eq!(answer["claims"], claims());
        let header = json!({ "alg": algorithm.word(), "kid": "ours", "typ": "agent-grant+jwt" });
        assert_eq!(answer["header"], header);
        let changed = token.replacen(".eyJ", ".eyI", 1);
        assert_eq!(read(&changed)["holds"], json!(false));

        let (key, answer) = theirs(dir.path(), algorithm);
        let question = json!({
            "ask": "sign_token",
            "claims": claims(),
            "pem": answer["pem"],
            "algorithm": algorithm.word(),
            "kid": "theirs",
        });
        let answer = ask(&question);
        let token = answer["token"].as_str().unwrap();
        let verified = judge(token, &key).unwrap();
        assert_eq!((&*verified.principal, verified.max_uses), ("ad\u{e4}@example.com", Some(3)));
        let changed = token.replacen(".eyJ", ".eyI", 1);
        assert_eq!(judge(&changed, &key).unwrap_err().word(), "token_bad_signature");
    }
}
