//! Does any destination belong to two tools? Each pair of tools is told once.

use std::collections::{HashMap, HashSet};

use agent_enforcer_common::id::ToolId;
use ipnet::IpNet;

use super::{
    super::{
        Endpoint, ListenRange, PortRange, Tool,
        coverage::{AddressIndex, Prefix},
        error::{Overlap, PolicyError, Problem},
        place::{Place, quote},
    },
    Placed, protocol_word,
};

/// Reports each pair of tools that cover one destination, once.
pub(super) fn refuse(placed: Vec<Placed>, errors: &mut Vec<PolicyError>) -> Vec<Tool> {
    refuse_endpoints(&placed, errors);
    refuse_listeners(&placed, errors);
    let (tools, all_places): (Vec<_>, Vec<_>) =
        placed.into_iter().map(|placed| (placed.tool, placed.networks)).unzip();
    let index = AddressIndex::of_destinations(&tools);
    let by_id: HashMap<ToolId, (&Tool, &Vec<Place>)> =
        tools.iter().zip(&all_places).map(|(tool, at)| (tool.id, (tool, at))).collect();
    let mut reported = HashSet::new();
    for (tool, at) in tools.iter().zip(&all_places) {
        for (network, own) in tool.networks.iter().zip(at) {
            for (_, id) in index.covering(Prefix::of(*network)) {
                let Some((other, other_at)) = by_id.get(&id) else { continue };
                if other.id == tool.id || reported.contains(&pair(tool.id, other.id)) {
                    continue;
                }
                let Some(service) = common_service(tool, other) else { continue };
                reported.insert(pair(tool.id, other.id));
                let Some((cover, cover_place)) = cover(other, other_at, *network) else { continue };
                let overlap = Overlap {
                    tool: quote(&tool.name),
                    destination: format!("{network} {service}"),
                    other: quote(&other.name),
                    cover: cover.to_string(),
                    cover_place: cover_place.clone(),
                };
                let problem = Problem::Overlap(Box::new(overlap));
                errors.push(PolicyError::new(own.clone(), problem));
            }
        }
    }
    tools
}

fn pair(a: ToolId, b: ToolId) -> (ToolId, ToolId) {
    if a < b { (a, b) } else { (b, a) }
}

/// A port and protocol that both tools have.
fn common_service(a: &Tool, b: &Tool) -> Option<String> {
    let protocol = a.protocols.iter().find(|protocol| b.protocols.contains(protocol))?;
    let shared = |range: &PortRange| b.ports.iter().find(|other| range.overlaps(**other)).copied();
    let (mine, theirs) = a.ports.iter().find_map(|range| Some((*range, shared(range)?)))?;
    Some(format!("port {}/{}", mine.first.max(theirs.first), protocol_word(*protocol)))
}

/// The network of `tool` that covers `narrow`, and its place.
fn cover<'a>(tool: &Tool, places: &'a [Place], narrow: IpNet) -> Option<(IpNet, &'a Place)> {
    let covers = |wide: IpNet| Prefix::of(wide).covers(Prefix::of(narrow));
    tool.networks.iter().copied().zip(places).find(|(wide, _)| covers(*wide))
}

/// As [`refuse`], of endpoints.
fn refuse_endpoints(placed: &[Placed], errors: &mut Vec<PolicyError>) {
    let mut first: HashMap<&Endpoint, (&Tool, &Place)> = HashMap::new();
    for Placed { tool, endpoints, .. } in placed {
        for (endpoint, at) in tool.endpoints.iter().zip(endpoints) {
            first.entry(endpoint).or_insert((tool, at));
        }
    }
    let mut reported = HashSet::new();
    for Placed { tool, endpoints, .. } in placed {
        for (endpoint, own) in tool.endpoints.iter().zip(endpoints) {
            for cover in std::iter::once(endpoint.clone()).chain(endpoint.broader()) {
                let Some((other, at)) = first.get(&cover) else { continue };
                if other.id == tool.id || !reported.insert(pair(tool.id, other.id)) {
                    continue;
                }
                let overlap = Overlap {
                    tool: quote(&tool.name),
                    destination: quote(&endpoint.to_string()),
                    other: quote(&other.name),
                    cover: quote(&cover.to_string()),
                    cover_place: (*at).clone(),
                };
                errors.push(PolicyError::new(own.clone(), Problem::Overlap(Box::new(overlap))));
            }
        }
    }
}

/// As [`refuse`], of addresses of this host.
fn refuse_listeners(placed: &[Placed], errors: &mut Vec<PolicyError>) {
    let all = placed.iter().flat_map(|Placed { tool, listen, .. }| {
        tool.listen.iter().zip(listen).map(move |(range, at)| (tool, range, at))
    });
    let all: Vec<(&Tool, &ListenRange, &Place)> = all.collect();
    let mut by_network: HashMap<Prefix, Vec<(&Tool, &ListenRange, &Place)>> = HashMap::new();
    for entry in &all {
        by_network.entry(Prefix::of(entry.1.network)).or_default().push(*entry);
    }
    let index = AddressIndex::of_listeners(placed.iter().map(|placed| &placed.tool));
    let mut reported = HashSet::new();
    for (tool, range, own) in all {
        for (cover, id) in index.covering(Prefix::of(range.network)) {
            let others = by_network.get(&cover).into_iter().flatten();
            let other = others
                .filter(|(other, ..)| other.id == id && id != tool.id)
                .find(|(_, theirs, _)| range.ports.overlaps(theirs.ports));
            let Some((other, theirs, at)) = other else { continue };
            if !reported.insert(pair(tool.id, other.id)) {
                continue;
            }
            let port = range.ports.first.max(theirs.ports.first);
            let overlap = Overlap {
                tool: quote(&tool.name),
                destination: format!("listening at {} port {port}", range.network),
                other: quote(&other.name),
                cover: quote(&theirs.to_string()),
                cover_place: (*at).clone(),
            };
            errors.push(PolicyError::new(own.clone(), Problem::Overlap(Box::new(overlap))));
        }
    }
}
