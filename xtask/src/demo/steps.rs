//! The steps of the demo, in the order in which they tell the story.
//!
//! In: the stage. Out: steps in the report. A step that goes otherwise than expected is noted and
//! the demo goes on; only what makes going on senseless is an error.

mod authority;
mod basics;
mod endings;
mod forms;

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    report::Report,
    stage::{Outcome, Stage},
};
use crate::wait;

/// How long an event may take to reach its file.
const EVENT_LIMIT: Duration = Duration::from_secs(5);

/// Plays them all.
pub(super) fn play(stage: &mut Stage, report: &mut Report) -> Result<()> {
    basics::daemon_starts(stage, report)?;
    basics::host_process_is_untouched(stage, report)?;
    basics::call_without_grant_is_stalled_and_denied(stage, report)?;
    basics::same_call_with_grant_is_allowed(stage, report)?;
    basics::destination_of_no_tool_is_denied_at_once(stage, report)?;
    forms::event_loop_is_held_while_it_ticks(stage, report)?;
    forms::mapped_address_is_the_same_peer(stage, report)?;
    forms::datagrams(stage, report)?;
    forms::ipv6(stage, report)?;
    authority::unsigned_agent_is_refused(stage, report)?;
    authority::tampered_executable_is_refused(stage, report)?;
    authority::approval_is_given_while_an_event_loop_ticks(stage, report)?;
    authority::single_use_grant_is_spent(stage, report)?;
    authority::child_grant_is_narrower_than_its_parent(stage, report)?;
    authority::explain_shows_each_operand(stage, report)?;
    endings::expiry_cuts_the_live_flow_and_new_calls(stage, report)?;
    endings::events_tell_the_story(stage, report)?;
    endings::stopped_daemon_leaves_enforcement(stage, report)?;
    endings::restarted_daemon_takes_over(stage, report)?;
    endings::detach_ends_enforcement(stage, report)
}

/// Waits for a call event, after the first `skip` ones, of which all `fields` are as given, and
/// shows it.
fn show_call_event(stage: &Stage, skip: usize, fields: &[(&str, &str)]) -> Result<Value> {
    let wanted = fields.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let what = format!("an event with {}", wanted.join(" "));
    let event = wait::for_answer(&what, EVENT_LIMIT, || {
        let events = stage.daemon.call_events()?;
        let fits = |event: &&Value| fields.iter().all(|(key, value)| text(event, key) == *value);
        Ok(events.iter().skip(skip).find(fits).cloned())
    })
    .with_context(|| {
        let newest = stage.daemon.call_events().unwrap_or_default().into_iter().skip(skip);
        let newest: Vec<_> = newest.map(|event| summary(&event)).collect();
        format!("the events since then:\n{}", newest.join("\n"))
    })?;
    println!("   | event: {}", summary(&event));
    Ok(event)
}

/// A field as text; `-` where there is none.
fn text(event: &Value, key: &str) -> String {
    match event.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The parts of a call event that the demo shows.
fn summary(event: &Value) -> String {
    let keys = ["outcome", "reason", "agent", "principal", "grant", "tool", "destination"];
    keys.map(|key| format!("{key}={}", text(event, key))).join(" ")
}

/// What curl says in short: the HTTP status, or its error.
fn curl_result(outcome: &Outcome) -> String {
    match outcome.exit {
        Some(0) => format!("HTTP {}", outcome.last_line()),
        Some(code) => format!("curl exit {code}: {}", curl_error(&outcome.text)),
        None => "curl ended by a signal".to_owned(),
    }
}

fn curl_error(text: &str) -> &str {
    text.lines().find(|line| line.starts_with("curl:")).unwrap_or("no message")
}

/// Number of call events so far.
fn mark(stage: &Stage) -> Result<usize> {
    Ok(stage.daemon.call_events()?.len())
}

/// A field of a JSON answer that must be text.
fn string_of<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("{value} has no `{key}`"))
}
