//! What the verifier does for each program on each kernel, against a committed table.
//!
//! In: the daemon, booted on supported kernels. Out: instructions processed per program and
//! kernel, beside those of the table; a refused program, one that the table lacks, and growth
//! beyond [`GROWTH_PERCENT`] fail. `--update` writes the table anew.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use serde_json::json;

use crate::{
    Output, build, command, interrupt,
    setup::{self, Scope},
    vm::{self, Payload},
    workspace::{SYSTEM_TESTS, Workspace},
};

const TABLE: &str = "agent-enforcer-ebpf/verifier.json";
/// On each plane: some programs stand on one of them alone.
const JOB: &str = concat!(
    "for PLANE in cgroup lsm; do\n",
    include_str!("vm/guest/enforce.sh"),
    "program-costs || exit 1\n",
    "agent-enforcer detach --reason 'the other plane is next' --yes || exit 1\n",
    "wait $daemon\ndone\n",
);
const GROWTH_PERCENT: u64 = 20;

/// Options of `cargo xtask verifier`.
#[derive(Args)]
pub(crate) struct Options {
    /// Series of Debian's cloud kernels [default: all that are supported]
    #[arg(value_parser = vm::SERIES)]
    kernels: Vec<String>,
    /// Write the table anew instead of comparing with it
    #[arg(long, conflicts_with = "kernels")]
    update: bool,
    /// For whom the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Program, kernel series, instructions processed.
type Costs = BTreeMap<String, BTreeMap<String, u64>>;

impl Options {
    /// Compares, on these kernels.
    pub(crate) const fn of(kernels: Vec<String>) -> Self {
        Self { kernels, update: false, output: Output::Text }
    }
}

/// Measures, then compares or writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::find()?;
    setup::ensure(&workspace, Scope::Vm)?;
    let all = vm::SERIES.map(str::to_owned);
    let series = if options.kernels.is_empty() { &all } else { options.kernels.as_slice() };
    let (measured, mut faults) = measure(&workspace, series)?;
    let path = workspace.root.join(TABLE);
    if options.update {
        let text = serde_json::to_string_pretty(&measured).context("can't write JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("can't write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    let text = fs::read_to_string(&path).with_context(|| {
        format!("can't read {}; `cargo xtask verifier --update` writes it", path.display())
    })?;
    let committed: Costs =
        serde_json::from_str(&text).with_context(|| format!("{} has no costs", path.display()))?;
    faults.extend(differences(series, &committed, &measured));
    println!("\n{}", table(series, &committed, &measured));
    for fault in &faults {
        println!("{fault}");
    }
    if options.output == Output::Json {
        println!("{}", json!({ "instructions": measured, "faults": faults }));
    }
    if !faults.is_empty() {
        bail!("{} faults; `cargo xtask verifier --update` accepts other costs", faults.len());
    }
    Ok(())
}

/// What each kernel says of each program, and why one refused them.
fn measure(workspace: &Workspace, series: &[String]) -> Result<(Costs, Vec<String>)> {
    let daemon = build::run()?;
    let mut payload = Payload::new(JOB, workspace.target.join("vm/programs"))?;
    payload.built(&daemon, "bin/agent-enforcer")?;
    payload.built(&build_program_costs(workspace)?, "bin/program-costs")?;
    payload.file("policy/policy.yaml", vm::POLICY.as_bytes());
    interrupt::watch()?;
    let (mut costs, mut faults) = (Costs::new(), Vec::new());
    let kernels = series.iter().map(|series| vm::newest(workspace, series));
    let kernels: Vec<_> = kernels.collect::<Result<_>>()?;
    let heard = vm::side_by_side(&kernels, |kernel| {
        let mut said = String::new();
        let hear = |line: &str| said.extend([line, "\n"]);
        let troubles = vm::run_job(workspace, kernel, &payload, hear)?;
        Ok((said, troubles))
    })?;
    for ((kernel, series), (said, troubles)) in kernels.iter().zip(series).zip(heard) {
        if !troubles.is_empty() {
            // A refusal ends with the verifier's reason, after every instruction before it.
            let said = command::last_lines(&said, 20);
            faults.push(format!("{}: {}\n{said}", kernel.version, troubles.join("\n")));
        }
        for (program, instructions) in said.lines().filter_map(cost) {
            costs.entry(program).or_default().insert(series.clone(), instructions);
        }
    }
    Ok((costs, faults))
}

