//! The systemd unit, judged by systemd itself.
//!
//! In: packaging/systemd. Out: what `systemd-analyze` thinks of a copy whose program exists.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::Verdict;
use crate::{command, workspace::Workspace};

/// Exposure that `systemd-analyze security` may report at most, tenths: a daemon that loads
/// kernel programs keeps capabilities that the tool counts heavily.
const EXPOSURE_LIMIT: &str = "40";

pub(crate) fn check(workspace: &Workspace) -> Result<Verdict> {
    if command::find("systemd-analyze").is_none() {
        return Ok(Verdict::Skipped("systemd-analyze is not installed"));
    }
    let unit = "agent-enforcer.service";
    let source = workspace.root.join("packaging/systemd").join(unit);
    let text =
        fs::read_to_string(&source).with_context(|| format!("can't read {}", source.display()))?;
    // `verify` insists on programs that are installed.
    let lines = text.lines().map(|line| match line.split_once('=') {
        Some((key @ ("ExecStart" | "ExecReload" | "ExecStartPre"), _)) => {
            format!("{key}=/bin/true")
        }
        Some(_) | None => line.to_owned(),
    });
    let folder = workspace.target.join("lint-unit");
    fs::create_dir_all(&folder)?;
    let copy = folder.join(unit);
    fs::write(&copy, lines.collect::<Vec<_>>().join("\n") + "\n")?;
    command::run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy))?;
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_LIMIT]);
    let report = command::capture(security.arg(&copy))?;
    println!("  {}", command::last_lines(&report, 1));
    Ok(Verdict::Clean)
}
