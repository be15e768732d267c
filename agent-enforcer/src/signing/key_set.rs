//! Pinned keys, found by their names.
//!
//! In: keys of the policy, or a JSON file that is one key or a JWK Set (RFC 7517 section 5). Out:
//! the one key of a name; no two keys have the same.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{KeyId, PublicKey};
use crate::strict_json::{self, JsonError, Limits};

/// Largest key file.
const LIMITS: Limits = Limits { bytes: 256 << 10, depth: 4 };
/// Most keys of a set.
const KEY_LIMIT: usize = 1024;

/// Keys by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(BTreeMap<KeyId, PublicKey>);

/// Why keys are no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or not keys.
    #[error("{0}")]
    Form(#[from] JsonError),
    /// One name for two keys.
    #[error("two keys are called {0}; give each a `kid` of its own")]
    DuplicateKid(KeyId),
    /// Too many.
    #[error("there are more than {KEY_LIMIT} keys; remove those that sign no more")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    keys: Vec<PublicKey>,
}

impl KeySet {
    /// Of keys with different names.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, KeySetError> {
        let mut set = Self::default();
        for key in keys {
            set.add(key)?;
        }
        Ok(set)
    }

    /// Of a JSON document: a key, or an object whose `keys` are a list of them.
    pub fn from_json(bytes: &[u8]) -> Result<Self, KeySetError> {
        let is_set = strict_json::tree(bytes, LIMITS)?.get("keys").is_some();
        if is_set {
            Self::new(strict_json::decode::<Document>(bytes, LIMITS)?.typed.keys)
        } else {
            Self::new([strict_json::decode::<PublicKey>(bytes, LIMITS)?.typed])
        }
    }

    /// Adds one more.
    pub fn add(&mut self, key: PublicKey) -> Result<(), KeySetError> {
        if self.0.len() >= KEY_LIMIT {
            return Err(KeySetError::TooMany);
        }
        if self.0.contains_key(key.kid()) {
            return Err(KeySetError::DuplicateKid(key.kid().clone()));
        }
        self.0.insert(key.kid().clone(), key);
        Ok(())
    }

    /// The key of a name.
    pub fn get(&self, kid: &str) -> Option<&PublicKey> {
        self.0.get(kid)
    }

    /// Every key, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::testing::{ed25519, p256};

    #[test]
    fn a_file_is_one_key_or_a_set() {
        let (one, other) = (ed25519("one"), p256("other"));
        let json = serde_json::to_string(one.public()).unwrap();
        assert_eq!(KeySet::from_json(json.as_bytes()).unwrap().get("one"), Some(one.public()));
        let json = serde_json::json!({ "keys": [one.public(), other.public()] }).to_string();
        let set = KeySet::from_json(json.as_bytes()).unwrap();
        assert_eq!(set.get("other"), Some(other.public()));
        assert_eq!((set.get("none"), set.iter().count()), (None, 2));
    }

    #[test]
    fn files_that_are_neither_are_refused() {
        let same = serde_json::json!({ "keys": [ed25519("a").public(), p256("a").public()] });
        for (json, expected) in [
            (same.to_string(), "two keys are called a"),
            (r#"{"keys":[],"more":1}"#.to_owned(), "$.more (line 1, column 17): member `more`"),
            (r#"{"keys":[{"kty":"OKP","d":"x"}]}"#.to_owned(), "private member `d`"),
            (r#"{"keys":[],"keys":[]}"#.to_owned(), "stands twice"),
            ("[]".to_owned(), "expected a public key as a JSON Web Key"),
            ("x".to_owned(), "$ (line 1, column 1)"),
        ] {
            let error = KeySet::from_json(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
