//! `events`: what happened, and what happens.
//!
//! In: the daemon's event lines. Out: the same lines for programs; for people one short line per
//! event, from the fields that this version knows (docs/events.md has them all).

use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Deserialize;

use super::{
    console::{Console, Exit, Failure, Style},
    text::printable,
};
use crate::{
    api::{Client, EventItem, EventQuery},
    control::rfc3339,
    hostile_text::json_escaped,
};

/// Show the newest events, or follow them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agent-enforcer events --count 20
  agent-enforcer events --follow
  agent-enforcer events --follow --output json | jq 'select(.action_id == 2) | .message'")]
pub(super) struct EventsArgs {
    /// Go on with the events to come, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// How many of the newest to begin with [default: all that the daemon keeps].
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
}

/// The fields of an event that its short line is made of.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    /// Milliseconds since the epoch.
    time: u64,
    count: u64,
    message: String,
    unmapped: Unmapped,
    actor: Actor,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Unmapped {
    agent_enforcer: Extension,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extension {
    outcome: Option<String>,
    reason: Option<String>,
    miss_reason: Option<String>,
    policy_ids: Vec<String>,
    agent: Option<String>,
    instance: Option<String>,
    destination: Option<String>,
    tool: Option<String>,
    grant: Option<String>,
    principal: Option<String>,
    event: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Actor {
    process: ProcessName,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ProcessName {
    pid: Option<u32>,
    name: String,
}

pub(super) async fn show(
    args: EventsArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let EventsArgs { follow, count } = args;
    let mut events = client.events(EventQuery { follow, count }).await?;
    let mut shown = 0_u64;
    while let Some(item) = events.next().await? {
        shown += 1;
        match item {
            EventItem::Line(line) if console.is_json() => console.line(&json_escaped(&line))?,
            EventItem::Line(line) => {
                let text = render(&line, console.style);
                console.line(&text)?;
            }
            EventItem::Skipped(skipped) => console.err.write_all(
                format!(
                    "{skipped} events left out: this reader is too slow; the events file has them\n"
                )
                .as_bytes(),
            )?,
        }
    }
    if shown == 0 {
        console.remark("no events yet; `agent-enforcer events --follow` waits for them")?;
    }
    Ok(Exit::Done)
}

/// `2030-01-31T12:00:00.000Z denied  coder i-1 curl[4711] -> 192.0.2.7:443/tcp no_grant`
fn render(line: &str, style: Style) -> String {
    let Ok(event) = serde_json::from_str::<Event>(line) else {
        // Of a version that is not known here: better raw than not at all.
        return json_escaped(line).into_owned();
    };
    let Event { time, count, message, unmapped, actor } = event;
    let facts = unmapped.agent_enforcer;
    let time = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(time));
    let word = facts.outcome.or(facts.event).unwrap_or_else(|| "event".to_owned());
    let mut parts = Vec::new();
    if let Some(destination) = facts.destination {
        parts.extend(facts.agent);
        parts.extend(facts.instance);
        parts.extend(actor.process.pid.map(|pid| format!("{}[{pid}]", actor.process.name)));
        parts.push(format!("-> {destination}"));
        parts.extend(facts.tool.map(|tool| format!("({tool})")));
        parts.extend(facts.reason);
        parts.extend(facts.miss_reason.map(|missing| format!("({missing})")));
        parts.extend(
            (!facts.policy_ids.is_empty()).then(|| format!("by {}", facts.policy_ids.join(", "))),
        );
        parts.extend(facts.grant);
        parts.extend(facts.principal.map(|principal| format!("for {principal}")));
    } else {
        parts.push(message);
    }
    if count > 1 {
        parts.push(format!("x{count}"));
    }
    let word = printable(&word).into_owned();
    let padded = format!("{word:<8}");
    let padded = if style.colour { coloured(&word, &padded) } else { padded };
    format!("{time} {padded} {}", printable(&parts.join(" ")))
}

fn coloured(word: &str, padded: &str) -> String {
    let colour = match word {
        "denied" => 31,
        "allowed" => 32,
        "stalled" | "audited" => 33,
        _ => return padded.to_owned(),
    };
    format!("\u{1b}[{colour}m{padded}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_becomes_one_short_line() {
        let line = serde_json::json!({
            "time": 1_896_091_200_000_u64,
            "class_uid": 4001,
            "count": 3,
            "message": "ignored",
            "actor": { "process": { "pid": 4711, "name": "curl\u{1b}]0;x\u{7}" } },
            "unmapped": { "agent_enforcer": {
                "outcome": "denied", "reason": "no_grant", "agent": "coder", "instance": "i-1",
                "destination": "192.0.2.7:443/tcp", "tool": "web", "grant": null,
            } },
        });
        assert_eq!(
            render(&line.to_string(), Style::PLAIN),
            "2030-01-31T12:00:00.000Z denied   coder i-1 curl\\u{1b}]0;x\\u{7}[4711] -> \
             192.0.2.7:443/tcp (web) no_grant x3"
        );
    }

    #[test]
    fn call_that_may_not_wait_shows_what_is_missing() {
        let line = r#"{"unmapped":{"agent_enforcer":{"outcome":"denied","destination":"x","reason":"denied_on_miss","miss_reason":"no_tool"}}}"#;
        assert!(render(line, Style::PLAIN).ends_with("-> x denied_on_miss (no_tool)"));
    }

    #[test]
    fn other_events_show_their_message() {
        let line = r#"{"time":0,"message":"policy loaded","unmapped":{"agent_enforcer":{"event":"policy_loaded"}}}"#;
        assert_eq!(
            render(line, Style::PLAIN),
            "1970-01-01T00:00:00.000Z policy_loaded policy loaded"
        );
    }

    #[test]
    fn unknown_lines_are_shown_as_they_are_but_safe() {
        assert_eq!(render("not json \u{1b}", Style::PLAIN), "not json \\u001b");
    }

    #[test]
    fn colours_never_come_from_the_event() {
        let line =
            r#"{"unmapped":{"agent_enforcer":{"outcome":"denied\u001b[5m","destination":"x"}}}"#;
        let shown = render(line, Style { colour: true, width: None });
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
