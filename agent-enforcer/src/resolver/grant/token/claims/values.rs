//! Claims that have a form of their own: hosts, ids, dates, instances.

use std::{
    fmt,
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

use super::TokenText;
use crate::{
    decision::{instance_name, parse_instance},
    strict_json,
};

/// Most hosts in `aud`.
const AUDIENCE_LIMIT: usize = 16;
/// Longest id, bytes.
const ID_LIMIT: usize = 128;
/// The last second of the year 9999, as of RFC 3339.
const LAST_SECOND: u64 = 253_402_300_799;

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

impl Audience {
    /// Whether a host is named.
    pub(in crate::resolver) fn names(&self, audience: &str) -> bool {
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
