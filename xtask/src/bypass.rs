//! Known ways round enforcement, and what becomes of each on this machine: `cargo xtask bypass`.
//!
//! In: the table `tests/bypass.json`, which says for every case what is promised, why, and which
//! tests show it. Out: the same table after those tests ran on this kernel. A case whose test did
//! not pass is a hole, whatever the table says, and the verb fails; a test that is named and does
//! not exist stops it before anything runs.

mod corpus;
mod document;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

pub(crate) use self::document::is_up_to_date;
use self::{
    corpus::{Corpus, Expectation, Outcome, Plane},
    document::DOCUMENT,
};
use crate::{
    build, command,
    setup::{self, Scope},
    test::{self, Choice},
    workspace::{DAEMON, SYSTEM_TESTS, Workspace},
};

/// Options of `cargo xtask bypass`.
#[derive(Args)]
pub(crate) struct Options {
    /// For whom the result is printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Only write docs/bypass.md from the table, and run nothing
    #[arg(long)]
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
    setup::ensure(&workspace, Scope::Test)?;
    if !command::is_root() {
        bail!("the tests load programs into the kernel: run it as root");
    }
    build::run()?;
    let results = results(&workspace, &corpus)?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let rows = rows(&corpus, &results, &release);
    println!("\n{}", table(&rows));
    println!("{}", sum(&rows));
    if options.output == Output::Json {
        let report = Report { cases: &rows };
        println!("{}", serde_json::to_string(&report).context("can't write JSON")?);
    }
    let bad = corpus.tests().filter(|name| !passed(&results, name)).collect::<BTreeSet<_>>();
    if !bad.is_empty() {
        bail!("{} tests did not pass: {}", bad.len(), Vec::from_iter(bad).join(", "));
    }
    Ok(())
}

/// What came of each named test, by its name.
fn results(workspace: &Workspace, corpus: &Corpus) -> Result<BTreeMap<String, String>> {
    let named: BTreeSet<&str> = corpus.tests().collect();
    let system = test::list(workspace, SYSTEM_TESTS)?;
    let daemon = test::list(workspace, DAEMON)?;
    let choose = |listed: &[String]| -> Vec<String> {
        listed.iter().filter(|name| named.contains(name.as_str())).cloned().collect()
    };
    let (system, daemon) = (choose(&system), choose(&daemon));
    let found: BTreeSet<&str> = system.iter().chain(&daemon).map(String::as_str).collect();
    let missing: Vec<_> = named.difference(&found).copied().collect();
    if !missing.is_empty() {
        bail!("{} names tests that do not exist: {}", corpus::FILE, missing.join(", "));
    }
    let mut results = BTreeMap::new();
    // No name would mean every test.
    if !daemon.is_empty() {
        results.extend(test::daemon_tests(workspace, Choice::Named(&daemon))?.tests);
    }
    if !system.is_empty() {
        results.extend(test::system_tests(workspace, Choice::Named(&system))?.tests);
    }
    Ok(results)
}

fn passed(results: &BTreeMap<String, String>, test: &str) -> bool {
    results.get(test).is_some_and(|word| word == "ok")
}

fn rows<'a>(
    corpus: &'a Corpus,
    results: &BTreeMap<String, String>,
    kernel: &'a str,
) -> Vec<Row<'a>> {
    let row = |id, plane, expectation: &Expectation| {
        let Expectation { outcome, why, tests } = expectation;
        let bad = tests.iter().find(|test| !passed(results, test));
        let (outcome, why) = match bad {
            None => (*outcome, why.clone()),
            Some(test) => (Outcome::Hole, format!("its test failed: {test}")),
        };
        Row { id, plane, kernel, outcome, why }
    };
    let planes = corpus.cases().flat_map(|case| {
        case.planes.iter().map(|(plane, expectation)| (case.id.as_str(), *plane, expectation))
    });
    planes.map(|(id, plane, expectation)| row(id, plane, expectation)).collect()
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
        let case = |id: &str, outcome: &str, tests: &str| {
            format!(
                r#"{{"id":"{id}","attempt":"a","planes":{{"cgroup":{{"outcome":"{outcome}","why":"b","tests":[{tests}]}}}}}}"#
            )
        };
        let cases = [case("A01", "blocked", r#""x::a01""#), case("A02", "by_design", "")].join(",");
        Corpus::parse(&format!(r#"[{{"letter":"A","title":"t","cases":[{cases}]}}]"#)).unwrap()
    }

    fn outcome_of_first(results: &[(&str, &str)]) -> (Outcome, String) {
        let results = results.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned()));
        let corpus = corpus();
        let rows = rows(&corpus, &results.collect(), "6.1");
        assert_eq!((rows[1].outcome, rows[1].why.as_str()), (Outcome::ByDesign, "b"));
        (rows[0].outcome, rows[0].why.clone())
    }

    #[test]
    fn case_is_what_the_table_says_while_its_tests_pass() {
        assert_eq!(outcome_of_first(&[("x::a01", "ok")]), (Outcome::Blocked, "b".to_owned()));
    }

    #[test]
    fn case_whose_test_failed_or_did_not_run_is_a_hole() {
        let hole = (Outcome::Hole, "its test failed: x::a01".to_owned());
        assert_eq!(outcome_of_first(&[("x::a01", "FAILED")]), hole);
        assert_eq!(outcome_of_first(&[("x::a01", "ignored, needs root")]), hole);
        assert_eq!(outcome_of_first(&[]), hole);
    }

    #[test]
    fn report_is_the_promised_json() {
        let corpus = corpus();
        let results = BTreeMap::from([("x::a01".to_owned(), "ok".to_owned())]);
        let rows = rows(&corpus, &results, "6.1");
        assert_eq!(
            serde_json::to_string(&Report { cases: &rows[..1] }).unwrap(),
            r#"{"cases":[{"id":"A01","plane":"cgroup","kernel":"6.1","outcome":"blocked","why":"b"}]}"#
        );
    }
}
