//! `{"protected", "signature", "header"?}` beside what is signed, the form of A2A agent cards.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{super::base64url, Header, JwsError, check, header::refuse_unprotected};
use crate::{
    signing::{PublicKey, SigningKey},
    strict_json,
};

/// The type that a detached signature may say it is of: JOSE, or nothing. Tokens say another, so
/// that no signature of one can stand for the other.
const TYPE: &str = "JOSE";

/// The members as they stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachedForm {
    /// The protected header, base64url.
    pub protected: String,
    /// The signature, base64url.
    pub signature: String,
    /// The unprotected header: not signed, so it means nothing here.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<Map<String, Value>>,
}

/// A detached signature whose header was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Detached {
    header: Header,
    form: DetachedForm,
}

impl Detached {
    /// Reads one.
    pub fn parse(form: DetachedForm) -> Result<Self, JwsError> {
        base64url::decode(&form.signature).ok_or(JwsError::Base64("signature"))?;
        let header = Header::parse(&form.protected)?;
        if header.typ().is_some() && !header.is_type(TYPE) {
            return Err(JwsError::Forbidden("typ"));
        }
        form.header.as_ref().map_or(Ok(()), refuse_unprotected)?;
        Ok(Self { header, form })
    }

    /// Its header: to find the key by, and for nothing else.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// As it is written.
    pub const fn form(&self) -> &DetachedForm {
        &self.form
    }

    /// Whether the pinned key signed the payload.
    pub fn verify(&self, payload: &[u8], key: &PublicKey) -> Result<(), JwsError> {
        let signing_input = signing_input(&self.form.protected, payload);
        check(&self.header, key, &signing_input, &self.form.signature)
    }

    /// Signs a payload.
    pub fn sign(payload: &[u8], key: &SigningKey) -> Result<Self, JwsError> {
        let public = key.public();
        let protected = Header::encode(public.algorithm(), public.kid(), TYPE);
        let signature = key.sign(signing_input(&protected, payload).as_bytes())?;
        Self::parse(DetachedForm { protected, signature, header: None })
    }
}

fn signing_input(protected: &str, payload: &[u8]) -> String {
    format!("{protected}.{}", base64url::encode(payload))
}
