//! From agents as written to agents that can be recognised and decided for.
//!
//! In: decoded files and the checked tools. Out: validated [`Agent`]s and every problem found.
//! Questions, in order: is the name new, is the agent described, do its terms hold (see
//! `selector_check`), do its tools exist, and which manifest is its? What everyone has is every
//! agent's from here on.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use agent_enforcer_common::id::ToolId;
use serde_saphyr::Spanned;

use super::{
    Agent, AgentManifest, Attestation, LocalGrants, Mode, OnMiss, TcpStall, Term,
    directory::{Source, Sources},
    document::{AgentEntry, EveryoneEntry},
    error::{PolicyError, Problem},
    manifests::ManifestFiles,
    network::decimal,
    place::{Place, quote},
    selector_check::SelectorCheck,
    tool_check::{CheckedTools, Report, claim_name},
};
use crate::resolver::{grant::LONGEST_LIFE, spiffe::SpiffeId};

/// Longest owner, bytes.
const OWNER_LIMIT: usize = 200;
/// Longest purpose, bytes.
const PURPOSE_LIMIT: usize = 500;
/// Stall limit where none is given.
const DEFAULT_STALL: Duration = Duration::from_secs(5);
/// Longest stall limit.
const LONGEST_STALL: Duration = Duration::from_mins(10);
/// How long a signed grant may last where nothing is said.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(15);
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);

/// What the files say about agents.
#[derive(Debug, Default)]
pub(super) struct CheckedAgents {
    pub(super) agents: Vec<Agent>,
    /// Every name.
    pub(super) names: HashSet<String>,
}

/// Checks the agents of all files.
pub(super) fn check(
    sources: &Sources,
    tools: &CheckedTools,
    errors: &mut Vec<PolicyError>,
) -> CheckedAgents {
    let mut names = HashMap::new();
    let mut ids = HashMap::new();
    let mut selectors = SelectorCheck::default();
    let mut agents = Vec::new();
    let everyone = everyone(&sources.policies, tools, errors);
    let manifests = ManifestFiles::new(&sources.manifests, errors);
    for source in &sources.policies {
        let mut report = Report { file: &source.file, errors };
        for entry in &source.document.agents {
            claim_name(&entry.name, "agent", &mut names, &mut report);
            let mut terms = selectors.terms(entry, &mut report);
            let agent_id = agent_id(entry, &mut ids, &mut report);
            let file =
                agent_id.as_ref().and_then(|id| manifests.of(id, &entry.name.value, report.errors));
            if let Some(file) = file {
                terms.extend(selectors.terms_of_manifest(file, &entry.name.value, report.errors));
            }
            if agent_id.is_none() {
                refuse_nameless(entry, &mut report);
            }
            let manifest = file.map(|file| &file.manifest);
            let mut agent = agent(entry, terms, tools, &mut report);
            agent.manifest = agent_id.map(|id| AgentManifest::new(id, manifest, tools));
            join(&mut agent.tools, &everyone);
            join(&mut agent.standing, &everyone);
            agents.push(agent);
        }
    }
    CheckedAgents { agents, names: names.into_keys().collect() }
}

/// The SPIFFE ID of an agent, which is no other agent's.
fn agent_id(
    entry: &AgentEntry,
    ids: &mut HashMap<SpiffeId, Place>,
    report: &mut Report<'_>,
) -> Option<SpiffeId> {
    let written = entry.agent_id.as_ref()?;
    let id = match written.value.parse::<SpiffeId>() {
        Ok(id) => id,
        Err(error) => {
            let text = quote(&written.value);
            report.add(written.referenced, Problem::BadSpiffeId { text, error });
            return None;
        }
    };
    if let Some(first) = ids.get(&id) {
        let (name, first) = (quote(&written.value), first.clone());
        let problem = Problem::DuplicateName { what: "agent_id", name, first };
        report.add(written.referenced, problem);
        return None;
    }
    ids.insert(id.clone(), report.place(written.referenced));
    Some(id)
}

