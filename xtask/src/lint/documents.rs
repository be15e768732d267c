//! The documents that every reader relies on: there, short enough, and naming the right commands.

use std::fs;

use anyhow::{Result, bail};

use super::Verdict;
use crate::{bypass, workspace::Workspace};

/// A map longer than this is no map.
const ARCHITECTURE_LINES: usize = 250;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
];

pub(crate) fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut wrong = Vec::new();
    for name in DOCUMENTS {
        let Ok(text) = fs::read_to_string(workspace.root.join(name)) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        let lines = text.lines().count();
        if *name == "ARCHITECTURE.md" && lines > ARCHITECTURE_LINES {
            wrong.push(format!("{name} has {lines} lines; shorten it to {ARCHITECTURE_LINES}"));
        }
        // `ci` promises to run the README's test command.
        if *name == "README.md" && !text.lines().any(|line| line.contains("cargo xtask test")) {
            wrong.push(format!("{name} does not name the test command `cargo xtask test`"));
        }
    }
    if !bypass::is_up_to_date(workspace)? {
        wrong.push("docs/bypass.md is not as its table: `cargo xtask bypass --write-docs`".into());
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(Verdict::Clean)
}
