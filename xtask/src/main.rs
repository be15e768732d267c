//! `cargo xtask VERB`: sets up, builds, checks, tests, shows and measures agent-enforcer.
//!
//! In: a verb and its options. Out: what it did, and an exit status that is 0 only when all of it
//! went well. CI runs the same verbs as people. Verbs that begin with `__` are the programs that
//! the demo and the bench start in cgroups and network namespaces; nobody else calls them.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod bypass;
mod ci;
mod command;
mod daemon;
mod demo;
mod host;
mod interrupt;
mod lines;
mod lint;
mod live;
mod peer;
mod plane;
mod setup;
mod test;
mod verifier;
mod vm;
mod wait;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

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
    /// Run every test that can run here and sum up; `test vm` runs them on other kernels
    Test(test::Options),
    /// Known ways round enforcement, and what becomes of each on this kernel (needs root)
    Bypass(bypass::Options),
    /// A shell on another kernel, with enforcement to try
    Vm(vm::Options),
    /// Compare what the kernels' verifiers do for the programs with the committed table
    Verifier(verifier::Options),
    /// What CI runs: lint, then test
    Ci,
    /// Show enforcement step by step on this machine's kernel (needs root)
    Demo(live::Options),
    /// Measure what enforcement costs (needs root)
    Bench(bench::Options),
    #[command(name = "__enter", hide = true)]
    Enter(host::EnterOptions),
    #[command(name = "__serve", hide = true)]
    Serve(peer::ServeOptions),
    #[command(name = "__client", hide = true)]
    Client(peer::ClientOptions),
    #[command(name = "__connector", hide = true)]
    Connector(bench::ConnectorOptions),
}

/// For whom the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// As for people, and one JSON document in the last line.
    Json,
}

fn main() -> ExitCode {
    let Arguments { verb } = Arguments::parse();
    let outcome = match verb {
        Verb::Setup(options) => setup::run(&options),
        Verb::Build => build::run().map(|_| ()),
        Verb::Lint => lint::run(),
        Verb::Test(options) => test::run(options),
        Verb::Bypass(options) => bypass::run(&options),
        Verb::Vm(options) => vm::run(&options),
        Verb::Verifier(options) => verifier::run(&options),
        Verb::Ci => ci::run(),
        Verb::Demo(options) => demo::run(options),
        Verb::Bench(options) => bench::run(options),
        Verb::Enter(options) => host::enter(options),
        Verb::Serve(options) => peer::serve(options),
        Verb::Client(options) => peer::client(&options),
        Verb::Connector(options) => bench::connector(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_verb_has_sound_options() {
        Arguments::command().debug_assert();
    }
}
