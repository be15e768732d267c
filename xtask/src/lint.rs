//! Every check that needs no kernel.
//!
//! In: the checkout. Out: one line per check, and an error that names those that failed. All of
//! them run, whatever fails before. Never changes a file.

mod documents;
mod hygiene;
mod unit;

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    setup::{self, Scope},
    workspace::{KERNEL_PACKAGE, KERNEL_TARGET, Workspace},
};

/// What became of a check.
enum Verdict {
    /// All is well.
    Clean,
    /// It could not run here, and why.
    Skipped(&'static str),
}

type Check = fn(&Workspace) -> Result<Verdict>;

const CHECKS: &[(&str, Check)] = &[
    ("format", format),
    ("clippy", clippy),
    ("clippy of the kernel crate", clippy_kernel),
    ("dependencies", dependencies),
    ("scripts", scripts),
    ("hygiene", hygiene::check),
    ("documents", documents::check),
    ("service", unit::check),
];

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::find()?;
    setup::ensure(&workspace, Scope::Lint)?;
    let mut failed = Vec::new();
    let mut summary = vec!["\nlint".to_owned()];
    for (name, check) in CHECKS {
        println!("\n{name}");
        let word = match check(&workspace) {
            Ok(Verdict::Clean) => "ok".to_owned(),
            Ok(Verdict::Skipped(reason)) => format!("skipped: {reason}"),
            Err(error) => {
                eprintln!("error: {error:#}");
                failed.push(*name);
                "failed".to_owned()
            }
        };
        summary.push(format!("  {name}: {word}"));
    }
    println!("{}", summary.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn format(workspace: &Workspace) -> Result<Verdict> {
    command::run(workspace.cargo("fmt").args(["--all", "--check"]))
        .context("run `cargo fmt --all`")?;
    Ok(Verdict::Clean)
}

fn clippy(workspace: &Workspace) -> Result<Verdict> {
    command::run(workspace.cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]))?;
    Ok(Verdict::Clean)
}

fn clippy_kernel(workspace: &Workspace) -> Result<Verdict> {
    if !workspace.has(KERNEL_PACKAGE) {
        return Ok(Verdict::Skipped("there is no kernel crate"));
    }
    let mut clippy = workspace.cargo("clippy");
    clippy.args(["--release", "-p", KERNEL_PACKAGE, "--target", KERNEL_TARGET]);
    clippy.args(["-Z", "build-std=core", "--", "-D", "warnings"]);
    // Only this crate needs unstable features of the pinned stable compiler; its own target
    // directory keeps the other crates from being built again.
    clippy
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", workspace.target.join("kernel-lint"));
    command::run(&mut clippy)?;
    Ok(Verdict::Clean)
}

fn dependencies(workspace: &Workspace) -> Result<Verdict> {
    command::run(workspace.cargo("deny").args(["check", "bans", "licenses", "sources"]))?;
    Ok(Verdict::Clean)
}

fn scripts(workspace: &Workspace) -> Result<Verdict> {
    let mut count = 0;
    for file in workspace.tracked_files()? {
        let path = workspace.root.join(&file);
        let content = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let first = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if !(first.starts_with(b"#!") && first.ends_with(b"bash")) {
            continue;
        }
        command::run(Command::new("bash").arg("-n").arg(&path))?;
        let text = String::from_utf8_lossy(&content);
        if !text.lines().any(|line| line == "set -euo pipefail") {
            bail!("{}: write `set -euo pipefail` below the header", file.display());
        }
        count += 1;
    }
    println!("  {count} scripts");
    Ok(Verdict::Clean)
}