/// Refuses an agent whose name is to be vouched for and that has none. A bad `agent_id` is told already.
fn refuse_nameless(entry: &AgentEntry, report: &mut Report<'_>) {
    if let Some(written) = &entry.attestation
        && entry.agent_id.is_none()
        && written.value == Attestation::Spiffe.word()
    {
        report.add(written.referenced, Problem::AttestedNameless);
    }
}

/// The tools that every agent has, of all files.
fn everyone(
    sources: &[Source],
    known: &CheckedTools,
    errors: &mut Vec<PolicyError>,
) -> Vec<ToolId> {
    let mut places: HashMap<ToolId, Place> = HashMap::new();
    for source in sources {
        let Some(EveryoneEntry { standing }) = &source.document.everyone else { continue };
        let mut report = Report { file: &source.file, errors };
        if standing.value.is_empty() {
            let problem = Problem::EmptyList("standing", "name a tool, or remove `everyone`");
            report.add(standing.referenced, problem);
        }
        for (id, at) in report.each(&standing.value, |text| tool_id(text, known)) {
            let place = report.place(at);
            if let Some(first) = places.get(&id) {
                let named = standing.value.iter().find(|name| name.referenced == at);
                let tool = named.map(|name| quote(&name.value)).unwrap_or_default();
                report.add(at, Problem::EveryoneTwice { tool, first: first.clone() });
            } else {
                places.insert(id, place);
            }
        }
    }
    places.into_keys().collect()
}

/// Adds ids to sorted ids.
fn join(ids: &mut Vec<ToolId>, more: &[ToolId]) {
    ids.extend(more);
    ids.sort_unstable();
    ids.dedup();
}

fn tool_id(text: &str, known: &CheckedTools) -> Result<ToolId, Problem> {
    let found = known.names.get(text).map(|(id, _)| *id);
    found.ok_or_else(|| Problem::UnknownTool(quote(text)))
}

fn agent(
    entry: &AgentEntry,
    selectors: Vec<Term>,
    known: &CheckedTools,
    report: &mut Report<'_>,
) -> Agent {
    let AgentEntry {
        name,
        owner,
        purpose,
        agent_id: _,
        attestation,
        selectors: _,
        tools,
        standing,
        on_miss,
        stall_limit,
        stall,
        mode,
        socket_mark,
        grants,
    } = entry;
    let tools = tool_ids(tools, known, |_| Ok(()), report);
    let in_tools = |id: ToolId, text: &str| {
        let approved = tools.contains(&id);
        approved.then_some(()).ok_or_else(|| Problem::StandingNotApproved(quote(text)))
    };
    let standing = {
        let check = |(id, text): (ToolId, &str)| in_tools(id, text);
        tool_ids(standing, known, check, report)
    };
    Agent {
        name: name.value.as_str().into(),
        owner: text("owner", owner, OWNER_LIMIT, report),
        purpose: text("purpose", purpose, PURPOSE_LIMIT, report),
        manifest: None,
        attestation: optional(attestation.as_ref(), Attestation::Local, parse_attestation, report),
        selectors,
        tools,
        standing,
        on_miss: optional(on_miss.as_ref(), OnMiss::Stall, parse_on_miss, report),
        stall_limit: optional(stall_limit.as_ref(), DEFAULT_STALL, parse_stall_limit, report),
        stall_tcp: optional(
            stall.as_ref().map(|stall| &stall.tcp),
            TcpStall::Hold,
            parse_stall_tcp,
            report,
        ),
        mode: optional(mode.as_ref(), Mode::Enforce, parse_mode, report),
        socket_mark: optional(socket_mark.as_ref(), None, parse_mark, report),
        local_grants: optional(
            grants.as_ref().and_then(|grants| grants.local.as_ref()),
            LocalGrants::Allow,
            parse_local_grants,
            report,
        ),
        max_grant_lifetime: optional(
            grants.as_ref().and_then(|grants| grants.max_lifetime.as_ref()),
            DEFAULT_LIFETIME,
            |text| bounded("max_lifetime", text, (SHORTEST_LIFETIME, "1s"), (LONGEST_LIFE, "24h")),
            report,
        ),
    }
}

