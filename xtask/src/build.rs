//! The daemon with its kernel programs inside.
//!
//! In: a machine that `setup` prepared. Out: target/release/agent-enforcer. The daemon's own build
//! script compiles the kernel crate; a missing tool is named here, before a compiler stumbles.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{
    command,
    setup::{self, Scope},
    workspace::{DAEMON, Workspace},
};

/// Builds and returns the path of the daemon.
pub(crate) fn run() -> Result<PathBuf> {
    let workspace = Workspace::find()?;
    let missing = setup::missing(&workspace, Scope::Build)?;
    if !missing.is_empty() {
        bail!("missing: {}; run `cargo xtask setup` first", missing.join(", "));
    }
    command::run(workspace.cargo("build").args(["--release", "-p", DAEMON]))?;
    let daemon = workspace.daemon();
    println!("built {}", daemon.display());
    Ok(daemon)
}
