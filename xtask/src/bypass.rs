//! Known ways round enforcement, and what becomes of each: `cargo xtask bypass`.
//!
//! In: the table `tests/bypass.json`, which says for every case what is promised on each plane, why,
//! and which tests show it. Out: the same table after those tests ran, on this kernel or, with
//! `--vm`, on others. A case whose test did not pass is a hole, whatever the table says, and the verb
//! fails; a test that is named and does not exist stops it before anything runs.

mod corpus;
mod document;
mod runs;

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

pub(crate) use self::document::is_up_to_date;
use self::{
    corpus::{Case, Corpus, Expectation, Outcome},
    document::DOCUMENT,
    runs::Run,
};
use crate::{
    build, command,
    plane::Plane,
    setup::{self, Scope},
    vm::SERIES,
    workspace::Workspace,
};

/// Options of `cargo xtask bypass`.
#[derive(Args)]
pub(crate) struct Options {
    /// For whom the result is printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Run in virtual machines with these series of Debian's cloud kernels [default: the oldest and
    /// the newest that are supported]
    #[arg(long, value_name = "KERNEL", num_args = 0..)]
    vm: Option<Vec<String>>,
    /// Only write docs/bypass.md from the table, and run nothing
    #[arg(long, conflicts_with = "vm")]
    write_docs: bool,
}

/// For whom the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// As for people, and one JSON document in the last line.
    Json,
}

/// What became of a case.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row<'a> {
    id: &'a str,
    plane: Plane,
    kernel: &'a str,
    outcome: Outcome,
    why: String,
}

#[derive(Serialize)]
struct Report<'a> {
    cases: &'a [Row<'a>],
}

/// Runs what the table names and prints what came of it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::find()?;
    let corpus = Corpus::read(&workspace)?;
    if options.write_docs {
        let path = workspace.root.join(DOCUMENT);
        fs::write(&path, document::text(&corpus))
            .with_context(|| format!("can't write {}", path.display()))?;
        println!("wrote {}", path.display());
        return Ok(());
    }
    let scope = if options.vm.is_some() { Scope::Vm } else { Scope::Test };
    setup::ensure(&workspace, scope)?;
    if !command::is_root() {
        bail!("the tests load programs into the kernel: run it as root");
    }
    let daemon = build::run()?;
    let tests = runs::find(&workspace, &corpus)?;
    let runs = match &options.vm {
        None => runs::here(&workspace, &corpus, &tests)?,
        Some(named) => runs::in_machines(&workspace, &daemon, &corpus, &tests, &series_of(named))?,
    };
    let rows: Vec<_> = runs.iter().flat_map(|run| rows(&corpus, run)).collect();
    println!("\n{}", table(&rows));
    println!("{}", sum(&rows));
    for run in &runs {
        tell_left_out(&corpus, run);
    }
    if options.output == Output::Json {
        let report = Report { cases: &rows };
        println!("{}", serde_json::to_string(&report).context("can't write JSON")?);
    }
    let bad: Vec<_> = runs.iter().flat_map(|run| run.faults(&corpus)).collect();
    if !bad.is_empty() {
        bail!("{} tests or machines failed:\n{}", bad.len(), bad.join("\n"));
    }
    Ok(())
}

/// The oldest and the newest, where none is named.
fn series_of(named: &[String]) -> Vec<String> {
    if named.is_empty() {
        let ends = SERIES.first().into_iter().chain(SERIES.last());
        ends.map(|series| (*series).to_owned()).collect()
    } else {
        named.to_vec()
    }
}

/// A row for each case; none where all tests of a case are left out.
fn rows<'a>(corpus: &'a Corpus, run: &'a Run) -> Vec<Row<'a>> {
    let plane = run.plane;
    let row = |case: &'a Case| {
        let expectation = case.planes.on(plane);
        let Expectation { outcome, why, tests } = expectation;
        let bad = tests.iter().find(|test| !run.passed(test) && !run.left_out.contains_key(*test));
        let (outcome, mut why) = match bad {
            Some(test) => (Outcome::Hole, format!("its test failed: {test}")),
            None if plane == Plane::Lsm && case.planes.lsm.is_none() => {
                (*outcome, format!("as on the cgroup plane: {why}"))
            }
            None => (*outcome, why.clone()),
        };
        for (test, reason) in run.left_out_of(expectation) {
            let _ = write!(why, " (not run there: {test}: {reason})");
        }
        Row { id: &case.id, plane, kernel: &run.kernel, outcome, why }
    };
    corpus.cases().filter(|case| !run.leaves_out(case.planes.on(plane))).map(row).collect()
}

