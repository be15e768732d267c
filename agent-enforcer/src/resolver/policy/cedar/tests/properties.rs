//! The decision and the compiled tables against Cedar's authorizer, asked about everything at once: all
//! policies, rendered and written, with every fact there is.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP},
    id::{AgentId, InstanceId},
    reason::Reason,
    verdict::{PortRule, agent_scope, instance_scope},
};
use cedar_policy::{Authorizer, Context, Decision, Entities, PolicySet, Request, Schema};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;

use super::{
    super::super::{
        Compiled, ImageOperand, Policy, Question, Ruling, compile, compile_tests::lookup, rule,
    },
    SCHEMA, process,
};
use crate::{
    decision::{grant_name, instance_name},
    resolver::grant::{
        Grant, GrantTable,
        testing::{counted, for_instance, grant},
    },
};

const NOW: u64 = 1_000;
const AGENT: AgentId = AgentId::new(3);
const PRINCIPALS: [&str; 2] = ["alice@example.com", "bob@example.com"];

const CONDITIONS: &[&str] = &[
    "",
    "when { context has grant }",
    "unless { context has grant }",
    "when { context has grant && context.grant.principal == \"alice@example.com\" }",
    "unless { context has grant && context.grant.principal == \"bob@example.com\" }",
    "when { context.time.hour < 12 }",
    "unless { context.time.weekday == 6 || context.time.weekday == 7 }",
    "when { resource has port && resource.port < 30 }",
    "when { resource has address && resource.address.isInRange(ip(\"192.0.2.0/31\")) }",
    "when { principal has uid && principal.uid == 7 }",
    "when { resource in [Tool::\"t0\", Tool::\"t2\"] }",
    "when { principal in Agent::\"cat\" }",
    "when { context.attestation >= 3 }",
    "when { context.attestation + 9223372036854775806 > 0 }",
];

#[derive(Clone, Debug)]
struct Sketch {
    forbid: bool,
    agent: Option<&'static str>,
    action: Option<&'static str>,
    tool: Option<usize>,
    condition: &'static str,
    approval: bool,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    (
        any::<bool>(),
        prop::option::of(select(&["bot", "bot", "cat"][..])),
        prop::option::of(select(&["NetworkConnect", "NetworkListen"][..])),
        prop::option::of(0_usize..4),
        select(CONDITIONS),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(forbid, agent, action, tool, condition, approval)| Sketch {
            forbid,
            agent,
            action,
            tool,
            condition,
            approval: approval && !forbid,
        })
}

fn cedar(sketches: &[Sketch]) -> String {
    let mut text = String::new();
    for (number, sketch) in sketches.iter().enumerate() {
        let Sketch { forbid, agent, action, tool, condition, approval } = sketch;
        let approval = if *approval { "@approval(\"required\")" } else { "" };
        let effect = if *forbid { "forbid" } else { "permit" };
        let agent = agent.map(|agent| format!(" in Agent::\"{agent}\"")).unwrap_or_default();
        let action = action.map(|action| format!(" == Action::\"{action}\"")).unwrap_or_default();
        let tool = tool.map(|tool| format!(" in Tool::\"t{tool}\"")).unwrap_or_default();
        writeln!(
            text,
            "@id(\"p{number}\") {approval} {effect} (principal{agent}, action{action}, resource{tool}) {condition};"
        )
        .unwrap();
    }
    text
}

