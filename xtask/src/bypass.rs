//! Known ways round enforcement, and what becomes of each: `cargo xtask bypass`.
//!
//! In: the table `tests/bypass.json`, which says for every case what is promised on each plane, why,
//! and which tests show it. Out: the same table after those tests ran, on this kernel or, with
//! `--vm`, on others. A case whose test did not pass is a hole, whatever the table says, and the verb
//! fails; a test that is named and does not exist stops it before anything runs.

mod corpus;
mod document;
mod runs;

use std::fs;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

pub(crate) use self::document::is_up_to_date;
use self::{
    corpus::{Corpus, Expectation, Outcome, Plane},
    document::DOCUMENT,
    runs::Run,
};
use crate::{
    build, command,
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
        None => vec![runs::here(&workspace, &corpus, &tests)?],
        Some(series) => runs::in_machines(&workspace, &daemon, &tests, &series_of(series))?,
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

/// A row for each case and plane; none where all tests of a case are left out.
fn rows<'a>(corpus: &'a Corpus, run: &'a Run) -> Vec<Row<'a>> {
    let planes = run.planes.iter();
    let cells = planes.flat_map(|plane| corpus.cases().map(|case| (case, *plane)));
    let shown = cells.filter(|(case, plane)| !run.leaves_out(case.planes.on(*plane)));
    let row = |(case, plane): (&'a corpus::Case, Plane)| {
        let expectation = case.planes.on(plane);
        let Expectation { outcome, why, tests } = expectation;
        let bad = tests.iter().find(|test| !run.passed(test) && !run.left_out.contains_key(*test));
        let (outcome, why) = match bad {
            Some(test) => (Outcome::Hole, format!("its test failed: {test}")),
            None if plane == Plane::Lsm && case.planes.lsm.is_none() => {
                (*outcome, format!("as on the cgroup plane: {why}"))
            }
            None => (*outcome, why.clone()),
        };
        let left_out =
            run.left_out_of(expectation).map(|(test, reason)| format!("{test}: {reason}"));
        let left_out: Vec<_> = left_out.collect();
        let why = if left_out.is_empty() {
            why
        } else {
            format!("{why} (not run there: {})", left_out.join("; "))
        };
        Row { id: &case.id, plane, kernel: &run.kernel, outcome, why }
    };
    shown.map(row).collect()
}

/// Cases without a row, so that nobody looks for them.
fn tell_left_out(corpus: &Corpus, run: &Run) {
    for plane in &run.planes {
        let cases = corpus.cases().filter(|case| run.leaves_out(case.planes.on(*plane)));
        for case in cases {
            for (test, reason) in run.left_out_of(case.planes.on(*plane)) {
                let (id, plane, kernel) = (&case.id, plane.word(), &run.kernel);
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
    use std::collections::BTreeMap;

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

    fn run(planes: &[Plane], results: &[(&str, &str)], left_out: &[&str]) -> Run {
        let results = results.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned()));
        let left_out = left_out.iter().map(|test| ((*test).to_owned(), "no such program"));
        Run {
            kernel: "6.1".to_owned(),
            planes: planes.to_vec(),
            results: results.collect(),
            left_out: left_out.collect(),
            troubles: Vec::new(),
        }
    }

    fn told(run: &Run) -> BTreeMap<(String, &'static str), (Outcome, String)> {
        let corpus = corpus();
        let rows = rows(&corpus, run);
        rows.into_iter()
            .map(|row| ((row.id.to_owned(), row.plane.word()), (row.outcome, row.why)))
            .collect()
    }

    fn row(run: &Run, id: &str, plane: &'static str) -> Option<(Outcome, String)> {
        told(run).remove(&(id.to_owned(), plane))
    }

    const PASSED: [(&str, &str); 3] = [("x::a01", "ok"), ("y::a03", "ok"), ("z::a03", "ok")];

    #[test]
    fn case_is_what_the_table_says_while_its_tests_pass() {
        let run = run(&[Plane::Cgroup], &PASSED, &[]);
        assert_eq!(row(&run, "A01", "cgroup"), Some((Outcome::Blocked, "b".to_owned())));
        assert_eq!(row(&run, "A02", "cgroup"), Some((Outcome::ByDesign, "b".to_owned())));
        assert_eq!(told(&run).len(), 3);
        assert!(run.faults(&corpus()).is_empty());
    }

    #[test]
    fn case_whose_test_failed_or_did_not_run_is_a_hole() {
        let hole = (Outcome::Hole, "its test failed: x::a01".to_owned());
        for results in [&[("x::a01", "FAILED")][..], &[("x::a01", "ignored, needs root")], &[]] {
            let run = run(&[Plane::Cgroup], results, &[]);
            assert_eq!(row(&run, "A01", "cgroup"), Some(hole.clone()));
            assert_eq!(run.faults(&corpus()), ["6.1: x::a01"]);
        }
    }

    #[test]
    fn lsm_plane_has_rows_of_its_own_where_the_kernel_has_it() {
        let run = run(&Plane::ALL, &PASSED, &[]);
        let same = "as on the cgroup plane: b".to_owned();
        assert_eq!(row(&run, "A01", "lsm"), Some((Outcome::Blocked, same)));
        assert_eq!(row(&run, "A03", "cgroup"), Some((Outcome::Hole, "b".to_owned())));
        assert_eq!(row(&run, "A03", "lsm"), Some((Outcome::Blocked, "b".to_owned())));
    }

    #[test]
    fn case_without_a_test_that_can_run_there_has_no_row() {
        let some = run(&Plane::ALL, &PASSED[..2], &["z::a03"]);
        let why = "b (not run there: z::a03: no such program)".to_owned();
        assert_eq!(row(&some, "A03", "lsm"), Some((Outcome::Blocked, why)));
        let all = run(&Plane::ALL, &PASSED[..1], &["y::a03", "z::a03"]);
        assert_eq!(row(&all, "A03", "lsm"), None);
        assert!(all.faults(&corpus()).is_empty());
    }

    #[test]
    fn report_is_the_promised_json() {
        let corpus = corpus();
        let run = run(&[Plane::Cgroup], &PASSED, &[]);
        let rows = rows(&corpus, &run);
        assert_eq!(
            serde_json::to_string(&Report { cases: &rows[..1] }).unwrap(),
            r#"{"cases":[{"id":"A01","plane":"cgroup","kernel":"6.1","outcome":"blocked","why":"b"}]}"#
        );
    }
}