/// Cases without a row, so that nobody looks for them.
fn tell_left_out(corpus: &Corpus, run: &Run) {
    let (plane, kernel) = (run.plane.word(), &run.kernel);
    for Case { id, planes, .. } in corpus.cases() {
        let expectation = planes.on(run.plane);
        if run.leaves_out(expectation) {
            for (test, reason) in run.left_out_of(expectation) {
                println!("{id} has no row for {plane} on {kernel}: {test}: {reason}");
            }
        }
    }
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["case", "plane", "kernel", "outcome", "why"]);
    for Row { id, plane, kernel, outcome, why } in rows {
        table.add_row([id, plane.word(), kernel, outcome.word(), why]);
    }
    table
}

fn sum(rows: &[Row<'_>]) -> String {
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    let counts = Outcome::ALL.map(|outcome| format!("{} {}", count(outcome), outcome.word()));
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus() -> Corpus {
        let expectation = |outcome: &str, tests: &str| {
            format!(r#"{{"outcome":"{outcome}","why":"b","tests":[{tests}]}}"#)
        };
        let case = |id: &str, planes: &str| {
            format!(r#"{{"id":"{id}","attempt":"a","planes":{{{planes}}}}}"#)
        };
        let (hole, blocked) =
            (expectation("hole", ""), expectation("blocked", r#""y::a03","z::a03""#));
        let cases = [
            case("A01", &format!(r#""cgroup":{}"#, expectation("blocked", r#""x::a01""#))),
            case("A02", &format!(r#""cgroup":{}"#, expectation("by_design", ""))),
            case("A03", &format!(r#""cgroup":{hole},"lsm":{blocked}"#)),
        ];
        let cases = cases.join(",");
        Corpus::parse(&format!(r#"[{{"letter":"A","title":"t","cases":[{cases}]}}]"#)).unwrap()
    }

    fn run(plane: Plane, results: &[(&str, &str)], left_out: &[&str]) -> Run {
        let results = results.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned()));
        let left_out = left_out.iter().map(|test| ((*test).to_owned(), "no such program"));
        Run {
            kernel: "6.1".to_owned(),
            plane,
            results: results.collect(),
            left_out: left_out.collect(),
            troubles: Vec::new(),
        }
    }

    fn row(run: &Run, id: &str) -> Option<(Outcome, String)> {
        let corpus = corpus();
        let found = rows(&corpus, run).into_iter().find(|row| row.id == id);
        found.map(|row| (row.outcome, row.why))
    }

    const PASSED: [(&str, &str); 3] = [("x::a01", "ok"), ("y::a03", "ok"), ("z::a03", "ok")];

    #[test]
    fn case_is_what_the_table_says_while_its_tests_pass() {
        let run = run(Plane::Cgroup, &PASSED, &[]);
        assert_eq!(row(&run, "A01"), Some((Outcome::Blocked, "b".to_owned())));
        assert_eq!(row(&run, "A02"), Some((Outcome::ByDesign, "b".to_owned())));
        assert_eq!(row(&run, "A03"), Some((Outcome::Hole, "b".to_owned())));
        assert!(run.faults(&corpus()).is_empty());
    }

    #[test]
    fn case_whose_test_failed_or_did_not_run_is_a_hole() {
        let hole = (Outcome::Hole, "its test failed: x::a01".to_owned());
        for results in [&[("x::a01", "FAILED")][..], &[("x::a01", "ignored, needs root")], &[]] {
            let run = run(Plane::Cgroup, results, &[]);
            assert_eq!(row(&run, "A01"), Some(hole.clone()));
            assert_eq!(run.faults(&corpus()), ["6.1 (cgroup): x::a01"]);
        }
    }

    #[test]
    fn lsm_plane_has_what_the_cgroup_plane_has_unless_the_table_says_otherwise() {
        let run = run(Plane::Lsm, &PASSED, &[]);
        let same = "as on the cgroup plane: b".to_owned();
        assert_eq!(row(&run, "A01"), Some((Outcome::Blocked, same)));
        assert_eq!(row(&run, "A03"), Some((Outcome::Blocked, "b".to_owned())));
    }

    #[test]
    fn case_without_a_test_that_can_run_there_has_no_row() {
        let some = run(Plane::Lsm, &PASSED[..2], &["z::a03"]);
        let why = "b (not run there: z::a03: no such program)".to_owned();
        assert_eq!(row(&some, "A03"), Some((Outcome::Blocked, why)));
        let all = run(Plane::Lsm, &PASSED[..1], &["y::a03", "z::a03"]);
        assert_eq!(row(&all, "A03"), None);
        assert!(all.faults(&corpus()).is_empty());
    }

    #[test]
    fn report_is_the_promised_json() {
        let corpus = corpus();
        let run = run(Plane::Cgroup, &PASSED, &[]);
        let rows = rows(&corpus, &run);
        assert_eq!(
            serde_json::to_string(&Report { cases: &rows[..1] }).unwrap(),
            r#"{"cases":[{"id":"A01","plane":"cgroup","kernel":"6.1","outcome":"blocked","why":"b"}]}"#
        );
    }
}