/// Sorted ids of the named tools.
pub(super) fn tool_ids(
    names: &[Spanned<String>],
    known: &CheckedTools,
    check: impl Fn((ToolId, &str)) -> Result<(), Problem>,
    report: &mut Report<'_>,
) -> Vec<ToolId> {
    let parsed = report.each(names, |text| {
        let id = tool_id(text, known)?;
        check((id, text)).map(|()| id)
    });
    let mut ids: Vec<_> = parsed.into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

pub(super) fn text(
    key: &'static str,
    written: &Spanned<String>,
    limit: usize,
    report: &mut Report<'_>,
) -> Arc<str> {
    let value = written.value.as_str();
    let fault = if value.trim().is_empty() {
        Some("is empty")
    } else if value.len() > limit {
        Some("is too long")
    } else if value.chars().any(char::is_control) {
        Some("has line breaks or control characters")
    } else {
        None
    };
    if let Some(fault) = fault {
        report.add(written.referenced, Problem::BadText { key, fault, limit });
    }
    value.into()
}

pub(super) fn optional<T>(
    written: Option<&Spanned<String>>,
    default: T,
    parse: impl Fn(&str) -> Result<T, Problem>,
    report: &mut Report<'_>,
) -> T {
    let Some(written) = written else { return default };
    parse(&written.value).unwrap_or_else(|problem| {
        report.add(written.referenced, problem);
        default
    })
}

fn parse_on_miss(text: &str) -> Result<OnMiss, Problem> {
    [OnMiss::Stall, OnMiss::Deny].into_iter().find(|choice| choice.word() == text).ok_or_else(
        || Problem::BadWord { key: "on_miss", value: quote(text), choices: "`stall` or `deny`" },
    )
}

fn parse_stall_tcp(text: &str) -> Result<TcpStall, Problem> {
    [TcpStall::Hold, TcpStall::Park].into_iter().find(|choice| choice.word() == text).ok_or_else(
        || Problem::BadWord { key: "tcp", value: quote(text), choices: "`hold` or `park`" },
    )
}

fn parse_mode(text: &str) -> Result<Mode, Problem> {
    [Mode::Enforce, Mode::Audit].into_iter().find(|choice| choice.word() == text).ok_or_else(|| {
        Problem::BadWord { key: "mode", value: quote(text), choices: "`enforce` or `audit`" }
    })
}

fn parse_attestation(text: &str) -> Result<Attestation, Problem> {
    [Attestation::Local, Attestation::Spiffe]
        .into_iter()
        .find(|choice| choice.word() == text)
        .ok_or_else(|| Problem::BadWord {
            key: "attestation",
            value: quote(text),
            choices: "`local` or `spiffe`",
        })
}

fn parse_local_grants(text: &str) -> Result<LocalGrants, Problem> {
    [LocalGrants::Allow, LocalGrants::Deny]
        .into_iter()
        .find(|choice| choice.word() == text)
        .ok_or_else(|| Problem::BadWord {
            key: "local",
            value: quote(text),
            choices: "`allow` or `deny`",
        })
}

/// A duration within bounds, each with its text.
pub(super) fn bounded(
    key: &'static str,
    text: &str,
    (shortest, shortest_text): (Duration, &'static str),
    (longest, longest_text): (Duration, &'static str),
) -> Result<Duration, Problem> {
    let duration = humantime::parse_duration(text)
        .map_err(|_not_a_duration| Problem::BadDuration(quote(text)))?;
    if (shortest..=longest).contains(&duration) {
        return Ok(duration);
    }
    let value = quote(text);
    Err(Problem::DurationBounds { key, value, shortest: shortest_text, longest: longest_text })
}

fn parse_stall_limit(text: &str) -> Result<Duration, Problem> {
    let limit = humantime::parse_duration(text)
        .map_err(|_not_a_duration| Problem::BadDuration(quote(text)))?;
    if limit > LONGEST_STALL { Err(Problem::StallLimit(quote(text))) } else { Ok(limit) }
}

fn parse_mark(text: &str) -> Result<Option<NonZeroU32>, Problem> {
    let number = match text.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => decimal(text),
    };
    let mark = number.and_then(NonZeroU32::new);
    mark.map(Some).ok_or_else(|| Problem::BadMark(quote(text)))
}
