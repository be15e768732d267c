//! `grant issue`, `list` and `revoke`; `grant token` is below.

pub(super) mod token;

use std::{
    io::Read as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};

use super::{
    console::{Console, Exit, Failure, Style},
    file,
    table::{Table, Tone},
    text::{line, relative, span},
};
use crate::{
    api::Client,
    control::{GrantSpec, GrantView},
    decision::{grant_name, instance_name, parse_grant, parse_instance},
    rfc3339,
};

/// Largest file of a token, bytes: one more than a token may have, so that its reader says so.
const TOKEN_FILE_LIMIT: u64 = (16 << 10) + 2;
/// Longest lifetime that a grant may be asked for; the daemon may allow less.
const LONGEST: Duration = Duration::from_hours(24 * 366);

#[derive(Debug, Subcommand)]
pub(super) enum GrantVerb {
    Issue(IssueArgs),
    Present(PresentArgs),
    /// List all grants; ended ones until a day after their expiry.
    List,
    Revoke(RevokeArgs),
    Token(Box<token::TokenArgs>),
}

/// Permit an agent, or one instance of it, to use tools for a while.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agent-enforcer grant issue --agent coder --tool github --tool crates \\
      --on-behalf-of ada@example.com --task JIRA-42
  agent-enforcer grant issue --instance i-1a2b --tool deploy --on-behalf-of ada@example.com \\
      --task 'release 2.1' --for 10m --max-uses 1 --reason 'approved in change 77'")]
#[command(group = clap::ArgGroup::new("holder").required(true).args(["agent", "instance"]))]
pub(super) struct IssueArgs {
    /// The agent, every instance of it.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// One running instance, as `agent-enforcer agents` names it.
    #[arg(long, value_name = "i-ID", value_parser = instance)]
    instance: Option<String>,
    /// A tool of the policy; can be given more than once.
    #[arg(long = "tool", value_name = "NAME", required = true, value_delimiter = ',')]
    tools: Vec<String>,
    /// Who the agent acts for.
    #[arg(long, value_name = "PRINCIPAL")]
    on_behalf_of: String,
    /// What for: a ticket, a job.
    #[arg(long, value_name = "TASK")]
    task: String,
    /// How long it lasts: `90s`, `15m`, `2h`.
    #[arg(long = "for", value_name = "DURATION", default_value = "15m", value_parser = lifetime)]
    lifetime: Duration,
    /// From when on, RFC 3339 [default: now].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    not_before: Option<SystemTime>,
    /// How many calls it admits [default: any number].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_uses: Option<u32>,
    /// Why it is given, for whoever reads the events later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// End a grant at once; calls that it allowed are cut off.
#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The grant, as `agent-enforcer grant list` names it.
    #[arg(value_name = "g-ID", value_parser = grant)]
    grant: String,
    /// Why, for whoever reads the events later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn issue(
    args: IssueArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let IssueArgs {
        agent,
        instance,
        tools,
        on_behalf_of: principal,
        task,
        lifetime,
        not_before,
        max_uses,
        reason,
    } = args;
    let spec = GrantSpec {
        agent,
        instance,
        tools,
        principal,
        task,
        reason,
        not_before,
        lifetime,
        max_uses,
    };
    let grant = client.grant_issue(spec).await?;
    console.show(&grant, |grant, _| {
        let now = SystemTime::now();
        let beginning = if grant.not_before > now {
            format!("begins {}, ", relative(grant.not_before, now))
        } else {
            String::new()
        };
        line(&format!(
            "{} issued: {} may use {} for {}; {beginning}ends {}",
            grant.id,
            holder(grant),
            extent(grant),
            grant.principal,
            relative(grant.expires, now),
        ))
    })
}

/// Give the daemon a signed grant, as `grant token` or an issuer makes it.
#[derive(Debug, Args)]
pub(super) struct PresentArgs {
    /// File with the token; `-` reads it from the standard input. Never an argument: those are for
    /// everybody to see.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

pub(super) async fn present(
    args: PresentArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let PresentArgs { file } = args;
    let bytes = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(TOKEN_FILE_LIMIT).read_to_end(&mut bytes);
        read.map_err(|error| {
            Failure::failed(format!("the standard input can't be read: {error}"), "name a file")
        })?;
        bytes
    } else {
        file::read(&file, TOKEN_FILE_LIMIT)?
    };
    let token = String::from_utf8(bytes).map_err(|_not_text| {
        Failure::failed("this is no token".to_owned(), "give a compact JWS; see docs/tokens.md")
    })?;
    let grant = client.grant_present(token.trim().to_owned()).await?;
    console.show(&grant, |grant, _| {
        line(&format!(
            "{} issued: {} may use {} for {}; ends {}",
            grant.id,
            holder(grant),
            extent(grant),
            grant.principal,
            relative(grant.expires, SystemTime::now()),
        ))
    })
}

