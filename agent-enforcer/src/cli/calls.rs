//! `pending` and `explain`: calls that wait, and calls that somebody asks about.

use std::time::SystemTime;

use agent_enforcer_common::destination::{PROTOCOL_TCP, PROTOCOL_UDP};
use clap::Args;

use super::{
    console::{Console, Exit, Failure, Style},
    table::{Table, Tone},
    text::{printable, relative},
};
use crate::{
    api::Client,
    control::{ExplainQuestion, ExplainTarget, Explanation, PendingView},
    resolver::policy::Endpoint,
};

/// Say what would be decided for a process and a destination, and why.
///
/// Exits with 0 whatever would be decided.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agent-enforcer explain --pid 4711 --to 192.0.2.7:443
  agent-enforcer explain --pid 4711 --to '[2001:db8::53]:53/udp' --output json
  agent-enforcer explain --pid 4711 --to unix:/run/docker.sock")]
pub(super) struct ExplainArgs {
    /// The process.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pid: u32,
    /// The destination: an address (TCP where no protocol is named), or an endpoint as in a policy:
    /// unix:/PATH, unix:@NAME, vsock:CID:PORT, netlink:PROTOCOL, family:FAMILY.
    #[arg(long, value_name = "IP:PORT[/udp]|ENDPOINT", value_parser = target)]
    to: ExplainTarget,
}

/// List the calls that wait for a decision.
#[derive(Debug, Args)]
pub(super) struct PendingArgs {
    /// Go on, and list them again whenever they change; with `--output json` one line each time.
    #[arg(long)]
    watch: bool,
}

pub(super) async fn pending(
    args: PendingArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let PendingArgs { watch } = args;
    let render = |calls: &[PendingView], style| render_pending(calls, SystemTime::now(), style);
    if !watch {
        let calls = client.pending().await?;
        return console.show(&*calls, render);
    }
    let mut changes = client.watch_pending().await?;
    while let Some(calls) = changes.next().await? {
        console.show(&*calls, render)?;
    }
    Ok(Exit::Done)
}

pub(super) async fn explain(
    args: ExplainArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let ExplainArgs { pid, to } = args;
    let explanation = client.explain(ExplainQuestion { pid, to }).await?;
    console.show(&explanation, render_explanation)
}

fn render_pending(calls: &[PendingView], now: SystemTime, style: Style) -> String {
    if calls.is_empty() {
        return "no call waits for a decision; `agent-enforcer events` shows what was decided\n"
            .to_owned();
    }
    let headings = [
        "AGENT",
        "INSTANCE",
        "PID",
        "EXECUTABLE",
        "DESTINATION",
        "TOOL",
        "WHY",
        "CALLS",
        "SINCE",
        "DENIED",
        "APPROVE",
        "ON BEHALF OF",
    ];
    let mut table = Table::new(&headings, style);
    for call in calls {
        let PendingView {
            request: _,
            agent,
            instance,
            pid,
            exe,
            destination,
            tool,
            reason,
            since,
            until,
            calls,
            approval,
        } = call;
        let asked = approval.as_ref();
        table.toned_row([
            (agent, Tone::Plain),
            (instance, Tone::Plain),
            (&pid.to_string(), Tone::Plain),
            (&exe.to_string_lossy(), Tone::Plain),
            (destination, Tone::Plain),
            (tool.as_deref().unwrap_or("-"), Tone::Plain),
            (reason, Tone::Plain),
            (&calls.to_string(), Tone::Plain),
            (&relative(*since, now), Tone::Plain),
            (&relative(*until, now), Tone::Warning),
            (asked.map_or("-", |asked| &asked.id), Tone::Plain),
            (asked.and_then(|asked| asked.principal.as_deref()).unwrap_or("-"), Tone::Plain),
        ]);
    }
    let mut text = table.finish();
    text.push('\n');
    if calls.iter().any(|call| call.approval.is_some()) {
        text.push_str(
            "`agent-enforcer approve a-ID` or `deny a-ID` answers what asks for an approver\n",
        );
    }
    if calls.iter().any(|call| call.approval.is_none()) {
        text.push_str(
            "`agent-enforcer grant issue --agent AGENT --tool TOOL ...` lets the others go\n",
        );
    }
    text
}

