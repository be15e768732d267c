//! What CI runs: every check, the README's test command, and on the oldest and the newest kernel what
//! the verifier says and the tests of the LSM plane. Each runs whatever came of the ones before.
//!
//! The whole suite on every kernel is `cargo xtask test vm`: it takes longer than a change should wait.

use anyhow::{Result, bail};

use crate::{lint, test, verifier, vm};

/// Everything.
pub(crate) fn run() -> Result<()> {
    let [oldest, .., newest] = vm::SERIES;
    let kernels = || vec![oldest.to_owned(), newest.to_owned()];
    let steps = [
        ("lint", lint::run()),
        ("test", test::here()),
        ("verifier", verifier::run(&verifier::Options::of(kernels()))),
        ("test vm", test::lsm_plane(kernels())),
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
