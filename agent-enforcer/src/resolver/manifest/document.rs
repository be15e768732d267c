//! The members of a manifest, each in its own form.
//!
//! In: JSON. Out: a [`Document`] whose every member is checked, alone as it is read, and together
//! by [`Document::check`]. Unknown members are refused: what is signed is what is understood.

use std::{collections::HashSet, fmt, num::NonZeroU64, str::FromStr, sync::Arc, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ContentProblem, ManifestError, Software};
use crate::{
    resolver::{
        spiffe::SpiffeId,
        text::{Name, Text},
    },
    rfc3339,
    signing::DetachedForm,
    strict_json,
};

/// What `schema` says.
const SCHEMA: &str = "agent-enforcer/manifest/v1";
/// Most tools of a manifest, as of a grant.
const TOOL_LIMIT: usize = 256;
/// Most pieces of software.
const SOFTWARE_LIMIT: usize = 1024;
/// Most selector terms, and selectors of one of them.
const TERM_LIMIT: usize = 1024;
const SELECTOR_LIMIT: usize = 8;

/// Who answers for an agent, as long as in the policy.
pub type Owner = Text<200>;
/// What an agent is for, as long as in the policy.
pub type Purpose = Text<500>;
/// Where it is meant to run: `production`, `staging`.
pub type Environment = Text<200>;
/// A selector: a kind and a path, which has at most `PATH_MAX` bytes.
pub type SelectorText = Text<4128>;

/// A manifest as it stands. Written again it is the same JSON, or its signatures would not hold: a
/// member is there with a value, or not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Which form this is.
    pub schema: Schema,
    /// The record, the same for every version of it.
    pub record_id: RecordId,
    /// Counts up with each change; an older one is refused once a newer one was seen.
    pub version: NonZeroU64,
    /// The agent, the same on every host.
    pub agent_id: SpiffeId,
    /// The agent in the policy.
    pub name: Name,
    /// Who answers for it.
    pub owner: Owner,
    /// Who answers for its being there.
    pub sponsor: Owner,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it is meant to run.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// What it thinks with.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// What it may execute.
    pub software: Vec<Software>,
    /// Tools of the policy that it is meant for.
    pub tools: Vec<Name>,
    /// What recognises its processes; the policy reads them.
    pub selectors: Vec<Vec<SelectorText>>,
    /// Whether it may run.
    pub lifecycle: Lifecycle,
    /// From when on.
    pub issued_at: Timestamp,
    /// Until when.
    pub valid_until: Timestamp,
    /// Who vouches for all of the above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<DetachedForm>,
}

/// What an agent thinks with. For people: nothing here is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Who makes it.
    pub provider: Text<200>,
    /// Its name.
    pub name: Text<200>,
    /// Its version.
    pub version: Text<200>,
}

/// Whether an agent may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// It may.
    Active,
    /// Not for the time being.
    Suspended,
    /// Never again.
    Revoked,
}

impl Lifecycle {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Active, Self::Suspended, Self::Revoked];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

/// The one form of a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schema;

/// `urn:uuid:` and a UUID (RFC 9562) in small letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordId(Arc<str>);

/// A moment, with the text that it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timestamp {
    text: Arc<str>,
    moment: SystemTime,
}

/// Why a string is not what its member needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Another schema.
    #[error("this schema is not known; this version reads `{SCHEMA}`")]
    Schema,
    /// Not a record id.
    #[error("a record id is `urn:uuid:` and a UUID in small letters; `uuidgen` makes one")]
    RecordId,
    /// Not a moment.
    #[error("a moment is written like 2030-01-31T12:00:00Z (RFC 3339)")]
    Timestamp,
}

impl Document {
    /// What no member can tell alone.
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.valid_until.moment <= self.issued_at.moment {
            return Err(ContentProblem::NeverValid.at("$.valid_until"));
        }
        check_length(self.software.len(), SOFTWARE_LIMIT, "$.software")?;
        check_length(self.tools.len(), TOOL_LIMIT, "$.tools")?;
        check_length(self.selectors.len(), TERM_LIMIT, "$.selectors")?;
        let mut tools = HashSet::new();
        for (place, tool) in self.tools.iter().enumerate() {
            if !tools.insert(tool) {
                return Err(ContentProblem::Twice.at(&format!("$.tools[{place}]")));
            }
        }
        for (place, term) in self.selectors.iter().enumerate() {
            let at = format!("$.selectors[{place}]");
            if term.is_empty() {
                return Err(ContentProblem::EmptyTerm.at(&at));
            }
            check_length(term.len(), SELECTOR_LIMIT, &at)?;
        }
        for (place, software) in self.software.iter().enumerate() {
            software.check(&format!("$.software[{place}]"))?;
        }
        Ok(())
    }
}

fn check_length(length: usize, limit: usize, at: &str) -> Result<(), ManifestError> {
    if length > limit { Err(ContentProblem::TooMany(limit).at(at)) } else { Ok(()) }
}

impl RecordId {
    /// A new one, of random bytes (RFC 9562 section 5.4).
    pub fn of_random(bytes: [u8; 16]) -> Self {
        let number =
            u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let hex = format!("{number:032x}");
        let part = |from, to| hex.get(from..to).unwrap_or_default();
        let parts = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)];
        Self(format!("urn:uuid:{}", parts.join("-")).into())
    }
}

impl FromStr for RecordId {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        let uuid = text.strip_prefix("urn:uuid:").ok_or(FormError::RecordId)?;
        let sound = uuid.len() == 36
            && uuid.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if sound { Ok(Self(text.into())) } else { Err(FormError::RecordId) }
    }
}

impl FromStr for Timestamp {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        let moment = rfc3339::parse(text).ok_or(FormError::Timestamp)?;
        Ok(Self { text: text.into(), moment })
    }
}

impl FromStr for Schema {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        if text == SCHEMA { Ok(Self) } else { Err(FormError::Schema) }
    }
}

impl Timestamp {
    /// The moment.
    pub const fn moment(&self) -> SystemTime {
        self.moment
    }
}

impl From<SystemTime> for Timestamp {
    /// In whole seconds.
    fn from(moment: SystemTime) -> Self {
        let text = rfc3339::render(moment);
        let whole = rfc3339::parse(&text).unwrap_or(moment);
        Self { text: text.into(), moment: whole }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEMA)
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

text_in_json!(RecordId, Timestamp, Schema);
