//! Which tool a destination belongs to, and what is decided for it.

use agent_enforcer_common::{
    NEVER_NS,
    destination::{Destination, PROTOCOL_TCP, PROTOCOL_UDP},
    id::{GrantId, InstanceId, ToolId},
    reason::Reason,
};

use super::{
    Approval, Endpoint, ImageOperand, Policy, Question, Ruling, explain_rule, rule, testing::policy,
};
use crate::{
    control::ExplainStep,
    resolver::grant::{
        Grant, GrantTable, Revocation,
        testing::{counted, for_instance, grant, wall},
    },
};

const HERE: InstanceId = InstanceId::new(1);
const NOW: u64 = 50;

fn office() -> Policy {
    policy(
        "tools:
  - {name: mail, cidrs: [192.0.2.0/24], ports: [25, 587-590]}
  - {name: dns, cidrs: [192.0.2.53, \"2001:db8::53\"], ports: [53], protocol: [tcp, udp]}
  - {name: world, cidrs: [0.0.0.0/0], ports: [443]}
  - {name: world6, cidrs: [\"::/0\"], ports: [443, 80]}
  - {name: metadata, cidrs: [169.254.169.254], ports: [80]}
agents:
  - {name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [mail, dns], standing: [dns]}
",
    )
}

fn to(text: &str, protocol: u8) -> Destination {
    Destination::from_socket_addr(text.parse().unwrap(), protocol)
}

fn tool_at(text: &str, protocol: u8) -> Option<String> {
    office().tool_at(&to(text, protocol)).map(|tool| tool.name.to_string())
}

fn ruling(grants: &[Grant], destination: &str) -> Ruling {
    ruling_of(&office(), grants, &to(destination, PROTOCOL_TCP), ImageOperand::default())
}

fn ruling_of(
    policy: &Policy,
    grants: &[Grant],
    destination: &Destination,
    image: ImageOperand<'_>,
) -> Ruling {
    let table = table(grants);
    let agent = policy.agent("bot").unwrap();
    let tool = policy.tool_at(destination);
    rule(&Question {
        policy,
        agent,
        grants: &table,
        instance: HERE,
        image,
        destination,
        tool,
        now_ns: NOW,
    })
}

fn table(grants: &[Grant]) -> GrantTable {
    let mut table = GrantTable::default();
    grants.iter().cloned().for_each(|grant| table.insert(grant));
    table
}

fn mail(reason: Reason) -> Ruling {
    Ruling::Wait { reason, tool: ToolId::new(1) }
}

#[test]
fn finds_the_tool_by_address_port_and_protocol() {
    for (destination, protocol, tool) in [
        ("192.0.2.9:25", PROTOCOL_TCP, Some("mail")),
        ("192.0.2.9:587", PROTOCOL_TCP, Some("mail")),
        ("192.0.2.9:590", PROTOCOL_TCP, Some("mail")),
        ("192.0.2.9:591", PROTOCOL_TCP, None),
        ("192.0.2.9:25", PROTOCOL_UDP, None),
        ("192.0.3.9:25", PROTOCOL_TCP, None),
        ("192.0.2.53:53", PROTOCOL_UDP, Some("dns")),
        ("192.0.2.53:25", PROTOCOL_TCP, Some("mail")),
        ("[2001:db8::53]:53", PROTOCOL_TCP, Some("dns")),
        ("[::ffff:192.0.2.9]:25", PROTOCOL_TCP, Some("mail")),
        ("192.0.2.9:443", PROTOCOL_TCP, Some("world")),
        ("[2001:db8::1]:443", PROTOCOL_TCP, Some("world6")),
    ] {
        assert_eq!(tool_at(destination, protocol).as_deref(), tool, "{destination}");
    }
}

#[test]
fn ipv6_prefix_never_covers_an_ipv4_destination() {
    assert_eq!(tool_at("198.51.100.1:80", PROTOCOL_TCP), None);
    assert_eq!(tool_at("[::ffff:198.51.100.1]:80", PROTOCOL_TCP), None);
    assert_eq!(tool_at("[2001:db8::1]:80", PROTOCOL_TCP).as_deref(), Some("world6"));
}

#[test]
fn metadata_addresses_belong_to_a_tool_that_names_them_only() {
    assert_eq!(tool_at("169.254.169.254:443", PROTOCOL_TCP), None);
    assert_eq!(tool_at("169.254.169.254:80", PROTOCOL_TCP).as_deref(), Some("metadata"));
    assert_eq!(tool_at("[fd00:ec2::254]:443", PROTOCOL_TCP), None);
    assert_eq!(tool_at("[fd00:ec2::253]:443", PROTOCOL_TCP).as_deref(), Some("world6"));
}

#[test]
fn finds_the_tool_of_other_families_by_what_it_names() {
    let policy = policy(
        "tools:
  - {name: machine, endpoints: [\"vsock:2:*\", \"vsock:3:1024\"]}
  - {name: kernel, endpoints: [netlink:audit, family:packet]}
  - {name: engine, endpoints: [unix:/run/engine.sock, \"unix:@engine\"]}
",
    );
    let tool = |destination: Destination| policy.tool_at(&destination).map(|tool| &*tool.name);
    assert_eq!(tool(Destination::vsock(2, 7)), Some("machine"));
    assert_eq!(tool(Destination::vsock(3, 1024)), Some("machine"));
    assert_eq!(tool(Destination::vsock(3, 1025)), None);
    assert_eq!(tool(Destination::netlink(9)), Some("kernel"));
    assert_eq!(tool(Destination::netlink(17)), None, "that is the number of the family");
    assert_eq!(tool(Destination::socket(17)), Some("kernel"));
    assert_eq!(tool(Destination::socket(9)), None, "that is the number of the protocol");
    assert_eq!(tool(Destination::unix(9)), None);
    let named = |text: &str| policy.tool_with(&Endpoint::parse(text).unwrap()).is_some();
    assert!(named("unix:/run/engine.sock") && named("unix:@engine"));
    assert!(!named("unix:/run/engine") && !named("unix:@Engine"));
    let paths: Vec<_> = policy.socket_paths().map(|(path, tool)| (&**path, &*tool.name)).collect();
    assert_eq!(paths, [("/run/engine.sock", "engine")]);
}

#[test]
fn everyone_has_what_stands_for_everyone() {
    let policy = policy(
        "tools:
  - {name: web, cidrs: [192.0.2.0/24], ports: [443]}
  - {name: basics, endpoints: [unix:/run/systemd/journal/socket]}
everyone: {standing: [basics]}
agents:
  - {name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [web]}
  - {name: cat, owner: o, purpose: p, selectors: [[\"unix:uid:8\"]], tools: []}
",
    );
    let basics = policy.tool_named("basics").unwrap();
    for agent in policy.agents() {
        let found = rule(&Question {
            policy: &policy,
            agent,
            grants: &GrantTable::default(),
            instance: HERE,
            image: ImageOperand::default(),
            destination: &Destination::unix(7),
            tool: Some(basics),
            now_ns: NOW,
        });
        let reason = Reason::AllowedStanding;
        let standing = Ruling::Allow {
            tool: basics.id,
            grant: None,
            expires_ns: NEVER_NS,
            reason,
            counted: false,
            approval: Approval::None,
        };
        assert_eq!(found, standing, "{}", agent.name);
    }
    assert!(!policy.agent("cat").unwrap().approves(policy.tool_named("web").unwrap().id));
}

#[test]
fn denies_what_belongs_to_no_tool_or_to_one_that_is_not_approved() {
    assert_eq!(ruling(&[], "192.0.2.9:1"), Ruling::Deny { reason: Reason::NoTool, tool: None });
    let grants = [grant(1, "bot", &["world"], 0, 100)];
    assert_eq!(
        ruling(&grants, "192.0.2.9:443"),
        Ruling::Deny { reason: Reason::ToolNotApproved, tool: Some(ToolId::new(3)) }
    );
}

#[test]
fn allows_a_standing_tool_for_ever() {
    assert_eq!(
        ruling(&[], "192.0.2.53:53"),
        Ruling::Allow {
            tool: ToolId::new(2),
            grant: None,
            expires_ns: NEVER_NS,
            reason: Reason::AllowedStanding,
            counted: false,
            approval: Approval::None,
        }
    );
}

#[test]
fn allows_with_a_live_grant_until_it_expires() {
    let allow = |id, expires_ns, counted| Ruling::Allow {
        tool: ToolId::new(1),
        grant: Some(GrantId::new(id)),
        expires_ns,
        reason: Reason::AllowedGrant,
        counted,
        approval: Approval::None,
    };
    let mut grants = vec![counted(grant(1, "bot", &["mail"], 0, 900), 1, 0)];
    assert_eq!(ruling(&grants, "192.0.2.9:25"), allow(1, 900, true));
    grants.push(for_instance(grant(2, "bot", &["mail"], 50, 51), 1));
    assert_eq!(ruling(&grants, "192.0.2.9:25"), allow(2, 51, false));
    grants.push(grant(3, "bot", &["dns", "mail"], 0, 60));
    assert_eq!(ruling(&grants, "192.0.2.9:25"), allow(3, 60, false));
}

#[test]
fn waits_with_the_reason_that_explains_best() {
    assert_eq!(ruling(&[], "192.0.2.9:25"), mail(Reason::NoGrant));
    let other = [
        grant(1, "cat", &["mail"], 0, 100),
        for_instance(grant(2, "bot", &["mail"], 0, 100), 2),
        grant(3, "bot", &["dns"], 0, 100),
    ];
    assert_eq!(ruling(&other, "192.0.2.9:25"), mail(Reason::NoGrant));
    let mut revoked = grant(1, "bot", &["mail"], 0, 100);
    revoked.revoked = Some(Revocation { at: wall(0), reason: "leaked".into() });
    assert_eq!(ruling(&[revoked], "192.0.2.9:25"), mail(Reason::GrantRevoked));
    let expired = grant(1, "bot", &["mail"], 0, 50);
    assert_eq!(ruling(&[expired], "192.0.2.9:25"), mail(Reason::GrantExpired));
    let spent = counted(grant(1, "bot", &["mail"], 0, 100), 2, 2);
    assert_eq!(ruling(&[spent], "192.0.2.9:25"), mail(Reason::GrantUsedUp));
    let later = grant(1, "bot", &["mail"], 51, 100);
    assert_eq!(ruling(&[later], "192.0.2.9:25"), mail(Reason::GrantNotYetValid));
}

fn steps(grants: &[Grant], destination: &str) -> Vec<(String, bool, String)> {
    let policy = office();
    let agent = policy.agent("bot").unwrap();
    let peer = to(destination, PROTOCOL_TCP);
    let question = Question {
        policy: &policy,
        agent,
        grants: &table(grants),
        instance: HERE,
        image: ImageOperand::default(),
        destination: &peer,
        tool: policy.tool_at(&peer),
        now_ns: NOW,
    };
    explain_rule(&question, destination)
        .into_iter()
        .map(|ExplainStep { question, found, holds }| (question, holds, found))
        .collect()
}

#[test]
fn explains_every_step_as_far_as_the_decision_went() {
    let words = |grants: &[Grant], destination: &str| -> Vec<(String, bool)> {
        steps(grants, destination).into_iter().map(|(word, holds, _)| (word, holds)).collect()
    };
    let expected = |steps: &[(&str, bool)]| -> Vec<(String, bool)> {
        steps.iter().map(|(word, holds)| ((*word).to_owned(), *holds)).collect()
    };
    assert_eq!(words(&[], "192.0.2.9:1"), expected(&[("manifest", true), ("tool", false)]));
    assert_eq!(
        words(&[], "192.0.2.9:443"),
        expected(&[("manifest", true), ("tool", true), ("approved", false)])
    );
    let granted = [("manifest", true), ("tool", true), ("approved", true), ("grant", true)];
    assert_eq!(words(&[], "192.0.2.53:53"), expected(&granted));
    let live = [grant(1, "bot", &["mail"], 0, 100)];
    assert_eq!(words(&live, "192.0.2.9:25"), expected(&granted));
    let refused = [("manifest", true), ("tool", true), ("approved", true), ("grant", false)];
    assert_eq!(words(&[], "192.0.2.9:25"), expected(&refused));
}

#[test]
fn explains_a_grant_by_what_a_person_wants_to_know() {
    let found = |grant: Grant| steps(&[grant], "192.0.2.9:25").pop().unwrap().2;
    let second = 1_000_000_000;
    assert_eq!(
        found(grant(4, "bot", &["mail"], 0, 90 * second)),
        "grant g-4 for `mail` on behalf of alice@example.com is live for another 1m 30s"
    );
    assert!(
        found(grant(4, "bot", &["mail"], 60 * second, 90 * second))
            .ends_with("is not_yet_valid: it begins in 1m")
    );
    assert!(
        found(counted(grant(4, "bot", &["mail"], 0, 90), 3, 3))
            .ends_with("is used_up: all 3 uses are spent")
    );
    assert!(found(grant(4, "bot", &["mail"], 0, 1)).ends_with("is expired"));
    let mut revoked = grant(4, "bot", &["mail"], 0, 90);
    revoked.revoked = Some(Revocation { at: wall(0), reason: "leaked".into() });
    assert!(found(revoked).ends_with("is revoked: leaked"));
}

/// A tool for two executables, one that needs approval, one for anything of the agent's.
const CAREFUL: &str = "tools:
  - {name: code, cidrs: [192.0.2.1], ports: [443], via: [git, curl]}
  - {name: deploy, cidrs: [192.0.2.2], ports: [443], approval: required}
  - {name: web, cidrs: [192.0.2.3], ports: [443]}
  - {name: serve, listen: [\"192.0.2.9:80\"]}
approvers: [{name: ada, uid: 1000}]
agents:
  - {name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [code, deploy, web, serve], standing: [code, deploy, web]}
";

#[test]
fn executables_use_what_names_them_and_the_agents_own_what_names_none() {
    let policy = policy(CAREFUL);
    let (code, web) = (ToolId::new(1), ToolId::new(3));
    let reason_of = |destination: &str, image| match ruling_of(
        &policy,
        &[],
        &to(destination, PROTOCOL_TCP),
        image,
    ) {
        Ruling::Allow { reason, .. }
        | Ruling::Deny { reason, .. }
        | Ruling::Wait { reason, .. } => reason,
    };
    let outside = Some(Reason::SoftwareNotApproved);
    let (allowed, not_via) = (Reason::AllowedStanding, Reason::NotVia);
    for (image, at_code, at_web) in [
        (ImageOperand::default(), not_via, allowed),
        (ImageOperand { outside: None, via: &[code] }, allowed, allowed),
        (ImageOperand { outside, via: &[] }, not_via, Reason::SoftwareNotApproved),
        (ImageOperand { outside, via: &[code] }, allowed, Reason::SoftwareNotApproved),
        (ImageOperand { outside, via: &[web] }, not_via, allowed),
    ] {
        assert_eq!(reason_of("192.0.2.1:443", image), at_code, "{image:?}");
        assert_eq!(reason_of("192.0.2.3:443", image), at_web, "{image:?}");
    }
}

#[test]
fn what_needs_approval_says_so_and_is_in_no_table() {
    let policy = policy(CAREFUL);
    let deploy = to("192.0.2.2:443", PROTOCOL_TCP);
    let ruling = ruling_of(&policy, &[], &deploy, ImageOperand::default());
    assert!(matches!(ruling, Ruling::Allow { approval: Approval::Required, .. }), "{ruling:?}");
    let must: Vec<_> = policy.tools().iter().map(super::Tool::must_be_asked_for).collect();
    assert_eq!(must, [true, true, false, false]);
}

#[test]
fn grant_for_somebody_is_bounded_by_what_may_be_done_for_them() {
    let principals = |list: &str| policy(&format!("{CAREFUL}principals: {list}"));
    let own = to("192.0.2.9:80", PROTOCOL_TCP).listening();
    let grants = [grant(1, "bot", &["serve"], 0, 100)];
    let reason = |policy: &Policy| match ruling_of(policy, &grants, &own, ImageOperand::default()) {
        Ruling::Allow { reason, .. }
        | Ruling::Deny { reason, .. }
        | Ruling::Wait { reason, .. } => reason,
    };
    assert_eq!(reason(&policy(CAREFUL)), Reason::AllowedGrant);
    let alice = "{name: alice@example.com, tools: [serve]}";
    assert_eq!(reason(&principals(&format!("[{alice}]"))), Reason::AllowedGrant);
    let alice = "{name: alice@example.com, tools: [web]}";
    assert_eq!(reason(&principals(&format!("[{alice}]"))), Reason::PrincipalNotAllowed);
    let bob = "{name: bob@example.com, tools: [serve]}";
    assert_eq!(reason(&principals(&format!("[{bob}]"))), Reason::PrincipalNotAllowed);
    assert_eq!(reason(&principals("[]")), Reason::PrincipalNotAllowed);
}

#[test]
fn who_is_called_has_nothing_of_a_counted_grant() {
    let own = to("192.0.2.9:80", PROTOCOL_TCP).listening();
    let grants = [counted(grant(1, "bot", &["serve"], 0, 100), 5, 0)];
    let ruling = ruling_of(&policy(CAREFUL), &grants, &own, ImageOperand::default());
    assert_eq!(ruling, Ruling::Wait { reason: Reason::NoGrant, tool: ToolId::new(4) });
}
