//! Signed texts (RFC 7515): the compact form of tokens, and the detached form of agent cards.
//!
//! In: text. Out: what was signed, from [`Compact::verify`] and [`Detached::verify`] only, given
//! the pinned key that the header's `kid` names. Questions, in order: is it small enough, has it the
//! form, does the header name a known algorithm and a key and bring nothing along that would have
//! to be trusted, is the algorithm the key's, does the signature hold? An attacker writes every
//! byte of it, so nothing in it chooses a key or an algorithm: it can only agree with the pinned one.

mod compact;
mod detached;
mod header;

pub use compact::Compact;
pub use detached::{Detached, DetachedForm};
pub use header::Header;

use super::{Algorithm, PublicKey};
use crate::strict_json::JsonError;

/// Why a signed text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than its reader takes.
    #[error("the text has {length} bytes, more than {limit}; sign less")]
    TooLarge {
        /// Its bytes.
        length: usize,
        /// As many as may be.
        limit: usize,
    },
    /// Not three parts.
    #[error("the text is not three parts with a dot between them; give the whole compact JWS")]
    Parts,
    /// Not base64url.
    #[error("the {0} is not base64url without padding; give the text as it was signed")]
    Base64(&'static str),
    /// A header that is no JSON object, or says something twice.
    #[error("the header can't be read: {0}")]
    Header(JsonError),
    /// A member that is not there, or no string.
    #[error("the header has no `{0}` that is a string; sign with one")]
    MissingMember(&'static str),
    /// A bad `kid`.
    #[error("`kid` of the header is no key id; name the key as the policy does")]
    BadKeyId,
    /// A member that would have to be trusted, or understood.
    #[error("the header has `{0}`, which is never accepted; keys are pinned in the policy")]
    Forbidden(&'static str),
    /// Another algorithm than there are, `none` among them.
    #[error("`alg` of the header is not known; sign with EdDSA or ES256")]
    UnknownAlgorithm,
    /// Another algorithm than the pinned key's.
    #[error("the header says {header}, but the key {kid} is for {key}; sign with what the key is for", header = header.word(), key = key.word())]
    OtherAlgorithm {
        /// The header's.
        header: Algorithm,
        /// The key's.
        key: Algorithm,
        /// Which key.
        kid: super::KeyId,
    },
    /// It does not hold.
    #[error("the signature is not that of key {0}; sign again, and see that nothing was changed")]
    BadSignature(super::KeyId),
    /// It can't be made.
    #[error("the signature could not be made; see that the key file is whole")]
    NotSigned,
}

/// The one way a signature is judged.
fn check(
    header: &Header,
    key: &PublicKey,
    signing_input: &str,
    signature: &str,
) -> Result<(), JwsError> {
    // The caller found the key by the header's name for it; another name is another key.
    if header.kid() != key.kid() {
        return Err(JwsError::BadSignature(key.kid().clone()));
    }
    if header.algorithm() != key.algorithm() {
        let (header, kid) = (header.algorithm(), key.kid().clone());
        return Err(JwsError::OtherAlgorithm { header, key: key.algorithm(), kid });
    }
    if key.verifies(signing_input.as_bytes(), signature) {
        Ok(())
    } else {
        Err(JwsError::BadSignature(key.kid().clone()))
    }
}

#[cfg(test)]
mod tests;
