//! Policy and grants in the form of the kernel side's prefix tables.
//!
//! In: a policy, the grants, a moment. Out: for each agent and instance what it may use without
//! asking, by prefix and protocol, and when that changes by itself. The kernel side finds the
//! longest prefix only, so the rules of shorter ones are folded into it, and where a shorter prefix
//! must not reach (see `coverage`) stands a prefix of its own, if need be an empty one.
//!
//! Never in a table: counted grants (each use is asked for), grants that begin later or are for a part
//! of a tool, unix sockets,
//! whose numbers the kernel side gives out as they are called, and tools for which it matters what
//! program calls or what a person says.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use agent_enforcer_common::{
    NEVER_NS,
    destination::{Destination, PROTOCOL_TCP, PROTOCOL_UDP, PeerFamily},
    id::{AgentId, GrantId, InstanceId},
    verdict::{PORT_RULES, PortRule, PortTable, agent_scope, instance_scope},
};

use super::{
    Agent, Endpoint, Policy, PortRange, Tool,
    coverage::{BARRIERS, Prefix},
};
use crate::resolver::grant::{Grant, GrantState, GrantTable, token::Action};

const PROTOCOLS: [u8; 2] = [PROTOCOL_TCP, PROTOCOL_UDP];
/// Families whose peers are two numbers that mean the same at all times.
const NUMBERED: [PeerFamily; 3] = [PeerFamily::Vsock, PeerFamily::Netlink, PeerFamily::Socket];
/// What stands for any port at a prefix of these.
const NO_PORT: PortRange = PortRange { first: 0, last: 0 };

/// What the kernel side may allow without asking.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The prefixes, grouped by scope; none twice.
    pub prefixes: Vec<ScopedPrefix>,
    /// Agents with live grants that the prefixes don't tell: what has no prefix is asked for, even
    /// where the agent may not wait.
    pub asked: BTreeSet<AgentId>,
    /// When a grant begins that is not in the tables yet, ns of `CLOCK_BOOTTIME`: compile again
    /// then. `NEVER_NS` for none. Expiry needs no new tables: the kernel side sees to it.
    pub next_change_ns: u64,
}

/// One entry of the prefix table, but for the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopedPrefix {
    /// Whose it is: `agent_scope` or `instance_scope`.
    pub scope: u64,
    /// [`Destination::kind`].
    pub kind: u64,
    /// First address, canonical.
    pub address: [u8; 16],
    /// Length in bits over the canonical address, 0 to 128.
    pub prefix_length: u32,
    /// What is allowed there.
    pub table: PortTable,
}

/// A tool that may be used without asking, and until when.
#[derive(Clone, Copy)]
struct Entitlement<'a> {
    tool: &'a Tool,
    /// What may be done with it.
    action: Action,
    /// Its ports, of the kind of destination at hand.
    ports: &'a [PortRange],
    grant: GrantId,
    expires_ns: u64,
}

/// Compiles the tables of every agent that `agent_id` knows, and of every instance with grants of
/// its own, as they are from `now_ns` (of `CLOCK_BOOTTIME`) on.
pub fn compile(
    policy: &Policy,
    grants: &GrantTable,
    agent_id: impl Fn(&str) -> Option<AgentId>,
    now_ns: u64,
) -> Compiled {
    let mut prefixes = Vec::new();
    for agent in policy.agents() {
        let Some(id) = agent_id(&agent.name) else { continue };
        let (of_agent, of_instances) = entitlements(policy, agent, grants, now_ns);
        fold_scope(agent_scope(id), &of_agent, &mut prefixes);
        for (instance, entitled) in of_instances {
            fold_scope(instance_scope(instance), &entitled, &mut prefixes);
        }
    }
    let begins = |grant: &Grant| {
        (grant.state(now_ns) == GrantState::NotYetValid).then_some(grant.not_before_ns)
    };
    let next_change_ns = grants.iter().filter_map(begins).min().unwrap_or(NEVER_NS);
    let untold = |grant: &&Grant| grant.is_counted() || !grant.scope.locations.is_empty();
    let live = grants.iter().filter(|grant| grant.state(now_ns) == GrantState::Live);
    let asked = live.filter(untold).filter_map(|grant| agent_id(&grant.subject.agent)).collect();
    Compiled { prefixes, asked, next_change_ns }
}

