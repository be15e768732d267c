//! Enforcement shown step by step, on this machine's kernel, with real programs.
//!
//! In: a machine that `setup` prepared, and root. Out: each step as it runs (what happens, the
//! command, the result), a sum, and with `--output json` one JSON line at the end. Works in its
//! own cgroups, network namespaces, folders and bpffs; takes all of it away at the end, also
//! after Ctrl-C. Never sends a packet outside those namespaces.

mod policy;
mod programs;
mod report;
mod stage;
mod steps;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;

use self::{report::Report, stage::Stage};
use crate::{
    Output, build, command, host, interrupt,
    setup::{self, Scope},
    workspace::Workspace,
};

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// For whom the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Show this daemon instead of building one
    #[arg(long)]
    daemon: Option<PathBuf>,
}

/// Runs the demo.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { output, daemon } = options;
    let daemon = match daemon {
        Some(daemon) => daemon,
        None => prepare()?,
    };
    if !command::is_root() {
        // The build belongs to the user; only what follows needs root.
        return command::again_as_root(arguments(&daemon, output));
    }
    host::sweep("demo")?;
    interrupt::watch()?;
    let mut report = Report::default();
    let outcome = play(daemon, &mut report);
    if let Err(error) = &outcome {
        report.broke_off(error);
    }
    report.finish(output)?;
    outcome
}

fn play(daemon: PathBuf, report: &mut Report) -> Result<()> {
    let mut stage = Stage::build(daemon)?;
    let played = steps::play(&mut stage, report);
    if played.is_err() {
        println!("the daemon's last words:\n{}", stage.daemon.last_words());
    }
    interrupt::cleaning_up();
    played
}

fn prepare() -> Result<PathBuf> {
    let workspace = Workspace::find()?;
    setup::ensure(&workspace, Scope::Test)?;
    build::run()
}

fn arguments(daemon: &Path, output: Output) -> Vec<OsString> {
    let output = match output {
        Output::Text => "text",
        Output::Json => "json",
    };
    vec!["demo".into(), "--daemon".into(), daemon.into(), "--output".into(), output.into()]
}
