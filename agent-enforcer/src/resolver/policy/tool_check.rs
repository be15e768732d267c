//! From tools as written to tools that can decide.
//!
//! In: decoded files. Out: validated [`Tool`]s and every problem found. Questions, in order: is the
//! name one and new, are its addresses, hosts, endpoints, ports and protocols sound, and does any
//! destination belong to a second tool (evidence must name exactly one)?

mod overlap;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use agent_enforcer_common::{
    destination::{PROTOCOL_TCP, PROTOCOL_UDP},
    id::ToolId,
};
use serde_saphyr::{Location, Spanned};

use super::{
    Approval, Endpoint, ListenRange, PortRange, Tool, Via,
    directory::Source,
    document::{OneOrMany, ToolEntry},
    error::{PolicyError, Problem},
    listen,
    network::{self, decimal},
    place::{Place, quote},
};

/// Longest name of a tool or agent, bytes.
const NAME_LIMIT: usize = 63;
/// Longest host name and label (RFC 1035), bytes.
const HOST_LIMIT: usize = 253;
const LABEL_LIMIT: usize = 63;

/// What the files say about tools.
#[derive(Debug, Default)]
pub(super) struct CheckedTools {
    /// Those without a problem.
    pub(super) tools: Vec<Tool>,
    /// Every name, of tools with problems too, so that naming them is no second problem.
    pub(super) names: HashMap<String, (ToolId, Place)>,
}

/// Collects the problems of one file.
pub(super) struct Report<'a> {
    pub(super) file: &'a Arc<str>,
    pub(super) errors: &'a mut Vec<PolicyError>,
}

impl Report<'_> {
    pub(super) fn add(&mut self, at: Location, problem: Problem) {
        self.errors.push(PolicyError::new(self.place(at), problem));
    }

    pub(super) fn place(&self, at: Location) -> Place {
        Place::in_file(self.file, at)
    }

    /// Parses each item of a list: reports the bad ones and those that stand twice.
    pub(super) fn each<T: Clone + Eq + Hash>(
        &mut self,
        items: &[Spanned<String>],
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Vec<(T, Location)> {
        let mut seen = HashSet::new();
        let mut parsed = Vec::new();
        for item in items {
            match parse(&item.value) {
                Ok(value) if seen.insert(value.clone()) => parsed.push((value, item.referenced)),
                Ok(_) => {
                    self.add(item.referenced, Problem::DuplicateEntry(quote(&item.value)));
                }
                Err(problem) => self.add(item.referenced, problem),
            }
        }
        parsed
    }
}

/// A sound tool with the places of its destinations, for the overlap check.
struct Placed {
    tool: Tool,
    networks: Vec<Place>,
    endpoints: Vec<Place>,
    listen: Vec<Place>,
}

/// Checks the tools of all files.
pub(super) fn check(sources: &[Source], errors: &mut Vec<PolicyError>) -> CheckedTools {
    let mut checked = CheckedTools::default();
    let mut placed = Vec::new();
    for source in sources {
        let mut report = Report { file: &source.file, errors };
        for entry in &source.document.tools {
            let id = claim_name(&entry.name, "tool", &mut checked.names, &mut report);
            let before = report.errors.len();
            let sound = tool(entry, id.unwrap_or_default(), &mut report);
            if id.is_some() && report.errors.len() == before {
                placed.push(sound);
            }
        }
    }
    checked.tools = overlap::refuse(placed, errors);
    checked
}

/// Checks a name and gives it the next number.
pub(super) fn claim_name(
    name: &Spanned<String>,
    what: &'static str,
    names: &mut HashMap<String, (ToolId, Place)>,
    report: &mut Report<'_>,
) -> Option<ToolId> {
    if !is_name(&name.value) {
        report.add(name.referenced, Problem::BadName(quote(&name.value)));
        return None;
    }
    if let Some((_, first)) = names.get(&name.value) {
        let problem =
            Problem::DuplicateName { what, name: quote(&name.value), first: first.clone() };
        report.add(name.referenced, problem);
        return None;
    }
    let id = ToolId::new(u32::try_from(names.len()).ok()?.checked_add(1)?);
    names.insert(name.value.clone(), (id, report.place(name.referenced)));
    Some(id)
}

pub(in crate::resolver) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= NAME_LIMIT
        && text.starts_with(plain)
        && text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
}

fn tool(entry: &ToolEntry, id: ToolId, report: &mut Report<'_>) -> Placed {
    let ToolEntry { name, cidrs, hosts, endpoints, ports, protocol, listen, via, approval } = entry;
    destinations(entry, report);
    let networks = report.each(cidrs, network::parse);
    let hosts = report.each(hosts, host);
    let endpoints = endpoints.as_ref().map_or(&[][..], |written| &written.value);
    let endpoints = report.each(endpoints, |text| Ok(Endpoint::parse(text)?));
    let listen = listen_ranges(listen.as_ref(), report);
    let tool = Tool {
        id,
        name: name.value.as_str().into(),
        networks: networks.iter().map(|(network, _)| *network).collect(),
        hosts: hosts.into_iter().map(|(host, _)| host).collect(),
        endpoints: endpoints.iter().map(|(endpoint, _)| endpoint.clone()).collect(),
        ports: ports.as_ref().map(|ports| port_ranges(ports, report)).unwrap_or_default(),
        protocols: match protocol {
            Some(written) => protocols(written, report),
            None if cidrs.is_empty() => Vec::new(),
            None => vec![PROTOCOL_TCP],
        },
        listen: listen.iter().map(|(range, _)| *range).collect(),
        via: executables(via.as_ref(), report),
        approval: approval.as_ref().map_or(Approval::None, |written| {
            parse_approval(&written.value).unwrap_or_else(|problem| {
                report.add(written.referenced, problem);
                Approval::None
            })
        }),
    };
    Placed {
        tool,
        networks: networks.iter().map(|(_, at)| report.place(*at)).collect(),
        endpoints: endpoints.iter().map(|(_, at)| report.place(*at)).collect(),
        listen: listen.iter().map(|(_, at)| report.place(*at)).collect(),
    }
}

