//! The command line of the one binary.
//!
//! In: arguments. Out: tables for people or JSON for programs, and an exit code that scripts can
//! rely on (docs/cli.md). `run` is the daemon; everything else asks it through [`crate::api`], or
//! works without it (`policy check`, `manifest`, `key`, `grant token`, `doctor`). Decides nothing itself.

mod agents;
mod answer;
mod calls;
mod console;
mod detach;
mod doctor;
mod events;
mod file;
mod grant;
mod key;
mod manifest;
mod policy;
mod run;
mod status;
mod table;
mod text;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Parser, Subcommand, ValueEnum};

pub use console::{Console, Exit, Style};
pub use run::{LogFormat, RunArgs};

use crate::api::{Client, approvals_path, socket_path};
use console::Failure;

const EXAMPLES: &str = "\
Examples:
  agent-enforcer doctor                          is this host fit for enforcement?
  agent-enforcer policy check ./policy           check a policy, no daemon needed
  agent-enforcer pending                         which calls wait for a grant or an approver?
  agent-enforcer grant issue --agent coder --tool github \\
      --on-behalf-of ada@example.com --task JIRA-42 --for 15m
  agent-enforcer manifest verify coder.json --keys owner.jwk
  agent-enforcer explain --pid 4711 --to 192.0.2.7:443
  agent-enforcer events --follow --output json | jq .message

Exit codes:
  0  done
  1  failed, refused, or (policy check, doctor) something is wrong
  2  the command line is wrong
  3  the daemon can't be reached, or can't answer now";

/// Enforces, in the kernel, what the AI agents on this host may connect to.
#[derive(Debug, Parser)]
#[command(name = "agent-enforcer", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(infer_subcommands = false, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Directory of the daemon's control socket.
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/agent-enforcer")]
    #[arg(help_heading = "Common options")]
    runtime_dir: PathBuf,
    /// Tables for people or JSON for programs.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    #[arg(help_heading = "Common options")]
    output: OutputFormat,
    #[command(subcommand)]
    verb: Verb,
}

/// How results and errors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document per command, JSON lines for `events`; errors too, on standard error.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<RunArgs>),
    #[command(flatten)]
    Ask(Ask),
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// Show the state of the daemon and of enforcement.
    Status,
    Agents(agents::AgentsArgs),
    /// Check, show and reload the policy.
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// Issue, list and revoke grants; sign grant tokens.
    #[command(subcommand)]
    Grant(grant::GrantVerb),
    /// Make, sign, verify and show agent manifests; no daemon needed.
    #[command(subcommand)]
    Manifest(manifest::ManifestVerb),
    /// Make and show keys that sign manifests and grant tokens; no daemon needed.
    #[command(subcommand)]
    Key(key::KeyVerb),
    Events(events::EventsArgs),
    Pending(calls::PendingArgs),
    Approve(answer::ApproveArgs),
    Deny(answer::DenyArgs),
    Explain(calls::ExplainArgs),
    Doctor(doctor::DoctorArgs),
    Detach(detach::DetachArgs),
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Be the daemon.
    Run(RunArgs),
    /// Ask the daemon, or work without it; see [`execute`].
    Ask(Request),
}

/// A command for [`execute`].
#[derive(Debug)]
pub struct Request {
    ask: Ask,
    runtime_dir: PathBuf,
    output: OutputFormat,
}

impl Request {
    /// How its results and errors are to be written.
    pub const fn output(&self) -> OutputFormat {
        self.output
    }
}

/// What a valid policy has, for `policy check`.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct PolicySummary {
    /// Agents.
    pub agents: usize,
    /// Tools.
    pub tools: usize,
}

/// What the command line does without a daemon but does not know how to: given by `main`.
#[derive(Clone, Copy, Debug)]
pub struct Offline {
    /// Loads the policy of a directory; the error has one line per problem.
    pub check_policy: fn(&Path) -> Result<PolicySummary, String>,
    /// Removes every pin of a dead daemon below a bpffs, for a reason; returns what was removed.
    pub detach: fn(&Path, &str) -> Result<Vec<String>, String>,
}

/// Parses a command line, program name first. The error has its own exit code and text (`--help`
/// and `--version` are such "errors" too).
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let Cli { runtime_dir, output, verb } = Cli::try_parse_from(arguments)?;
    match verb {
        Verb::Run(mut run) => {
            run.runtime_dir = runtime_dir;
            run.validate()?;
            Ok(Command::Run(*run))
        }
        Verb::Ask(ask) => Ok(Command::Ask(Request { ask, runtime_dir, output })),
    }
}

/// The format that a command line asks for even where it can't be parsed.
pub fn wanted_output(arguments: &[OsString]) -> OutputFormat {
    let pair = arguments
        .windows(2)
        .any(|pair| matches!(pair, [name, value] if name == "--output" && value == "json"));
    if pair || arguments.iter().any(|argument| argument == "--output=json") {
        OutputFormat::Json
    } else {
        OutputFormat::Table
    }
}

/// Carries out a command, reports its failure, and returns the exit code.
pub async fn execute(request: Request, offline: Offline, console: &mut Console<'_>) -> Exit {
    match answer(request, offline, console).await {
        Ok(exit) => exit,
        Err(failure) => console.report(&failure),
    }
}

async fn answer(
    request: Request,
    offline: Offline,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let Request { ask, runtime_dir, output: _ } = request;
    let socket = socket_path(&runtime_dir);
    let connect = || Client::connect(&socket);
    // Approvers need not be root.
    let asked = if rustix::process::geteuid().is_root() {
        socket.clone()
    } else {
        approvals_path(&runtime_dir)
    };
    let ask_for_approver = || Client::connect(&asked);
    match ask {
        Ask::Status => status::show(&connect().await?, console).await,
        Ask::Agents(args) => agents::show(args, &connect().await?, console).await,
        Ask::Policy(policy::PolicyVerb::Check { directory }) => {
            policy::check(&directory, offline, console)
        }
        Ask::Policy(policy::PolicyVerb::Show { cedar }) => {
            policy::show(cedar, &connect().await?, console).await
        }
        Ask::Policy(policy::PolicyVerb::Reload) => policy::reload(&connect().await?, console).await,
        Ask::Grant(grant::GrantVerb::Issue(args)) => {
            grant::issue(args, &connect().await?, console).await
        }
        Ask::Grant(grant::GrantVerb::Present(args)) => {
            grant::present(args, &connect().await?, console).await
        }
        Ask::Grant(grant::GrantVerb::List) => grant::list(&connect().await?, console).await,
        Ask::Grant(grant::GrantVerb::Revoke(args)) => {
            grant::revoke(args, &connect().await?, console).await
        }
        Ask::Grant(grant::GrantVerb::Token(args)) => grant::token::sign(*args, console),
        Ask::Manifest(verb) => manifest::run(verb, console),
        Ask::Key(verb) => key::run(verb, console),
        Ask::Events(args) => events::show(args, &connect().await?, console).await,
        Ask::Pending(args) => calls::pending(args, &ask_for_approver().await?, console).await,
        Ask::Approve(args) => answer::approve(args, &ask_for_approver().await?, console).await,
        Ask::Deny(args) => answer::deny(args, &ask_for_approver().await?, console).await,
        Ask::Explain(args) => calls::explain(args, &connect().await?, console).await,
        Ask::Doctor(args) => doctor::examine(args, &socket, console).await,
        Ask::Detach(args) => detach::detach(args, &socket, offline, console).await,
    }
}

#[cfg(test)]
mod tests;
