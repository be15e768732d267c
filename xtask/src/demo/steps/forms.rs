//! The same decision for every form of call: non-blocking, another spelling, datagrams, IPv6.

use anyhow::Result;

use super::{mark, show_call_event, text};
use crate::demo::{
    policy::{ARCHIVE, CALENDAR, METRICS, METRICS_V6, TICKETS_MAPPED},
    report::{Agreement, Report},
    stage::{Place, Stage, finish},
};

pub(super) fn event_loop_is_held_while_it_ticks(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("an event loop connects without blocking; the grant comes while it is held");
    let mut program = stage.start_event_loop(CALENDAR)?;
    program.await_line("held for 100 ticks")?;
    stage.control(&["pending"])?;
    stage.grant("calendar", "10m")?;
    let outcome = finish(program)?;
    let done = outcome.last_line().to_owned();
    report.end(
        "event_loop_held_then_granted",
        "it ticks 100 times and more without a pause of 250 ms, then HTTP 200",
        &done,
        Agreement(done.starts_with("done 200") && longest_pause_ms(&done) < 250),
    );
    Ok(())
}

pub(super) fn mapped_address_is_the_same_peer(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("the granted tool's IPv4 address, written as IPv4-mapped IPv6 (a Rust client)");
    let outcome = stage.client_get(Place::Agent, TICKETS_MAPPED)?;
    let ok = outcome.last_line().starts_with("ok 200");
    report.end("mapped_address_is_same_peer", "ok 200", outcome.last_line(), Agreement(ok));
    Ok(())
}

pub(super) fn datagrams(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("the agent sends a datagram without a grant");
    let mark_denied = mark(stage)?;
    let denied = stage.datagram(METRICS)?;
    let event = show_call_event(stage, mark_denied, &[("outcome", "denied"), ("tool", "metrics")])?;
    report.end(
        "udp_denied_without_grant",
        "sendto fails: EAGAIN while the decision is open, then EACCES",
        format!("{}: {}", denied.last_line(), text(&event, "reason")),
        Agreement(denied.last_line().starts_with("failed EACCES")),
    );

    report.begin("the same datagrams with a grant, over IPv4 and IPv6");
    stage.grant("metrics", "10m")?;
    let v4 = stage.datagram(METRICS)?;
    let v6 = stage.datagram(METRICS_V6)?;
    let ok = [&v4, &v6].iter().all(|outcome| outcome.last_line().starts_with("done ping"));
    report.end(
        "udp_allowed_with_grant",
        "done ping twice",
        format!("{}; {}", v4.last_line(), v6.last_line()),
        Agreement(ok),
    );
    Ok(())
}

pub(super) fn ipv6(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("the agent (a Rust client) calls a tool over IPv6 without a grant");
    let mark_denied = mark(stage)?;
    let denied = stage.client_get(Place::Agent, ARCHIVE)?;
    let event = show_call_event(stage, mark_denied, &[("outcome", "denied"), ("tool", "archive")])?;
    report.end(
        "ipv6_denied_without_grant",
        "the call fails",
        format!("{}: {}", denied.last_line(), text(&event, "reason")),
        Agreement(denied.last_line().starts_with("failed E")),
    );

    report.begin("the same call with a grant");
    let grant = stage.grant("archive", "10m")?;
    let allowed = stage.client_get(Place::Agent, ARCHIVE)?;
    // Taken back, so that the next steps find the tool without a grant.
    let id = super::string_of(&grant, "id")?;
    stage.control(&["grant", "revoke", id, "--reason", "the step is over"])?;
    let ok = allowed.last_line().starts_with("ok 200");
    report.end("ipv6_allowed_with_grant", "ok 200", allowed.last_line(), Agreement(ok));
    Ok(())
}

/// N of `..., longest pause N ms`.
pub(super) fn longest_pause_ms(line: &str) -> u64 {
    let number = line.rsplit_once("longest pause ").and_then(|(_, rest)| rest.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}
