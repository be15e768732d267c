//! The software that an agent is made of, known by content.
//!
//! In: entries of a manifest. Out: [`SoftwareSet`], asked for the entry of a digest. Names are for
//! people: two versions of one program are two entries of one name, but no digest stands twice.

use std::{collections::HashMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ContentProblem, ManifestError};
use crate::{
    decision::{NotADigest, Sha256Digest},
    resolver::text::Text,
    strict_json,
};

/// What people call a piece of software.
pub type SoftwareName = Text<200>;

/// A piece of software.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    /// What people call it.
    pub name: SoftwareName,
    /// How it comes to run.
    pub kind: SoftwareKind,
    /// Digest of its content.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// Its fs-verity digest, which the kernel itself keeps to.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsverity: Option<FsverityDigest>,
    /// What an interpreter interprets.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
}

/// How software comes to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoftwareKind {
    /// The kernel executes it.
    Executable,
    /// The kernel executes it, and it executes scripts.
    Interpreter,
    /// An interpreter executes it.
    Script,
}

/// What an interpreter interprets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Python.
    Python,
    /// A POSIX shell, or one like it.
    Shell,
    /// JavaScript.
    Node,
    /// Perl.
    Perl,
    /// Ruby.
    Ruby,
}

/// A digest of fs-verity: `sha256:` and 64 digits, as `fsverity measure` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FsverityDigest(pub Sha256Digest);

/// The software of one manifest.
#[derive(Clone, Debug, Default)]
pub struct SoftwareSet {
    entries: Vec<Software>,
    by_sha256: HashMap<Sha256Digest, usize>,
    by_fsverity: HashMap<FsverityDigest, usize>,
}

impl Software {
    /// What no member can tell alone.
    pub(super) fn check(&self, at: &str) -> Result<(), ManifestError> {
        let Self { name: _, kind, sha256, fsverity, language } = self;
        if sha256.is_none() && fsverity.is_none() {
            return Err(ContentProblem::NoDigest.at(at));
        }
        match (kind, language) {
            (SoftwareKind::Interpreter, None) => Err(ContentProblem::NoLanguage.at(at)),
            (SoftwareKind::Executable | SoftwareKind::Script, Some(_)) => {
                Err(ContentProblem::NeedlessLanguage.at(at))
            }
            (SoftwareKind::Interpreter, Some(_))
            | (SoftwareKind::Executable | SoftwareKind::Script, None) => Ok(()),
        }
    }
}

impl SoftwareSet {
    /// Indexes entries; no digest may stand twice.
    pub(super) fn new(entries: &[Software]) -> Result<Self, ManifestError> {
        let mut set = Self { entries: entries.to_vec(), ..Self::default() };
        for (place, software) in entries.iter().enumerate() {
            let taken = [
                software.sha256.and_then(|digest| set.by_sha256.insert(digest, place)),
                software.fsverity.and_then(|digest| set.by_fsverity.insert(digest, place)),
            ];
            if taken.iter().any(Option::is_some) {
                return Err(ContentProblem::SameDigest.at(&format!("$.software[{place}]")));
            }
        }
        Ok(set)
    }

    /// The entry whose content has a digest.
    pub fn with_sha256(&self, digest: &Sha256Digest) -> Option<&Software> {
        self.entries.get(*self.by_sha256.get(digest)?)
    }

    /// The entry of an fs-verity digest.
    pub fn with_fsverity(&self, digest: &FsverityDigest) -> Option<&Software> {
        self.entries.get(*self.by_fsverity.get(digest)?)
    }

    /// The entry of a file, by whichever of its digests.
    pub fn find(
        &self,
        sha256: Option<Sha256Digest>,
        fsverity: Option<Sha256Digest>,
    ) -> Option<&Software> {
        let by_content = sha256.and_then(|digest| self.with_sha256(&digest));
        by_content.or_else(|| self.with_fsverity(&FsverityDigest(fsverity?)))
    }

    /// Every entry, in the order of the manifest.
    pub fn iter(&self) -> impl Iterator<Item = &Software> {
        self.entries.iter()
    }

    /// Whether the manifest names no software.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl SoftwareKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Executable, Self::Interpreter, Self::Script];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Executable => "executable",
            Self::Interpreter => "interpreter",
            Self::Script => "script",
        }
    }
}

impl Language {
    /// Every language.
    pub const ALL: [Self; 5] = [Self::Python, Self::Shell, Self::Node, Self::Perl, Self::Ruby];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Shell => "shell",
            Self::Node => "node",
            Self::Perl => "perl",
            Self::Ruby => "ruby",
        }
    }
}

/// Not an fs-verity digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an fs-verity digest is `sha256:` and 64 digits; write what `fsverity measure FILE` shows")]
pub struct NotAnFsverityDigest;

impl FromStr for FsverityDigest {
    type Err = NotAnFsverityDigest;

    fn from_str(text: &str) -> Result<Self, NotAnFsverityDigest> {
        let hex = text.strip_prefix("sha256:").ok_or(NotAnFsverityDigest)?;
        hex.parse().map(Self).map_err(|NotADigest| NotAnFsverityDigest)
    }
}

impl fmt::Display for FsverityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl Serialize for FsverityDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FsverityDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        strict_json::text(deserializer)
    }
}
