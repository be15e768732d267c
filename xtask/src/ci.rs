//! What CI runs: every check, the README's test command, and what the verifier says on the oldest and
//! the newest kernel. Each runs whatever came of the ones before.
//!
//! Tests on other kernels, those of the LSM plane among them, are `cargo xtask test vm`: they take
//! longer than a change should wait.

use anyhow::{Result, bail};

use crate::{lint, test, verifier, vm};

/// Everything.
pub(crate) fn run() -> Result<()> {
    let [oldest, .., newest] = vm::SERIES;
    let kernels = vec![oldest.to_owned(), newest.to_owned()];
    let steps = [
        ("lint", lint::run()),
        ("test", test::here()),
        ("verifier", verifier::run(&verifier::Options::of(kernels))),
    ];
    println!("\nci");
    let mut failed = Vec::new();
    for (name, outcome) in &steps {
        match outcome {
            Ok(()) => println!("  {name}: ok"),
            Err(error) => {
                println!("  {name}: {error:#}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {} (see above)", failed.join(", "));
    }
    Ok(())
}
