//! The compiled tables against the decision: random policies, grants, destinations and times.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP, PROTOCOL_UDP},
    id::{GrantId, InstanceId},
    verdict::{PORT_RULES, PortRule, agent_scope, instance_scope},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{Approval, Compiled, ImageOperand, Policy, Question, Ruling, rule, testing::load_text},
    AGENT, NOW, compiled, lookup, table,
};
use crate::resolver::grant::{
    GrantTable, Revocation,
    testing::{counted, for_instance, grant, wall},
};

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

/// Endpoints that nest and stand beside each other, with numbers that are also those of others.
const ENDPOINTS: &[&str] = &[
    "vsock:2:*",
    "vsock:2:5",
    "vsock:5:*",
    "vsock:5:2",
    "vsock:0:*",
    "vsock:0:4294967294",
    "netlink:2",
    "netlink:5",
    "family:5",
    "family:17",
    "unix:/run/2",
    "unix:@2",
];

/// Places to be called at that nest and stand beside each other, at addresses that are called too.
const LISTEN: &[&str] = &[
    "10.1.2.3:1-20",
    "10.1.2.3:21-40",
    "10.0.0.0/8:30-50",
    "0.0.0.0/0:45",
    "*:46-50",
    "[::1]:1-9",
    "[::/64]:5-30",
    "[2001:db8::/32]:7",
];

#[derive(Clone, Debug)]
struct ToolSketch {
    networks: Vec<&'static str>,
    listen: Vec<&'static str>,
    endpoints: Vec<&'static str>,
    ports: Vec<(u16, u16)>,
    protocol: &'static str,
    approved: bool,
    standing: bool,
    approval: bool,
    /// Whether it may be used on behalf of whom every grant is for.
    for_principal: bool,
}

fn tool() -> impl Strategy<Value = ToolSketch> {
    let port = (1_u16..60, 0_u16..4).prop_map(|(first, more)| (first, first + more));
    (
        vec(select(NETWORKS), 0..5),
        vec(select(LISTEN), 0..3),
        vec(select(ENDPOINTS), 1..4),
        prop_oneof![4 => vec(port.clone(), 1..4), 1 => vec(port, 18..30)],
        select(&["tcp", "udp", "[tcp, udp]"][..]),
        prop::bool::weighted(0.9),
        (prop::bool::weighted(0.3), prop::bool::weighted(0.2), prop::bool::weighted(0.8)),
    )
        .prop_map(|(networks, listen, endpoints, ports, protocol, approved, more)| {
            let (standing, approval, for_principal) = more;
            ToolSketch {
                networks,
                listen,
                endpoints,
                ports,
                protocol,
                approved,
                standing,
                approval,
                for_principal,
            }
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
        let quoted = |texts: &[&str]| {
            let texts: Vec<_> = unique(texts).iter().map(|text| format!("\"{text}\"")).collect();
            texts.join(", ")
        };
        let (cidrs, endpoints) = (quoted(&tool.networks), quoted(&tool.endpoints));
        write!(text, "  - {{name: t{number}, endpoints: [{endpoints}]").unwrap();
        if !tool.listen.is_empty() {
            write!(text, ", listen: [{}]", quoted(&tool.listen)).unwrap();
        }
        if tool.approval {
            text.push_str(", approval: required");
        }
        if cidrs.is_empty() {
            text.push_str("}\n");
            continue;
        }
        let ports: Vec<_> =
            unique(&tool.ports).iter().map(|(a, b)| format!("\"{a}-{b}\"")).collect();
        let (ports, protocol) = (ports.join(", "), tool.protocol);
        writeln!(text, ", cidrs: [{cidrs}], ports: [{ports}], protocol: {protocol}}}").unwrap();
    }
    let names = |wanted: &dyn Fn(&ToolSketch) -> bool| {
        let chosen = tools.iter().enumerate().filter(|(_, tool)| wanted(tool));
        chosen.map(|(number, _)| format!("t{number}")).collect::<Vec<_>>().join(", ")
    };
    let approved = names(&|tool| tool.approved);
    let standing = names(&|tool| tool.approved && tool.standing);
    let for_principal = names(&|tool| tool.for_principal);
    writeln!(
        text,
        "approvers: [{{name: ada, uid: 1}}]\nprincipals: [{{name: alice@example.com, tools: [{for_principal}]}}]"
    )
    .unwrap();
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
    let address = (address, 1_u16..64, select(&[PROTOCOL_TCP, PROTOCOL_UDP][..])).prop_map(
        |(ip, port, protocol)| Destination::from_socket_addr((ip, port).into(), protocol),
    );
    let number = || select(&[0, 1, 2, 5, 17, u32::MAX - 1, u32::MAX][..]);
    prop_oneof![
        4 => address.clone(),
        2 => address.prop_map(Destination::listening),
        2 => (number(), number()).prop_map(|(cid, port)| Destination::vsock(cid, port)),
        1 => number().prop_map(Destination::netlink),
        1 => number().prop_map(Destination::socket),
        1 => number().prop_map(|number| Destination::unix(number.into())),
    ]
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
    let question = Question {
        policy,
        agent,
        grants,
        instance,
        image: ImageOperand::default(),
        destination,
        tool: policy.tool_at(destination),
        now_ns,
        wall: wall(0),
    };
    match rule(&question) {
        Ruling::Allow {
            tool,
            grant,
            expires_ns,
            reason: _,
            counted: false,
            approval: Approval::None,
        } => match found {
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
            let key = (entry.scope, entry.kind, entry.address, entry.prefix_length);
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
