//! What the compiled tables hold. That they agree with the decision is in `property`.

mod property;

use agent_enforcer_common::{
    NEVER_NS,
    destination::Destination,
    id::{AgentId, InstanceId},
    verdict::{PortRule, agent_scope, instance_scope},
};
use ipnet::IpNet;

use super::{Compiled, Policy, ScopedPrefix, compile, coverage::Prefix, testing::policy};
use crate::resolver::grant::{
    Grant, GrantTable, Revocation,
    testing::{counted, for_instance, grant, wall},
};

const AGENT: AgentId = AgentId::new(3);
/// The moment that is compiled for; grants begin and end around it.
const NOW: u64 = 100;

/// What the kernel side finds, written as plainly as can be: of the prefixes that contain the
/// address the longest one, and in it the first rule that has the port and is not over.
pub(super) fn lookup(
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
            && entry.kind == destination.kind()
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
fn endpoints_are_prefixes_of_their_family_and_unix_sockets_are_none() {
    let policy = policy(&format!(
        "tools:
  - {{name: machine, endpoints: [\"vsock:2:*\", \"vsock:0:*\", \"vsock:3:7\"]}}
  - {{name: kernel, endpoints: [netlink:audit, family:packet, unix:/run/x]}}
{BOT}, tools: [machine, kernel], standing: [machine, kernel]}}
"
    ));
    let mut found: Vec<_> = compiled(&policy, &GrantTable::default())
        .prefixes
        .iter()
        .map(|entry| {
            let rule = entry.table.rules[0];
            assert_eq!((entry.table.length, rule.first, rule.last), (1, 0, 0));
            (entry.kind, u128::from_be_bytes(entry.address), entry.prefix_length)
        })
        .collect();
    found.sort_unstable();
    let kinds = [Destination::vsock(0, 0), Destination::netlink(0), Destination::socket(0)];
    let [vsock, netlink, socket] = kinds.map(|peer| peer.kind());
    let cid = |cid: u128| cid << 64;
    let expected = [
        (vsock, 0, 64),
        (vsock, cid(2), 64),
        (vsock, cid(3) | 7, 128),
        (netlink, 9, 128),
        (socket, 17, 128),
    ];
    assert_eq!(found, expected);
}

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
