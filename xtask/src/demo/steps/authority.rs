//! Whose word counts: signed manifests and grants, approvals, and every operand of the decision.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{mark, show_call_event, string_of, text};
use crate::{
    command,
    demo::{
        policy::{
            ARCHIVE, AUDIENCE, CALENDAR, ISSUER, PRODUCTION, SIGNED_AGENT, SIGNED_ID, TICKETS,
        },
        report::{Agreement, Report},
        stage::{Place, Stage, finish},
    },
    host, wait,
};

/// How long a call of a running client may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a question may take to be listed.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);
/// A user id of an agent.
const AGENT_USER: u32 = 65_534;

pub(super) fn unsigned_agent_is_refused(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("an agent that needs a signed manifest: first it is not signed, then it is");
    let manifest = stage.file("demo-signed.json");
    write_manifest(stage, &manifest)?;
    stage.install_manifest(&manifest)?;
    let mark = mark(stage)?;
    let unsigned = stage.client_get(Place::Signed, CALENDAR)?;
    let event = show_call_event(stage, mark, &[("outcome", "denied"), ("agent", SIGNED_AGENT)])?;
    stage.owner.sign(&manifest)?;
    stage.install_manifest(&manifest)?;
    let signed = stage.client_get(Place::Signed, CALENDAR)?;
    let reason = why(&event);
    let (unsigned, signed) = (unsigned.last_line(), signed.last_line());
    report.end(
        "unsigned_agent_refused",
        "unsigned: fails, manifest_untrusted; signed: ok 200",
        format!("unsigned: {unsigned}, {reason}; signed: {signed}"),
        Agreement(
            unsigned.starts_with("failed E")
                && reason == "manifest_untrusted"
                && signed.starts_with("ok 200"),
        ),
    );
    Ok(())
}

/// Why a call was denied: of an agent that may not wait, what is missing.
fn why(event: &Value) -> String {
    let reason = text(event, "reason");
    if reason == "denied_on_miss" { text(event, "miss_reason") } else { reason }
}

fn write_manifest(stage: &Stage, file: &Path) -> Result<()> {
    let software = format!("rust-client={}", host::own_program()?.display());
    let file = file.to_string_lossy();
    let words = [
        "manifest",
        "new",
        "--name",
        SIGNED_AGENT,
        "--agent-id",
        SIGNED_ID,
        "--owner",
        "demo@example.com",
        "--sponsor",
        "alice@example.com",
        "--purpose",
        "shows whose word counts",
        "--tool",
        "tickets,calendar,archive",
        "--software",
        &software,
        "--valid-for",
        "1h",
        "--out",
        &file,
    ];
    println!("   $ agent-enforcer {}", words.join(" "));
    stage.daemon.control_text(&words)?;
    Ok(())
}

pub(super) fn tampered_executable_is_refused(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("the same client, with a byte more than the manifest's");
    let mark = mark(stage)?;
    let outcome = stage.tampered_client_get(CALENDAR)?;
    let event = show_call_event(stage, mark, &[("outcome", "denied"), ("agent", SIGNED_AGENT)])?;
    let reason = why(&event);
    report.end(
        "tampered_executable_refused",
        "fails: software_not_approved",
        format!("{}: {reason}", outcome.last_line()),
        Agreement(outcome.last_line().starts_with("failed E") && reason == "software_not_approved"),
    );
    Ok(())
}

pub(super) fn approval_is_given_while_an_event_loop_ticks(
    stage: &Stage,
    report: &mut Report,
) -> Result<()> {
    report.begin("a tool that needs a person's yes, called by an event loop");
    let mark = mark(stage)?;
    let mut program = stage.start_event_loop_of_user(AGENT_USER, PRODUCTION)?;
    program.await_line("held for 100 ticks")?;
    stage.control(&["pending"])?;
    let question = wait::for_answer("the question to be listed", QUESTION_LIMIT, || {
        let pending = stage.daemon.control(&["pending"])?;
        let ids = pending.as_array().into_iter().flatten();
        let mut ids = ids.filter_map(|call| call.pointer("/approval/id").and_then(Value::as_str));
        Ok(ids.next().map(str::to_owned))
    })?;
    stage.control(&["approve", &question, "--for", "5m"])?;
    let done = finish(program)?.last_line().to_owned();
    let event = show_call_event(stage, mark, &[("outcome", "allowed"), ("tool", "production")])?;
    let approver = text(&event, "approver");
    report.end(
        "approval_while_event_loop_ticks",
        "it ticks 100 times and more without a pause of 250 ms, then HTTP 200, approved by alice@example.com",
        format!("{done}, approved by {approver}"),
        Agreement(
            done.starts_with("done 200")
                && super::forms::longest_pause_ms(&done) < 250
                && approver == "alice@example.com",
        ),
    );
    Ok(())
}

