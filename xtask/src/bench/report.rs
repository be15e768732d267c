//! The table, and its form for programs.

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

use crate::Output;

/// What a number says.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) enum Unit {
    /// Enforced by not enforced.
    #[serde(rename = "ratio")]
    Ratio,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Per second of processor time.
    #[serde(rename = "1/s")]
    PerSecond,
}

/// What a row is to reach.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// One measured number.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    id: &'static str,
    value: f64,
    unit: Unit,
    reach: f64,
    ok: bool,
    runs: usize,
    /// Width of the middle half of the runs' values, in the row's unit.
    spread: f64,
    /// How it was measured, and what else was seen.
    note: String,
}

impl Row {
    /// A number, judged.
    pub(super) fn new(
        id: &'static str,
        unit: Unit,
        reach: Reach,
        value: f64,
        (runs, spread): (usize, f64),
        note: String,
    ) -> Self {
        let (reach, ok) = match reach {
            Reach::AtMost(most) => (most, value <= most),
            Reach::AtLeast(least) => (least, value >= least),
        };
        Self { id, value, unit, reach, ok, runs, spread, note }
    }
}

/// All rows.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// One more.
    pub(super) fn add(&mut self, row: Row) {
        println!("measured {}", row.id);
        self.rows.push(row);
    }

    /// Prints. A row out of its reach is a result, not an error.
    pub(super) fn finish(&self, output: Output) -> Result<()> {
        let mut table = Table::new();
        table.load_preset(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["row", "value", "reach", "", "runs", "spread", "how"]);
        for Row { id, value, unit, reach, ok, runs, spread, note } in &self.rows {
            let (value, reach, spread) = match unit {
                Unit::Ratio => (format!("{value:.3}"), format!("{reach}"), format!("{spread:.3}")),
                Unit::Milliseconds => {
                    (format!("{value:.0} ms"), format!("{reach} ms"), format!("{spread:.0} ms"))
                }
                Unit::Microseconds => {
                    (format!("{value:.1} us"), format!("{reach} us"), format!("{spread:.1} us"))
                }
                Unit::PerSecond => {
                    (format!("{value:.0}/s"), format!("{reach}/s"), format!("{spread:.0}/s"))
                }
            };
            let ok = if *ok { "ok" } else { "NOT REACHED" };
            table.add_row([*id, &value, &reach, ok, &runs.to_string(), &spread, note]);
        }
        println!("\n{table}");
        if output == Output::Json {
            println!("{}", serde_json::to_string(self)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_promised_form() {
        let mut report = Report::default();
        let reach = Reach::AtMost(1.02);
        report.add(Row::new("a", Unit::Ratio, reach, 1.004, (9, 0.01), String::new()));
        let reach = Reach::AtLeast(100_000.0);
        report.add(Row::new("b", Unit::PerSecond, reach, 90_000.0, (9, 1.0), String::new()));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["unit"], "ratio");
        assert_eq!(json["rows"][0]["ok"], true);
        assert_eq!(json["rows"][1]["unit"], "1/s");
        assert_eq!(json["rows"][1]["ok"], false);
    }

    #[test]
    fn what_was_not_measured_is_not_ok() {
        let row =
            Row::new("a", Unit::Ratio, Reach::AtMost(2.0), f64::NAN, (0, f64::NAN), String::new());
        assert!(!row.ok);
    }
}
