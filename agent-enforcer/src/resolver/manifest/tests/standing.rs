//! Whom a manifest is believed from, and when it counts.

use super::*;

#[test]
fn only_trusted_keys_count_and_a_bad_signature_of_one_refuses_all() {
    let (good, other) = (ed25519("good"), p256("other"));
    let manifest = signed(&document(), &[&good, &other]);
    let refusal = |keys: &KeySet| manifest.verify(trust(keys)).map(drop).unwrap_err();
    assert_eq!(refusal(&KeySet::default()), ManifestRefusal::UnknownSigner);
    assert_eq!(refusal(&set(&[&ed25519("third")])), ManifestRefusal::UnknownSigner);
    // Another key under a known name, also one of another kind, is no unknown signer.
    for impostor in [ed25519("other"), p256("other")] {
        let refused = refusal(&set(&[&good, &impostor]));
        assert!(matches!(refused, ManifestRefusal::BadSignature { .. }), "{refused}");
        assert_eq!(refused.word(), "manifest_untrusted");
    }
    // A key that may sign for another agent only.
    let elsewhere = changed(|document| document["agent_id"] = json!("spiffe://example.org/other"));
    let keys = set(&[&good]);
    let refused = signed(&elsewhere, &[&good]).verify(trust(&keys)).map(drop).unwrap_err();
    assert_eq!(refused, ManifestRefusal::UnknownSigner);
}

#[test]
fn each_way_not_to_count_has_its_word() {
    let key = ed25519("a");
    let keys = set(&[&key]);
    let judge = |document: &Value, now: &str, known: Option<KnownVersion>| {
        let manifest = signed(document, &[&key]);
        manifest.verify(trust(&keys)).unwrap().judge(at(now), known)
    };
    let lifecycle = |word: &str| changed(|document| document["lifecycle"] = json!(word));
    for (document, now, expected) in [
        (document(), "2030-01-31T11:55:00Z", Ok(())),
        (document(), "2030-01-31T11:54:59Z", Err("manifest_not_yet_valid")),
        (document(), "2030-04-30T10:59:59Z", Ok(())),
        (document(), "2030-04-30T11:00:00Z", Err("manifest_expired")),
        (lifecycle("suspended"), "2030-02-01T12:00:00Z", Err("manifest_suspended")),
        (lifecycle("revoked"), "2030-02-01T12:00:00Z", Err("manifest_revoked")),
        (lifecycle("revoked"), "2031-02-01T12:00:00Z", Err("manifest_revoked")),
    ] {
        let judgement = judge(&document, now, None);
        let word = judgement.standing.as_ref().map_err(ManifestRefusal::word);
        assert_eq!(word, expected.as_ref().copied().map(|()| &()).map_err(|word| *word), "{now}");
        // What has not begun is not remembered: it would lock out the one in force.
        assert_eq!(judgement.known.is_none(), word == Err("manifest_not_yet_valid"));
        if let Err(refusal) = judgement.standing {
            assert!(!refusal.remedy().is_empty() && !refusal.to_string().is_empty());
        }
    }
}

#[test]
fn an_older_version_does_not_come_back() {
    let key = ed25519("a");
    let keys = set(&[&key]);
    let judge = |version: u64, change: &str, known: Option<KnownVersion>| {
        let document = changed(|document| {
            document["version"] = json!(version);
            document["purpose"] = json!(change);
            let lifecycle = if change == "gone" { "revoked" } else { "active" };
            document["lifecycle"] = json!(lifecycle);
        });
        let manifest = signed(&document, &[&key]);
        manifest.verify(trust(&keys)).unwrap().judge(noon(), known)
    };
    let word = |judgement: &Judgement| judgement.standing.as_ref().err().map(ManifestRefusal::word);
    let first = judge(3, "a", None);
    assert_eq!(word(&first), None);
    // The same again, and a newer one, count; an older one and another of the same version don't.
    assert_eq!(judge(3, "a", first.known), first);
    for (version, change) in [(2, "a"), (1, "b"), (3, "b")] {
        let back = judge(version, change, first.known);
        assert_eq!((word(&back), back.known), (Some("manifest_rolled_back"), first.known));
    }
    let second = judge(5, "b", first.known);
    assert_eq!((word(&second), second.known.unwrap().version), (None, 5));
    // A revocation is remembered, so that the version before it does not come back.
    let revoked = judge(6, "gone", second.known);
    assert_eq!((word(&revoked), revoked.known.unwrap().version), (Some("manifest_revoked"), 6));
    assert_eq!(word(&judge(5, "b", revoked.known)), Some("manifest_rolled_back"));
}
