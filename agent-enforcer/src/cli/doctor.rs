//! `doctor`: is this host fit, and does the daemon do its work?

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    console::{Console, Exit, Failure, Style},
    table::{Table, Tone},
};
use crate::{
    api::{ApiError, Client},
    control::Status,
    host::{Check, CheckLevel, CheckTargets, checks},
};

/// Check the host and the daemon, and say what to do about each finding.
///
/// Exits with 1 if any check fails.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Where the bpf file system is mounted.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Where the cgroup v2 hierarchy is mounted [default: looked up].
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    version: &'static str,
    checks: &'a [Check],
}

pub(super) async fn examine(
    args: DoctorArgs,
    socket: &Path,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let DoctorArgs { bpffs, cgroup_root } = args;
    let mut findings = checks(&CheckTargets { bpffs, cgroup_root });
    findings.extend(daemon(ask(socket).await));
    let ok = findings.iter().all(|check| check.level != CheckLevel::Fail);
    let report = Report { ok, version: env!("CARGO_PKG_VERSION"), checks: &findings };
    console.show(&report, |report, style| render(report.checks, style))?;
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

async fn ask(socket: &Path) -> Result<Status, ApiError> {
    Client::connect(socket).await?.status().await
}

fn daemon(answer: Result<Status, ApiError>) -> Vec<Check> {
    const NAME: &str = "daemon";
    const PROBLEM: &str = "daemon_problem";
    match answer {
        Err(error) => vec![Check::fail(NAME, error.problem(), error.remedy())],
        Ok(status) => {
            let found = format!(
                "{}, pid {}, {} plane, generation {}",
                status.version, status.pid, status.plane, status.generation
            );
            let mut found = vec![Check::ok(NAME, found)];
            let broker = Some(status.spiffe_broker).filter(|address| !address.is_empty());
            found.extend(
                broker.map(|address| Check::ok("spiffe_broker", format!("asked at {address}"))),
            );
            found.extend(status.problems.into_iter().map(|problem| {
                Check::fail(PROBLEM, problem, "see `journalctl -u agent-enforcer`")
            }));
            found
        }
    }
}

fn render(findings: &[Check], style: Style) -> String {
    let mut table = Table::new(&["RESULT", "CHECK", "FOUND"], style);
    for Check { name, level, found, remedy } in findings {
        let tone = match level {
            CheckLevel::Ok => Tone::Good,
            CheckLevel::Warn => Tone::Warning,
            CheckLevel::Fail => Tone::Bad,
        };
        // Long findings are lists.
        let mut found = found.split("; ");
        let first = found.next().unwrap_or_default();
        table.toned_row([(&level.to_string(), tone), (name, Tone::Plain), (first, Tone::Plain)]);
        for more in found {
            table.row(["", "", more]);
        }
        if !remedy.is_empty() {
            table.row(["", "", &format!("-> {remedy}")]);
        }
    }
    let count = |level| findings.iter().filter(|check| check.level == level).count();
    format!(
        "{}\n{} ok, {} with a limit, {} failed\n",
        table.finish(),
        count(CheckLevel::Ok),
        count(CheckLevel::Warn),
        count(CheckLevel::Fail)
    )
}
