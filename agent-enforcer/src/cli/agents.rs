//! `agents`: every agent and instance that was ever seen, who runs, and which agents are ghosts.

use std::time::SystemTime;

use clap::Args;

use super::{
    console::{Console, Exit, Failure, Style},
    table::{Table, Tone},
    text::relative,
};
use crate::{
    api::Client,
    control::{
        ActionView, ActivityView, AgentView, GhostView, ImageView, InstanceView, RecentView,
        TalliesView,
    },
};

/// How much of a digest a table shows; JSON has all of it.
const DIGEST_CHARACTERS: usize = 12;

/// List every agent that was ever seen, with its owner, its manifest and what it did last; or one of
/// them, with its instances.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agent-enforcer agents --ghosts
  agent-enforcer agents coder
  agent-enforcer agents --output json | jq '.[] | {name, owner, ghosts, last_action}'")]
pub(super) struct AgentsArgs {
    /// Only this agent, with all that is known of it and of its instances.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only ghosts: agents that the policy does not have any more, whose owner is gone, whose manifest
    /// does not count, or that nobody used for long.
    #[arg(long, conflicts_with = "name")]
    ghosts: bool,
}

pub(super) async fn show(
    args: AgentsArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let AgentsArgs { name, ghosts } = args;
    let mut agents = client.agents().await?;
    let now = SystemTime::now();
    if let Some(name) = name {
        let found = agents.iter().find(|agent| agent.name == name).ok_or_else(|| {
            Failure::failed(
                format!("no agent {name:?} was ever seen"),
                "see `agent-enforcer agents` for those that were",
            )
        })?;
        return console.show(found, |agent, style| render_agent(agent, now, style));
    }
    if ghosts {
        agents.retain(|agent| !agent.ghosts.is_empty());
        return console.show(&*agents, |agents, style| {
            if agents.is_empty() {
                "no agent is a ghost\n".to_owned()
            } else {
                table(agents, now, style)
            }
        });
    }
    console.show(&*agents, |agents, style| render(agents, now, style))
}

fn render(agents: &[AgentView], now: SystemTime, style: Style) -> String {
    if agents.is_empty() {
        return "the policy has no agents: add one under `agents:`, then `agent-enforcer policy reload`\n"
            .to_owned();
    }
    let mut text = table(agents, now, style);
    text.push('\n');
    let running = agents
        .iter()
        .flat_map(|agent| agent.instances.iter().map(|instance| (agent.name.as_str(), instance)));
    let running: Vec<_> = running.collect();
    if running.is_empty() {
        text.push_str("no agent is running; `agent-enforcer explain --pid PID --to IP:PORT` says why a process is none\n");
        return text;
    }
    text.push_str(&instances(running.into_iter(), now, style));
    text
}

fn table(agents: &[AgentView], now: SystemTime, style: Style) -> String {
    let headings = ["AGENT", "OWNER", "MODE", "STATE", "LIVE", "EVER", "LAST ACTION", "MANIFEST"];
    let mut table = Table::new(&headings, style);
    for agent in agents {
        let AgentView { name, owner, mode, instances, instances_ever, manifest, .. } = agent;
        let mode_tone = if mode == "enforce" { Tone::Plain } else { Tone::Warning };
        let (state, tone) = state(agent);
        let manifest = manifest.as_ref().map_or("-", |manifest| short(&manifest.digest));
        table.toned_row([
            (name, Tone::Plain),
            (owner, Tone::Plain),
            (mode, mode_tone),
            (&state, tone),
            (&instances.len().to_string(), Tone::Plain),
            (&instances_ever.to_string(), Tone::Plain),
            (&last_action(&agent.activity, now), Tone::Plain),
            (manifest, Tone::Plain),
        ]);
    }
    table.finish()
}

