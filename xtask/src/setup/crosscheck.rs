//! Other people's JSON Web Signatures and canonical JSON, which tests compare ours with.
//!
//! In: the pinned versions of requirements.txt. Out: a Python environment of their own below
//! cargo's target directory, and a copy of the requirements in it that says which it has. Nothing is
//! installed for the whole machine but python3 and its venv module.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{State, packages};
use crate::{command, workspace::Workspace};

const REQUIREMENTS: &str = "agent-enforcer/tests/crosscheck/requirements.txt";

/// Whether the environment has the pinned versions.
pub(crate) fn state() -> Result<State> {
    let workspace = Workspace::find()?;
    let environment = environment(&workspace);
    let wanted = fs::read(workspace.root.join(REQUIREMENTS))
        .with_context(|| format!("can't read {REQUIREMENTS}"))?;
    let has = fs::read(stamp(&environment)).is_ok_and(|has| has == wanted);
    let starts =
        has && command::capture(Command::new(python(&environment)).arg("--version")).is_ok();
    Ok(if starts { State::Present(environment.display().to_string()) } else { State::Missing })
}

/// Makes it.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let environment = environment(workspace);
    let requirements = workspace.root.join(REQUIREMENTS);
    if command::capture(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
        packages::install(&["python3", "python3-venv"])?;
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&environment);
    command::run_quietly("making a Python environment", &mut make)?;
    let mut install = Command::new(python(&environment));
    install.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    install.arg("--requirement").arg(&requirements);
    command::run_quietly("installing Python packages", &mut install).with_context(|| {
        format!(
            "if the package index can't be reached, install what {REQUIREMENTS} names into {} by \
             other means, and copy the file there",
            environment.display()
        )
    })?;
    fs::copy(&requirements, stamp(&environment)).context("can't mark the environment as made")?;
    Ok(())
}

/// The tests look for it here: beside cargo's `tmp`.
fn environment(workspace: &Workspace) -> PathBuf {
    workspace.target.join("crosscheck")
}

fn python(environment: &Path) -> PathBuf {
    environment.join("bin/python")
}

fn stamp(environment: &Path) -> PathBuf {
    environment.join("requirements.txt")
}
