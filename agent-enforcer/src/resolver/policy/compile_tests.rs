//! The compiled tables against the decision: random policies, grants, destinations and times.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_enforcer_common::{
    NEVER_NS,
    destination::{Destination, PROTOCOL_TCP, PROTOCOL_UDP},
    id::{AgentId, GrantId, InstanceId},
    verdict::{PORT_RULES, PortRule, agent_scope, instance_scope},
};
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    Compiled, Policy, Ruling, ScopedPrefix, compile,
    coverage::Prefix,
    rule,
    testing::{load_text, policy},
};
use crate::resolver::grant::{
    Grant, GrantTable, Revocation,
    testing::{counted, for_instance, grant, wall},
};

const AGENT: AgentId = AgentId::new(3);
/// The moment that is compiled for; grants begin and end around it.
const NOW: u64 = 100;

/// What the kernel side finds, written as plainly as can be: of the prefixes that contain the
/// address the longest one, and in it the first rule that has the port and is not over.
fn lookup(
    compiled: &Compiled,
    scope: u64,
    destination: &Destination,
    now_ns: u64,
) -> (Option<PortRule>, bool) {
    let inside = |entry: &&ScopedPrefix| {
        let wanted = u128::from_be_bytes(destination.octets());
        let shift = 128 - entry.prefix_length;
        let head = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
        entry.scope == scope
            && entry.protocol == destination.protocol()
            && head(wanted) == head(u128::from_be_bytes(entry.address))
    };
    let longest = compiled.prefixes.iter().filter(inside).max_by_key(|entry| entry.prefix_length);
    let Some(entry) = longest else { return (None, false) };
    let rules = entry.table.rules.iter().take(entry.table.length as usize);
    let port = destination.port();
    let found = rules
        .filter(|rule| rule.first <= port && port <= rule.last && now_ns < rule.expires_ns)
        .copied()
        .next();
    (found, entry.table.truncated != 0)
}

fn compiled(policy: &Policy, grants: &GrantTable) -> Compiled {
    compile(policy, grants, |name| (name == "bot").then_some(AGENT), NOW)
}

fn table(grants: Vec<Grant>) -> GrantTable {
    let mut table = GrantTable::default();
    for grant in grants {
        table.insert(grant);
    }
    table
}

/// Prefixes that nest, touch, and stand beside and across the barriers.
const NETWORKS: &[&str] = &[
    "0.0.0.0/0",
    "128.0.0.0/1",
    "169.254.0.0/16",
    "169.254.169.254/32",
    "169.254.169.254/31",
    "10.0.0.0/8",
    "10.0.0.0/9",
    "10.128.0.0/9",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "::/0",
    "::/64",
    "::/80",
    "::1/128",
    "fd00:ec2::/32",
    "fd00:ec2::254/128",
    "fd00:ec2::/127",
    "2001:db8::/32",
    "2001:db8::/33",
    "2001:db8::7/128",
];

const ADDRESSES: &[&str] = &[
    "10.1.2.3",
    "10.1.2.4",
    "10.200.0.1",
    "11.0.0.1",
    "169.254.169.254",
    "169.254.169.255",
    "169.254.1.1",
    "192.0.2.1",
    "::1",
    "::2",
    "::1:0:0:0",
    "2001:db8::7",
    "2001:db8:8000::1",
    "2001:db9::1",
    "fd00:ec2::254",
    "fd00:ec2::255",
];

#[derive(Clone, Debug)]
struct ToolSketch {
    networks: Vec<&'static str>,
    ports: Vec<(u16, u16)>,
    protocol: &'static str,
    approved: bool,
    standing: bool,
}

fn tool() -> impl Strategy<Value = ToolSketch> {
    let port = (1_u16..60, 0_u16..4).prop_map(|(first, more)| (first, first + more));
    (
        vec(select(NETWORKS), 1..5),
        prop_oneof![4 => vec(port.clone(), 1..4), 1 => vec(port, 18..30)],
        select(&["tcp", "udp", "[tcp, udp]"][..]),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(networks, ports, protocol, approved, standing)| ToolSketch {
            networks,
            ports,
            protocol,
            approved,
            standing,
        })
}

