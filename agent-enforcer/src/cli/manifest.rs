//! `manifest new`, `sign`, `verify` and `show`: agent manifests, without a daemon.

mod new;
mod view;

use std::{path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand};

use super::{
    console::{Console, Exit, Failure},
    file,
};
use crate::{
    resolver::manifest::{Manifest, ManifestError, ManifestRefusal, SignedManifest},
    signing::{KeyId, KeySet, KeySetError, SigningKey},
};
use view::{ManifestView, SignedView};

/// Largest key file, bytes.
const KEYS_LIMIT: u64 = 256 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum ManifestVerb {
    New(Box<new::NewArgs>),
    Sign(SignArgs),
    Verify(VerifyArgs),
    /// Show what a manifest says, its digest, and who signed; no signature is checked.
    Show {
        /// The manifest.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Sign a manifest; a signature of a key of the same name is replaced, others stay.
#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The manifest.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The private key, PKCS#8 in PEM, readable for its owner only.
    #[arg(long, value_name = "PEM")]
    key: PathBuf,
    /// What the policy calls the key [default: its thumbprint].
    #[arg(long, value_name = "KID")]
    kid: Option<KeyId>,
    /// Where the signed manifest goes [default: FILE, replaced at once].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Check that one of some keys signed a manifest, and that it counts now. Exits with 1 if not.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The manifest.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Trusted keys: JSON Web Keys, or sets of them.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    keys: Vec<PathBuf>,
}

impl From<ManifestRefusal> for Failure {
    fn from(refusal: ManifestRefusal) -> Self {
        let (word, remedy) = (refusal.word(), refusal.remedy().to_owned());
        Self::Refused { word, error: refusal.to_string(), remedy }
    }
}

pub(super) fn run(verb: ManifestVerb, console: &mut Console<'_>) -> Result<Exit, Failure> {
    match verb {
        ManifestVerb::New(args) => new::new(*args, console),
        ManifestVerb::Sign(args) => sign(args, console),
        ManifestVerb::Verify(args) => verify(args, console),
        ManifestVerb::Show { file } => {
            let manifest = read(&file)?;
            let view = ManifestView::new(&file, &manifest, SystemTime::now());
            console.show(&view, view::render)
        }
    }
}

fn sign(args: SignArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let SignArgs { file, key, kid, out } = args;
    let key = SigningKey::load(&key, kid)?;
    let signed = read(&file)?.sign(&key).map_err(|error| wrong(&file, &error))?;
    let text = signed.manifest().to_json().map_err(|error| wrong(&file, &error))?;
    let out = out.unwrap_or(file);
    file::replace(&out, text.as_bytes())?;
    console.show(&SignedView::new(&out, signed.manifest()), |view, _| view.line("signed by"))
}

fn verify(args: VerifyArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let VerifyArgs { file, keys } = args;
    let keys = read_keys(&keys)?;
    let bytes = file::read(&file, limit())?;
    let manifest = SignedManifest::parse(&bytes).map_err(|error| wrong(&file, &error))?;
    // Whoever runs this says whom to trust; which agents a key may sign for is the policy's.
    let verified = manifest.verify(|kid, _| keys.get(kid))?;
    verified.judge(SystemTime::now(), None).standing?;
    let view = SignedView::of_signers(&file, verified.manifest(), verified.signers());
    console.show(&view, |view, _| view.line("holds, signed by"))
}

fn read_keys(files: &[PathBuf]) -> Result<KeySet, Failure> {
    let mut all = KeySet::default();
    for path in files {
        let wrong = |error: KeySetError| {
            let error = format!("{}: {error}", path.display());
            Failure::failed(error, "give public keys as `agent-enforcer key show` prints them")
        };
        let set = KeySet::from_json(&file::read(path, KEYS_LIMIT)?).map_err(wrong)?;
        for key in set.iter() {
            all.add(key.clone()).map_err(wrong)?;
        }
    }
    Ok(all)
}

fn read(file: &std::path::Path) -> Result<Manifest, Failure> {
    Manifest::parse(&file::read(file, limit())?).map_err(|error| wrong(file, &error))
}

/// One more byte than a manifest may have: then its reader says so.
fn limit() -> u64 {
    u64::try_from(crate::resolver::manifest::LIMITS.bytes).unwrap_or(u64::MAX).saturating_add(1)
}

fn wrong(file: &std::path::Path, error: &ManifestError) -> Failure {
    let error = format!("{}: {error}", file.display());
    Failure::failed(error, "correct the manifest; docs/manifests.md shows the form")
}
