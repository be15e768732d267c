//! Who may issue tokens, and for what.
//!
//! In: what the policy says of an issuer ([`IssuerEntry`]), strictly. Out: [`Issuers`], each with its
//! pinned keys. An issuer speaks for the agents and tools that are named with it, and for no others.

use std::{collections::HashSet, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{
    resolver::text::{Name, Text},
    signing::{KeyId, KeySet, KeySetError, PublicKey},
};

/// An issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What its tokens say in `iss`.
    pub name: Arc<str>,
    /// What they are signed with.
    pub keys: KeySet,
    /// The agents that it speaks for.
    pub agents: Vec<Arc<str>>,
    /// The tools that it may permit.
    pub tools: Vec<Arc<str>>,
    /// Whether it may only hand on a part of what another token permitted.
    pub must_attenuate: bool,
}

/// Every issuer of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuers(Vec<Issuer>);

/// An issuer as the policy writes it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerEntry {
    /// What its tokens say in `iss`.
    pub name: Text<512>,
    /// Its keys: by name, or written out.
    pub keys: Vec<KeyReference>,
    /// The agents that it speaks for.
    pub agents: Vec<Name>,
    /// The tools that it may permit.
    pub tools: Vec<Name>,
    /// Whether it may only hand on a part of what another token permitted.
    #[serde(default)]
    pub must_attenuate: bool,
}

/// A key of an issuer.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyReference {
    /// One that the policy has elsewhere.
    Named(KeyId),
    /// A JSON Web Key.
    Key(Box<PublicKey>),
}

/// Why an issuer can't be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// A key that is nowhere.
    #[error(
        "issuer {issuer:?} has the key {kid}, which the policy does not have; add it, or correct the name"
    )]
    UnknownKey {
        /// The issuer.
        issuer: String,
        /// The key.
        kid: KeyId,
    },
    /// No key.
    #[error("issuer {0:?} has no key, so no token of it can hold; name one")]
    NoKeys(String),
    /// Two keys of one name.
    #[error("issuer {issuer:?}: {error}")]
    Keys {
        /// The issuer.
        issuer: String,
        /// What is wrong.
        error: KeySetError,
    },
    /// Something named twice.
    #[error("issuer {issuer:?} names {entry:?} twice; keep one")]
    Twice {
        /// The issuer.
        issuer: String,
        /// The agent or tool.
        entry: String,
    },
    /// Two issuers of one name.
    #[error("two issuers are called {0:?}; make one of them")]
    DuplicateIssuer(String),
}

impl IssuerEntry {
    /// The issuer, with the keys that the policy has elsewhere.
    pub fn resolve(self, known: &KeySet) -> Result<Issuer, IssuerError> {
        let Self { name, keys: references, agents, tools, must_attenuate } = self;
        let issuer = || name.to_string();
        if references.is_empty() {
            return Err(IssuerError::NoKeys(issuer()));
        }
        let mut keys = KeySet::default();
        for reference in references {
            let key = match reference {
                KeyReference::Key(key) => *key,
                KeyReference::Named(kid) => known
                    .get(kid.as_str())
                    .cloned()
                    .ok_or_else(|| IssuerError::UnknownKey { issuer: issuer(), kid })?,
            };
            keys.add(key).map_err(|error| IssuerError::Keys { issuer: issuer(), error })?;
        }
        for list in [&agents, &tools] {
            let mut seen = HashSet::new();
            if let Some(twice) = list.iter().find(|entry| !seen.insert(*entry)) {
                let (issuer, entry) = (issuer(), twice.to_string());
                return Err(IssuerError::Twice { issuer, entry });
            }
        }
        let names = |list: &[Name]| list.iter().map(Name::to_arc).collect();
        let (agents, tools) = (names(&agents), names(&tools));
        Ok(Issuer { name: name.to_arc(), keys, agents, tools, must_attenuate })
    }
}

impl Issuers {
    /// Of issuers with different names.
    pub fn new(issuers: Vec<Issuer>) -> Result<Self, IssuerError> {
        let mut names = HashSet::new();
        if let Some(twice) = issuers.iter().find(|issuer| !names.insert(&issuer.name)) {
            return Err(IssuerError::DuplicateIssuer(twice.name.to_string()));
        }
        Ok(Self(issuers))
    }

