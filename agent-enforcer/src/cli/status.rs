//! `status`: the daemon and enforcement at a glance.

use std::time::SystemTime;

use super::{
    console::{Console, Exit, Failure, Style},
    table::{Table, Tone},
    text::{printable, relative},
};
use crate::{api::Client, control::Status};

pub(super) async fn show(client: &Client, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let status = client.status().await?;
    console.show(&status, |status, style| render(status, SystemTime::now(), style))
}

fn render(status: &Status, now: SystemTime, style: Style) -> String {
    let Status {
        version,
        pid,
        started,
        plane,
        kernel,
        generation,
        agents,
        instances,
        processes,
        pending,
        grants,
        reasons,
        counters,
        programs,
        spiffe_broker,
        problems,
    } = status;
    let mut facts = Table::new(&[], style);
    facts.row(["daemon", &format!("{version}, pid {pid}, started {}", relative(*started, now))]);
    facts.row(["kernel", kernel]);
    facts.row(["plane", &format!("{plane}, {} programs attached", programs.len())]);
    facts.row(["generation", &generation.to_string()]);
    if !spiffe_broker.is_empty() {
        facts.row(["SPIFFE broker", &printable(spiffe_broker)]);
    }
    facts.row([
        "agents",
        &format!("{agents} in the policy, {instances} instances, {processes} processes"),
    ]);
    facts.row(["grants", &format!("{grants} in force")]);
    let waiting = if *pending == 0 { Tone::Plain } else { Tone::Warning };
    facts.toned_row([("pending", Tone::Plain), (&pending.to_string(), waiting)]);
    let mut text = facts.finish();

    if !reasons.is_empty() {
        let mut table = Table::new(&["REASON", "CALLS"], style);
        for (word, count) in reasons {
            table.row([word, &count.to_string()]);
        }
        text.push('\n');
        text.push_str(&table.finish());
    }
    let mut table = Table::new(&["COUNTER", "VALUE"], style);
    let telling: Vec<_> = counters.iter().filter(|(_, count)| **count != 0).collect();
    for (name, count) in &telling {
        table.row([name, &count.to_string()]);
    }
    if !telling.is_empty() {
        text.push('\n');
        text.push_str(&table.finish());
    }
    text.push('\n');
    if problems.is_empty() {
        text.push_str("no problems\n");
    } else {
        text.push_str("problems (see `agent-enforcer doctor`):\n");
        for problem in problems {
            text.push_str("  - ");
            text.push_str(&printable(problem));
            text.push('\n');
        }
    }
    text
}
