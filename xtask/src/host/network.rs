//! Network namespaces, and cables between them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::command;

/// Where iproute2 keeps named namespaces.
const NAMED: &str = "/run/netns";

/// A named network namespace with its loopback up; removed when dropped.
pub(crate) struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    /// Creates it.
    pub(crate) fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let namespace = Self { name: name.to_owned(), path: Path::new(NAMED).join(name) };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut words = vec!["-netns", &self.name];
        words.extend(arguments);
        ip(&words)
    }

    /// Connects two namespaces; each end gets addresses and is called `cable`.
    pub(crate) fn connect(&self, own: &[&str], other: &Self, others: &[&str]) -> Result<()> {
        let peer = ["peer", "name", "cable", "netns", &other.name];
        self.ip(&[["link", "add", "cable", "type", "veth"].as_slice(), &peer].concat())?;
        for (end, addresses) in [(self, own), (other, others)] {
            for address in addresses {
                // Without `nodad` an IPv6 address can't be used for its first second.
                let mut words = vec!["address", "add", address, "dev", "cable"];
                if address.contains(':') {
                    words.push("nodad");
                }
                end.ip(&words)?;
            }
            end.ip(&["link", "set", "cable", "up"])?;
        }
        Ok(())
    }

    /// Its file, to enter it by.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("can't remove network namespace {}: {error:#}", self.name);
        }
    }
}

/// Names of all namespaces.
pub(super) fn names() -> Result<Vec<String>> {
    if !Path::new(NAMED).is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(NAMED).with_context(|| format!("can't read {NAMED}"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Removes a namespace.
pub(super) fn delete(name: &str) -> Result<()> {
    ip(&["netns", "delete", name])
}

fn ip(arguments: &[&str]) -> Result<()> {
    let program = command::find("ip").context("`ip` is missing; run `cargo xtask setup`")?;
    command::capture(Command::new(program).args(arguments)).map(|_| ())
}
