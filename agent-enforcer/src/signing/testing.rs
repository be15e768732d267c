//! Keys for tests.

use super::{Algorithm, SigningKey, private_key::generate};

/// A new Ed25519 key.
pub(crate) fn ed25519(kid: &str) -> SigningKey {
    key(Algorithm::EdDsa, kid)
}

/// A new P-256 key.
pub(crate) fn p256(kid: &str) -> SigningKey {
    key(Algorithm::Es256, kid)
}

/// A new key.
pub(crate) fn key(algorithm: Algorithm, kid: &str) -> SigningKey {
    SigningKey::from_pkcs8(&generate(algorithm).unwrap(), Some(kid.parse().unwrap())).unwrap()
}
