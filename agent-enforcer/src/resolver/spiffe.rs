//! SPIFFE IDs: names of workloads that mean the same on every host.
//!
//! In: text. Out: a [`SpiffeId`] in its one form, by the SPIFFE ID specification, sections 2.1 to
//! 2.3: `spiffe://TRUST-DOMAIN/PATH`, nothing percent-encoded, no port, user, query or fragment. A
//! trust domain alone is no workload's name and is refused.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::strict_json;

/// Longest ID, bytes.
const ID_LIMIT: usize = 2048;
/// Longest trust domain, bytes.
const TRUST_DOMAIN_LIMIT: usize = 255;
const SCHEME: &str = "spiffe://";

/// The SPIFFE ID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(Arc<str>);

/// Why a text is no SPIFFE ID of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Another scheme.
    #[error("a SPIFFE ID begins with `spiffe://`; write it like spiffe://example.org/agent/coder")]
    Scheme,
    /// Too long.
    #[error("a SPIFFE ID has at most {ID_LIMIT} bytes; shorten it")]
    TooLong,
    /// A bad trust domain.
    #[error(
        "the trust domain of a SPIFFE ID has 1 to {TRUST_DOMAIN_LIMIT} of a-z, 0-9, `.`, `-` and `_`; correct it"
    )]
    TrustDomain,
    /// A trust domain alone.
    #[error("the SPIFFE ID names a trust domain and no workload in it; add its path")]
    NoPath,
    /// A bad path.
    #[error(
        "the path of a SPIFFE ID has segments of a-z, A-Z, 0-9, `.`, `-` and `_`, none empty, `.` or `..`; correct it"
    )]
    Path,
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        if text.len() > ID_LIMIT {
            return Err(SpiffeIdError::TooLong);
        }
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let in_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        if !(1..=TRUST_DOMAIN_LIMIT).contains(&domain.len()) || !domain.chars().all(in_domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        let path = path.ok_or(SpiffeIdError::NoPath)?;
        let in_segment = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let sound =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.chars().all(in_segment);
        if path.split('/').all(sound) { Ok(Self(text.into())) } else { Err(SpiffeIdError::Path) }
    }
}

impl SpiffeId {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        strict_json::text(deserializer)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_the_specification() {
        let long = format!("spiffe://{}/a", "d".repeat(255));
        for sound in ["spiffe://example.org/agent/Coder_1.2-x", "spiffe://1/...", &long] {
            assert_eq!(sound.parse::<SpiffeId>().unwrap().as_str(), sound);
        }
        let path = |path: &str| format!("spiffe://example.org{path}");
        for (text, expected) in [
            (String::new(), SpiffeIdError::Scheme),
            ("https://example.org/a".into(), SpiffeIdError::Scheme),
            ("SPIFFE://example.org/a".into(), SpiffeIdError::Scheme),
            ("spiffe:///a".into(), SpiffeIdError::TrustDomain),
            ("spiffe://Example.org/a".into(), SpiffeIdError::TrustDomain),
            ("spiffe://example.org:443/a".into(), SpiffeIdError::TrustDomain),
            ("spiffe://u@example.org/a".into(), SpiffeIdError::TrustDomain),
            ("spiffe://ex\u{e4}mple.org/a".into(), SpiffeIdError::TrustDomain),
            ("spiffe://[::1]/a".into(), SpiffeIdError::TrustDomain),
            (format!("spiffe://{}/a", "d".repeat(256)), SpiffeIdError::TrustDomain),
            (path(""), SpiffeIdError::NoPath),
            (path("/"), SpiffeIdError::Path),
            (path("/a/"), SpiffeIdError::Path),
            (path("/a//b"), SpiffeIdError::Path),
            (path("/a/../b"), SpiffeIdError::Path),
            (path("/./b"), SpiffeIdError::Path),
            (path("/a%20b"), SpiffeIdError::Path),
            (path("/a?b"), SpiffeIdError::Path),
            (path("/a#b"), SpiffeIdError::Path),
            (path("/\u{e4}"), SpiffeIdError::Path),
            (path(&format!("/{}", "a".repeat(2048))), SpiffeIdError::TooLong),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(expected), "{text}");
        }
    }
}