fn load(approved: &[bool], standing: &[bool], sketches: &[Sketch]) -> Option<Policy> {
    let chosen = |wanted: &dyn Fn(usize) -> bool| {
        let names: Vec<_> = (0..4).filter(|at| wanted(*at)).map(|at| format!("t{at}")).collect();
        names.join(", ")
    };
    let tools = chosen(&|at| approved[at]);
    let standing = chosen(&|at| approved[at] && standing[at]);
    let yaml = format!(
        "apiVersion: agent-enforcer/v1
tools:
  - {{name: t0, cidrs: [192.0.2.0], ports: [20-40]}}
  - {{name: t1, cidrs: [192.0.2.1], ports: [20-40], listen: [\"192.0.2.1:20-40\"]}}
  - {{name: t2, cidrs: [192.0.2.2], ports: [20-40]}}
  - {{name: t3, cidrs: [192.0.2.3], ports: [20-40], listen: [\"192.0.2.3:20-40\"]}}
agents:
  - {{name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [{tools}], standing: [{standing}]}}
  - {{name: cat, owner: o, purpose: p, selectors: [[\"unix:uid:8\"]], tools: [t0]}}
"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.yaml"), yaml).unwrap();
    std::fs::write(dir.path().join("more.cedar"), cedar(sketches)).unwrap();
    Policy::load(dir.path()).ok()
}

type GrantSketch = (usize, (u64, u64), Option<u64>, Option<u32>, &'static str);

fn grants() -> impl Strategy<Value = Vec<Grant>> {
    let one = (
        0_usize..4,
        (0_u64..1_500, 1_u64..1_500),
        prop::option::weighted(0.4, 1_u64..3),
        prop::option::weighted(0.2, 0_u32..3),
        select(&PRINCIPALS[..]),
    );
    vec(one, 0..6).prop_map(|sketches| {
        let make = |(sketch, id)| {
            let (tool, (begin, life), instance, uses, principal): GrantSketch = sketch;
            let mut made = grant(id, "bot", &[&format!("t{tool}")], begin, begin + life);
            made.principal = principal.into();
            if let Some(instance) = instance {
                made = for_instance(made, instance);
            }
            match uses {
                Some(uses) => counted(made, 2, uses),
                None => made,
            }
        };
        sketches.into_iter().zip(1..).map(make).collect()
    })
}

/// What the authorizer says of everything.
#[derive(Debug, PartialEq)]
enum Verdict {
    Allow { approval: bool },
    Deny,
    Failed,
}

/// The oracle: nothing of what this program does to be fast.
struct Oracle {
    schema: Schema,
    set: PolicySet,
}

impl Oracle {
    fn new(policy: &Policy) -> Self {
        let schema = Schema::from_cedarschema_str(SCHEMA).unwrap().0;
        let mut set = PolicySet::new();
        for rule in &policy.cedar().rules {
            set.add(rule.policy.clone()).unwrap();
        }
        Self { schema, set }
    }

    fn ask(&self, question: &Question<'_>, tool: &str, grant: Option<&Grant>) -> Verdict {
        let Question { instance, destination, wall, .. } = *question;
        let process = question.image.process.unwrap();
        let instance = instance_name(instance);
        let place = destination.to_string();
        let entities = json!([
            {"uid": {"type": "Instance", "id": instance}, "parents": [{"type": "Agent", "id": "bot"}],
             "attrs": {"uid": process.uid, "executable": process.exe, "sha256": process.sha256,
                       "unit": process.unit, "cgroup": process.cgroup}},
            {"uid": {"type": "Destination", "id": place}, "parents": [{"type": "Tool", "id": tool}],
             "attrs": {"family": "ip", "port": destination.port(), "protocol": "tcp",
                       "address": {"__extn": {"fn": "ip", "arg": destination.ip().to_string()}}}},
        ]);
        let entities = Entities::from_json_value(entities, Some(&self.schema)).unwrap();
        let seconds = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let minute = wall - Duration::from_secs(seconds % 60);
        let minute = humantime::format_rfc3339_seconds(minute).to_string();
        let mut context = json!({
            "attestation": 2,
            "time": {"minute": {"__extn": {"fn": "datetime", "arg": minute}},
                     "hour": seconds / 3600 % 24, "weekday": (seconds / 86400 + 3) % 7 + 1},
        });
        if let Some(grant) = grant {
            context["grant"] = json!({
                "id": grant_name(grant.id), "principal": grant.principal, "task": grant.task
            });
        }
        let called = destination.family() == Destination::v4(1, 1, 6).listening().family();
        let action = if called { "NetworkListen" } else { "NetworkConnect" };
        let action = format!("Action::\"{action}\"").parse().unwrap();
        let context = Context::from_json_value(context, Some((&self.schema, &action))).unwrap();
        let principal = format!("Instance::\"{instance}\"").parse().unwrap();
        let resource = format!("Destination::\"{place}\"").parse().unwrap();
        // With the schema: what the daemon gives Cedar must be what policies are checked by.
        let request =
            Request::new(principal, action, resource, context, Some(&self.schema)).unwrap();
        let response = Authorizer::new().is_authorized(&request, &self.set, &entities);
        if response.diagnostics().errors().next().is_some() {
            return Verdict::Failed;
        }
        let asks = |id| self.set.policy(id).unwrap().annotation("approval").is_some();
        match response.decision() {
            Decision::Allow => {
                Verdict::Allow { approval: response.diagnostics().reason().all(asks) }
            }
            Decision::Deny => Verdict::Deny,
        }
    }
}

fn check(
    oracle: &Oracle,
    question: &Question<'_>,
    compiled: &Compiled,
) -> Result<(), TestCaseError> {
    let Question { policy, grants, instance, destination, tool, now_ns, .. } = *question;
    let tool = tool.unwrap();
    let called = destination.listening() == *destination;
    let live: Vec<&Grant> = grants
        .iter()
        .filter(|grant| grant.scope.tool_names().iter().any(|name| **name == tool.name))
        .filter(|grant| grant.subject.instance.is_none_or(|only| only == instance))
        .filter(|grant| grant.state(now_ns) == crate::resolver::grant::GrantState::Live)
        .filter(|grant| !called || !grant.is_counted())
        .collect();
    let with_grant = |grant| oracle.ask(question, &tool.name, grant);
    let ruling = rule(question);
    match ruling {
        Ruling::Allow { grant, approval, .. } => {
            let grant = grant.map(|id| *live.iter().find(|grant| grant.id == id).unwrap());
            let asks = approval == super::Approval::Required;
            prop_assert_eq!(with_grant(grant), Verdict::Allow { approval: asks });
        }
        Ruling::Deny { reason, .. } => {
            prop_assert_ne!(with_grant(None), Verdict::Allow { approval: false });
            let failed = live
                .iter()
                .map(|one| Some(*one))
                .chain([None])
                .map(with_grant)
                .any(|one| one == Verdict::Failed);
            let allowed = live
                .iter()
                .map(|one| Some(*one))
                .chain([None])
                .map(with_grant)
                .any(|one| matches!(one, Verdict::Allow { .. }));
            prop_assert!(!allowed || failed);
            let approved = question.agent.approves(tool.id);
            let known = [Reason::PolicyForbids, Reason::PolicyFailed, Reason::ToolNotApproved];
            prop_assert!(known.contains(&reason));
            prop_assert_eq!(approved, reason != Reason::ToolNotApproved);
        }
        Ruling::Wait { .. } => {
            prop_assert!(live.is_empty());
            prop_assert_eq!(with_grant(None), Verdict::Deny);
        }
    }
    // What the kernel side allows without asking, at this moment or any other, Cedar allows.
    let scopes = [instance_scope(instance), agent_scope(AGENT)];
    let found: Vec<PortRule> =
        scopes.iter().filter_map(|scope| lookup(compiled, *scope, destination, now_ns).0).collect();
    for found in found {
        prop_assert_eq!(found.tool, tool.id);
        let grant = (!found.grant.is_none()).then(|| live.iter().find(|one| one.id == found.grant));
        let grant = grant.map(|grant| *grant.unwrap());
        prop_assert_eq!(with_grant(grant), Verdict::Allow { approval: false });
    }
    // And what is always allowed is in the tables: nobody waits for the daemon without need.
    let settled = !policy.must_ask_for_some(question.agent);
    if let (true, Ruling::Allow { counted: false, .. }) = (settled, ruling) {
        let first = scopes.iter().find_map(|scope| lookup(compiled, *scope, destination, now_ns).0);
        prop_assert!(first.is_some());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decision_and_the_tables_agree_with_cedar(
        approved in vec(prop::bool::weighted(0.8), 4),
        standing in vec(prop::bool::weighted(0.4), 4),
        sketches in vec(sketch(), 0..5),
        made in grants(),
        minutes in vec(0_u64..20_000, 3),
    ) {
        let Some(policy) = load(&approved, &standing, &sketches) else {
            return Err(TestCaseError::reject("refused by the schema"));
        };
        let oracle = Oracle::new(&policy);
        let mut table = GrantTable::default();
        made.iter().cloned().for_each(|grant| table.insert(grant));
        let compiled = compile(&policy, &table, |name| (name == "bot").then_some(AGENT), NOW);
        let process = process();
        for minute in minutes {
            for (address, instance) in (0_u8..4).flat_map(|at| [(at, 1), (at, 2)]) {
                let port = 20 + u16::from(address) * 5;
                let peer = (std::net::Ipv4Addr::new(192, 0, 2, address), port);
                let connect = Destination::from_socket_addr(peer.into(), PROTOCOL_TCP);
                for destination in [connect, connect.listening()] {
                    let tool = policy.tool_at(&destination);
                    if tool.is_none() {
                        continue;
                    }
                    let question = Question {
                        policy: &policy,
                        agent: policy.agent("bot").unwrap(),
                        grants: &table,
                        instance: InstanceId::new(instance),
                        image: ImageOperand { outside: None, via: &[], process: Some(&process) },
                        destination: &destination,
                        tool,
                        now_ns: NOW,
                        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + minute * 60),
                    };
                    check(&oracle, &question, &compiled)?;
                }
            }
        }
    }
}
