//! Who signs manifests and grants: a key, and the commands that use it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::binaries;

/// A key with its name.
pub struct Signatory {
    directory: PathBuf,
    key: PathBuf,
    kid: String,
    /// Its public part, a JSON Web Key on one line.
    pub jwk: String,
}

impl Signatory {
    /// Makes a key of an algorithm.
    pub fn new(directory: &Path, kid: &str, algorithm: &str) -> Self {
        let key = directory.join(format!("{kid}.pem"));
        let path = key.to_str().expect("a path of a test");
        let jwk = run(&["key", "new", "--out", path, "--kid", kid, "--alg", algorithm]);
        Self { directory: directory.to_owned(), key, kid: kid.to_owned(), jwk: jwk.to_string() }
    }

    /// A signed manifest; `arguments` are those of `manifest new`.
    pub fn manifest(&self, arguments: &[&str]) -> String {
        self.sign(&unsigned_manifest(arguments))
    }

    /// Signs a manifest.
    pub fn sign(&self, manifest: &str) -> String {
        let file = self.directory.join("manifest.json");
        fs::write(&file, manifest).expect("an own file");
        let file = file.to_str().expect("a path of a test");
        run(&["manifest", "sign", file, "--key", self.key(), "--kid", &self.kid]);
        fs::read_to_string(file).expect("an own file")
    }

    /// A token; `arguments` are those of `grant token` but for key and issuer.
    pub fn token(&self, issuer: &str, arguments: &[&str]) -> Value {
        let mut all = vec!["grant", "token", "--key", self.key(), "--kid", &self.kid];
        all.extend(["--issuer", issuer]);
        all.extend(arguments);
        run(&all)
    }

    fn key(&self) -> &str {
        self.key.to_str().expect("a path of a test")
    }
}

/// A manifest that nobody has signed.
pub fn unsigned_manifest(arguments: &[&str]) -> String {
    let mut all = vec!["manifest", "new", "--owner", "owner@example.com"];
    all.extend(["--sponsor", "ada@example.com", "--purpose", "is tested"]);
    all.extend(arguments);
    format!("{:#}\n", run(&all))
}

/// A command that needs no daemon; its JSON document.
fn run(arguments: &[&str]) -> Value {
    let output = Command::new(binaries::daemon())
        .args(["--output", "json"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the daemon's binary");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    serde_json::from_slice(&output.stdout).expect("a JSON document")
}