fn render_explanation(explanation: &Explanation, style: Style) -> String {
    let Explanation { outcome, reason, remedy, agent, instance, destination, steps } = explanation;
    let who = match (agent, instance) {
        (Some(agent), Some(instance)) => format!("{agent} {instance}"),
        (Some(name), None) | (None, Some(name)) => name.clone(),
        (None, None) => "no agent".to_owned(),
    };
    let tone = match outcome.as_str() {
        "allowed" => Tone::Good,
        "denied" => Tone::Bad,
        "stalled" => Tone::Warning,
        _ => Tone::Plain,
    };
    let mut summary = Table::new(&[], style);
    summary.toned_row([("outcome", Tone::Plain), (outcome, tone)]);
    summary.row(["reason", reason]);
    summary.row(["who", &who]);
    summary.row(["to", destination]);
    let mut text = summary.finish();
    if !steps.is_empty() {
        let mut table = Table::new(&["ASKED", "HOLDS", "FOUND"], style);
        for step in steps {
            let holds = if step.holds { ("yes", Tone::Good) } else { ("no", Tone::Bad) };
            table.toned_row([(&step.question, Tone::Plain), holds, (&step.found, Tone::Plain)]);
        }
        text.push('\n');
        text.push_str(&table.finish());
    }
    if !remedy.is_empty() {
        text.push_str("\nwhat to do: ");
        text.push_str(&printable(remedy));
        text.push('\n');
    }
    text
}

fn target(text: &str) -> Result<ExplainTarget, String> {
    const FORM: &str = "write an address such as 192.0.2.7:443 or [2001:db8::1]:53/udp, or an \
                        endpoint such as unix:/run/docker.sock";
    if ["unix:", "vsock:", "netlink:", "family:"].iter().any(|kind| text.starts_with(kind)) {
        let endpoint = Endpoint::parse(text).map_err(|problem| problem.to_string())?;
        if matches!(endpoint, Endpoint::Vsock { port: None, .. }) {
            return Err("name one port, like vsock:2:1024".to_owned());
        }
        return Ok(ExplainTarget::Endpoint(endpoint));
    }
    let (peer, protocol) = match text.rsplit_once('/') {
        None => (text, PROTOCOL_TCP),
        Some((peer, "tcp")) => (peer, PROTOCOL_TCP),
        Some((peer, "udp")) => (peer, PROTOCOL_UDP),
        Some((_, other)) => return Err(format!("{other} is neither tcp nor udp; {FORM}")),
    };
    let to = peer.parse().map_err(|_| format!("names are not looked up here; {FORM}"))?;
    Ok(ExplainTarget::Address { to, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ExplainStep;

    #[test]
    fn targets_have_address_port_and_protocol() {
        for (text, peer, protocol) in [
            ("192.0.2.7:443", "192.0.2.7:443", PROTOCOL_TCP),
            ("192.0.2.7:443/tcp", "192.0.2.7:443", PROTOCOL_TCP),
            ("[2001:db8::1]:53/udp", "[2001:db8::1]:53", PROTOCOL_UDP),
            ("[fe80::1%3]:53/udp", "[fe80::1%3]:53", PROTOCOL_UDP),
        ] {
            assert_eq!(
                target(text),
                Ok(ExplainTarget::Address { to: peer.parse().unwrap(), protocol }),
                "{text}"
            );
        }
        for text in ["unix:/run/docker.sock", "unix:@name", "vsock:2:1024", "family:packet"] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(target(text), Ok(ExplainTarget::Endpoint(endpoint)), "{text}");
        }
        for bad in [
            "192.0.2.7",
            "example.com:443",
            "192.0.2.7:443/icmp",
            "192.0.2.7:70000",
            "2001:db8::1:53",
            "unix:docker.sock",
            "vsock:2:*",
            "netlink:nonsense",
            "",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn explanation_ends_with_what_to_do() {
        let text = render_explanation(
            &Explanation {
                outcome: "denied".to_owned(),
                reason: "no_grant".to_owned(),
                remedy: "issue a grant".to_owned(),
                agent: Some("coder".to_owned()),
                instance: Some("i-1".to_owned()),
                destination: "192.0.2.7:443/tcp".to_owned(),
                steps: vec![ExplainStep {
                    question: "grant".to_owned(),
                    found: "none\u{1b}[0m".to_owned(),
                    holds: false,
                }],
            },
            Style::PLAIN,
        );
        assert!(text.ends_with("what to do: issue a grant\n"), "{text}");
        assert!(text.contains("coder i-1") && text.contains("none\\u{1b}[0m"), "{text}");
    }

    #[test]
    fn empty_list_says_what_to_do_next() {
        assert!(render_pending(&[], SystemTime::now(), Style::PLAIN).contains("events"));
    }
}