type OfInstances<'a> = BTreeMap<InstanceId, Vec<Entitlement<'a>>>;

/// What every instance of an agent may use, and what single ones may use beyond it or for longer.
fn entitlements<'a>(
    policy: &'a Policy,
    agent: &Agent,
    grants: &GrantTable,
    now_ns: u64,
) -> (Vec<Entitlement<'a>>, OfInstances<'a>) {
    let mut of_agent = Vec::new();
    let mut of_instances = OfInstances::new();
    let named = agent.tools.iter().filter(|id| agent.check_manifest(**id).is_ok());
    let approved = named.filter_map(|id| policy.tool(*id));
    for tool in approved.filter(|tool| !tool.must_be_asked_for()) {
        for action in [Action::Connect, Action::Listen] {
            let ports = &*tool.ports;
            if agent.stands(tool.id) {
                let (grant, expires_ns) = (GrantId::NONE, NEVER_NS);
                of_agent.push(Entitlement { tool, action, ports, grant, expires_ns });
                continue;
            }
            let entitled = |grant: &Grant| {
                let expires_ns = grant.expires_ns;
                Entitlement { tool, action, ports, grant: grant.id, expires_ns }
            };
            let mut best = longest(policy, agent, grants, tool, action, now_ns);
            let shared = best.remove(&None);
            of_agent.extend(shared.map(entitled));
            for (instance, grant) in best {
                let longer = shared.is_none_or(|shared| lasting(grant) > lasting(shared));
                if let (Some(instance), true) = (instance, longer) {
                    of_instances.entry(instance).or_default().push(entitled(grant));
                }
            }
        }
    }
    (of_agent, of_instances)
}

/// The live grants without a use count for the whole of a tool that last longest, for every instance
/// and for single ones.
fn longest<'g>(
    policy: &Policy,
    agent: &Agent,
    grants: &'g GrantTable,
    tool: &Tool,
    action: Action,
    now_ns: u64,
) -> BTreeMap<Option<InstanceId>, &'g Grant> {
    let live = grants
        .of_tool(&agent.name, &tool.name)
        .filter(|grant| !grant.is_counted() && grant.scope.permits_whole(&tool.name, action))
        .filter(|grant| policy.standing_of(grants, grant, tool, now_ns) == GrantState::Live);
    let mut best: BTreeMap<Option<InstanceId>, &Grant> = BTreeMap::new();
    for grant in live {
        let kept = best.entry(grant.subject.instance).or_insert(grant);
        if lasting(grant) > lasting(kept) {
            *kept = grant;
        }
    }
    best
}

/// The order in which `GrantTable::best` prefers live grants without a use count.
const fn lasting(grant: &Grant) -> (u64, Reverse<GrantId>) {
    (grant.expires_ns, Reverse(grant.id))
}

fn fold_scope(scope: u64, entitled: &[Entitlement<'_>], prefixes: &mut Vec<ScopedPrefix>) {
    let addresses = PROTOCOLS.into_iter().map(|protocol| {
        (Destination::without_peer(protocol).kind(), fold(networks(entitled, protocol)))
    });
    let called = Destination::without_peer(PROTOCOL_TCP).listening().kind();
    let called = std::iter::once((called, fold(own_addresses(entitled))));
    let numbered = NUMBERED.into_iter().map(|family| (kind(family), fold(peers(entitled, family))));
    for (kind, folded) in addresses.chain(called).chain(numbered) {
        prefixes.extend(folded.into_iter().map(|(prefix, table)| {
            let (address, prefix_length) = (prefix.octets(), u32::from(prefix.length()));
            ScopedPrefix { scope, kind, address, prefix_length, table }
        }));
    }
}

/// [`Destination::kind`] of a family without protocols.
const fn kind(family: PeerFamily) -> u64 {
    (family as u64) << 8
}

/// Prefixes with the tools that have them.
type Owners<'a> = BTreeMap<Prefix, Vec<Entitlement<'a>>>;

fn to<'e, 'a>(
    entitled: &'e [Entitlement<'a>],
    action: Action,
) -> impl Iterator<Item = &'e Entitlement<'a>> {
    entitled.iter().filter(move |entitlement| entitlement.action == action)
}

