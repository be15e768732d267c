//! The T1 tests on other kernels: `cargo xtask test vm [KERNEL..]`.
//!
//! In: kernel series. Out: each test's result as it comes, a table of tests and kernels, and the
//! same sum as ever. A test without a result has failed, and so has a machine whose kernel
//! complained.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use serde::Deserialize;

use super::{
    Suite,
    libtest::{Parser, Tally},
    report,
};
use crate::{
    build, command, interrupt,
    plane::Plane,
    setup::{self, Scope},
    vm::{self, Kernel, Payload},
    workspace::{SYSTEM_TESTS, Workspace},
};

const JOB: &str = include_str!("../vm/guest/test.sh");

/// Test programs that say nothing there, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("load", "software emulation is too slow for load; this machine's own kernel gets it"),
    ("runtimes", "the machines have no such programs; this machine's own kernel gets them"),
];

/// Options of `cargo xtask test vm`.
#[derive(Args)]
pub(crate) struct Options {
    /// Series of Debian's cloud kernels, such as 6.12 or 7 [default: all that are supported]
    kernels: Vec<String>,
    /// Only tests whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Only this test program, such as lsm
    #[arg(long)]
    program: Option<String>,
}

/// A program with tests, built.
struct Program {
    name: String,
    path: PathBuf,
    tests: Vec<String>,
}

/// What was built, and is needed in the machine.
struct Built {
    tests: Vec<Program>,
    helpers: Vec<(String, PathBuf)>,
}

/// What came of tests on other kernels.
pub(crate) struct Runs {
    /// Versions of kernels, and what came of the tests on each.
    pub(crate) kernels: Vec<(String, Tally)>,
    /// Tests that no machine can run, and why.
    pub(crate) left_out: BTreeMap<String, &'static str>,
}

/// Runs the tests on every kernel.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { kernels, only, program: chosen } = options;
    let workspace = Workspace::find()?;
    setup::ensure(&workspace, Scope::Vm)?;
    let daemon = build::run()?;
    let series = if kernels.is_empty() { vm::SERIES.map(str::to_owned).to_vec() } else { kernels };
    let wanted = |program: &str, test: &str| {
        chosen.as_ref().is_none_or(|chosen| program == chosen)
            && only.as_ref().is_none_or(|only| test.contains(only))
    };
    let Runs { kernels, left_out } = on_kernels(&workspace, &daemon, &series, Plane::Lsm, wanted)?;
    let suites = kernels.into_iter().map(|(version, mut tally)| {
        tally.skipped += left_out.len();
        for reason in left_out.values() {
            *tally.reasons.entry((*reason).to_owned()).or_default() += 1;
        }
        Suite { name: format!("T2 ({version})"), tally }
    });
    let suites: Vec<_> = suites.collect();
    println!("\n{}", matrix(&suites));
    report(&suites)
}

/// Runs the tests that are wanted, by program and name, in a machine of each series, on one plane; all
/// have both.
pub(crate) fn on_kernels(
    workspace: &Workspace,
    daemon: &Path,
    series: &[String],
    plane: Plane,
    wanted: impl Fn(&str, &str) -> bool,
) -> Result<Runs> {
    let mut built = build_tests(workspace)?;
    let mut left_out = BTreeMap::new();
    for program in &mut built.tests {
        let Program { name, tests, path: _ } = program;
        tests.retain(|test| wanted(name, test));
        if let Some((_, reason)) = LEFT_OUT.iter().find(|(left_out, _)| left_out == name) {
            left_out.extend(tests.drain(..).map(|test| (test, *reason)));
        }
    }
    let mut payload =
        Payload::new(&job(plane, &built.tests), workspace.target.join("vm/programs"))?;
    payload.built(daemon, "bin/agent-enforcer")?;
    let helpers = built.helpers.iter().map(|(name, path)| (format!("bin/{name}"), path));
    let tests = built.tests.iter().map(|it| (format!("tests/{}", it.name), &it.path));
    for (place, path) in helpers.chain(tests) {
        payload.built(path, &place)?;
    }
    interrupt::watch()?;
    let kernels = series.iter().map(|series| vm::newest(workspace, series));
    let kernels = vm::side_by_side(&kernels.collect::<Result<Vec<_>>>()?, |kernel| {
        let tally = test_on(workspace, kernel, &payload, &built.tests)?;
        Ok((kernel.version.clone(), tally))
    })?;
    Ok(Runs { kernels, left_out })
}

