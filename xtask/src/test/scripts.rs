//! Tests of the shell scripts: each file of scripts/tests is one test.
//!
//! In: executable scripts. Out: a [`Tally`]; exit status 0 is a pass, 77 a skip whose reason is
//! the last line, everything else a failure.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::libtest::Tally;
use crate::{command, workspace::Workspace};

const SKIPPED: i32 = 77;

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    let folder = workspace.root.join("scripts/tests");
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("can't read {}", folder.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut scripts: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    scripts.sort();
    let mut tally = Tally::default();
    for script in scripts {
        let name = script.strip_prefix(&workspace.root).unwrap_or(&script).display().to_string();
        let output = Command::new("bash")
            .arg(&script)
            .env("AGENT_ENFORCER_BIN", workspace.daemon())
            .output()
            .with_context(|| format!("can't run {name}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {
                println!("script {name} ... ok");
                tally.passed += 1;
            }
            Some(SKIPPED) => {
                let reason = command::last_lines(&said, 1);
                println!("script {name} ... skipped, {reason}");
                tally.skipped += 1;
                *tally.reasons.entry(reason).or_default() += 1;
            }
            Some(_) | None => {
                println!("script {name} ... FAILED\n{said}");
                tally.failed += 1;
                tally.failures.push(name);
            }
        }
    }
    Ok(tally)
}
