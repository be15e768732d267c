//! Keys and signatures of what comes from elsewhere: agent manifests and grants.
//!
//! In: public keys that the policy or an operator pins ([`PublicKey`], [`KeySet`]), and signed
//! texts ([`Compact`], [`Detached`]). Out: what was signed, after its signature held. The pinned
//! key alone says by which algorithm: the header of a signature must agree with it, and brings no
//! key along. Private keys ([`SigningKey`]) are for the offline command line; the daemon has none.

mod base64url;
mod canonical;
mod edwards;
mod jwk;
mod jws;
mod key_set;
mod pem;
mod private_key;

#[cfg(test)]
pub(crate) mod testing;

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use canonical::{CanonicalError, canonical};
pub use jwk::{KeyError, PublicKey};
pub use jws::{Compact, Detached, DetachedForm, Header, JwsError};
pub use key_set::{KeySet, KeySetError};
pub use private_key::{KeyFileError, SigningKey};

use crate::strict_json;

/// Longest key id, bytes.
const KEY_ID_LIMIT: usize = 128;

/// How a signature is made. There are no others: `none`, HMAC and RSA are not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA over P-256 with SHA-256 (RFC 7518 section 3.4).
    Es256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::EdDsa, Self::Es256];

    /// Its word in keys and headers.
    pub const fn word(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }

    /// The algorithm of a word, spelled exactly so.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.word() == word)
    }

    const fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
        }
    }
}

/// The name of a key: 1 to 128 printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

/// Not a key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id has 1 to {KEY_ID_LIMIT} printable ASCII characters without spaces")]
pub struct KeyIdError;

impl std::str::FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = printable && (1..=KEY_ID_LIMIT).contains(&text.len());
        if fits { Ok(Self(text.into())) } else { Err(KeyIdError) }
    }
}

impl KeyId {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        strict_json::text(deserializer)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The system gave no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers; see getrandom(2)")]
pub struct NoRandomness;

/// Random bytes, for ids that nobody can guess.
pub fn random<const BYTES: usize>() -> Result<[u8; BYTES], NoRandomness> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| NoRandomness)?;
    Ok(bytes)
}