/// What a grant is for.
fn extent(grant: &GrantView) -> String {
    [grant.tools.as_slice(), &grant.locations].concat().join(", ")
}

pub(super) async fn list(client: &Client, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let grants = client.grant_list().await?;
    console.show(&*grants, |grants, style| render(grants, SystemTime::now(), style))
}

pub(super) async fn revoke(
    args: RevokeArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let RevokeArgs { grant, reason } = args;
    let grant = client.grant_revoke(grant, reason).await?;
    console.show(&grant, |grant, _| {
        line(&format!(
            "{} revoked: {} may no longer use {} by it",
            grant.id,
            holder(grant),
            extent(grant)
        ))
    })
}

fn render(grants: &[GrantView], now: SystemTime, style: Style) -> String {
    if grants.is_empty() {
        return "no grants: `agent-enforcer grant issue --help` shows how to give one\n".to_owned();
    }
    let headings = [
        "GRANT",
        "STATE",
        "HOLDER",
        "FOR",
        "ON BEHALF OF",
        "TASK",
        "USES",
        "BEGINS",
        "ENDS",
        "REASON",
    ];
    let mut table = Table::new(&headings, style);
    for grant in grants {
        let tone = match grant.state.as_str() {
            "live" => Tone::Good,
            "not_yet_valid" => Tone::Warning,
            _ => Tone::Faint,
        };
        let uses = grant
            .max_uses
            .map_or_else(|| "any".to_owned(), |limit| format!("{} of {limit}", grant.uses));
        table.toned_row([
            (&grant.id, Tone::Plain),
            (&grant.state, tone),
            (&holder(grant), Tone::Plain),
            (&extent(grant), Tone::Plain),
            (&grant.principal, Tone::Plain),
            (&grant.task, Tone::Plain),
            (&uses, Tone::Plain),
            (&relative(grant.not_before, now), Tone::Plain),
            (&relative(grant.expires, now), Tone::Plain),
            (&grant.reason, Tone::Plain),
        ]);
    }
    table.finish()
}

fn holder(grant: &GrantView) -> String {
    match &grant.instance {
        Some(instance) => format!("{} {instance}", grant.agent),
        None => grant.agent.clone(),
    }
}

fn instance(text: &str) -> Result<String, String> {
    parse_instance(text)
        .map(instance_name)
        .ok_or_else(|| "an instance is written `i-1a2b`; see `agent-enforcer agents`".to_owned())
}

fn grant(text: &str) -> Result<String, String> {
    parse_grant(text)
        .map(grant_name)
        .ok_or_else(|| "a grant is written `g-42`; see `agent-enforcer grant list`".to_owned())
}

pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 90s, 15m or 2h"))?;
    if !(Duration::from_secs(1)..=LONGEST).contains(&duration) {
        return Err(format!("it lasts from 1s to {}", span(LONGEST)));
    }
    Ok(duration)
}

fn moment(text: &str) -> Result<SystemTime, String> {
    rfc3339::parse(text).ok_or_else(|| {
        "write a time such as 2030-01-31T12:00:00Z or 2030-01-31T12:00:00+01:00".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_limits() {
        assert_eq!(lifetime("15m"), Ok(Duration::from_mins(15)));
        for bad in ["0s", "999ms", "15", "2 years", "-5m", ""] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_canonical() {
        assert_eq!(instance("i-001A"), Ok("i-1a".to_owned()));
        assert_eq!(grant("g-042"), Ok("g-42".to_owned()));
        for bad in ["i-0", "1a", "i-", "i-xyz", "g-1"] {
            assert!(instance(bad).is_err(), "{bad}");
        }
        for bad in ["g-0", "42", "g-", "g-x", "i-1"] {
            assert!(grant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn empty_list_says_what_to_do_next() {
        assert!(render(&[], SystemTime::now(), Style::PLAIN).contains("grant issue"));
    }
}