fn unique<T: Clone + Ord>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}

fn yaml(tools: &[ToolSketch]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("apiVersion: agent-enforcer/v1\ntools:\n");
    for (number, tool) in tools.iter().enumerate() {
        let cidrs: Vec<_> = unique(&tool.networks).iter().map(|n| format!("\"{n}\"")).collect();
        let ports: Vec<_> =
            unique(&tool.ports).iter().map(|(a, b)| format!("\"{a}-{b}\"")).collect();
        let (cidrs, ports, protocol) = (cidrs.join(", "), ports.join(", "), tool.protocol);
        writeln!(
            text,
            "  - {{name: t{number}, cidrs: [{cidrs}], ports: [{ports}], protocol: {protocol}}}"
        )
        .unwrap();
    }
    let names = |wanted: &dyn Fn(&ToolSketch) -> bool| {
        let chosen = tools.iter().enumerate().filter(|(_, tool)| wanted(tool));
        chosen.map(|(number, _)| format!("t{number}")).collect::<Vec<_>>().join(", ")
    };
    let approved = names(&|tool| tool.approved);
    let standing = names(&|tool| tool.approved && tool.standing);
    writeln!(
        text,
        "agents:\n  - {{name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [{approved}], standing: [{standing}]}}"
    )
    .unwrap();
    text
}

/// A policy of the tools that do not overlap the ones before them.
fn without_overlaps(tools: Vec<ToolSketch>) -> Policy {
    let mut kept: Vec<ToolSketch> = Vec::new();
    for tool in tools {
        kept.push(tool);
        if load_text(&yaml(&kept)).is_err() {
            kept.pop();
        }
    }
    load_text(&yaml(&kept)).unwrap()
}

fn grants() -> impl Strategy<Value = GrantTable> {
    let one = (
        vec(0_usize..4, 1..3),
        (0_u64..150, 1_u64..150),
        prop::option::weighted(0.5, 1_u64..4),
        prop::option::weighted(0.3, (1_u32..3, 0_u32..3)),
        prop::bool::weighted(0.15),
    );
    vec(one, 0..10).prop_map(|sketches| {
        let grants = sketches.into_iter().zip(1..).map(
            |((tools, (begin, life), instance, uses, revoked), id)| {
                let names: Vec<_> = unique(&tools).iter().map(|tool| format!("t{tool}")).collect();
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                let mut grant = grant(id, "bot", &names, begin, begin + life);
                if let Some(instance) = instance {
                    grant = for_instance(grant, instance);
                }
                if let Some((max_uses, uses)) = uses {
                    grant = counted(grant, max_uses, uses);
                }
                grant.revoked =
                    revoked.then(|| Revocation { at: wall(0), reason: "revoked".into() });
                grant
            },
        );
        table(grants.collect())
    })
}

fn destination() -> impl Strategy<Value = Destination> {
    let known = select(ADDRESSES).prop_map(|text| text.parse().unwrap());
    let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits)));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)));
    let address = prop_oneof![8 => known, 1 => v4, 1 => v6];
    (address, 1_u16..64, select(&[PROTOCOL_TCP, PROTOCOL_UDP][..]))
        .prop_map(|(ip, port, protocol)| Destination::from_socket_addr((ip, port).into(), protocol))
}

