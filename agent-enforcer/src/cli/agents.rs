//! `agents`: who may do what, and who runs.

use std::time::SystemTime;

use super::{
    console::{Console, Exit, Failure, Style},
    table::{Table, Tone},
    text::relative,
};
use crate::{
    api::Client,
    control::{AgentView, InstanceView},
};

/// How much of a digest a table shows; JSON has all of it.
const DIGEST_CHARACTERS: usize = 12;

pub(super) async fn list(client: &Client, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let agents = client.agents().await?;
    console.show(&*agents, |agents, style| render(agents, SystemTime::now(), style))
}

fn render(agents: &[AgentView], now: SystemTime, style: Style) -> String {
    if agents.is_empty() {
        return "the policy has no agents: add one under `agents:`, then `agent-enforcer policy reload`\n"
            .to_owned();
    }
    let headings = ["AGENT", "OWNER", "PURPOSE", "MODE", "TOOLS", "STANDING", "INSTANCES"];
    let mut table = Table::new(&headings, style);
    for agent in agents {
        let AgentView { name, owner, purpose, mode, tools, standing, instances } = agent;
        let tone = if mode == "enforce" { Tone::Plain } else { Tone::Warning };
        table.toned_row([
            (name, Tone::Plain),
            (owner, Tone::Plain),
            (purpose, Tone::Plain),
            (mode, tone),
            (&listed(tools), Tone::Plain),
            (&listed(standing), Tone::Plain),
            (&instances.len().to_string(), Tone::Plain),
        ]);
    }
    let mut text = table.finish();
    if agents.iter().all(|agent| agent.instances.is_empty()) {
        text.push_str("\nno agent is running; `agent-enforcer explain --pid PID --to IP:PORT` says why a process is none\n");
        return text;
    }
    let headings =
        ["INSTANCE", "AGENT", "PID", "EXECUTABLE", "SHA256", "SCRIPT", "PROCESSES", "STARTED"];
    let mut table = Table::new(&headings, style);
    for agent in agents {
        for instance in &agent.instances {
            let InstanceView {
                id,
                pid,
                exe,
                sha256,
                script,
                script_sha256: _,
                unverified,
                container: _,
                started,
                processes,
            } = instance;
            let code = match (unverified.as_str(), script.as_os_str().is_empty()) {
                ("", true) => "-".to_owned(),
                ("", false) => script.to_string_lossy().into_owned(),
                (why, _) => format!("unverified: {why}"),
            };
            let digest = sha256.get(..DIGEST_CHARACTERS).unwrap_or("unknown");
            table.row([
                id,
                &agent.name,
                &pid.to_string(),
                &exe.to_string_lossy(),
                digest,
                &code,
                &processes.to_string(),
                &relative(*started, now),
            ]);
        }
    }
    text.push('\n');
    text.push_str(&table.finish());
    text
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}