/// The networks of one transport protocol, and the barriers that shorter ones would reach through.
fn networks<'a>(entitled: &[Entitlement<'a>], protocol: u8) -> Owners<'a> {
    let mut owners = Owners::new();
    for entitlement in to(entitled, Action::Connect) {
        if !entitlement.tool.protocols.contains(&protocol) {
            continue;
        }
        for network in &entitlement.tool.networks {
            owners.entry(Prefix::of(*network)).or_default().push(*entitlement);
        }
    }
    with_barriers(owners)
}

/// The addresses of this host, and the barriers likewise.
fn own_addresses<'a>(entitled: &[Entitlement<'a>]) -> Owners<'a> {
    let mut owners = Owners::new();
    for entitlement in to(entitled, Action::Listen) {
        for range in &entitlement.tool.listen {
            let ports = std::slice::from_ref(&range.ports);
            let entitlement = Entitlement { ports, ..*entitlement };
            owners.entry(Prefix::of(range.network)).or_default().push(entitlement);
        }
    }
    with_barriers(owners)
}

fn with_barriers(mut owners: Owners<'_>) -> Owners<'_> {
    let reached = |barrier: &&Prefix| {
        owners.keys().any(|prefix| prefix.contains(**barrier) && !prefix.covers(**barrier))
    };
    let barriers: BTreeSet<Prefix> = BARRIERS.iter().filter(reached).copied().collect();
    for barrier in barriers {
        owners.entry(barrier).or_default();
    }
    owners
}

/// The endpoints of one family.
fn peers<'a>(entitled: &[Entitlement<'a>], family: PeerFamily) -> Owners<'a> {
    let mut owners = Owners::new();
    for entitlement in to(entitled, Action::Connect) {
        let prefixes = entitlement.tool.endpoints.iter().filter_map(Endpoint::prefix);
        for (_, prefix) in prefixes.filter(|(of, _)| *of == family) {
            let entitlement = Entitlement { ports: &[NO_PORT], ..*entitlement };
            owners.entry(prefix).or_default().push(entitlement);
        }
    }
    owners
}

/// A prefix on the way down to the current one.
struct Level<'a> {
    prefix: Prefix,
    /// The tools that have this very prefix.
    own: Vec<Entitlement<'a>>,
    /// What a lookup finds at this prefix.
    table: PortTable,
}

/// The prefixes of one scope and kind, each with all that holds there.
fn fold(owners: Owners<'_>) -> Vec<(Prefix, PortTable)> {
    let mut folded = Vec::new();
    let mut path: Vec<Level<'_>> = Vec::new();
    // A prefix comes before all that it contains.
    for (prefix, own) in owners {
        while path.pop_if(|level| !level.prefix.contains(prefix)).is_some() {}
        let above = path.iter().filter(|level| level.prefix.covers(prefix));
        let holding = above.flat_map(|level| &level.own).chain(&own);
        let table = port_table(holding);
        // The same as above says the same as nothing.
        if path.last().is_none_or(|level| level.table != table) {
            folded.push((prefix, table));
        }
        path.push(Level { prefix, own, table });
    }
    folded
}

/// All port ranges of the tools; where they don't fit, those that last longest.
fn port_table<'a>(holding: impl Iterator<Item = &'a Entitlement<'a>>) -> PortTable {
    let mut rules: Vec<PortRule> = holding.flat_map(port_rules).collect();
    rules.sort_unstable_by_key(|rule| (Reverse(rule.expires_ns), rule.first, rule.tool));
    rules.dedup();
    let truncated = u32::from(rules.len() > PORT_RULES);
    rules.truncate(PORT_RULES);
    rules.sort_unstable_by_key(|rule| rule.first);
    let mut table = PortTable {
        length: u32::try_from(rules.len()).unwrap_or_default(),
        truncated,
        rules: [PortRule::default(); PORT_RULES],
    };
    table.rules.iter_mut().zip(rules).for_each(|(to, from)| *to = from);
    table
}

/// The ranges of a tool never touch each other, so there is nothing to join.
fn port_rules<'a>(entitlement: &Entitlement<'a>) -> impl Iterator<Item = PortRule> + use<'a> {
    let Entitlement { tool, action: _, ports, grant, expires_ns } = *entitlement;
    ports.iter().map(move |range| PortRule {
        expires_ns,
        grant,
        tool: tool.id,
        first: range.first,
        last: range.last,
    })
}
