//! Enforcement shown step by step, on this machine's kernel, with real programs.
//!
//! In: a machine that `setup` prepared, and root. Out: each step as it runs (what happens, the
//! command, the result), a sum, and with `--output json` one JSON line at the end. Works in its
//! own cgroups, network namespaces, folders and bpffs; takes all of it away at the end, also
//! after Ctrl-C. Never sends a packet outside those namespaces.

mod policy;
mod programs;
mod report;
mod signatures;
mod stage;
mod steps;

use std::path::PathBuf;

use anyhow::Result;

use self::{report::Report, stage::Stage};
use crate::{interrupt, live};

/// Runs the demo.
pub(crate) fn run(options: live::Options) -> Result<()> {
    let Some(live::Run { daemon, output }) = live::begin("demo", options, [])? else {
        return Ok(());
    };
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