fn build_program_costs(workspace: &Workspace) -> Result<PathBuf> {
    const NAME: &str = "program-costs";
    command::run(workspace.cargo("build").args(["-p", SYSTEM_TESTS, "--bin", NAME]))?;
    Ok(workspace.target.join("debug").join(NAME))
}

/// `ae_connect4 1234`.
fn cost(line: &str) -> Option<(String, u64)> {
    let (program, instructions) = line.split_once(' ')?;
    Some((program.to_owned(), instructions.parse().ok()?))
}

/// What differs more than it may.
fn differences(series: &[String], committed: &Costs, measured: &Costs) -> Vec<String> {
    let empty = BTreeMap::new();
    let mut faults = Vec::new();
    for (program, now) in measured {
        let before = committed.get(program).unwrap_or(&empty);
        for (series, now) in now {
            match before.get(series) {
                None => faults.push(format!("{program} on {series}: not in the table")),
                Some(before) if now * 100 > before * (100 + GROWTH_PERCENT) => faults
                    .push(format!("{program} on {series}: {before} instructions became {now}")),
                Some(_) => {}
            }
        }
    }
    for (program, before) in committed {
        let now = measured.get(program).unwrap_or(&empty);
        let before = before.keys().filter(|it| series.contains(it));
        let gone = before.filter(|series| !now.contains_key(*series));
        faults.extend(gone.map(|series| format!("{program} on {series}: not loaded")));
    }
    faults
}

fn table(series: &[String], committed: &Costs, measured: &Costs) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    let heading = "instructions processed".to_owned();
    table.set_header(std::iter::once(&heading).chain(series));
    for (program, now) in measured {
        let cell = |series: &String| {
            let before = committed.get(program).and_then(|costs| costs.get(series));
            match (now.get(series), before) {
                (None, _) => "-".to_owned(),
                (Some(now), Some(before)) if before != now => format!("{now} (was {before})"),
                (Some(now), _) => now.to_string(),
            }
        };
        table.add_row(std::iter::once(program.clone()).chain(series.iter().map(cell)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(instructions: &[(&str, &str, u64)]) -> Costs {
        let mut costs = Costs::new();
        for (program, series, count) in instructions {
            let of_program = costs.entry((*program).to_owned()).or_default();
            of_program.insert((*series).to_owned(), *count);
        }
        costs
    }

    fn series(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_fifth_more_is_accepted_and_one_instruction_beyond_it_is_not() {
        let committed = costs(&[("ae_fork", "6.1", 100)]);
        let differences =
            |now| differences(&series(&["6.1"]), &committed, &costs(&[("ae_fork", "6.1", now)]));
        assert!(differences(120).is_empty() && differences(10).is_empty());
        let found = differences(121);
        assert_eq!(found, ["ae_fork on 6.1: 100 instructions became 121"]);
    }

    #[test]
    fn program_that_only_one_side_knows_is_a_fault() {
        let committed = costs(&[("ae_fork", "6.1", 100), ("ae_fork", "7", 100)]);
        let measured = costs(&[("ae_fork", "6.1", 100), ("ae_exec", "6.1", 5)]);
        assert_eq!(
            differences(&series(&["6.1", "7"]), &committed, &measured),
            ["ae_exec on 6.1: not in the table", "ae_fork on 7: not loaded"]
        );
        let asked = differences(&series(&["6.1"]), &committed, &measured);
        assert_eq!(asked, ["ae_exec on 6.1: not in the table"]);
    }

    #[test]
    fn line_of_a_program_is_its_name_and_a_number() {
        assert_eq!(cost("ae_fork 17"), Some(("ae_fork".to_owned(), 17)));
        assert_eq!(cost("the daemon said something"), None);
    }
}
