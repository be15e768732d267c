//! `header.payload.signature`, the form of tokens.

use super::{super::base64url, Header, JwsError, check};
use crate::signing::{PublicKey, SigningKey};

/// A text of that form. Its payload comes out of [`Self::verify`] only.
#[derive(Clone, Debug)]
pub struct Compact<'a> {
    header: Header,
    payload: Vec<u8>,
    signing_input: &'a str,
    signature: &'a str,
}

impl<'a> Compact<'a> {
    /// Reads a text of at most `limit` bytes.
    pub fn parse(text: &'a str, limit: usize) -> Result<Self, JwsError> {
        if text.len() > limit {
            return Err(JwsError::TooLarge { length: text.len(), limit });
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(JwsError::Parts)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Parts)?;
        if payload.contains('.') {
            return Err(JwsError::Parts);
        }
        base64url::decode(signature).ok_or(JwsError::Base64("signature"))?;
        let payload = base64url::decode(payload).ok_or(JwsError::Base64("payload"))?;
        Ok(Self { header: Header::parse(header)?, payload, signing_input, signature })
    }

    /// Its header: to find the key by, and for nothing else.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What the pinned key signed.
    pub fn verify(&self, key: &PublicKey) -> Result<&[u8], JwsError> {
        check(&self.header, key, self.signing_input, self.signature)?;
        Ok(&self.payload)
    }

    /// Signs a payload.
    pub fn sign(payload: &[u8], key: &SigningKey, typ: &str) -> Result<String, JwsError> {
        let public = key.public();
        let header = Header::encode(public.algorithm(), public.kid(), typ);
        let signing_input = format!("{header}.{}", base64url::encode(payload));
        let signature = key.sign(signing_input.as_bytes())?;
        Ok(format!("{signing_input}.{signature}"))
    }
}
