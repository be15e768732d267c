//! A manifest that a trusted key signed, and how it stands at a moment.
//!
//! In: a manifest, the wall clock, what was seen of the agent before. Out: whether it counts now,
//! and what to remember. Asked in order: is it the newest, has it begun, what is the agent's
//! lifecycle, has it ended? What is remembered moves on with a newer version even where that ends
//! the agent: else the version before could be put back.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Document, Lifecycle, Manifest, ManifestRefusal};
use crate::{decision::Sha256Digest, signing::KeyId};

/// How far ahead the clock of whoever signed may be.
const SKEW: Duration = Duration::from_mins(5);

/// A manifest that a trusted key signed: only [`super::SignedManifest::verify`] makes one.
#[derive(Clone, Debug)]
pub struct Verified<'a> {
    manifest: &'a Manifest,
    signers: Vec<KeyId>,
}

/// The newest version that was seen of an agent's manifest. Kept by the caller, by agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownVersion {
    /// Its number.
    pub version: u64,
    /// Its digest.
    pub digest: Sha256Digest,
}

/// How a manifest stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it counts.
    pub standing: Result<(), ManifestRefusal>,
    /// What to remember of this agent from now on.
    pub known: Option<KnownVersion>,
}

impl<'a> Verified<'a> {
    pub(super) const fn new(manifest: &'a Manifest, signers: Vec<KeyId>) -> Self {
        Self { manifest, signers }
    }

    /// The manifest.
    pub const fn manifest(&self) -> &'a Manifest {
        self.manifest
    }

    /// The trusted keys that signed it.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    /// How it stands by the wall clock, after what was seen of this agent before.
    pub fn judge(&self, now: SystemTime, known: Option<KnownVersion>) -> Judgement {
        let document = self.manifest.document();
        let this = KnownVersion { version: document.version.get(), digest: self.manifest.digest() };
        if let Some(known) = known.filter(|known| is_newer(known, &this)) {
            let standing = Err(ManifestRefusal::RolledBack { known });
            return Judgement { standing, known: Some(known) };
        }
        let standing = document.standing(now);
        // What has not begun would lock out the version in force.
        let begun = standing != Err(ManifestRefusal::NotYetIssued);
        Judgement { standing, known: if begun { Some(this) } else { known } }
    }
}

impl Document {
    /// How it stands by the wall clock, whoever signed it and whatever was seen before.
    pub fn standing(&self, now: SystemTime) -> Result<(), ManifestRefusal> {
        if self.issued_at.moment().duration_since(now).is_ok_and(|ahead| ahead > SKEW) {
            return Err(ManifestRefusal::NotYetIssued);
        }
        match self.lifecycle {
            Lifecycle::Revoked => Err(ManifestRefusal::Revoked),
            Lifecycle::Suspended => Err(ManifestRefusal::Suspended),
            Lifecycle::Active if now >= self.valid_until.moment() => Err(ManifestRefusal::Expired),
            Lifecycle::Active => Ok(()),
        }
    }
}

/// Of one version there is one manifest.
fn is_newer(known: &KnownVersion, this: &KnownVersion) -> bool {
    known.version > this.version || (known.version == this.version && known.digest != this.digest)
}
