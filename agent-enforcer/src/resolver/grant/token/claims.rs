//! The claims of a token, each in its own form, and signing them.
//!
//! In: JSON. Out: [`TokenClaims`], checked as they are read: RFC 7519 for the registered ones, RFC
//! 8693 for `act`, RFC 9396 for `authorization_details`. Names and dates mean nothing yet.

use std::{
    fmt, iter,
    num::NonZeroU32,
    ops::Deref,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::id::InstanceId;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use super::{Action, LIMITS, TYPE};
use crate::{
    decision::{Sha256Digest, instance_name, parse_instance},
    resolver::text::{Name, Text},
    signing::{Compact, JwsError, SigningKey},
    strict_json,
};

/// Most hosts in `aud`.
const AUDIENCE_LIMIT: usize = 16;
/// Longest chain of actors.
const ACTOR_LIMIT: usize = 8;
/// Most entries of `authorization_details`.
const DETAIL_LIMIT: usize = 16;
/// Most tools or locations of an entry, as of a grant.
const ENTRY_LIMIT: usize = 256;
/// Longest id, bytes.
const ID_LIMIT: usize = 128;
/// The last second of the year 9999, as of RFC 3339.
const LAST_SECOND: u64 = 253_402_300_799;

/// Principal, issuer, audience, task and reason: as long as in a grant.
pub type TokenText = Text<512>;
/// On whose behalf.
pub type Principal = TokenText;
/// A location as it is written.
pub type LocationText = Text<80>;

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenClaims {
    /// Who issues it.
    pub iss: TokenText,
    /// On whose behalf the agent acts.
    pub sub: Principal,
    /// Which agent acts.
    pub act: Actor,
    /// For which hosts it is.
    pub aud: Audience,
    /// Its id, never used for another token.
    pub jti: TokenId,
    /// The transaction that it belongs to.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<TokenId>,
    /// When it is issued.
    pub iat: NumericDate,
    /// From when on; from `iat` where it is not given.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<NumericDate>,
    /// Until when.
    pub exp: NumericDate,
    /// What it permits.
    pub authorization_details: Vec<Detail>,
    /// How many calls it admits.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<NonZeroU32>,
    /// The manifest that the agent must have.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<Sha256Digest>,
    /// The token that it was made of, and stays within.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_jti: Option<TokenId>,
    /// The one instance that may act.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// For which task.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TokenText>,
    /// Why.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<TokenText>,
}

/// Who acts, and who acted before (RFC 8693 section 4.1): the outermost acts now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Name of an agent in the policy, or its SPIFFE ID.
    pub sub: Text<2048>,
    /// Who acted before.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Self>>,
}

/// One thing that a token permits (RFC 9396): tools or locations, not both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    /// Of which type it is.
    #[serde(rename = "type")]
    pub kind: DetailKind,
    /// Tools of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Name>,
    /// Destinations of tools of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<LocationText>,
    /// What may be done with them.
    pub actions: Vec<Action>,
}

/// The one type of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DetailKind {
    /// Calls to the network.
    #[serde(rename = "network_egress")]
    NetworkEgress,
}

/// For which hosts a token is: one, or some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// One.
    One(TokenText),
    /// Any of these.
    Any(Vec<TokenText>),
}

/// An id: 1 to 128 printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenId(Arc<str>);

/// Seconds since 1970 (RFC 7519 section 2), whole ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NumericDate(u64);

/// An instance, like `i-1a2b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance(pub InstanceId);

/// Why a string is not what its claim needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Not an id.
    #[error("an id has 1 to {ID_LIMIT} printable ASCII characters without spaces")]
    Id,
    /// Not an instance.
    #[error("an instance is written as `agent-enforcer agents` shows it, like i-1a2b")]
    Instance,
}

/// Why claims can't be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignTokenError {
    /// No host would take it.
    #[error("such a token is refused: {0}")]
    Refused(String),
    /// The key signs nothing.
    #[error(transparent)]
    Key(#[from] JwsError),
}

/// Signs claims.
pub fn sign_token(claims: &TokenClaims, key: &SigningKey) -> Result<String, SignTokenError> {
    claims.check().map_err(SignTokenError::Refused)?;
    let payload =
        serde_json::to_vec(claims).map_err(|error| SignTokenError::Refused(error.to_string()))?;
    let token = Compact::sign(&payload, key, TYPE)?;
    if token.len() > LIMITS.bytes {
        let problem = format!("it has {} bytes, more than {}", token.len(), LIMITS.bytes);
        return Err(SignTokenError::Refused(problem));
    }
    Ok(token)
}