/// A token for the agent that needs signatures, on behalf of alice.
fn token(stage: &Stage, more: &[&str]) -> Result<Value> {
    let who = ["--issuer", ISSUER, "--agent", SIGNED_AGENT, "--audience", AUDIENCE];
    let what = ["--on-behalf-of", "alice@example.com", "--task", "DEMO-2"];
    stage.broker.token(&[&who[..], &what, more].concat())
}

/// Gives it to the daemon: the grant, or why there is none.
fn present(stage: &Stage, token: &Value) -> Result<Result<Value, String>> {
    let file = stage.file("token");
    std::fs::write(&file, string_of(token, "token")?).context("can't write a token")?;
    println!("   $ agent-enforcer grant present token");
    let answer = stage.daemon.control(&["grant", "present", &file.to_string_lossy()]);
    let answer = answer.map_err(|error| command::last_lines(&format!("{error}"), 1));
    match &answer {
        Ok(grant) => println!("   | {grant}"),
        Err(refusal) => println!("   | {refusal}"),
    }
    Ok(answer)
}

pub(super) fn single_use_grant_is_spent(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("a signed grant for one call, and a second call");
    let token = token(stage, &["--tool", "tickets", "--max-uses", "1"])?;
    let granted = present(stage, &token)?.is_ok();
    let again = present(stage, &token)?.err().unwrap_or_else(|| "taken twice".to_owned());
    let mut client = stage.start_obedient(Place::Signed)?;
    let mark = mark(stage)?;
    let first = client.ask(TICKETS, ANSWER_LIMIT)?;
    let second = client.ask(TICKETS, ANSWER_LIMIT)?;
    let event = show_call_event(stage, mark, &[("outcome", "denied"), ("tool", "tickets")])?;
    let why = why(&event);
    report.end(
        "single_use_grant_spent",
        "the token counts once (token_replayed); ok 200, then the call fails: grant_used_up",
        format!("{again}; {first}, then {second}: {why}"),
        Agreement(
            granted
                && again.contains("token_replayed")
                && first.starts_with("ok 200")
                && second.starts_with("failed E")
                && why == "grant_used_up",
        ),
    );
    Ok(())
}

pub(super) fn child_grant_is_narrower_than_its_parent(
    stage: &Stage,
    report: &mut Report,
) -> Result<()> {
    report.begin("a grant that is made of another one: never more than it, and no longer than it");
    let parent = token(stage, &["--tool", "archive", "--for", "10m"])?;
    let parent_grant = present(stage, &parent)?.ok().context("the parent was refused")?;
    let jti = string_of(&parent, "jti")?;
    let wider = token(stage, &["--tool", "archive,tickets", "--for", "5m", "--parent", jti])?;
    let wider = present(stage, &wider)?.err().unwrap_or_else(|| "taken".to_owned());
    let part = ["--location", ARCHIVE, "--for", "5m", "--max-uses", "5", "--parent", jti];
    let child = token(stage, &part)?;
    let narrower = present(stage, &child)?.is_ok();
    let mut client = stage.start_obedient(Place::Signed)?;
    let before = client.ask(ARCHIVE, ANSWER_LIMIT)?;
    stage.control(&["grant", "revoke", string_of(&parent_grant, "id")?, "--reason", "shown"])?;
    let after = client.ask(ARCHIVE, ANSWER_LIMIT)?;
    report.end(
        "child_grant_attenuated",
        "one with more tools: token_exceeds_parent; a narrower one: ok 200, and fails with its parent",
        format!("{wider}; {before}, then {after}"),
        Agreement(
            wider.contains("token_exceeds_parent")
                && narrower
                && before.starts_with("ok 200")
                && after.starts_with("failed E"),
        ),
    );
    Ok(())
}

pub(super) fn explain_shows_each_operand(stage: &Stage, report: &mut Report) -> Result<()> {
    report.begin("each operand of the decision, and which one says no");
    let mut client = stage.start_obedient(Place::Signed)?;
    client.ask(CALENDAR, ANSWER_LIMIT)?;
    let pid = client.pid().to_string();
    let explain = ["explain", "--pid", &pid, "--to", ARCHIVE];
    stage.control(&explain)?;
    let explained = stage.daemon.control(&explain)?;
    let steps = explained.get("steps").and_then(Value::as_array).context("no steps")?;
    let said = |holds: bool| {
        let of = |step: &&Value| step.get("holds").and_then(Value::as_bool) == Some(holds);
        let names = steps.iter().filter(of).map(|step| text(step, "question"));
        names.collect::<Vec<_>>().join(", ")
    };
    let (yes, no) = (said(true), said(false));
    report.end(
        "explain_shows_operands",
        "yes: manifest, tool, approved, software, grant; no: delegation",
        format!("yes: {yes}; no: {no}"),
        Agreement(
            ["manifest", "tool", "approved", "software", "grant"]
                .iter()
                .all(|name| yes.contains(name))
                && no == "delegation",
        ),
    );
    Ok(())
}
