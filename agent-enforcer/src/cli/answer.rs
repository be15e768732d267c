//! `approve` and `deny`: the answers to calls that need a person's yes.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::{
    console::{Console, Exit, Failure},
    grant::lifetime,
    text::{line, relative},
};
use crate::{
    api::Client,
    control::{AnswerSpec, AnswerView, ApprovalView, PendingView},
    resolver::approval::{QuestionId, Verdict},
};

/// Let a call go on that waits for an approver.
///
/// The approval holds for the same program of the same instance with the same grant, and for nothing
/// that has changed since `pending` showed the question.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agent-enforcer pending
  agent-enforcer approve a-5b0f6d1c92e4a713
  agent-enforcer approve a-5b0f6d1c92e4a713 --for 1h --tool")]
pub(super) struct ApproveArgs {
    /// The question, as `agent-enforcer pending` names it.
    #[arg(value_name = "a-ID", value_parser = question)]
    id: String,
    /// How long calls like it may go on: `90s`, `15m`, `2h`.
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = lifetime)]
    lifetime: Duration,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Digest that was shown; refused where anything has changed since [default: what is shown now].
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
}

/// Deny a call that waits for an approver.
#[derive(Debug, Args)]
pub(super) struct DenyArgs {
    /// The question, as `agent-enforcer pending` names it.
    #[arg(value_name = "a-ID", value_parser = question)]
    id: String,
    /// How long calls like it are denied without asking.
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = lifetime)]
    lifetime: Duration,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Digest that was shown; refused where anything has changed since [default: what is shown now].
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct ScopeArgs {
    /// For every destination of the tool.
    #[arg(long)]
    tool: bool,
    /// For the destination that was asked for [default].
    #[arg(long)]
    destination: bool,
}

pub(super) async fn approve(
    args: ApproveArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let ApproveArgs { id, lifetime, scope, digest } = args;
    answer(id, digest, Verdict::Approved, &scope, lifetime, client, console).await
}

pub(super) async fn deny(
    args: DenyArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let DenyArgs { id, lifetime, scope, digest } = args;
    answer(id, digest, Verdict::Denied, &scope, lifetime, client, console).await
}

/// Answers what the question is about now, so that what is printed is what was answered.
async fn answer(
    id: String,
    digest: Option<String>,
    verdict: Verdict,
    scope: &ScopeArgs,
    lifetime: Duration,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let pending = client.pending().await?;
    let asked = pending.iter().find_map(|call| {
        let approval = call.approval.as_ref()?;
        (approval.id == id).then_some((call, approval))
    });
    let shown = asked.map(|(_, approval)| approval.digest.clone());
    let spec =
        AnswerSpec { id, digest: digest.or(shown), verdict, whole_tool: scope.tool, lifetime };
    let given = client.answer(spec).await?;
    console.show(&given, |given, _| render(given, asked, SystemTime::now()))
}

fn render(
    given: &AnswerView,
    asked: Option<(&PendingView, &ApprovalView)>,
    now: SystemTime,
) -> String {
    let AnswerView { id, verdict, approver, until, whole_tool } = given;
    let what = asked.map_or_else(String::new, |(call, approval)| {
        let tool = call.tool.as_deref().unwrap_or("-");
        let to = if *whole_tool {
            format!("tool {tool}")
        } else {
            format!("{} (tool {tool})", call.destination)
        };
        let principal = approval.principal.as_ref();
        let whose = principal.map_or_else(String::new, |whose| format!(" for {whose}"));
        let exe = call.exe.display();
        format!(": {} {} may{} use {to} by {exe}{whose}", call.agent, call.instance, not(verdict))
    });
    line(&format!("{id} {verdict} by {approver}{what}; ends {}", relative(*until, now)))
}

fn not(verdict: &str) -> &'static str {
    if verdict == "denied" { " not" } else { "" }
}

fn question(text: &str) -> Result<String, String> {
    QuestionId::parse(text).map(|id| id.to_string()).ok_or_else(|| {
        "a question is written `a-0123456789abcdef`; see `agent-enforcer pending`".to_owned()
    })
}
