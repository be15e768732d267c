//! Words and texts of signed documents, checked as they are read.
//!
//! In: strings that somebody outside wrote. Out: [`Name`]s in the form of the policy's, and
//! [`Text`] on one line that deceives no reader of a terminal or an event.

use std::{fmt, ops::Deref, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::policy::is_name;
use crate::{hostile_text::is_hostile, strict_json};

/// The name of an agent or tool, as the policy has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name has 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit; write it as the policy does"
)]
pub struct NameError;

/// Plain text of 1 to `LIMIT` bytes on one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const LIMIT: usize>(Arc<str>);

/// Not such a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing, or spaces.
    #[error("the text is empty; write something, or leave the member out where it is optional")]
    Empty,
    /// Too long.
    #[error("the text has more than {0} bytes; shorten it")]
    TooLong(usize),
    /// It could steer a terminal or deceive whoever reads it.
    #[error(
        "the text has control, direction or invisible characters; write it as plain text on one line"
    )]
    Hostile,
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_name(text) { Ok(Self(text.into())) } else { Err(NameError) }
    }
}

impl<const LIMIT: usize> FromStr for Text<LIMIT> {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.trim().is_empty() {
            return Err(TextError::Empty);
        }
        if text.len() > LIMIT {
            return Err(TextError::TooLong(LIMIT));
        }
        if text.contains(is_hostile) {
            return Err(TextError::Hostile);
        }
        Ok(Self(text.into()))
    }
}

impl Name {
    /// Shared, as grants keep names.
    pub fn to_arc(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl<const LIMIT: usize> Text<LIMIT> {
    /// Shared, as grants keep texts.
    pub fn to_arc(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const LIMIT: usize> Deref for Text<LIMIT> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl<const LIMIT: usize> fmt::Display for Text<LIMIT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<const LIMIT: usize> Serialize for Text<LIMIT> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        strict_json::text(deserializer)
    }
}

impl<'de, const LIMIT: usize> Deserialize<'de> for Text<LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        strict_json::text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_plain_and_names_are_the_policys() {
        for (text, expected) in [
            ("", Err(TextError::Empty)),
            (" ", Err(TextError::Empty)),
            ("12345", Err(TextError::TooLong(4))),
            ("a\nb", Err(TextError::Hostile)),
            ("\u{202e}", Err(TextError::Hostile)),
            ("\u{e9}a", Ok(())),
        ] {
            assert_eq!(text.parse::<Text<4>>().map(drop), expected, "{text}");
        }
        "code-host.2".parse::<Name>().unwrap();
        for bad in ["", "A", "-a", "a b", "\u{e9}", "*", &"a".repeat(64)] {
            assert_eq!(bad.parse::<Name>(), Err(NameError), "{bad}");
        }
    }
}
