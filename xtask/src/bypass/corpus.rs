//! The table of cases: `tests/bypass.json`.
//!
//! In: the file. Out: its cases, each with an expectation per plane. What promises something must
//! name tests; what does not must say why; nothing may be there twice.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{plane::Plane, workspace::Workspace};

/// The table, in the workspace.
pub(super) const FILE: &str = "tests/bypass.json";

/// All cases.
#[derive(Debug)]
pub(super) struct Corpus {
    pub(super) groups: Vec<Group>,
}

/// Cases of one kind; their ids begin with its letter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    letter: String,
    pub(super) title: String,
    pub(super) cases: Vec<Case>,
}

/// One way round.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// Stable; tests that show it begin with it, in lower case.
    pub(super) id: String,
    /// What is tried.
    pub(super) attempt: String,
    pub(super) planes: Planes,
}

/// What is promised on each plane.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Planes {
    pub(super) cgroup: Expectation,
    /// Where the LSM plane differs; its cgroup hooks are the same.
    pub(super) lsm: Option<Expectation>,
}

impl Planes {
    /// What is promised there.
    pub(super) fn on(&self, plane: Plane) -> &Expectation {
        match plane {
            Plane::Cgroup => &self.cgroup,
            Plane::Lsm => self.lsm.as_ref().unwrap_or(&self.cgroup),
        }
    }

    /// What the table says, each with its plane.
    fn written(&self) -> impl Iterator<Item = (Plane, &Expectation)> {
        let lsm = self.lsm.iter().map(|expectation| (Plane::Lsm, expectation));
        std::iter::once((Plane::Cgroup, &self.cgroup)).chain(lsm)
    }
}

/// What is promised on a plane.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    pub(super) outcome: Outcome,
    /// What decides; of a hole, what closes it.
    pub(super) why: String,
    /// Names of tests as libtest writes them; all of them must pass.
    #[serde(default)]
    pub(super) tests: Vec<String>,
}

/// What becomes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// It gets nowhere.
    Blocked,
    /// It is nothing bad, and goes on as without enforcement.
    Works,
    /// It is possible, and no way round.
    ByDesign,
    /// It can't come about.
    NotApplicable,
    /// It is a way round.
    Hole,
}

impl Outcome {
    pub(super) const ALL: [Self; 5] =
        [Self::Blocked, Self::Works, Self::ByDesign, Self::NotApplicable, Self::Hole];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Works => "works",
            Self::ByDesign => "by_design",
            Self::NotApplicable => "not_applicable",
            Self::Hole => "hole",
        }
    }
}

impl Corpus {
    pub(super) fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.root.join(FILE);
        let text =
            fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{FILE} is no table of cases"))
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let corpus = Self { groups: serde_json::from_str(text)? };
        let faults = corpus.faults();
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        Ok(corpus)
    }

    pub(super) fn cases(&self) -> impl Iterator<Item = &Case> {
        self.groups.iter().flat_map(|group| &group.cases)
    }

    /// Every test that is named for a plane, as often as it is.
    pub(super) fn tests(&self, plane: Plane) -> impl Iterator<Item = &str> {
        let expectations = self.cases().map(move |case| case.planes.on(plane));
        expectations.flat_map(|expectation| &expectation.tests).map(String::as_str)
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut before = "";
        for (group, case) in self.groups.iter().flat_map(|it| it.cases.iter().map(move |c| (it, c)))
        {
            let Case { id, attempt, planes } = case;
            let number = id.strip_prefix(&group.letter).filter(|number| number.len() == 2);
            if !number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
                faults.push(format!("{id}: an id is `{}` and two digits", group.letter));
            }
            if id.as_str() <= before {
                faults.push(format!("{id}: comes after {before}; ids are unique and in order"));
            }
            before = id;
            if planes.lsm.as_ref() == Some(&planes.cgroup) {
                faults.push(format!(
                    "{id}: the lsm plane has what the cgroup plane has; leave it out"
                ));
            }
            for (plane, expectation) in planes.written() {
                let Expectation { outcome, why, tests } = expectation;
                let promises = matches!(outcome, Outcome::Blocked | Outcome::Works);
                if promises && tests.is_empty() {
                    let (plane, outcome) = (plane.word(), outcome.word());
                    faults.push(format!(
                        "{id}: {outcome} on the {plane} plane, and no test shows it"
                    ));
                }
                // Cells of a table.
                if [attempt, why].iter().any(|text| text.is_empty() || text.contains(['|', '\n'])) {
                    faults.push(format!("{id}: a text is empty, or has `|` or a line break"));
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(cases: &str) -> String {
        let text = format!(r#"[{{"letter":"A","title":"t","cases":[{cases}]}}]"#);
        Corpus::parse(&text).unwrap_err().to_string()
    }

    fn case(id: &str, outcome: &str, why: &str) -> String {
        format!(
            r#"{{"id":"{id}","attempt":"a","planes":{{"cgroup":{{"outcome":"{outcome}","why":"{why}"}}}}}}"#
        )
    }

    #[test]
    fn promise_without_a_test_is_refused() {
        let said = faults(&case("A01", "blocked", "b"));
        assert_eq!(said, "A01: blocked on the cgroup plane, and no test shows it");
    }

    #[test]
    fn id_that_is_there_twice_or_in_the_wrong_group_is_refused() {
        let twice = [case("A01", "hole", "b"), case("A01", "hole", "b")].join(",");
        assert!(faults(&twice).contains("unique"));
        assert!(faults(&case("B01", "hole", "b")).contains("two digits"));
    }

    #[test]
    fn case_without_a_reason_is_refused() {
        assert!(faults(&case("A01", "hole", "")).contains("empty"));
        assert!(faults(r#"{"id":"A01","attempt":"a","planes":{}}"#).contains("cgroup"));
    }

    #[test]
    fn lsm_plane_has_what_the_cgroup_plane_has_unless_it_says_otherwise() {
        let expectation = |why: &str| format!(r#"{{"outcome":"hole","why":"{why}"}}"#);
        let case = |lsm: &str| {
            let cgroup = expectation("b");
            format!(r#"{{"id":"A01","attempt":"a","planes":{{"cgroup":{cgroup},"lsm":{lsm}}}}}"#)
        };
        assert!(faults(&case(&expectation("b"))).contains("leave it out"));
        let why = |lsm: &str| {
            let text = format!(r#"[{{"letter":"A","title":"t","cases":[{}]}}]"#, case(lsm));
            let corpus = Corpus::parse(&text).unwrap();
            corpus.cases().next().unwrap().planes.on(Plane::Lsm).why.clone()
        };
        assert_eq!(why(&expectation("c")), "c");
        assert_eq!(why("null"), "b");
    }
}