fn render_agent(agent: &AgentView, now: SystemTime, style: Style) -> String {
    let AgentView {
        name,
        owner,
        purpose,
        mode,
        tools,
        standing,
        instances: running,
        in_policy,
        ghosts,
        agent_id,
        manifest,
        first_seen,
        last_seen,
        instances_ever,
        instances_forgotten,
        activity,
        ended_instances,
    } = agent;
    let (state, tone) = state(agent);
    let manifest = manifest.as_ref().map_or("-".to_owned(), |manifest| {
        format!("version {}, {}", manifest.version, manifest.digest)
    });
    let last_seen = last_seen.map_or("never".to_owned(), |seen| relative(seen, now));
    let count = format!(
        "{} live, {instances_ever} ever, {instances_forgotten} of them forgotten",
        running.len()
    );
    let ActivityView { calls, last_action: _, principals, grants } = activity;
    let mut table = Table::new(&[], style);
    table.row(["agent", name]);
    table.toned_row([("state", Tone::Plain), (&state, tone)]);
    for GhostView { word, since } in ghosts {
        table.row(["ghost", &format!("{word}, found {}", relative(*since, now))]);
    }
    for (what, value) in [
        ("owner", owner.as_str()),
        ("purpose", purpose),
        ("in the policy", if *in_policy { "yes" } else { "no" }),
        ("mode", mode),
        ("tools", &listed(tools)),
        ("standing", &listed(standing)),
        ("agent id", agent_id.as_deref().unwrap_or("-")),
        ("manifest", &manifest),
        ("first seen", &relative(*first_seen, now)),
        ("last seen", &last_seen),
        ("instances", &count),
        ("calls", &tallies(calls)),
        ("last action", &last_action(activity, now)),
        ("grants used", &recent(grants)),
        ("on behalf of", &recent(principals)),
    ] {
        table.row([what, value]);
    }
    let mut text = table.finish();
    let all = running.iter().chain(ended_instances.iter().rev());
    if running.len() + ended_instances.len() > 0 {
        text.push('\n');
        text.push_str(&instances(all.map(|instance| (name.as_str(), instance)), now, style));
    }
    text
}

fn instances<'a>(
    all: impl Iterator<Item = (&'a str, &'a InstanceView)>,
    now: SystemTime,
    style: Style,
) -> String {
    let headings = [
        "INSTANCE",
        "AGENT",
        "PID",
        "EXECUTABLE",
        "SHA256",
        "SCRIPT",
        "SPIFFE ID",
        "PROCESSES",
        "STARTED",
        "ENDED",
        "CALLS",
        "LAST ACTION",
        "GRANTS",
    ];
    let mut table = Table::new(&headings, style);
    for (agent, instance) in all {
        let InstanceView {
            id,
            pid,
            exe,
            sha256,
            script,
            script_sha256: _,
            unverified,
            container: _,
            spiffe_id,
            started,
            processes,
            ended,
            images,
            more_images,
            activity,
        } = instance;
        let exe = match other_images(exe.to_string_lossy().as_ref(), images, *more_images) {
            0 => exe.to_string_lossy().into_owned(),
            others => format!("{} and {others} more", exe.to_string_lossy()),
        };
        let code = match (unverified.as_str(), script.as_os_str().is_empty()) {
            ("", true) => "-".to_owned(),
            ("", false) => script.to_string_lossy().into_owned(),
            (why, _) => format!("unverified: {why}"),
        };
        table.row([
            id,
            agent,
            &pid.to_string(),
            &exe,
            if sha256.is_empty() { "unknown" } else { short(sha256) },
            &code,
            spiffe_id.as_deref().unwrap_or("-"),
            &processes.to_string(),
            &relative(*started, now),
            &ended.map_or("-".to_owned(), |ended| relative(ended, now)),
            &tallies(&activity.calls),
            &last_action(activity, now),
            &recent(&activity.grants),
        ]);
    }
    table.finish()
}

/// How many other programs an instance executed.
fn other_images(shown: &str, images: &[ImageView], more: u64) -> u64 {
    let others = images.iter().filter(|image| image.exe != shown).count();
    more.saturating_add(u64::try_from(others).unwrap_or(u64::MAX))
}

/// What is wrong with an agent, or whether it runs.
fn state(agent: &AgentView) -> (String, Tone) {
    if !agent.ghosts.is_empty() {
        let words: Vec<_> = agent.ghosts.iter().map(|ghost| ghost.word.as_str()).collect();
        return (words.join(", "), Tone::Bad);
    }
    let word = if agent.instances.is_empty() { "idle" } else { "running" };
    (word.to_owned(), Tone::Good)
}

fn tallies(calls: &TalliesView) -> String {
    let TalliesView { allowed, denied, audited } = calls;
    let audited = if *audited == 0 { String::new() } else { format!(", {audited} audited") };
    format!("{allowed} allowed, {denied} denied{audited}")
}

fn last_action(activity: &ActivityView, now: SystemTime) -> String {
    let Some(action) = &activity.last_action else { return "-".to_owned() };
    let ActionView { at, outcome, reason, destination, tool } = action;
    let to =
        tool.as_ref().map_or_else(|| destination.clone(), |tool| format!("{tool} {destination}"));
    format!("{}: {to} {outcome} ({reason})", relative(*at, now))
}

fn recent(values: &RecentView) -> String {
    let RecentView { count, latest } = values;
    let shown = u64::try_from(latest.len()).unwrap_or(u64::MAX);
    match count.saturating_sub(shown) {
        0 => listed(latest),
        others => format!("{}, and {others} before", latest.join(", ")),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..DIGEST_CHARACTERS).unwrap_or(digest)
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}
