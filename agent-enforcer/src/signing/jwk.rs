//! Public keys as JSON Web Keys (RFC 7517, 7518, 8037), in JSON and in the policy's YAML.
//!
//! In: a mapping with `kty`, `crv`, `x`, `y`, `kid`, `alg`, `use`. Out: a key that can verify, of one
//! algorithm for good. Refused: every other member, private ones with a word of warning, and what
//! is no point of its curve, or one under which anybody can sign.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use jsonwebtoken::DecodingKey;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use sha2::{Digest as _, Sha256};

use super::{Algorithm, KeyId, KeyIdError, base64url, edwards};

/// Bytes of a coordinate, of both curves.
const COORDINATE: usize = 32;
/// Bytes of a signature, of both algorithms: R and S, or r and s.
const SIGNATURE: usize = 64;
/// Members that only a private or secret key has (RFC 7518 section 6, RFC 8037 section 2).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// Longest name of an unknown member that is repeated, characters.
const NAME_LIMIT: usize = 40;

/// A key that can verify.
#[derive(Clone)]
pub struct PublicKey {
    kid: KeyId,
    point: Point,
    verifier: DecodingKey,
}

/// What makes the key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Point {
    Ed25519 { x: [u8; COORDINATE] },
    P256 { x: [u8; COORDINATE], y: [u8; COORDINATE] },
}

