//! `docs/bypass.md`, written from the table of cases.

use std::fs;

use anyhow::Result;

use super::corpus::{Case, Corpus, Expectation, Group, Outcome, Plane};
use crate::workspace::Workspace;

/// The document, in the workspace.
pub(super) const DOCUMENT: &str = "docs/bypass.md";

const HEAD: &str = "# Ways round, and what becomes of them

Every way round an egress enforcer that we know, and what it comes to. `cargo xtask bypass` runs the tests
that are named here on this machine's kernel and prints the same table with their results; a case whose
test fails is a hole. Written from `tests/bypass.json` by `cargo xtask bypass --write-docs`: don't edit.

| outcome | meaning |
| --- | --- |
| `blocked` | it gets nowhere; the tests show it, each with the same call to a granted address, which works |
| `works` | it is nothing bad and goes on as without enforcement; the tests show it |
| `by_design` | it is possible, and no way round |
| `not_applicable` | it can't come about, or only by those whom the threat model trusts |
| `hole` | a way round, or nothing shows that it is none; what closes it is said |
";

const HEADER: &str = "| id | attempt | plane | outcome | why | tests |
| --- | --- | --- | --- | --- | --- |
";

/// Whether the committed document is what the table says.
pub(crate) fn is_up_to_date(workspace: &Workspace) -> Result<bool> {
    let corpus = Corpus::read(workspace)?;
    let there = fs::read_to_string(workspace.root.join(DOCUMENT)).unwrap_or_default();
    Ok(there == text(&corpus))
}

pub(super) fn text(corpus: &Corpus) -> String {
    let outcomes: Vec<_> =
        corpus.cases().flat_map(|case| case.planes.values()).map(|it| it.outcome).collect();
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let counts = Outcome::ALL.map(|outcome| format!("{} `{}`", count(outcome), outcome.word()));
    let mut parts = vec![format!("{HEAD}\n{}.\n", counts.join(", "))];
    for Group { title, cases, .. } in &corpus.groups {
        parts.push(format!("\n## {title}\n{HEADER}"));
        for Case { id, attempt, planes } in cases {
            parts.extend(planes.iter().map(|(plane, it)| row(id, attempt, *plane, it)));
        }
    }
    parts.concat()
}

fn row(id: &str, attempt: &str, plane: Plane, expectation: &Expectation) -> String {
    let Expectation { outcome, why, tests } = expectation;
    let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
    let (plane, outcome, tests) = (plane.word(), outcome.word(), tests.join(", "));
    format!("| {id} | {attempt} | {plane} | `{outcome}` | {why} | {tests} |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_is_one_line_with_its_tests() {
        let corpus = Corpus::parse(
            r#"[{"letter":"A","title":"T","cases":[{"id":"A01","attempt":"a call","planes":
            {"cgroup":{"outcome":"blocked","why":"a hook","tests":["x::a01"]}}}]}]"#,
        );
        let text = text(&corpus.unwrap());
        assert!(text.ends_with("| A01 | a call | cgroup | `blocked` | a hook | `x::a01` |\n"));
        assert!(text.contains("\n1 `blocked`, 0 `works`"));
    }
}