/// The tables say the same as the decision: allowed without asking is an uncounted allow.
fn check(
    policy: &Policy,
    grants: &GrantTable,
    compiled: &Compiled,
    instance: InstanceId,
    destination: &Destination,
    now_ns: u64,
) -> Result<(), TestCaseError> {
    let agent = policy.agent("bot").unwrap();
    let of_instance = lookup(compiled, instance_scope(instance), destination, now_ns);
    let of_agent = lookup(compiled, agent_scope(AGENT), destination, now_ns);
    let found = of_instance.0.or(of_agent.0);
    match rule(policy, agent, grants, instance, destination, now_ns) {
        Ruling::Allow { tool, grant, expires_ns, reason: _, counted: false } => match found {
            Some(rule) => {
                prop_assert_eq!(rule.tool, tool);
                prop_assert_eq!(rule.grant, grant.unwrap_or(GrantId::NONE));
                prop_assert_eq!(rule.expires_ns, expires_ns);
            }
            None => prop_assert!(of_instance.1 || of_agent.1, "a miss without truncation"),
        },
        Ruling::Allow { .. } | Ruling::Deny { .. } | Ruling::Wait { .. } => {
            prop_assert_eq!(found, None);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_allow_exactly_what_the_decision_allows_without_counting(
        tools in vec(tool(), 1..5),
        grants in grants(),
        destinations in vec(destination(), 40),
        later in 0_u64..200,
    ) {
        let policy = without_overlaps(tools);
        let compiled = compiled(&policy, &grants);
        // From then on the tables lack what has begun, so they are compiled anew.
        let now_ns = (NOW + later).min(compiled.next_change_ns - 1);
        for destination in &destinations {
            for instance in 1..4 {
                let instance = InstanceId::new(instance);
                check(&policy, &grants, &compiled, instance, destination, NOW)?;
                check(&policy, &grants, &compiled, instance, destination, now_ns)?;
            }
        }
    }

    #[test]
    fn no_prefix_is_there_twice_and_each_is_in_its_normal_form(
        tools in vec(tool(), 1..5),
        grants in grants(),
    ) {
        let compiled = compiled(&without_overlaps(tools), &grants);
        let mut seen = std::collections::HashSet::new();
        for entry in &compiled.prefixes {
            let key = (entry.scope, entry.protocol, entry.address, entry.prefix_length);
            prop_assert!(seen.insert(key));
            let host_bits = u128::MAX.checked_shr(entry.prefix_length).unwrap_or(0);
            prop_assert_eq!(u128::from_be_bytes(entry.address) & host_bits, 0);
            let used = entry.table.length as usize;
            prop_assert!(used <= PORT_RULES);
            let unused = entry.table.rules.iter().skip(used);
            prop_assert!(unused.into_iter().all(|rule| *rule == PortRule::default()));
        }
    }
}

fn entry<'a>(compiled: &'a Compiled, scope: u64, network: &str) -> Option<&'a ScopedPrefix> {
    let prefix = Prefix::of(network.parse::<IpNet>().unwrap());
    compiled.prefixes.iter().find(|entry| {
        entry.scope == scope
            && entry.address == prefix.octets()
            && entry.prefix_length == u32::from(prefix.length())
    })
}

const BOT: &str = "agents:\n  - {name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]]";

#[test]
fn folds_shorter_prefixes_into_longer_ones() {
    let policy = policy(&format!(
        "tools:
  - {{name: net, cidrs: [10.0.0.0/8, 10.1.0.0/16], ports: [80]}}
  - {{name: host, cidrs: [10.1.2.3], ports: [443]}}
{BOT}, tools: [net, host], standing: [net, host]}}
"
    ));
    let compiled = compiled(&policy, &GrantTable::default());
    let ports = |network| {
        let found = entry(&compiled, agent_scope(AGENT), network)?;
        let rules = found.table.rules.iter().take(found.table.length as usize);
        Some(rules.map(|rule| rule.first).collect::<Vec<_>>())
    };
    assert_eq!(ports("10.0.0.0/8"), Some(vec![80]));
    assert_eq!(ports("10.1.0.0/16"), None, "it says what the shorter one says");
    assert_eq!(ports("10.1.2.3/32"), Some(vec![80, 443]));
    assert_eq!(compiled.prefixes.len(), 2);
}