/// Why something is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A private key.
    #[error(
        "the key has the private member `{0}`; give the public key only (`agent-enforcer key show`), and replace a private key that others have seen"
    )]
    Private(&'static str),
    /// A member that is not known.
    #[error("member {0:?} of the key is not known; use kty, crv, x, y, kid, alg and use")]
    UnknownMember(String),
    /// A member twice.
    #[error("member `{0}` of the key stands twice; keep one")]
    DuplicateMember(&'static str),
    /// A member that is not there.
    #[error("the key has no `{0}`; add it")]
    MissingMember(&'static str),
    /// Another kind of key.
    #[error("keys with this `kty` and `crv` are not known; use OKP with Ed25519, or EC with P-256")]
    UnknownKind,
    /// A coordinate that is none.
    #[error("`{0}` of the key is not {COORDINATE} bytes in base64url without padding")]
    BadCoordinate(&'static str),
    /// An Ed25519 key with a second coordinate.
    #[error("an Ed25519 key has no `y`; remove it, or correct `kty` and `crv`")]
    NeedlessY,
    /// Not a point, or a weak one.
    #[error("the key is no sound point of its curve; copy it again from where it was made")]
    BadPoint,
    /// Another algorithm than the key's.
    #[error("`alg` contradicts the key, which is for {0}; correct or remove it")]
    OtherAlgorithm(&'static str),
    /// Not for signatures.
    #[error("`use` of the key must be `sig`; correct or remove it")]
    OtherUse,
    /// A bad name.
    #[error("`kid` is no key id: {0}")]
    BadKeyId(#[from] KeyIdError),
}

/// The members as they stand.
#[derive(Default)]
struct Members {
    kty: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    usage: Option<String>,
}

impl PublicKey {
    /// An Ed25519 key.
    pub fn ed25519(kid: KeyId, x: [u8; COORDINATE]) -> Result<Self, KeyError> {
        if !edwards::is_sound_key(&x) {
            return Err(KeyError::BadPoint);
        }
        let verifier = DecodingKey::from_ed_der(&x);
        Ok(Self { kid, point: Point::Ed25519 { x }, verifier })
    }

    /// A P-256 key.
    pub fn p256(kid: KeyId, x: [u8; COORDINATE], y: [u8; COORDINATE]) -> Result<Self, KeyError> {
        let mut uncompressed = vec![4];
        uncompressed.extend_from_slice(&x);
        uncompressed.extend_from_slice(&y);
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &uncompressed)
            .map_err(|_rejected| KeyError::BadPoint)?;
        let verifier = DecodingKey::from_ec_der(&uncompressed);
        Ok(Self { kid, point: Point::P256 { x, y }, verifier })
    }

    /// Its name.
    pub const fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// The one algorithm that it is for.
    pub const fn algorithm(&self) -> Algorithm {
        match self.point {
            Point::Ed25519 { .. } => Algorithm::EdDsa,
            Point::P256 { .. } => Algorithm::Es256,
        }
    }

    /// The same key under another name.
    #[must_use]
    pub fn renamed(self, kid: KeyId) -> Self {
        Self { kid, ..self }
    }

    /// Its JWK thumbprint (RFC 7638, SHA-256, base64url): the same whatever the key is called.
    pub fn thumbprint(&self) -> String {
        let members = match &self.point {
            Point::Ed25519 { x } => {
                let x = base64url::encode(x);
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)
            }
            Point::P256 { x, y } => {
                let (x, y) = (base64url::encode(x), base64url::encode(y));
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
        };
        base64url::encode(&Sha256::digest(members))
    }

    /// Whether a signature in base64url is this key's for a message.
    pub(super) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let fits = base64url::decode(signature).is_some_and(|bytes| bytes.len() == SIGNATURE);
        let algorithm = self.algorithm().library();
        fits && jsonwebtoken::crypto::verify(signature, message, &self.verifier, algorithm)
            .unwrap_or(false)
    }
}

impl Members {
    fn slot(&mut self, name: &str) -> Result<(&'static str, &mut Option<String>), KeyError> {
        Ok(match name {
            "kty" => ("kty", &mut self.kty),
            "crv" => ("crv", &mut self.crv),
            "x" => ("x", &mut self.x),
            "y" => ("y", &mut self.y),
            "kid" => ("kid", &mut self.kid),
            "alg" => ("alg", &mut self.alg),
            "use" => ("use", &mut self.usage),
            _ => {
                return Err(match PRIVATE.iter().find(|private| **private == name) {
                    Some(private) => KeyError::Private(private),
                    None => KeyError::UnknownMember(name.chars().take(NAME_LIMIT).collect()),
                });
            }
        })
    }

    fn into_key(self) -> Result<PublicKey, KeyError> {
        let Self { kty, crv, x, y, kid, alg, usage } = self;
        let kty = kty.ok_or(KeyError::MissingMember("kty"))?;
        let crv = crv.ok_or(KeyError::MissingMember("crv"))?;
        let kid = kid.ok_or(KeyError::MissingMember("kid"))?.parse::<KeyId>()?;
        let key = match (kty.as_str(), crv.as_str()) {
            ("OKP", "Ed25519") if y.is_some() => return Err(KeyError::NeedlessY),
            ("OKP", "Ed25519") => PublicKey::ed25519(kid, coordinate("x", x)?)?,
            ("EC", "P-256") => PublicKey::p256(kid, coordinate("x", x)?, coordinate("y", y)?)?,
            _ => return Err(KeyError::UnknownKind),
        };
        let word = key.algorithm().word();
        if alg.is_some_and(|alg| alg != word) {
            return Err(KeyError::OtherAlgorithm(word));
        }
        if usage.is_some_and(|usage| usage != "sig") {
            return Err(KeyError::OtherUse);
        }
        Ok(key)
    }
}

fn coordinate(member: &'static str, text: Option<String>) -> Result<[u8; COORDINATE], KeyError> {
    let text = text.ok_or(KeyError::MissingMember(member))?;
    let bytes = base64url::decode(&text).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(KeyError::BadCoordinate(member))
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Jwk;

        impl<'de> Visitor<'de> for Jwk {
            type Value = PublicKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a public key as a JSON Web Key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PublicKey, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<String>()? {
                    let (name, slot) = members.slot(&name).map_err(A::Error::custom)?;
                    if slot.is_some() {
                        return Err(A::Error::custom(KeyError::DuplicateMember(name)));
                    }
                    *slot = Some(map.next_value()?);
                }
                members.into_key().map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_map(Jwk)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.point {
            Point::Ed25519 { x } => {
                map.serialize_entry("kty", "OKP")?;
                map.serialize_entry("crv", "Ed25519")?;
                map.serialize_entry("x", &base64url::encode(x))?;
            }
            Point::P256 { x, y } => {
                map.serialize_entry("kty", "EC")?;
                map.serialize_entry("crv", "P-256")?;
                map.serialize_entry("x", &base64url::encode(x))?;
                map.serialize_entry("y", &base64url::encode(y))?;
            }
        }
        map.serialize_entry("kid", &self.kid)?;
        map.serialize_entry("alg", self.algorithm().word())?;
        map.serialize_entry("use", "sig")?;
        map.end()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.kid, self.point) == (&other.kid, other.point)
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.algorithm().word(), self.kid, self.thumbprint())
    }
}

#[cfg(test)]
mod tests;
