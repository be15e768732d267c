//! `cargo xtask VERB`: sets up, builds, checks, tests, shows and measures agent-enforcer.
//!
//! In: a verb and its options. Out: what it did, and an exit status that is 0 only when all of it
//! went well. CI runs the same verbs as people.

#![forbid(unsafe_code)]

mod build;
mod ci;
mod command;
mod lint;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; safe to repeat
    Setup(setup::Options),
    /// Build the daemon with its kernel programs into target/release
    Build,
    /// Check format, lints, dependencies, scripts and documents
    Lint,
    /// Run every test that can run here and sum up
    Test,
    /// What CI runs: lint, then test
    Ci,
}

fn main() -> ExitCode {
    let Arguments { verb } = Arguments::parse();
    let outcome = match verb {
        Verb::Setup(options) => setup::run(&options),
        Verb::Build => build::run().map(|_| ()),
        Verb::Lint => lint::run(),
        Verb::Test => test::run(),
        Verb::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
