//! Signed agent manifests: what an agent is, who answers for it, and which software it is made of.
//!
//! In: a JSON document of at most 256 KiB, and keys that the policy trusts. Out: a [`Verified`]
//! manifest, and how it stands at a moment; or one refusal with its word. Pure: reads no clock, no
//! file, no key of its own. A manifest grants nothing; it says of whom grants speak.
//!
//! The fields follow CoSAI's draft of agent records and A2A's agent cards, whose way of signing is
//! used: detached JWS over the canonical JSON of all members but `signatures`.

mod document;
mod error;
mod ledger;
mod refusal;
mod software;
mod verified;

#[cfg(test)]
pub(crate) mod testing;

use std::{collections::HashSet, sync::Arc};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub use document::{
    Document, Environment, Lifecycle, Model, Owner, Purpose, RecordId, Schema, SelectorText,
    Timestamp,
};
pub use error::{ContentProblem, ManifestError};
pub use refusal::ManifestRefusal;
pub use software::{FsverityDigest, Language, Software, SoftwareKind, SoftwareName, SoftwareSet};
pub use verified::{Judgement, KnownVersion, Verified};

use crate::{
    decision::Sha256Digest,
    signing::{Detached, PublicKey, SigningKey, canonical},
    strict_json::{self, Decoded, Limits},
};

use super::spiffe::SpiffeId;

/// Largest manifest.
pub const LIMITS: Limits = Limits { bytes: 256 << 10, depth: 16 };
/// Most signatures of a manifest.
const SIGNATURE_LIMIT: usize = 8;

/// A manifest whose form and content are sound, signed or not. Nobody vouches for it yet.
#[derive(Clone, Debug)]
pub struct Manifest {
    document: Document,
    signatures: Vec<Detached>,
    /// Canonical JSON of all but the signatures: what is signed.
    payload: Arc<[u8]>,
    software: SoftwareSet,
}

/// A manifest with at least one signature. Whether any of them counts says [`Manifest::verify`].
#[derive(Clone, Debug)]
pub struct SignedManifest(Manifest);

impl Manifest {
    /// Reads a manifest; it may have no signature yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let Decoded { typed: document, mut tree } = strict_json::decode::<Document>(bytes, LIMITS)?;
        document.check()?;
        let software = SoftwareSet::new(&document.software)?;
        let signatures = read_signatures(&document)?;
        if let Value::Object(members) = &mut tree {
            members.remove("signatures");
        }
        let payload = canonical(&tree)?.into();
        Ok(Self { document, signatures, payload, software })
    }

    /// Of members that were put together here.
    pub fn new(document: &Document) -> Result<Self, ManifestError> {
        Self::parse(json(document)?.as_bytes())
    }

    /// Its members.
    pub const fn document(&self) -> &Document {
        &self.document
    }

    /// What it is made of, found by digest.
    pub const fn software(&self) -> &SoftwareSet {
        &self.software
    }

    /// Its signatures, none of them checked.
    pub fn signatures(&self) -> &[Detached] {
        &self.signatures
    }

    /// SHA-256 of what is signed: the same whoever signs it, and however it is written.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest(Sha256::digest(&self.payload).into())
    }

    /// Adds a signature; replaces the one of a key of the same name.
    pub fn sign(mut self, key: &SigningKey) -> Result<SignedManifest, ManifestError> {
        let signature = Detached::sign(&self.payload, key).map_err(ManifestError::NotSigned)?;
        let kid = signature.header().kid();
        self.signatures.retain(|other| other.header().kid() != kid);
        self.signatures.push(signature);
        if self.signatures.len() > SIGNATURE_LIMIT {
            let problem = ContentProblem::TooMany(SIGNATURE_LIMIT);
            return Err(problem.at("$.signatures"));
        }
        self.document.signatures =
            self.signatures.iter().map(|signature| signature.form().clone()).collect();
        Ok(SignedManifest(self))
    }

    /// Checks who signed. `trust` knows the keys by name, and for which agents each may sign. A
    /// signature of a key that it does not know counts for nothing; one that does not hold under a
    /// key that it knows refuses the whole manifest.
    pub fn verify<'key>(
        &self,
        trust: impl Fn(&str, &SpiffeId) -> Option<&'key PublicKey>,
    ) -> Result<Verified<'_>, ManifestRefusal> {
        let Self { document, signatures, payload, software: _ } = self;
        let mut signers = Vec::new();
        for signature in signatures {
            let kid = signature.header().kid();
            let Some(key) = trust(kid.as_str(), &document.agent_id) else { continue };
            signature
                .verify(payload, key)
                .map_err(|error| ManifestRefusal::BadSignature { kid: kid.clone(), error })?;
            signers.push(kid.clone());
        }
        if signers.is_empty() {
            return Err(ManifestRefusal::UnknownSigner);
        }
        Ok(Verified::new(self, signers))
    }
    /// As a file: JSON for people, with a final newline.
    pub fn to_json(&self) -> Result<String, ManifestError> {
        json(&self.document)
    }
}

impl SignedManifest {
    /// Reads a manifest that has to be signed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest = Manifest::parse(bytes)?;
        if manifest.signatures.is_empty() {
            return Err(ManifestError::Unsigned);
        }
        Ok(Self(manifest))
    }

    /// What is signed.
    pub const fn manifest(&self) -> &Manifest {
        &self.0
    }

    /// See [`Manifest::verify`].
    pub fn verify<'key>(
        &self,
        trust: impl Fn(&str, &SpiffeId) -> Option<&'key PublicKey>,
    ) -> Result<Verified<'_>, ManifestRefusal> {
        self.0.verify(trust)
    }
}

fn json(document: &Document) -> Result<String, ManifestError> {
    let text = serde_json::to_string_pretty(document);
    text.map(|text| text + "\n").map_err(|error| ManifestError::NotWritten(error.to_string()))
}

fn read_signatures(document: &Document) -> Result<Vec<Detached>, ManifestError> {
    if document.signatures.len() > SIGNATURE_LIMIT {
        return Err(ContentProblem::TooMany(SIGNATURE_LIMIT).at("$.signatures"));
    }
    let mut kids = HashSet::new();
    let mut signatures = Vec::new();
    for (place, form) in document.signatures.iter().enumerate() {
        let at = format!("$.signatures[{place}]");
        let signature = Detached::parse(form.clone())
            .map_err(|error| ContentProblem::Signature(error).at(&at))?;
        if !kids.insert(signature.header().kid().clone()) {
            return Err(ContentProblem::SignedTwice(signature.header().kid().clone()).at(&at));
        }
        signatures.push(signature);
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests;
