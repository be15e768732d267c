//! Who is touched and who is not; no grant, grant, no tool.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{curl_result, mark, show_call_event, string_of, text};
use crate::{
    demo::{
        policy::{CALENDAR, STALL_LIMIT_SECONDS, STRANGER, TICKETS},
        report::{Agreement, Report},
        stage::{Place, Stage, finish},
    },
    wait,
};

/// How late a denial may come after the stall limit.
const SLACK: Duration = Duration::from_secs(2);
/// How long something may take that is to happen at once.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(super) fn daemon_starts(stage: &mut Stage, report: &mut Report) -> Result<()> {
    report.begin("the daemon starts and attaches its kernel programs");
    println!("   $ {}", crate::command::describe(&stage.daemon.run_command()));
    let took = stage.daemon.start()?;
    stage.control(&["status"])?;
    report.end(
        "daemon_starts",
        "it answers",
        format!("it answers after {} ms", took.as_millis()),
        Agreement(true),
    );
    Ok(())
}

pub(super) fn host_process_is_untouched(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("a process of the host, in no agent's cgroup, calls two tools and a stranger");
    let mut results = Vec::new();
    for to in [TICKETS, CALENDAR, STRANGER] {
        results.push(curl_result(&stage.curl(Place::Host, to)?));
    }
    let ok = results.iter().all(|result| result == "HTTP 200");
    report.end("host_process_untouched", "HTTP 200 three times", results.join(", "), Agreement(ok));
    Ok(())
}

pub(super) fn call_without_grant_is_stalled_and_denied(
    stage: &Stage,
    report: &mut Report,
) -> Result<()> {
    report.begin("the agent calls an approved tool without a grant");
    let mark = mark(stage)?;
    let begin = Instant::now();
    let curl = stage.start_curl(Place::Agent, TICKETS)?;
    let pending = wait::for_answer("the call to be pending", AT_ONCE, || {
        let pending = stage.daemon.control(&["pending"])?;
        Ok(pending.to_string().contains(TICKETS).then_some(()))
    });
    println!("   while it waits:");
    stage.control(&["pending"])?;
    let outcome = finish(curl)?;
    let took = begin.elapsed();
    let event = show_call_event(stage, mark, &[("outcome", "denied"), ("tool", "tickets")])?;
    let limit = Duration::from_secs(STALL_LIMIT_SECONDS);
    let reason = text(&event, "reason");
    let in_time = took >= limit.saturating_sub(AT_ONCE / 10) && took <= limit + SLACK;
    report.end(
        "denied_without_grant",
        format!("pending for {STALL_LIMIT_SECONDS} s, then the call fails: stall_timeout"),
        format!(
            "{}, then {} after {} ms: {reason}",
            pending.as_ref().map_or_else(ToString::to_string, |()| "pending".to_owned()),
            curl_result(&outcome),
            took.as_millis()
        ),
        Agreement(
            pending.is_ok() && outcome.exit != Some(0) && in_time && reason == "stall_timeout",
        ),
    );
    Ok(())
}

pub(super) fn same_call_with_grant_is_allowed(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("alice grants the tool, and the agent calls again");
    let mark = mark(stage)?;
    let grant = stage.grant("tickets", "10m")?;
    let id = string_of(&grant, "id")?;
    let result = curl_result(&stage.curl(Place::Agent, TICKETS)?);
    let event = show_call_event(stage, mark, &[("outcome", "allowed"), ("grant", id)])?;
    let principal = text(&event, "principal");
    report.end(
        "allowed_with_grant",
        format!("HTTP 200; the event names grant {id} and alice@example.com"),
        format!("{result}; the event names grant {} and {principal}", text(&event, "grant")),
        Agreement(result == "HTTP 200" && principal == "alice@example.com"),
    );
    Ok(())
}

pub(super) fn destination_of_no_tool_is_denied_at_once(
    stage: &Stage,
    report: &mut Report,
) -> Result<()> {
    report.begin("the agent calls a destination that is no tool of the policy");
    let mark = mark(stage)?;
    let begin = Instant::now();
    let outcome = stage.curl(Place::Agent, STRANGER)?;
    let took = begin.elapsed();
    show_call_event(stage, mark, &[("outcome", "denied"), ("reason", "no_tool")])?;
    report.end(
        "denied_no_tool",
        "the call fails at once: no_tool",
        format!("{} after {} ms: no_tool", curl_result(&outcome), took.as_millis()),
        Agreement(outcome.exit != Some(0) && took <= AT_ONCE),
    );
    Ok(())
}
