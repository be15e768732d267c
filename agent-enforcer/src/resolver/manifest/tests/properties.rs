//! Whatever a manifest says: it is signed to the last byte, and written again it is the same.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_byte_of_a_signed_manifest_can_be_changed(place in any::<prop::sample::Index>(), to in any::<u8>(), es256 in any::<bool>()) {
        let key = if es256 { p256("a") } else { ed25519("a") };
        let manifest = signed(&document(), &[&key]);
        // Without spaces: those between members mean nothing, whatever they are.
        let mut text = serde_json::to_vec(manifest.manifest().document()).unwrap();
        let place = place.index(text.len());
        prop_assume!(text[place] != to);
        let keys = set(&[&key]);
        SignedManifest::parse(&text).unwrap().verify(trust(&keys)).unwrap();
        text[place] = to;
        if let Ok(changed) = SignedManifest::parse(&text) {
            changed.verify(trust(&keys)).map(drop).unwrap_err();
        }
    }

    #[test]
    fn every_text_ends_in_a_manifest_or_a_refusal(text in any::<Vec<u8>>(), cut in any::<prop::sample::Index>()) {
        let _ = Manifest::parse(&text);
        let sound = document().to_string();
        let cut = cut.index(sound.len());
        Manifest::parse(&sound.as_bytes()[..cut]).map(drop).unwrap_err();
    }
}

/// Empties and removes members at random; most of what comes of it is still sound.
fn any_document() -> impl Strategy<Value = Value> {
    let parts = vec![
        "/environment",
        "/model",
        "/tools",
        "/selectors",
        "/software",
        "/software/1/sha256",
        "/software/1/fsverity",
        "/owner",
        "/signatures",
    ];
    prop::collection::vec((prop::sample::select(parts), 0..3_u8), 0..6).prop_map(|changes| {
        changed(|document| {
            for (pointer, change) in changes {
                let (parent, member) = pointer.rsplit_once('/').unwrap();
                let Some(Value::Object(members)) = document.pointer_mut(parent) else { continue };
                match change {
                    0 => {
                        members.remove(member);
                    }
                    1 => {
                        members.insert(member.to_owned(), json!([]));
                    }
                    _ => {
                        members.insert(member.to_owned(), json!("\u{e9} / \\ \u{1f600}"));
                    }
                }
            }
        })
    })
}

proptest! {
    #[test]
    fn a_manifest_that_is_written_again_is_the_same(document in any_document()) {
        let Ok(manifest) = Manifest::parse(document.to_string().as_bytes()) else { return Ok(()) };
        let again = Manifest::parse(manifest.to_json().unwrap().as_bytes()).unwrap();
        prop_assert_eq!(again.document(), manifest.document());
        prop_assert_eq!(again.digest(), manifest.digest());
    }
}