#[test]
fn puts_empty_prefixes_where_shorter_ones_must_not_reach() {
    let policy = policy(&format!(
        "tools:
  - {{name: v6, cidrs: [\"::/0\"], ports: [443]}}
  - {{name: v4, cidrs: [169.254.0.0/16], ports: [443]}}
{BOT}, tools: [v6, v4], standing: [v6, v4]}}
"
    ));
    let compiled = compiled(&policy, &GrantTable::default());
    for hole in ["0.0.0.0/0", "169.254.169.254/32", "fd00:ec2::254/128"] {
        let found = entry(&compiled, agent_scope(AGENT), hole).unwrap();
        assert_eq!((found.table.length, found.table.truncated), (0, 0), "{hole}");
    }
    assert_eq!(compiled.prefixes.len(), 5);
}

#[test]
fn marks_a_table_that_does_not_hold_all_rules() {
    let ports: Vec<_> = (0..20).map(|n| (100 + 2 * n).to_string()).collect();
    let policy = policy(&format!(
        "tools:
  - {{name: many, cidrs: [10.0.0.0/8], ports: [{}]}}
  - {{name: one, cidrs: [10.0.0.0/8], ports: [9]}}
{BOT}, tools: [many, one], standing: [one]}}
",
        ports.join(", ")
    ));
    let grants = table(vec![grant(1, "bot", &["many"], 0, 500)]);
    let compiled = compiled(&policy, &grants);
    let found = entry(&compiled, agent_scope(AGENT), "10.0.0.0/8").unwrap();
    assert_eq!((found.table.length, found.table.truncated), (16, 1));
    assert_eq!(found.table.rules[0].first, 9, "what lasts longest is kept");
}

#[test]
fn an_instance_has_its_own_tables_only_for_what_it_has_beyond_its_agent() {
    let policy = policy(&format!(
        "tools:\n  - {{name: web, cidrs: [10.0.0.0/8], ports: [80]}}\n{BOT}, tools: [web]}}\n"
    ));
    let of = |grants| {
        let compiled = compiled(&policy, &table(grants));
        let expiry = |scope| {
            entry(&compiled, scope, "10.0.0.0/8").map(|found| found.table.rules[0].expires_ns)
        };
        (expiry(agent_scope(AGENT)), expiry(instance_scope(InstanceId::new(5))))
    };
    let shared = grant(1, "bot", &["web"], 0, 300);
    let shorter = for_instance(grant(2, "bot", &["web"], 0, 200), 5);
    let longer = for_instance(grant(3, "bot", &["web"], 0, 400), 5);
    assert_eq!(of(vec![shorter.clone()]), (None, Some(200)));
    assert_eq!(of(vec![shared.clone(), shorter]), (Some(300), None));
    assert_eq!(of(vec![shared, longer]), (Some(300), Some(400)));
}

#[test]
fn leaves_out_what_must_be_asked_for_and_says_when_that_changes() {
    let policy = policy(&format!(
        "tools:\n  - {{name: web, cidrs: [10.0.0.0/8], ports: [80]}}\n{BOT}, tools: [web]}}\n"
    ));
    let mut revoked = grant(4, "bot", &["web"], 110, 500);
    revoked.revoked = Some(Revocation { at: wall(0), reason: "revoked".into() });
    let grants = table(vec![
        counted(grant(1, "bot", &["web"], 0, 500), 3, 0),
        grant(2, "bot", &["web"], 130, 500),
        grant(3, "bot", &["web"], 120, 500),
        revoked,
    ]);
    let found = compiled(&policy, &grants);
    assert!(found.prefixes.is_empty());
    assert_eq!(found.next_change_ns, 120);
    assert_eq!(compiled(&policy, &GrantTable::default()).next_change_ns, NEVER_NS);
}

#[test]
fn an_agent_without_an_id_has_no_tables() {
    let policy = policy(&format!(
        "tools:\n  - {{name: web, cidrs: [10.0.0.0/8], ports: [80]}}\n{BOT}, tools: [web], standing: [web]}}\n"
    ));
    assert!(compile(&policy, &GrantTable::default(), |_| None, NOW).prefixes.is_empty());
}
