//! Counting what Rust's test harness writes.
//!
//! In: the lines of `cargo test`. Out: a [`Tally`]. The `test result:` line of each program is the
//! authority; a program that began and gave none has failed, and so has a run whose exit status is
//! bad although every line looks good.

use std::collections::BTreeMap;

/// What came of some tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, and programs that did not finish.
    pub failed: usize,
    /// Tests that did not run.
    pub skipped: usize,
    /// What failed.
    pub failures: Vec<String>,
    /// Why tests did not run, and how many for each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Each test by its name, and the word for what came of it.
    pub tests: BTreeMap<String, String>,
}

/// Reads line by line.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    tally: Tally,
    /// The test program under way.
    program: Option<String>,
    /// Whether that program has begun its tests and not told their result.
    open: bool,
    /// What the first panic of each thread said; tests give their threads their names.
    panics: BTreeMap<String, Vec<String>>,
    /// The thread whose panic is being told.
    panicking: Option<String>,
}

/// Lines of a panic that are repeated at the end; longer ones are in the output.
const PANIC_LINES: usize = 6;

impl Parser {
    /// The next line, without its end.
    pub(crate) fn line(&mut self, line: &str) {
        self.panic(line);
        if let Some(program) = heading(line) {
            self.close();
            self.program = Some(program.to_owned());
        } else if line.starts_with("running ") && line.contains(" test") {
            self.close();
            self.open = true;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.result(result);
        } else if let Some((name, word)) = single(line) {
            self.single(name, word);
        }
    }

    /// The end of the output; `success` is what the exit status says.
    pub(crate) fn finish(mut self, success: bool) -> Tally {
        self.close();
        if !success && self.tally.failed == 0 {
            self.tally.failed += 1;
            self.tally.failures.push("the run ended with an error, see its output".to_owned());
        }
        if success && self.tally.failed > 0 {
            self.tally.failures.push("the exit status was 0 all the same".to_owned());
        }
        for failure in &mut self.tally.failures {
            for line in self.panics.get(failure.as_str()).cloned().into_iter().flatten() {
                failure.push_str("\n    ");
                failure.push_str(&line);
            }
        }
        self.tally
    }

    /// What a test panics with is far above the end where much is told of it.
    fn panic(&mut self, line: &str) {
        if let Some((thread, place)) = panic_of(line) {
            let first = !self.panics.contains_key(thread);
            self.panicking = first.then(|| thread.to_owned());
            if first {
                self.panics.insert(thread.to_owned(), vec![place.to_owned()]);
            }
        } else if let Some(lines) =
            self.panicking.as_ref().and_then(|thread| self.panics.get_mut(thread))
        {
            let over = line.is_empty() || line == "stack backtrace:" || line.starts_with("note: ");
            if over || lines.len() == PANIC_LINES {
                self.panicking = None;
            } else {
                lines.push(line.to_owned());
            }
        }
    }

    fn close(&mut self) {
        if self.open {
            let program = self.program.as_deref().unwrap_or("a test program");
            self.tally.failed += 1;
            self.tally.failures.push(format!("{program} did not finish"));
            self.open = false;
        }
    }

    fn result(&mut self, result: &str) {
        self.open = false;
        self.tally.passed += count(result, " passed");
        self.tally.failed += count(result, " failed");
        self.tally.skipped += count(result, " ignored");
    }

    fn single(&mut self, name: &str, word: &str) {
        self.tally.tests.insert(name.to_owned(), word.to_owned());
        if word == "FAILED" {
            self.tally.failures.push(name.to_owned());
        } else if let Some(reason) = word.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() { "no reason given" } else { reason };
            *self.tally.reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }
}

/// `     Running tests/a.rs (target/debug/deps/a-1)` or `   Doc-tests a`.
fn heading(line: &str) -> Option<&str> {
    let line = line.strip_prefix("   ")?.trim_start();
    line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests "))
}

/// `test a::b ... ok`: the name and the last word; whatever the test wrote between is left out.
fn single(line: &str) -> Option<(&str, &str)> {
    let (name, word) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name, word))
}

/// `thread 'a::b' (7) panicked at tests/a.rs:1:2:`: the thread and the rest.
fn panic_of(line: &str) -> Option<(&str, &str)> {
    let (thread, rest) = line.strip_prefix("thread '")?.split_once('\'')?;
    Some((thread, &rest[rest.find("panicked at ")?..]))
}

/// The number before `what` in `ok. 3 passed; 0 failed; ...`.
fn count(result: &str, what: &str) -> usize {
    let number = result
        .split([';', '.'])
        .filter_map(|part| part.strip_suffix(what))
        .find_map(|number| number.trim().parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &str, success: bool) -> Tally {
        let mut parser = Parser::default();
        lines.lines().for_each(|line| parser.line(line));
        parser.finish(success)
    }

    const GOOD: &str = "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\nrunning 3 tests\n\
        test a::b ... ok\ntest a::c ... ignored, needs root\ntest d - should panic ... ok\n\n\
        test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";

    #[test]
    fn counts_every_program_and_keeps_the_reasons() {
        let sum = tally(&format!("{GOOD}   Doc-tests a\n{GOOD}"), true);
        assert_eq!((sum.passed, sum.failed, sum.skipped), (4, 0, 2));
        assert_eq!(sum.reasons.get("needs root"), Some(&2));
    }

    #[test]
    fn names_what_failed() {
        let lines = "running 1 test\ntest a::b ... FAILED\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let sum = tally(lines, false);
        assert_eq!((sum.failed, sum.failures), (1, vec!["a::b".to_owned()]));
    }

    #[test]
    fn repeats_what_a_failed_test_said() {
        let lines = "running 1 test\ntest a::b ... FAILED\n\n---- a::b stdout ----\n\
            thread 'a::b' (7) panicked at tests/a.rs:1:2:\nnot equal\n  left: 1\n\
            note: run with `RUST_BACKTRACE=1`\nmuch else\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let said = "a::b\n    panicked at tests/a.rs:1:2:\n    not equal\n      left: 1";
        assert_eq!(tally(lines, false).failures, [said]);
    }

    #[test]
    fn program_without_a_result_has_failed() {
        let lines =
            "     Running tests/a.rs (target/debug/deps/a-1)\nrunning 9 tests\ntest x ... ok";
        let sum = tally(&format!("{lines}\n{GOOD}"), false);
        assert_eq!((sum.passed, sum.failed), (2, 1));
        assert!(sum.failures[0].contains("tests/a.rs"), "{:?}", sum.failures);
    }

    #[test]
    fn bad_exit_status_fails_a_run_that_looks_good() {
        assert_eq!(tally(GOOD, false).failed, 1);
        assert_eq!(tally("error: could not compile", false).failed, 1);
    }
}
