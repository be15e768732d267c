//! The named tests, run: on this machine, and in machines with other kernels.
//!
//! In: the table of cases. Out: what came of each test on each kernel. A name that no test has, or
//! that tests of two programs have, stops it before anything runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Result, bail};

use super::corpus::{self, Corpus, Expectation};
use crate::{
    plane::Plane,
    test::{self, Choice, Tally, vm::Runs},
    workspace::{DAEMON, SYSTEM_TESTS, Workspace},
};

/// The named tests of each package.
pub(super) struct Tests {
    /// They need the kernel.
    system: Vec<String>,
    /// They are the same on every kernel.
    daemon: Vec<String>,
}

/// What came of the named tests of one plane on one kernel.
pub(super) struct Run {
    pub(super) kernel: String,
    /// What its daemons were told to enforce on.
    pub(super) plane: Plane,
    /// A word for each test that ran.
    pub(super) results: BTreeMap<String, String>,
    /// Tests that can't run there, and why.
    pub(super) left_out: BTreeMap<String, &'static str>,
    /// What failed in a machine, tests and else.
    pub(super) troubles: Vec<String>,
}

impl Tests {
    /// Those that need the kernel and are named for a plane.
    fn of_plane(&self, corpus: &Corpus, plane: Plane) -> Vec<String> {
        let named: BTreeSet<&str> = corpus.tests(plane).collect();
        self.system.iter().filter(|name| named.contains(name.as_str())).cloned().collect()
    }
}

impl Run {
    pub(super) fn passed(&self, test: &str) -> bool {
        self.results.get(test).is_some_and(|word| word == "ok")
    }

    /// Whether a case has tests, and none of them can run there.
    pub(super) fn leaves_out(&self, expectation: &Expectation) -> bool {
        let tests = &expectation.tests;
        !tests.is_empty() && tests.iter().all(|test| self.left_out.contains_key(test))
    }

    pub(super) fn left_out_of<'a>(
        &'a self,
        expectation: &'a Expectation,
    ) -> impl Iterator<Item = (&'a str, &'static str)> {
        let tests = expectation.tests.iter();
        tests.filter_map(|test| Some((test.as_str(), *self.left_out.get(test)?)))
    }

    /// Tests that did not pass, and what else was wrong.
    pub(super) fn faults(&self, corpus: &Corpus) -> Vec<String> {
        let tests: BTreeSet<_> = corpus.tests(self.plane).collect();
        let bad = tests.into_iter().filter(|test| {
            // What failed in a machine is among its troubles, with what it said.
            let is_told = self.troubles.iter().any(|trouble| trouble.starts_with(test));
            !is_told && !self.passed(test) && !self.left_out.contains_key(*test)
        });
        let bad = bad.chain(self.troubles.iter().map(String::as_str));
        bad.map(|fault| format!("{} ({}): {fault}", self.kernel, self.plane.word())).collect()
    }
}

/// Finds the tests that the table names.
pub(super) fn find(workspace: &Workspace, corpus: &Corpus) -> Result<Tests> {
    let named: BTreeSet<&str> = Plane::ALL.into_iter().flat_map(|it| corpus.tests(it)).collect();
    choose(&named, &test::list(workspace, SYSTEM_TESTS)?, &test::list(workspace, DAEMON)?)
}

fn choose(named: &BTreeSet<&str>, system: &[String], daemon: &[String]) -> Result<Tests> {
    let mut faults = Vec::new();
    for name in named {
        match system.iter().chain(daemon).filter(|test| test == name).count() {
            0 => faults.push(format!("{name}: there is no such test")),
            1 => {}
            _ => faults.push(format!("{name}: more than one program has such a test; rename one")),
        }
    }
    if !faults.is_empty() {
        bail!("{} names tests that can't be told:\n{}", corpus::FILE, faults.join("\n"));
    }
    let of = |tests: &[String]| -> Vec<String> {
        tests.iter().filter(|name| named.contains(name.as_str())).cloned().collect()
    };
    Ok(Tests { system: of(system), daemon: of(daemon) })
}

/// Runs the tests of each plane that this machine's kernel has.
pub(super) fn here(workspace: &Workspace, corpus: &Corpus, tests: &Tests) -> Result<Vec<Run>> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let of_daemon = of_daemon(workspace, tests)?;
    let run = |plane: Plane| {
        let system = tests.of_plane(corpus, plane);
        let mut results = of_daemon.clone();
        // No name would mean every test.
        if !system.is_empty() {
            results.extend(test::system_tests(workspace, plane, Choice::Named(&system))?.tests);
        }
        let (left_out, troubles) = (BTreeMap::new(), Vec::new());
        Ok(Run { kernel: kernel.clone(), plane, results, left_out, troubles })
    };
    Plane::of_this_kernel().into_iter().map(run).collect()
}

/// Runs the tests of each plane on kernels of these series, which all have BPF LSM. Those of the
/// daemon's package are about no kernel, and run here.
pub(super) fn in_machines(
    workspace: &Workspace,
    daemon: &Path,
    corpus: &Corpus,
    tests: &Tests,
    series: &[String],
) -> Result<Vec<Run>> {
    let of_daemon = of_daemon(workspace, tests)?;
    let mut runs = Vec::new();
    for plane in Plane::ALL {
        let system = tests.of_plane(corpus, plane);
        let wanted = |_: &str, name: &str| system.iter().any(|test| test == name);
        let Runs { kernels, left_out } =
            test::vm::on_kernels(workspace, daemon, series, plane, wanted)?;
        runs.extend(kernels.into_iter().map(|(kernel, tally)| {
            let Tally { tests, failures, .. } = tally;
            let mut results = of_daemon.clone();
            results.extend(tests);
            Run { kernel, plane, results, left_out: left_out.clone(), troubles: failures }
        }));
    }
    Ok(runs)
}

fn of_daemon(workspace: &Workspace, tests: &Tests) -> Result<BTreeMap<String, String>> {
    if tests.daemon.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(test::daemon_tests(workspace, Choice::Named(&tests.daemon))?.tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(system: &[&str], daemon: &[&str]) -> Result<Tests, String> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        choose(&BTreeSet::from(["x::a01"]), &owned(system), &owned(daemon))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn named_tests_are_found_in_their_packages() {
        let tests = chosen(&["x::a01", "x::a02"], &["y::b"]).unwrap();
        assert_eq!((tests.system, tests.daemon), (vec!["x::a01".to_owned()], vec![]));
    }

    #[test]
    fn name_that_no_test_has_or_two_have_is_refused() {
        let said = |tests: Result<Tests, String>| tests.err().unwrap_or_default();
        assert!(said(chosen(&["x::a02"], &[])).contains("no such test"));
        assert!(said(chosen(&["x::a01", "x::a01"], &[])).contains("more than one"));
        assert!(said(chosen(&["x::a01"], &["x::a01"])).contains("more than one"));
    }
}
