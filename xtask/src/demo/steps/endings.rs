//! How things end: a grant, the daemon, enforcement itself; and what the events say afterwards.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::{curl_result, mark, show_call_event, summary, text};
use crate::{
    demo::{
        policy::{ARCHIVE, CALENDAR, STRANGER, TICKETS},
        report::{Agreement, Report},
        stage::{Place, Stage, finish},
    },
    wait,
};

/// Lifetime of the grant that is watched to its end.
const LIFETIME: Duration = Duration::from_secs(2);
/// How late the end of a flow may be seen: the client sends every 20 ms.
const CUT_SLACK: Duration = Duration::from_millis(500);
/// A heartbeat is stale before this, and a denial without a daemon comes at once after it.
const STALE_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn expiry_cuts_the_live_flow_and_new_calls(
    stage: &Stage,
    report: &mut Report,
) -> Result<()> {
    report.begin("a grant of 2 s; a flow (a Rust client) lives until its end");
    let mark_cut = mark(stage)?;
    stage.grant("archive", "2s")?;
    let granted = Instant::now();
    let mut flow = stage.start_client(Place::Agent, "flow", ARCHIVE)?;
    flow.await_line("echo")?;
    let cut = flow.await_line("cut")?;
    let after = granted.elapsed();
    let echoes = finish(flow)?.text.lines().filter(|line| *line == "echo").count();
    let in_time = after + CUT_SLACK >= LIFETIME && after <= LIFETIME + CUT_SLACK;
    report.end(
        "expiry_cuts_live_flow",
        "cut with an error 2 s after the grant",
        format!("{echoes} echoes, then `{cut}` after {} ms", after.as_millis()),
        Agreement(in_time && cut.starts_with("cut E")),
    );

    report.begin("a new call after the expiry");
    let denied = stage.client_get(Place::Agent, ARCHIVE)?;
    let event = show_call_event(stage, mark_cut, &[("outcome", "denied"), ("tool", "archive")])?;
    report.end(
        "expiry_denies_new_calls",
        "the call fails",
        format!("{}: {}", denied.last_line(), text(&event, "reason")),
        Agreement(denied.last_line().starts_with("failed E")),
    );
    Ok(())
}

pub(super) fn events_tell_the_story(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("the events, one line each: a denial, an allowed call, and all in short");
    let lines = stage.daemon.event_lines()?;
    for word in ["\"outcome\":\"denied\"", "\"outcome\":\"allowed\""] {
        if let Some(line) = lines.iter().find(|line| line.contains(word)) {
            println!("   | {line}");
        }
    }
    let calls = stage.daemon.call_events()?;
    for call in &calls {
        println!("   | {}", summary(call));
    }
    let named = |call: &&Value, keys: &[&str]| keys.iter().all(|key| text(call, key) != "-");
    let count = |key: &str, value: &str, keys: &[&str]| {
        let of_outcome = calls.iter().filter(|call| text(call, key) == value);
        let all = of_outcome.clone().count();
        (all, of_outcome.filter(|call| named(call, keys)).count())
    };
    let (denied, denied_named) =
        count("outcome", "denied", &["agent", "instance", "destination", "reason"]);
    let keys = ["agent", "instance", "principal", "grant", "tool", "destination", "reason"];
    let (allowed, allowed_named) = count("reason", "allowed_grant", &keys);
    report.end(
        "events_name_everything",
        "every denial names agent, instance, destination and reason; every granted call also \
         principal, grant and tool",
        format!("{denied_named} of {denied} denials, {allowed_named} of {allowed} granted calls"),
        Agreement(denied > 0 && allowed > 0 && denied == denied_named && allowed == allowed_named),
    );
    Ok(())
}

pub(super) fn stopped_daemon_leaves_enforcement(
    stage: &mut Stage,
    report: &mut Report,
) -> Result<()> {
    report.begin("the daemon is stopped while an agent is running");
    let mut agent = stage.start_obedient(Place::Agent)?;
    agent.ask(TICKETS, STALE_LIMIT)?;
    let pid = stage.daemon.pid()?;
    println!("   $ kill -TERM {pid}");
    let status = stage.daemon.stop()?;
    let granted = agent.ask(TICKETS, STALE_LIMIT)?;
    let begin = Instant::now();
    let ungranted = agent.ask(ARCHIVE, STALE_LIMIT)?;
    // A program that nobody has attested gets nothing, whatever is granted.
    let new = stage.client_get(Place::Agent, TICKETS)?;
    let took = begin.elapsed();
    drop(agent);
    let host = curl_result(&stage.curl(Place::Host, STRANGER)?);
    let denied =
        [ungranted.as_str(), new.last_line()].iter().all(|line| line.starts_with("failed E"));
    report.end(
        "stopped_daemon_leaves_enforcement",
        "a granted call: ok 200; without a grant, and from a new program: fails at once; a host \
         process: HTTP 200",
        format!(
            "daemon: {status}; granted: {granted}; without a grant: {ungranted}; new program: {}; \
             host: {host}",
            new.last_line()
        ),
        Agreement(
            status.success()
                && granted.starts_with("ok 200")
                && denied
                && took <= STALE_LIMIT
                && host == "HTTP 200",
        ),
    );
    Ok(())
}

pub(super) fn restarted_daemon_takes_over(stage: &mut Stage, report: &mut Report) -> Result<()> {
    report.begin("a new daemon takes over: its predecessor's grants, and the kernel's counters");
    println!("   $ {}", crate::command::describe(&stage.daemon.run_command()));
    let took = stage.daemon.start()?;
    let status = stage.daemon.control(&["status"])?;
    let down = status.pointer("/reasons/daemon_down").and_then(Value::as_u64).unwrap_or(0);
    let granted = curl_result(&stage.curl(Place::Agent, CALENDAR)?);
    report.end(
        "restarted_daemon_takes_over",
        "it counts the daemon_down denial, and the calendar grant still holds: HTTP 200",
        format!("answers after {} ms; daemon_down: {down}; {granted}", took.as_millis()),
        Agreement(down > 0 && granted == "HTTP 200"),
    );
    Ok(())
}

pub(super) fn detach_ends_enforcement(stage: &mut Stage, report: &mut Report) -> Result<()> {
    report.begin("detach ends enforcement, and an event says so");
    println!("   $ agent-enforcer detach --yes --reason 'end of the run'");
    stage.daemon.detach()?;
    let result = curl_result(&stage.curl(Place::Agent, STRANGER)?);
    let line = wait::for_answer("an event about the detach", super::EVENT_LIMIT, || {
        let lines = stage.daemon.event_lines()?;
        Ok(lines.into_iter().rev().find(|line| line.to_lowercase().contains("detach")))
    })?;
    println!("   | {line}");
    report.end(
        "detach_ends_enforcement",
        "the agent reaches what it was denied before: HTTP 200",
        &result,
        Agreement(result == "HTTP 200"),
    );
    Ok(())
}
