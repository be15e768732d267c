//! What enforcement costs, measured side by side in one run.
//!
//! In: root and a daemon. Out: a table, and with `--output json` one JSON document as the last
//! line. Every row compares with the same process in the same minute, enforced and not, in
//! alternating blocks; absolute times are only shown. Works in its own network namespace and below
//! its own cgroup, on addresses that exist nowhere else. Never changes the machine's settings.

mod connector;
mod costs;
mod decisions;
mod report;
mod stalls;
mod starts;
mod statistics;
mod world;

use std::{ffi::OsString, fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

pub(crate) use self::connector::{Options as ConnectorOptions, run as connector};
use self::{report::Report, world::World};
use crate::{interrupt, live};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    live: live::Options,
    /// Measure these rows only
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<RowId>,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum RowId {
    /// connect() of a process that is no agent's, against no programs
    ConnectHostP50,
    /// connect() with a verdict in the kernel, against no programs
    ConnectCachedP50,
    /// What an answered question adds to connect(), median
    StallAddedP50,
    /// What an answered question adds to connect(), 99th percentile
    StallAddedP99,
    /// Answers per second of processor time
    DecisionsPerS,
    /// The same with 1 Cedar policy that looks at each call
    #[value(name = "decisions_per_s_1")]
    DecisionsPerS1,
    /// The same with 10
    #[value(name = "decisions_per_s_10")]
    DecisionsPerS10,
    /// The same with 100
    #[value(name = "decisions_per_s_100")]
    DecisionsPerS100,
    /// From the daemon's exec to enforcement
    StartToEnforcing,
}

/// Measures.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { live, rows } = options;
    let Some(live::Run { daemon, output }) = live::begin("bench", live, arguments(&rows))? else {
        return Ok(());
    };
    let wanted = |row: RowId| rows.is_empty() || rows.contains(&row);
    let mut report = Report::default();
    let outcome = measure(daemon, &wanted, &mut report);
    report.finish(output)?;
    outcome
}

fn measure(daemon: PathBuf, wanted: &dyn Fn(RowId) -> bool, report: &mut Report) -> Result<()> {
    warn_if_busy()?;
    let mut world = World::build(daemon)?;
    let measured = (|| {
        world.daemon.start()?;
        if wanted(RowId::ConnectHostP50) {
            report.add(costs::host(&world)?);
        }
        if wanted(RowId::ConnectCachedP50) {
            report.add(costs::cached(&world)?);
        }
        if wanted(RowId::StallAddedP50) || wanted(RowId::StallAddedP99) {
            let (median, tail) = stalls::rows(&world)?;
            for (id, row) in [(RowId::StallAddedP50, median), (RowId::StallAddedP99, tail)] {
                if wanted(id) {
                    report.add(row);
                }
            }
        }
        if wanted(RowId::DecisionsPerS) {
            report.add(decisions::row(&world)?);
        }
        for (id, policies) in decisions::CEDAR {
            if wanted(id) {
                report.add(decisions::cedar_row(&world, policies)?);
            }
        }
        if wanted(RowId::StartToEnforcing) {
            report.add(starts::row(&mut world)?);
        }
        Ok(())
    })();
    if measured.is_err() {
        println!("the daemon's last words:\n{}", world.daemon.last_words());
    }
    interrupt::cleaning_up();
    measured
}

/// Whoever competes for the processors is in the numbers, above all in the tails.
fn warn_if_busy() -> Result<()> {
    let text = fs::read_to_string("/proc/loadavg").context("can't read the load")?;
    let load: f64 = text.split(' ').next().unwrap_or_default().parse().context("no load")?;
    let processors = std::thread::available_parallelism().context("can't count processors")?;
    if load > 0.5 {
        println!(
            "the machine is busy (load {load} on {processors} processors): expect worse numbers"
        );
    }
    Ok(())
}

fn arguments(rows: &[RowId]) -> impl Iterator<Item = OsString> {
    let values = rows.iter().filter_map(ValueEnum::to_possible_value);
    values.flat_map(|value| ["--rows".into(), value.get_name().into()])
}
