//! What is told of a manifest: a line, a table, or JSON.

use std::{path::Path, time::SystemTime};

use serde::Serialize;

use crate::{
    cli::{
        console::Style,
        table::{Table, Tone},
        text::{line, relative},
    },
    decision::Sha256Digest,
    resolver::manifest::{Document, Manifest, ManifestRefusal},
    signing::KeyId,
};

/// A manifest in short.
#[derive(Serialize)]
pub(super) struct SignedView<'a> {
    file: String,
    agent_id: &'a str,
    version: u64,
    digest: Sha256Digest,
    signers: Vec<&'a KeyId>,
    valid_until: String,
}

/// A manifest in full.
#[derive(Serialize)]
pub(super) struct ManifestView<'a> {
    file: String,
    digest: Sha256Digest,
    /// As in `manifest verify`, but for signatures and versions; nothing where it counts.
    reason: Option<&'static str>,
    signers: Vec<Signer<'a>>,
    manifest: &'a Document,
    #[serde(skip)]
    now: SystemTime,
}

#[derive(Serialize)]
struct Signer<'a> {
    kid: &'a KeyId,
    algorithm: &'static str,
}

impl<'a> SignedView<'a> {
    /// With everyone whose signature is there.
    pub(super) fn new(file: &Path, manifest: &'a Manifest) -> Self {
        Self::of(file, manifest, signers(manifest).map(|signer| signer.kid).collect())
    }

    /// With those whose signature was checked.
    pub(super) fn of_signers(file: &Path, manifest: &'a Manifest, signers: &'a [KeyId]) -> Self {
        Self::of(file, manifest, signers.iter().collect())
    }

    fn of(file: &Path, manifest: &'a Manifest, signers: Vec<&'a KeyId>) -> Self {
        let document = manifest.document();
        Self {
            file: file.to_string_lossy().into_owned(),
            agent_id: document.agent_id.as_str(),
            version: document.version.get(),
            digest: manifest.digest(),
            signers,
            valid_until: document.valid_until.to_string(),
        }
    }

    /// For people.
    pub(super) fn line(&self, what: &str) -> String {
        let Self { file, agent_id, version, digest, signers, valid_until } = self;
        let signers = match signers.as_slice() {
            [] => "not signed yet".to_owned(),
            signers => format!("{what} {}", listed(signers.iter().map(ToString::to_string))),
        };
        line(&format!(
            "{file}: {agent_id} version {version}, until {valid_until}; {signers}; digest {digest}"
        ))
    }
}

impl<'a> ManifestView<'a> {
    pub(super) fn new(file: &Path, manifest: &'a Manifest, now: SystemTime) -> Self {
        let document = manifest.document();
        Self {
            file: file.to_string_lossy().into_owned(),
            digest: manifest.digest(),
            reason: document.standing(now).err().as_ref().map(ManifestRefusal::word),
            signers: signers(manifest).collect(),
            manifest: document,
            now,
        }
    }
}

fn signers(manifest: &Manifest) -> impl Iterator<Item = Signer<'_>> {
    manifest.signatures().iter().map(|signature| {
        let header = signature.header();
        Signer { kid: header.kid(), algorithm: header.algorithm().word() }
    })
}

pub(super) fn render(view: &ManifestView<'_>, style: Style) -> String {
    let ManifestView { file, digest, reason, signers, manifest, now } = view;
    let Document {
        schema: _,
        record_id,
        version,
        agent_id,
        name,
        owner,
        sponsor,
        purpose,
        environment,
        model,
        software,
        tools,
        selectors,
        lifecycle,
        issued_at,
        valid_until,
        signatures: _,
    } = manifest;
    let until = format!("{valid_until} ({})", relative(valid_until.moment(), *now));
    let (standing, tone) = match reason {
        None => ("counts, if its signatures are trusted", Tone::Good),
        Some(word) => (*word, Tone::Bad),
    };
    let model =
        model.as_ref().map(|model| format!("{} {} {}", model.provider, model.name, model.version));
    let signed = signers.iter().map(|signer| format!("{} ({})", signer.kid, signer.algorithm));
    let mut table = Table::new(&[], style);
    for (what, value) in [
        ("file", file.as_str()),
        ("digest", &digest.to_string()),
        ("signed by", &listed(signed)),
        ("agent", agent_id.as_str()),
        ("name", name),
        ("record", &record_id.to_string()),
        ("version", &version.to_string()),
        ("lifecycle", lifecycle.word()),
        ("issued", &issued_at.to_string()),
        ("valid until", &until),
        ("owner", owner),
        ("sponsor", sponsor),
        ("purpose", purpose),
        ("environment", environment.as_deref().unwrap_or("-")),
        ("model", model.as_deref().unwrap_or("-")),
        ("tools", &listed(tools.iter().map(ToString::to_string))),
    ] {
        table.row([what, value]);
    }
    for term in selectors {
        table.row(["selectors", &listed(term.iter().map(ToString::to_string))]);
    }
    table.toned_row([("standing", Tone::Plain), (standing, tone)]);
    let mut text = table.finish();
    if software.is_empty() {
        return text;
    }
    let mut table = Table::new(&["SOFTWARE", "KIND", "LANGUAGE", "SHA256", "FSVERITY"], style);
    for entry in software {
        table.row([
            &*entry.name,
            entry.kind.word(),
            entry.language.map_or("-", |language| language.word()),
            &entry.sha256.map_or_else(|| "-".to_owned(), |digest| digest.to_string()),
            &entry.fsverity.map_or_else(|| "-".to_owned(), |digest| digest.to_string()),
        ]);
    }
    text.push('\n');
    text.push_str(&table.finish());
    text
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}
