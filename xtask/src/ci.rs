//! What CI runs: every check, then the README's test command. Both run even when the first fails.

use anyhow::{Result, bail};

use crate::{lint, test};

/// Lints and tests.
pub(crate) fn run() -> Result<()> {
    let checks = lint::run();
    if let Err(error) = &checks {
        eprintln!("error: {error:#}");
    }
    let tests = test::here();
    match (checks, tests) {
        (Ok(()), tests) => tests,
        (Err(_), Ok(())) => bail!("lint failed (see above); the tests passed"),
        (Err(_), Err(error)) => Err(error.context("lint failed (see above), and the tests did")),
    }
}
