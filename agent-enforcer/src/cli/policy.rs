//! `policy check`, `show` and `reload`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use super::{
    Offline, PolicySummary,
    console::{Console, Exit, Failure},
    text::{line, printable, printable_lines},
};
use crate::{api::Client, control::PolicyView};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyVerb {
    /// Check the policy files of a directory; no daemon needed. Exits with 1 if they are invalid.
    Check {
        /// Directory of the policy files.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Show the policy in force, as YAML in its normal form.
    Show {
        /// Show the Cedar policies that decide: of each `*.cedar` file, and what the YAML says as Cedar.
        #[arg(long)]
        cedar: bool,
    },
    /// Make the daemon read its policy directory again; an invalid policy changes nothing.
    Reload,
}

#[derive(Serialize)]
struct CheckDocument<'a> {
    directory: &'a str,
    valid: bool,
    #[serde(flatten)]
    summary: Option<PolicySummary>,
    errors: Vec<&'a str>,
}

pub(super) fn check(
    directory: &Path,
    offline: Offline,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let result = (offline.check_policy)(directory);
    let shown = directory.to_string_lossy();
    let exit = if result.is_ok() { Exit::Done } else { Exit::Failed };
    if console.is_json() {
        let (summary, errors) = match &result {
            Ok(summary) => (Some(*summary), Vec::new()),
            Err(errors) => (None, errors.lines().collect()),
        };
        let valid = result.is_ok();
        console.json(&CheckDocument { directory: &shown, valid, summary, errors })?;
        return Ok(exit);
    }
    match result {
        Ok(PolicySummary { agents, tools }) => console.line(&format!(
            "{} is valid: {agents} agents, {tools} tools; `agent-enforcer policy reload` puts the daemon's own directory in force",
            printable(&shown)
        ))?,
        Err(errors) => {
            console.line(&printable_lines(&errors))?;
            console.remark(&format!(
                "{shown} is not valid: correct the lines above, then check again"
            ))?;
        }
    }
    Ok(exit)
}

pub(super) async fn show(
    cedar: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let policy = client.policy_show().await?;
    if cedar {
        return console.show(&policy.cedar, |texts, _| {
            // Comments, so that the output can be read as Cedar.
            let of_file = |(file, text): (&String, &String)| {
                let end = if text.ends_with('\n') { "" } else { "\n" };
                line(&format!("// {file}")) + &printable_lines(text) + end
            };
            texts.iter().map(of_file).collect::<Vec<_>>().join("\n")
        });
    }
    console.show(&policy, |policy, _| {
        let PolicyView { generation, directory, yaml, cedar: _ } = policy;
        // A comment, so that the output can be used as a policy file.
        let head =
            line(&format!("# generation {generation}, from {}", directory.to_string_lossy()));
        let end = if yaml.ends_with('\n') { "" } else { "\n" };
        head + &printable_lines(yaml) + end
    })
}

pub(super) async fn reload(client: &Client, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let policy = client.policy_reload().await?;
    console.show(&policy, |policy, _| {
        let PolicyView { generation, directory, yaml: _, cedar: _ } = policy;
        let directory = directory.to_string_lossy();
        line(&format!("the policy of {directory} is in force since generation {generation}"))
    })
}
