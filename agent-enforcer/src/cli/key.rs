//! `key new` and `show`: keys that sign manifests and grant tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::console::{Console, Exit, Failure};
use crate::signing::{Algorithm, KeyFileError, KeyId, SigningKey};

#[derive(Debug, Subcommand)]
pub(super) enum KeyVerb {
    New(NewArgs),
    Show(ShowArgs),
}

/// Make a key, and print its public part as a JSON Web Key, ready for the policy.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Where the private key goes: a new file, for its owner only.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What it signs with: EdDSA (Ed25519) or ES256 (P-256).
    #[arg(long, value_name = "ALGORITHM", default_value = "EdDSA", value_parser = algorithm)]
    alg: Algorithm,
    /// What it is called [default: its thumbprint].
    #[arg(long, value_name = "KID")]
    kid: Option<KeyId>,
}

/// Print the public part of a key file as a JSON Web Key.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The private key, PKCS#8 in PEM, readable for its owner only.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it is called [default: its thumbprint].
    #[arg(long, value_name = "KID")]
    kid: Option<KeyId>,
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        // The errors name their remedies.
        Self::failed(error.to_string(), "see docs/manifests.md for how keys are kept")
    }
}

pub(super) fn run(verb: KeyVerb, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let key = match verb {
        KeyVerb::New(NewArgs { out, alg, kid }) => {
            let key = SigningKey::create(&out, alg, kid)?;
            console.remark(&format!(
                "the private key is in {}: back it up, and never copy it to a host of agents",
                out.display()
            ))?;
            key
        }
        KeyVerb::Show(ShowArgs { file, kid }) => SigningKey::load(&file, kid)?,
    };
    // A JSON object is YAML as well: the policy takes the line as it is.
    console.json(key.public())?;
    Ok(Exit::Done)
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::from_word(text).ok_or_else(|| "use EdDSA or ES256".to_owned())
}
