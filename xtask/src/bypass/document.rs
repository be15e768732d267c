//! `docs/bypass.md`, written from the table of cases.

use std::fs;

use anyhow::Result;

use super::corpus::{Case, Corpus, Expectation, Group, Outcome, Planes};
use crate::{plane::Plane, workspace::Workspace};

/// The document, in the workspace.
pub(super) const DOCUMENT: &str = "docs/bypass.md";

const HEAD: &str = "# Ways round, and what becomes of them

Every way round an egress enforcer that we know, and what it comes to. `cargo xtask bypass` runs the tests
that are named here on this machine's kernel and prints the same table with their results; with `--vm` it
does so in virtual machines of other kernels. A case whose test fails is a hole. Written from
`tests/bypass.json` by `cargo xtask bypass --write-docs`: don't edit.

There are two planes. The cgroup plane is everywhere. The LSM plane is the same hooks and BPF LSM on top; the
daemon chooses it by itself where `bpf` is among the kernel's security modules
(`/sys/kernel/security/lsm`), with `--plane lsm` it starts on no other, and `agent-enforcer status` says
which one is active. So a case has on the LSM plane what it has on the cgroup plane: such a line says `both`. Where BPF LSM changes something, the
planes have a line each.

| outcome | meaning |
| --- | --- |
| `blocked` | it gets nowhere; the tests show it, each with the same call to a granted address, which works |
| `works` | it is nothing bad and goes on as without enforcement; the tests show it |
| `by_design` | it is possible, and no way round |
| `not_applicable` | it can't come about, or only by those whom the threat model trusts |
| `hole` | a way round, or nothing shows that it is none; what closes it is said. Most on the cgroup plane are what no cgroup hook sees (unix sockets, other families, passed sockets, tracing) and the LSM plane closes: switch that on, or do what the line says. `agent-enforcer doctor` tells what the plane in force leaves open |
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
    let mut parts = vec![HEAD.to_owned(), sums(corpus)];
    for Group { title, cases, .. } in &corpus.groups {
        parts.push(format!("\n## {title}\n{HEADER}"));
        for Case { id, attempt, planes: Planes { cgroup, lsm } } in cases {
            let word = if lsm.is_some() { Plane::Cgroup.word() } else { "both" };
            parts.push(row(id, attempt, word, cgroup));
            parts.extend(lsm.iter().map(|lsm| row(id, attempt, Plane::Lsm.word(), lsm)));
        }
    }
    parts.concat()
}

/// How many cases of each outcome a plane has.
fn sums(corpus: &Corpus) -> String {
    let cells = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let outcomes = Outcome::ALL.map(|outcome| format!("`{}`", outcome.word()));
    let mut table = cells([&["plane".to_owned()], &outcomes[..]].concat());
    table.push_str(&cells(vec!["---".to_owned(); outcomes.len() + 1]));
    for plane in Plane::ALL {
        let count = |wanted| {
            let outcomes = corpus.cases().map(|case| case.planes.on(plane).outcome);
            outcomes.filter(|outcome| *outcome == wanted).count().to_string()
        };
        let counts = Outcome::ALL.map(count);
        table.push_str(&cells([&[plane.word().to_owned()], &counts[..]].concat()));
    }
    format!("\n{table}")
}

fn row(id: &str, attempt: &str, plane: &str, expectation: &Expectation) -> String {
    let Expectation { outcome, why, tests } = expectation;
    let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
    let (outcome, tests) = (outcome.word(), tests.join(", "));
    format!("| {id} | {attempt} | {plane} | `{outcome}` | {why} | {tests} |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_is_one_line_with_its_tests_unless_the_planes_differ() {
        let corpus = Corpus::parse(
            r#"[{"letter":"A","title":"T","cases":[{"id":"A01","attempt":"a call","planes":
            {"cgroup":{"outcome":"blocked","why":"a hook","tests":["x::a01"]}}},
            {"id":"A02","attempt":"a file","planes":{"cgroup":{"outcome":"hole","why":"no hook"},
            "lsm":{"outcome":"blocked","why":"another","tests":["y::a02"]}}}]}]"#,
        );
        let text = text(&corpus.unwrap());
        assert!(text.ends_with(
            "| A01 | a call | both | `blocked` | a hook | `x::a01` |\n\
             | A02 | a file | cgroup | `hole` | no hook |  |\n\
             | A02 | a file | lsm | `blocked` | another | `y::a02` |\n"
        ));
        assert!(text.contains("\n| cgroup | 1 | 0 | 0 | 0 | 1 |\n| lsm | 2 | 0 | 0 | 0 | 0 |\n"));
    }
}