/// A list that is there must have entries.
fn entries<'a>(
    key: &'static str,
    written: Option<&'a Spanned<Vec<Spanned<String>>>>,
    report: &mut Report<'_>,
) -> &'a [Spanned<String>] {
    let Some(written) = written else { return &[] };
    if written.value.is_empty() {
        let problem = Problem::EmptyList(key, "name at least one, or remove the key");
        report.add(written.referenced, problem);
    }
    &written.value
}

/// Sorted; `*` is one entry and two ranges.
fn listen_ranges(
    written: Option<&Spanned<Vec<Spanned<String>>>>,
    report: &mut Report<'_>,
) -> Vec<(ListenRange, Location)> {
    let written = entries("listen", written, report);
    let parsed = report.each(written, listen::parse);
    let ranges =
        parsed.into_iter().flat_map(|(ranges, at)| ranges.into_iter().map(move |r| (r, at)));
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_by_key(|(range, _)| *range);
    ranges
}

fn executables(
    written: Option<&Spanned<Vec<Spanned<String>>>>,
    report: &mut Report<'_>,
) -> Vec<Via> {
    let written = entries("via", written, report);
    let parsed = report.each(written, Via::parse);
    parsed.into_iter().map(|(via, _)| via).collect()
}

fn parse_approval(text: &str) -> Result<Approval, Problem> {
    [Approval::None, Approval::Required]
        .into_iter()
        .find(|choice| choice.word() == text)
        .ok_or_else(|| Problem::BadWord {
            key: "approval",
            value: quote(text),
            choices: "`none` or `required`",
        })
}

/// Whether the tool has destinations at all, and for each kind all that belongs to it.
fn destinations(entry: &ToolEntry, report: &mut Report<'_>) {
    let ToolEntry { name, cidrs, hosts, endpoints, ports, protocol, listen, .. } = entry;
    let quoted = quote(&name.value);
    entries("endpoints", endpoints.as_ref(), report);
    if !cidrs.is_empty() {
        if ports.is_none() {
            report.add(name.referenced, Problem::NoPorts(quoted));
        }
        return;
    }
    if !hosts.is_empty() {
        return report.add(name.referenced, Problem::HostsWithoutCidrs(quoted));
    }
    if endpoints.is_none() && listen.is_none() {
        return report.add(name.referenced, Problem::NoDestination(quoted));
    }
    let needless = |key| Problem::WithoutCidrs { key, tool: quoted.clone() };
    if let Some(ports) = ports {
        report.add(ports.referenced, needless("ports"));
    }
    if let Some(protocol) = protocol {
        report.add(protocol.referenced, needless("protocol"));
    }
}

/// A host name, or `*.` and one. A name of digits and dots is an address gone wrong.
fn host(text: &str) -> Result<Arc<str>, Problem> {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=LABEL_LIMIT).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.chars().all(|c| c.is_ascii_digit());
    if name.len() > HOST_LIMIT || numeric || !name.split('.').all(label) {
        return Err(Problem::BadHost(quote(text)));
    }
    Ok(text.into())
}

/// Sorted, with touching and overlapping ranges joined.
fn port_ranges(ports: &Spanned<Vec<Spanned<String>>>, report: &mut Report<'_>) -> Vec<PortRange> {
    if ports.value.is_empty() {
        report.add(ports.referenced, Problem::EmptyList("ports", "name at least one port"));
    }
    let mut ranges: Vec<_> =
        report.each(&ports.value, port_range).into_iter().map(|(range, _)| range).collect();
    ranges.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

pub(in crate::resolver) fn port_range(text: &str) -> Result<PortRange, Problem> {
    let port = |text: &str| decimal::<u16>(text).filter(|port| *port != 0).ok_or(());
    let bad = |()| Problem::BadPort(quote(text));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first).map_err(bad)?, port(last).map_err(bad)?);
    if first > last {
        return Err(Problem::ReversedPorts { text: quote(text), first, last });
    }
    Ok(PortRange { first, last })
}

fn protocols(written: &Spanned<OneOrMany>, report: &mut Report<'_>) -> Vec<u8> {
    let parsed = match &written.value {
        OneOrMany::One(text) => {
            let item = Spanned::new(text.clone(), written.referenced, written.defined);
            report.each(&[item], protocol)
        }
        OneOrMany::Many(items) => {
            if items.is_empty() {
                let problem = Problem::EmptyList("protocol", "use `tcp`, `udp` or [tcp, udp]");
                report.add(written.referenced, problem);
            }
            report.each(items, protocol)
        }
    };
    let mut protocols: Vec<_> = parsed.into_iter().map(|(protocol, _)| protocol).collect();
    protocols.sort_unstable();
    protocols
}

pub(in crate::resolver) fn protocol(text: &str) -> Result<u8, Problem> {
    match text {
        "tcp" => Ok(PROTOCOL_TCP),
        "udp" => Ok(PROTOCOL_UDP),
        _ => Err(Problem::BadProtocol(quote(text))),
    }
}

/// The word of a protocol in policy files.
pub(in crate::resolver) const fn protocol_word(protocol: u8) -> &'static str {
    if protocol == PROTOCOL_UDP { "udp" } else { "tcp" }
}