impl TokenClaims {
    /// What no claim can tell alone.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.act.former().count() >= ACTOR_LIMIT {
            return Err(format!("$.act: there are more than {ACTOR_LIMIT} actors; name the last"));
        }
        let details = &self.authorization_details;
        if !(1..=DETAIL_LIMIT).contains(&details.len()) {
            return Err(format!(
                "$.authorization_details: 1 to {DETAIL_LIMIT} entries are needed; there are {}",
                details.len()
            ));
        }
        for (place, detail) in details.iter().enumerate() {
            let at = |problem| format!("$.authorization_details[{place}]: {problem}");
            detail.check().map_err(at)?;
        }
        Ok(())
    }
}

impl Detail {
    fn check(&self) -> Result<(), String> {
        let Self { kind: _, tools, locations, actions } = self;
        if tools.is_empty() == locations.is_empty() {
            return Err("name `tools` or `locations`, and not both".to_owned());
        }
        if tools.len().max(locations.len()) > ENTRY_LIMIT {
            return Err(format!("there are more than {ENTRY_LIMIT}; issue several tokens"));
        }
        if actions.is_empty() {
            return Err("`actions` is empty; name `connect`, `listen` or both".to_owned());
        }
        if is_repeated(tools) || is_repeated(locations) || is_repeated(actions) {
            return Err("something stands twice in a list; keep one of it".to_owned());
        }
        Ok(())
    }
}

fn is_repeated<T: std::hash::Hash + Eq>(items: &[T]) -> bool {
    let different: std::collections::HashSet<_> = items.iter().collect();
    different.len() != items.len()
}

impl Actor {
    /// Who acted before, the last one first.
    pub(super) fn former(&self) -> impl Iterator<Item = &Self> {
        iter::successors(self.act.as_deref(), |actor| actor.act.as_deref())
    }
}

impl Audience {
    /// Whether a host is named.
    pub(super) fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => **one == *audience,
            Self::Any(some) => some.iter().any(|one| **one == *audience),
        }
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrAny;

        impl<'de> Visitor<'de> for OneOrAny {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Audience, E> {
                text.parse().map(Audience::One).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Audience, A::Error> {
                let some = Vec::deserialize(SeqAccessDeserializer::new(items))?;
                if (1..=AUDIENCE_LIMIT).contains(&some.len()) {
                    Ok(Audience::Any(some))
                } else {
                    let problem = format!("1 to {AUDIENCE_LIMIT} hosts are needed; name them");
                    Err(A::Error::custom(problem))
                }
            }
        }

        deserializer.deserialize_any(OneOrAny)
    }
}

impl Serialize for Audience {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(one) => one.serialize(serializer),
            Self::Any(some) => some.serialize(serializer),
        }
    }
}

impl NumericDate {
    /// Of a moment, whose fraction of a second is cut off; `None` before 1970 and after 9999.
    pub fn of(moment: SystemTime) -> Option<Self> {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        (since.as_secs() <= LAST_SECOND).then_some(Self(since.as_secs()))
    }

    /// The moment.
    pub fn moment(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("whole seconds from 1970 to 9999")
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<NumericDate, E> {
                if seconds <= LAST_SECOND {
                    Ok(NumericDate(seconds))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Unsigned(seconds), &self))
                }
            }

            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "whole, and within a range that both types hold exactly"
            )]
            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<NumericDate, E> {
                let sound = seconds.trunc().to_bits() == seconds.to_bits()
                    && (0.0..=LAST_SECOND as f64).contains(&seconds);
                if sound {
                    Ok(NumericDate(seconds as u64))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Float(seconds), &self))
                }
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}

impl Serialize for NumericDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl FromStr for TokenId {
    type Err = ClaimError;

    fn from_str(text: &str) -> Result<Self, ClaimError> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = printable && (1..=ID_LIMIT).contains(&text.len());
        if fits { Ok(Self(text.into())) } else { Err(ClaimError::Id) }
    }
}

impl TokenId {
    /// Shared, as grants keep texts.
    pub fn to_arc(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl Deref for TokenId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Instance {
    type Err = ClaimError;

    fn from_str(text: &str) -> Result<Self, ClaimError> {
        let instance = parse_instance(text).ok_or(ClaimError::Instance)?;
        // One spelling for one instance.
        if instance_name(instance) == text { Ok(Self(instance)) } else { Err(ClaimError::Instance) }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&instance_name(self.0))
    }
}

macro_rules! text_in_json {
    ($($name:ident),+) => {
        $(
            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    strict_json::text(deserializer)
                }
            }
        )+
    };
}

text_in_json!(TokenId, Instance);
