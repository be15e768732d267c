//! Every test that can run on this machine, with one honest sum at the end.
//!
//! In: the workspace's test packages. Out: the tests' own output, a table per suite, and
//! `N passed, N failed, N skipped` as the last line. A suite whose exit status and output
//! disagree has failed; what can't run here is counted as skipped, with its reason.

mod libtest;
mod scripts;
pub(crate) mod vm;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};

pub(crate) use self::libtest::Tally;
use crate::{
    build, command,
    plane::Plane,
    setup::{self, Scope},
    workspace::{DAEMON, KERNEL_PACKAGE, SYSTEM_TESTS, Workspace, XTASK},
};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    place: Option<Place>,
}

/// Where else than here.
#[derive(Subcommand)]
enum Place {
    /// Run the whole-system tests on other kernels, in virtual machines
    Vm(vm::Options),
}

/// A suite and what came of it.
struct Suite {
    name: String,
    tally: Tally,
}

/// Which tests of a package to run.
#[derive(Clone, Copy)]
pub(crate) enum Choice<'a> {
    /// Every one.
    All,
    /// Those with these names.
    Named(&'a [String]),
}

impl Choice<'_> {
    /// For the test programs, after `--`.
    fn restrict(self, cargo: &mut Command) {
        match self {
            Self::All => {}
            Self::Named(names) => {
                cargo.arg("--exact").args(names);
            }
        }
    }
}

/// Runs what is asked for.
pub(crate) fn run(options: Options) -> Result<()> {
    match options.place {
        Some(Place::Vm(options)) => vm::run(options),
        None => here(),
    }
}

/// Runs every suite on this machine.
pub(crate) fn here() -> Result<()> {
    let workspace = Workspace::find()?;
    setup::ensure(&workspace, Scope::Crosscheck)?;
    build::run()?;
    let mut suites = vec![
        Suite { name: "T0 (daemon)".to_owned(), tally: every_daemon_test(&workspace)? },
        Suite { name: "T0 (xtask)".to_owned(), tally: xtask_tests(&workspace)? },
        Suite { name: "T0 (scripts)".to_owned(), tally: scripts::run(&workspace)? },
    ];
    if workspace.has(SYSTEM_TESTS) {
        let plane = Plane::of_this_kernel().last().copied().unwrap_or(Plane::Cgroup);
        let tally = system_tests(&workspace, plane, Choice::All)?;
        suites.push(Suite { name: "T1 (whole system)".to_owned(), tally });
    }
    report(&suites)
}

/// Names of a package's tests, all its test programs together.
pub(crate) fn list(workspace: &Workspace, package: &str) -> Result<Vec<String>> {
    let mut cargo = workspace.cargo("test");
    cargo.args(["-p", package, "--", "--list", "--format=terse"]);
    println!("  $ {}", command::describe(&cargo));
    let listing = command::capture(&mut cargo)?;
    Ok(listing.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Everything but xtask and what needs a kernel.
fn every_daemon_test(workspace: &Workspace) -> Result<Tally> {
    let elsewhere = [SYSTEM_TESTS, KERNEL_PACKAGE, XTASK];
    let packages = workspace.members.iter().filter(|name| !elsewhere.contains(&name.as_str()));
    unit_tests(workspace, packages, Choice::All)
}

/// Tests of the daemon's own package.
pub(crate) fn daemon_tests(workspace: &Workspace, choice: Choice<'_>) -> Result<Tally> {
    unit_tests(workspace, [DAEMON], choice)
}

fn unit_tests(
    workspace: &Workspace,
    packages: impl IntoIterator<Item = impl AsRef<OsStr>>,
    choice: Choice<'_>,
) -> Result<Tally> {
    let mut cargo = workspace.cargo("test");
    cargo.arg("--no-fail-fast");
    for package in packages {
        cargo.arg("-p").arg(package);
    }
    cargo.arg("--");
    if command::is_root() {
        // `setup` installed what they need. What is left out are the tests' own helper processes and
        // a measurement, which are no tests.
        cargo.args(["--include-ignored", "--skip", "helper_", "--skip", "measure_"]);
    }
    choice.restrict(&mut cargo);
    tee(&mut cargo)
}

fn xtask_tests(workspace: &Workspace) -> Result<Tally> {
    tee(workspace.cargo("test").args(["--no-fail-fast", "-p", XTASK]))
}

/// Tests of the whole daemon on this kernel.
pub(crate) fn system_tests(
    workspace: &Workspace,
    plane: Plane,
    choice: Choice<'_>,
) -> Result<Tally> {
    let mut cargo = workspace.cargo("test");
    cargo.args(["--no-fail-fast", "-p", SYSTEM_TESTS, "--", "--test-threads=1"]);
    cargo.env("AGENT_ENFORCER_BIN", workspace.daemon()).env(Plane::VARIABLE, plane.word());
    // Ignored are those of the LSM plane.
    if plane == Plane::Lsm {
        cargo.arg("--include-ignored");
    }
    match root() {
        Root::Already => {}
        Root::Sudo => {
            // Built as this user, run as root.
            cargo.env(runner_variable()?, "sudo --preserve-env");
        }
        Root::No => println!("not root, and sudo asks for a password: these tests are skipped"),
    }
    choice.restrict(&mut cargo);
    tee(&mut cargo)
}

enum Root {
    Already,
    Sudo,
    No,
}

fn root() -> Root {
    if command::is_root() {
        return Root::Already;
    }
    let sudo = command::find("sudo").is_some()
        && command::capture(Command::new("sudo").args(["--non-interactive", "true"])).is_ok();
    if sudo { Root::Sudo } else { Root::No }
}

/// The variable that tells cargo through which program to run what it built for this host.
fn runner_variable() -> Result<String> {
    let version = command::capture(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` names no host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_")))
}

/// Runs libtest programs, shows what they write and counts it.
fn tee(cargo: &mut Command) -> Result<Tally> {
    println!("\n  $ {}", command::describe(cargo));
    // One pipe for both streams keeps cargo's headings and the results in order.
    let (reader, writer) = std::io::pipe().context("can't make a pipe")?;
    cargo.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = cargo.spawn().context("cargo can't be started")?;
    // The builder holds the write end; without this the pipe never ends.
    cargo.stdout(Stdio::null()).stderr(Stdio::null());
    let mut parser = libtest::Parser::default();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).context("can't read the tests' output")? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        parser.line(text.trim_end());
        line.clear();
    }
    let status = child.wait().context("can't wait for cargo")?;
    Ok(parser.finish(status.success()))
}

fn report(suites: &[Suite]) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(["suite", "passed", "failed", "skipped"]);
    let mut sum = Tally::default();
    for Suite { name, tally } in suites {
        let Tally { passed, failed, skipped, failures, reasons, tests: _ } = tally;
        table.add_row([name.clone(), passed.to_string(), failed.to_string(), skipped.to_string()]);
        sum.passed += passed;
        sum.failed += failed;
        sum.skipped += skipped;
        sum.failures.extend(failures.iter().map(|failure| format!("{name}: {failure}")));
        for (reason, count) in reasons {
            *sum.reasons.entry(reason.clone()).or_default() += count;
        }
    }
    println!("\n{table}");
    print_reasons(&sum.reasons);
    for failure in &sum.failures {
        println!("failed: {failure}");
    }
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if sum.failed > 0 {
        bail!("{} tests failed", sum.failed);
    }
    if sum.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

fn print_reasons(reasons: &BTreeMap<String, usize>) {
    for (reason, count) in reasons {
        println!("skipped {count}: {reason}");
    }
}
