//! Who signs manifests and grants in the demo: keys made for it, and the commands that use them.
//!
//! In: the daemon's program and a folder. Out: signed files and tokens, as `agent-enforcer` makes them
//! on any machine, without a daemon.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{command, host::Folder};

/// A key with its name.
pub(super) struct Signatory {
    program: PathBuf,
    key: PathBuf,
    kid: &'static str,
    public_key: String,
}

impl Signatory {
    /// Makes the key.
    pub(super) fn create(program: &Path, folder: &Folder, kid: &'static str) -> Result<Self> {
        let key = folder.file(&format!("{kid}.pem"));
        println!("   $ agent-enforcer key new --out {kid}.pem --kid {kid}");
        let mut new = Command::new(program);
        new.args(["--output", "json", "key", "new", "--kid", kid, "--out"]).arg(&key);
        let public_key = command::capture(&mut new)?;
        Ok(Self { program: program.to_owned(), key, kid, public_key })
    }

    /// Its public part, a JSON Web Key on one line.
    pub(super) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Signs a manifest in its file.
    pub(super) fn sign(&self, manifest: &Path) -> Result<()> {
        let mut sign = Command::new(&self.program);
        sign.args(["manifest", "sign"]).arg(manifest);
        self.run(&mut sign, &["manifest", "sign", "demo-signed.json"])?;
        Ok(())
    }

    /// A grant token; `words` are those of `grant token` but for the key.
    pub(super) fn token(&self, words: &[&str]) -> Result<Value> {
        let shown = [&["grant", "token"], words].concat();
        let mut token = Command::new(&self.program);
        token.args(["--output", "json"]).args(&shown);
        let text = self.run(&mut token, &shown)?;
        serde_json::from_str(&text).context("`grant token` did not write JSON")
    }

    fn run(&self, command: &mut Command, shown: &[&str]) -> Result<String> {
        println!("   $ agent-enforcer {} --key {}.pem", shown.join(" "), self.kid);
        command::capture(command.arg("--key").arg(&self.key).args(["--kid", self.kid]))
    }
}
