//! Manifests for tests.

use serde_json::{Value, json};

use super::{Manifest, SignedManifest};
use crate::signing::SigningKey;

/// A sound document without signatures.
pub(crate) fn document() -> Value {
    json!({
        "schema": "agent-enforcer/manifest/v1",
        "record_id": "urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e",
        "version": 3,
        "agent_id": "spiffe://example.org/agent/coder",
        "name": "coding-agent",
        "owner": "platform-team@example.com",
        "sponsor": "ada@example.com",
        "purpose": "works on tickets, \u{fc}berall",
        "environment": "production",
        "model": { "provider": "example", "name": "large", "version": "2030-01" },
        "software": [
            { "name": "coder", "kind": "executable", "sha256": "11".repeat(32) },
            {
                "name": "python3",
                "kind": "interpreter",
                "language": "python",
                "sha256": "22".repeat(32),
                "fsverity": format!("sha256:{}", "33".repeat(32)),
            },
            { "name": "run.py", "kind": "script", "fsverity": format!("sha256:{}", "44".repeat(32)) },
        ],
        "tools": ["code-host", "mail"],
        "selectors": [["unix:uid:2001", "unix:path:/opt/coder/bin/*"], ["systemd:id:coder@*.service"]],
        "lifecycle": "active",
        "issued_at": "2030-01-31T12:00:00Z",
        "valid_until": "2030-04-30T12:00:00+01:00",
    })
}

/// The same, changed.
pub(crate) fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut document = document();
    change(&mut document);
    document
}

/// Signed by keys, one after the other.
pub(crate) fn signed(document: &Value, keys: &[&SigningKey]) -> SignedManifest {
    let mut manifest = Manifest::parse(document.to_string().as_bytes()).unwrap();
    for key in keys {
        let signed = manifest.sign(key).unwrap();
        manifest = signed.manifest().clone();
    }
    SignedManifest::parse(manifest.to_json().unwrap().as_bytes()).unwrap()
}
