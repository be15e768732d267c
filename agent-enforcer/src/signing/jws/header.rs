//! The protected header of a signature.
//!
//! In: base64url of a JSON object. Out: algorithm, key id and type. Members that are not known are
//! passed over, as RFC 7515 section 4 has it, but for those that would hand a key along or change
//! what is signed. The unprotected header of the detached form is nobody's word: see [`refuse_unprotected`].

use serde_json::{Map, Value};

use super::{super::base64url, JwsError};
use crate::{
    signing::{Algorithm, KeyId},
    strict_json::{self, Limits},
};

/// Largest header.
const LIMITS: Limits = Limits { bytes: 4096, depth: 8 };
/// `crit` and `b64` change what has to be understood and what is signed; the others bring keys.
const FORBIDDEN: [&str; 6] = ["crit", "b64", "jku", "jwk", "x5u", "x5c"];

/// What a signature says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    algorithm: Algorithm,
    kid: KeyId,
    typ: Option<String>,
}

impl Header {
    /// Reads a header in base64url.
    pub(super) fn parse(encoded: &str) -> Result<Self, JwsError> {
        // Four characters are three bytes.
        if encoded.len() / 4 * 3 > LIMITS.bytes {
            return Err(JwsError::TooLarge { length: encoded.len(), limit: LIMITS.bytes / 3 * 4 });
        }
        let bytes = base64url::decode(encoded).ok_or(JwsError::Base64("header"))?;
        let tree = strict_json::tree(&bytes, LIMITS).map_err(JwsError::Header)?;
        let Value::Object(members) = tree else { return Err(JwsError::MissingMember("alg")) };
        refuse_in(&members, &FORBIDDEN)?;
        let text = |name| members.get(name).and_then(Value::as_str);
        let alg = text("alg").ok_or(JwsError::MissingMember("alg"))?;
        let algorithm = Algorithm::from_word(alg).ok_or(JwsError::UnknownAlgorithm)?;
        let kid = text("kid").ok_or(JwsError::MissingMember("kid"))?;
        let kid = kid.parse().map_err(|_no_key_id| JwsError::BadKeyId)?;
        let typ = match members.get("typ") {
            None => None,
            Some(Value::String(typ)) => Some(typ.clone()),
            Some(_) => return Err(JwsError::MissingMember("typ")),
        };
        Ok(Self { algorithm, kid, typ })
    }

    /// The header that this program signs with, in base64url.
    pub(super) fn encode(algorithm: Algorithm, kid: &KeyId, typ: &str) -> String {
        let members = serde_json::json!({ "alg": algorithm.word(), "kid": kid, "typ": typ });
        base64url::encode(members.to_string().as_bytes())
    }

    /// What it was signed by.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Which key signed.
    pub const fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// What was signed, a media type.
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// Whether `typ` is a media type below `application/`, which may be left out (RFC 7515 section
    /// 4.1.9); capitals don't matter.
    pub fn is_type(&self, subtype: &str) -> bool {
        self.typ().is_some_and(|typ| {
            let (kind, name) = typ.split_once('/').unwrap_or(("application", typ));
            kind.eq_ignore_ascii_case("application") && name.eq_ignore_ascii_case(subtype)
        })
    }
}

/// Refuses what an unprotected header may not say: anybody can change it, and what the protected
/// one says may not stand twice (RFC 7515 section 4).
pub(super) fn refuse_unprotected(members: &Map<String, Value>) -> Result<(), JwsError> {
    refuse_in(members, &FORBIDDEN)?;
    refuse_in(members, &["alg", "kid", "typ"])
}

fn refuse_in(members: &Map<String, Value>, names: &[&'static str]) -> Result<(), JwsError> {
    match names.iter().find(|name| members.contains_key(**name)) {
        Some(name) => Err(JwsError::Forbidden(name)),
        None => Ok(()),
    }
}
