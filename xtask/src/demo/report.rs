//! What was expected, what was seen, and whether the two agree.

use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::Output;

/// One step.
#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    expected: String,
    observed: String,
    ok: bool,
}

/// All steps so far; prints each as it comes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    steps: Vec<Step>,
    ok: bool,
    #[serde(skip)]
    began: Option<Instant>,
}

impl Report {
    /// A new step begins: its number and what it is about.
    pub(super) fn begin(&mut self, title: &str) {
        self.began = Some(Instant::now());
        println!("\n{}. {title}", self.steps.len() + 1);
    }

    /// The step is over.
    pub(super) fn end(
        &mut self,
        name: &'static str,
        expected: impl Into<String>,
        observed: impl Into<String>,
        ok: Agreement,
    ) {
        let (expected, observed) = (expected.into(), observed.into());
        let millis = self.began.take().map_or(0, |began| began.elapsed().as_millis());
        println!("   expected: {expected}");
        println!("   observed: {observed}");
        println!("   {} ({millis} ms)", if ok.0 { "ok" } else { "NOT AS EXPECTED" });
        self.steps.push(Step { name, expected, observed, ok: ok.0 });
    }

    /// The demo could not go on.
    pub(super) fn broke_off(&mut self, error: &anyhow::Error) {
        let observed = format!("{error:#}");
        println!("\nthe demo could not go on: {observed}");
        let step =
            Step { name: "broke_off", expected: "every step runs".to_owned(), observed, ok: false };
        self.steps.push(step);
    }

    /// The sum; an error unless every step was as expected.
    pub(super) fn finish(mut self, output: Output) -> Result<()> {
        self.ok = !self.steps.is_empty() && self.steps.iter().all(|step| step.ok);
        let wrong: Vec<_> =
            self.steps.iter().filter(|step| !step.ok).map(|step| step.name).collect();
        println!("\n{} of {} steps as expected", self.steps.len() - wrong.len(), self.steps.len());
        if output == Output::Json {
            println!("{}", serde_json::to_string(&self)?);
        }
        if !self.ok {
            bail!("not as expected: {}", wrong.join(", "));
        }
        Ok(())
    }
}

/// Whether a step went as expected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement(pub(super) bool);

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ok: bool) -> Report {
        let mut report = Report::default();
        report.end("a", "1", "1", Agreement(true));
        report.end("b", "2", "3", Agreement(ok));
        report
    }

    #[test]
    fn one_wrong_step_spoils_the_whole() {
        assert!(report(true).finish(Output::Text).is_ok());
        let error = report(false).finish(Output::Text).unwrap_err();
        assert_eq!(error.to_string(), "not as expected: b");
    }

    #[test]
    fn nothing_shown_is_not_ok() {
        assert!(Report::default().finish(Output::Text).is_err());
    }

    #[test]
    fn json_has_the_promised_form() {
        let json = serde_json::to_value(report(true)).unwrap();
        assert_eq!(json["steps"][0]["name"], "a");
        assert_eq!(json["steps"][1]["observed"], "3");
        assert!(json["ok"].is_boolean());
    }
}
