//! Where things are in this checkout, as cargo knows it.
//!
//! In: `cargo metadata`. Out: paths and package names. Never guesses the target directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;

/// The package of the daemon.
pub(crate) const DAEMON: &str = "agent-enforcer";
/// The package with the tests that need the whole daemon and a real kernel.
pub(crate) const SYSTEM_TESTS: &str = "agent-enforcer-tests";
/// This package.
pub(crate) const XTASK: &str = env!("CARGO_PKG_NAME");
/// The package of the kernel programs.
pub(crate) const KERNEL_PACKAGE: &str = "agent-enforcer-ebpf";
/// The target that the kernel programs are built for.
pub(crate) const KERNEL_TARGET: &str = "bpfel-unknown-none";

/// The checkout.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Folder of the workspace's Cargo.toml.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Names of all packages that are members. (Which are default members depends on where cargo is
    /// asked, so nothing here does.)
    pub members: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    workspace_members: Vec<String>,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let json = command::capture(
            Command::new("cargo")
                .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
                .arg(manifest),
        )?;
        let metadata: Metadata =
            serde_json::from_str(&json).context("`cargo metadata` wrote an unknown form")?;
        let is_member = |package: &&Package| metadata.workspace_members.contains(&package.id);
        let members = metadata.packages.iter().filter(is_member);
        Ok(Self {
            members: members.map(|package| package.name.clone()).collect(),
            root: metadata.workspace_root,
            target: metadata.target_directory,
        })
    }

    /// Cargo, to be run in the workspace's root.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = Command::new("cargo");
        command.arg(verb).current_dir(&self.root);
        command
    }

    /// Whether there is a package of that name.
    pub(crate) fn has(&self, package: &str) -> bool {
        self.members.iter().any(|member| member == package)
    }

    /// The daemon that `cargo xtask build` makes.
    pub(crate) fn daemon(&self) -> PathBuf {
        self.target.join("release/agent-enforcer")
    }

    /// Files under version control that exist, relative to the root.
    pub(crate) fn tracked_files(&self) -> Result<Vec<PathBuf>> {
        let listing = command::capture(
            Command::new("git").arg("-C").arg(&self.root).args(["ls-files", "-z"]),
        )?;
        let files = listing.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
        Ok(files.filter(|file| self.root.join(file).is_file()).collect())
    }
}