    /// Every issuer that has a key of a name, and that key. Two issuers may call two keys the same.
    pub(super) fn with_key(&self, kid: &KeyId) -> impl Iterator<Item = (&Issuer, &PublicKey)> {
        self.0.iter().filter_map(|issuer| Some((issuer, issuer.keys.get(kid.as_str())?)))
    }

    /// Whether an issuer may permit an agent a tool, by a key.
    pub fn vouch(&self, issuer: &str, kid: &KeyId, agent: &str, tool: &str) -> bool {
        let named = |list: &[Arc<str>], name: &str| list.iter().any(|entry| **entry == *name);
        self.0.iter().any(|known| {
            *known.name == *issuer
                && known.keys.get(kid.as_str()).is_some()
                && named(&known.agents, agent)
                && named(&known.tools, tool)
        })
    }

    /// Every issuer, in the order of the policy.
    pub fn iter(&self) -> impl Iterator<Item = &Issuer> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for KeyReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrKey;

        impl<'de> Visitor<'de> for NameOrKey {
            type Value = KeyReference;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the `kid` of a key, or a JSON Web Key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<KeyReference, E> {
                text.parse().map(KeyReference::Named).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeyReference, A::Error> {
                let key = PublicKey::deserialize(MapAccessDeserializer::new(map))?;
                Ok(KeyReference::Key(Box::new(key)))
            }
        }

        deserializer.deserialize_any(NameOrKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::testing::{ed25519, p256};

    fn entry(yaml: &str) -> Result<IssuerEntry, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn an_issuer_names_its_keys_or_writes_them_out() {
        let (named, written) = (ed25519("named"), p256("written"));
        let jwk = serde_json::to_string(written.public()).unwrap();
        let yaml = format!(
            "name: https://issuer.example\nkeys: [named, {jwk}]\nagents: [coder]\ntools: [code-host, mail]\nmust_attenuate: true\n"
        );
        let known = KeySet::new([named.public().clone()]).unwrap();
        let issuer = entry(&yaml).unwrap().resolve(&known).unwrap();
        assert_eq!(issuer.keys.get("named"), Some(named.public()));
        assert_eq!(issuer.keys.get("written"), Some(written.public()));
        assert_eq!((issuer.agents.len(), issuer.tools.len()), (1, 2));
        assert!(issuer.must_attenuate);
        let twins = Issuers::new(vec![issuer.clone(), issuer]).unwrap_err();
        assert_eq!(twins, IssuerError::DuplicateIssuer("https://issuer.example".into()));
    }

    #[test]
    fn an_issuer_that_says_too_little_or_too_much_is_refused() {
        let known = KeySet::new([ed25519("k").public().clone()]).unwrap();
        for (yaml, expected) in [
            ("name: i\nkeys: []\nagents: [a]\ntools: [t]\n", "has no key"),
            ("name: i\nkeys: [x]\nagents: [a]\ntools: [t]\n", "has the key x, which"),
            ("name: i\nkeys: [k, k]\nagents: [a]\ntools: [t]\n", "two keys are called k"),
            ("name: i\nkeys: [k]\nagents: [a, a]\ntools: [t]\n", "names \"a\" twice"),
            ("name: i\nkeys: [k]\nagents: [a]\ntools: [t, t]\n", "names \"t\" twice"),
        ] {
            let error = entry(yaml).unwrap().resolve(&known).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for yaml in [
            "name: i\nkeys: [k]\nagents: [a]\n",
            "name: i\nkeys: [k]\nagents: ['*']\ntools: [t]\n",
            "name: i\nkeys: [k]\nagents: [a]\ntools: [t]\nmore: 1\n",
            "name: ''\nkeys: [k]\nagents: [a]\ntools: [t]\n",
            "name: i\nkeys: [{kty: OKP, d: x}]\nagents: [a]\ntools: [t]\n",
        ] {
            entry(yaml).unwrap_err();
        }
    }
}