/// One kernel.
fn test_on(
    workspace: &Workspace,
    kernel: &Kernel,
    payload: &Payload,
    programs: &[Program],
) -> Result<Tally> {
    let mut parser = Parser::default();
    let troubles = vm::run_job(workspace, kernel, payload, |line| {
        println!("{}: {line}", kernel.version);
        parser.line(line);
    })?;
    let mut tally = parser.finish(true);
    // Each test has a result or is missed, whatever the sums say.
    let missing =
        programs.iter().flat_map(|it| &it.tests).filter(|test| !tally.tests.contains_key(*test));
    let missing: Vec<_> = missing.map(|test| format!("{test} has no result")).collect();
    for trouble in troubles.into_iter().chain(missing) {
        println!("{}: {trouble}", kernel.version);
        tally.failed += 1;
        tally.failures.push(trouble);
    }
    Ok(tally)
}

/// `run PROGRAM TEST..`, line by line, after the script that knows how.
fn job(plane: Plane, programs: &[Program]) -> String {
    let export = format!("export {}={}\n", Plane::VARIABLE, plane.word());
    let runs = programs.iter().filter(|program| !program.tests.is_empty());
    let runs = runs.map(|it| format!("run /tests/{} {}\n", it.name, it.tests.join(" ")));
    JOB.to_owned() + &export + &runs.collect::<String>() + "exit $failed\n"
}

fn matrix(runs: &[Suite]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(std::iter::once("test").chain(runs.iter().map(|run| run.name.as_str())));
    let tests: BTreeSet<_> = runs.iter().flat_map(|run| run.tally.tests.keys()).collect();
    for test in tests {
        let word = |run: &Suite| run.tally.tests.get(test).map_or("-", String::as_str).to_owned();
        table.add_row(std::iter::once(test.clone()).chain(runs.iter().map(word)));
    }
    table
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the tests as `cargo xtask test` does, and asks each program what it has.
fn build_tests(workspace: &Workspace) -> Result<Built> {
    let mut cargo = workspace.cargo("test");
    cargo.args(["--no-run", "-p", SYSTEM_TESTS, "--message-format=json-render-diagnostics"]);
    println!("  $ {}", command::describe(&cargo));
    let messages = command::capture(&mut cargo)?;
    let (tests, helpers) = executables(&messages)?;
    let tests = tests.into_iter().map(|(name, path)| {
        let listing = command::capture(Command::new(&path).args(["--list", "--format=terse"]))?;
        let names = listing.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(Program { name, path, tests: names.map(str::to_owned).collect() })
    });
    Ok(Built { tests: tests.collect::<Result<_>>()?, helpers })
}

type Named = Vec<(String, PathBuf)>;

/// Test programs and helpers, in what cargo wrote.
fn executables(messages: &str) -> Result<(Named, Named)> {
    let (mut tests, mut helpers) = (Vec::new(), Vec::new());
    for line in messages.lines() {
        let message: Message =
            serde_json::from_str(line).context("`cargo test` wrote an unknown form")?;
        let Message { executable: Some(path), target: Some(target), profile: Some(profile) } =
            message
        else {
            continue;
        };
        let is = |kind: &str| target.kind.iter().any(|it| it == kind);
        if is("test") && profile.test {
            tests.push((target.name, path));
        } else if is("bin") && !profile.test {
            helpers.push((target.name, path));
        }
    }
    Ok((tests, helpers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_and_helpers_are_told_apart() {
        let line = |kind: &str, name: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":"/t/{name}"}}"#
            )
        };
        let messages = [
            line("test", "load", true),
            line("bin", "agent-probe", false),
            line("bin", "agent-probe", true),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let (tests, helpers) = executables(&messages.join("\n")).unwrap();
        assert_eq!(tests, [("load".to_owned(), PathBuf::from("/t/load"))]);
        assert_eq!(helpers, [("agent-probe".to_owned(), PathBuf::from("/t/agent-probe"))]);
    }

    #[test]
    fn programs_without_tests_are_not_run() {
        let program = |name: &str, tests: &[&str]| Program {
            name: name.to_owned(),
            path: PathBuf::new(),
            tests: tests.iter().map(|&test| test.to_owned()).collect(),
        };
        let job = job(Plane::Lsm, &[program("a", &["x::y", "z"]), program("b", &[])]);
        assert!(job.ends_with("run /tests/a x::y z\nexit $failed\n"), "{job}");
    }
}
