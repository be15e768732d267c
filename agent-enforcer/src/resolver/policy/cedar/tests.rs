//! What policies can do and what they can't, each promise attacked once.

mod properties;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{
    NEVER_NS,
    destination::{Destination, PROTOCOL_TCP},
    id::{ExecId, GrantId, InstanceId},
    reason::Reason,
};

use super::{
    super::{
        Approval, ImageOperand, Policy, PolicyErrors, Question, Ruling, determining_policies,
        explain_rule, rule,
    },
    Access, Action, SCHEMA,
    facts::Reads,
};
use crate::{
    decision::{Code, Process, Sha256Digest},
    resolver::grant::{
        Grant, GrantTable,
        testing::{counted, grant},
    },
};

const YAML: &str = "apiVersion: agent-enforcer/v1
tools:
  - {name: mail, cidrs: [192.0.2.1], ports: [25, 587]}
  - {name: dns, cidrs: [192.0.2.2], ports: [53]}
  - {name: deploy, cidrs: [192.0.2.3], ports: [443], approval: required}
  - {name: world, cidrs: [192.0.2.4], ports: [443]}
  - {name: code, cidrs: [192.0.2.5], ports: [443], via: [git]}
approvers: [{name: ada, uid: 1000}]
agents:
  - {name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [mail, dns, deploy, code], standing: [dns, deploy]}
  - {name: cat, owner: o, purpose: p, selectors: [[\"unix:uid:8\"]], tools: []}
";
const NOW: u64 = 1_000_000_000_000;
/// 2023-11-14 22:13:20 UTC, a Tuesday.
const WALL: Duration = Duration::from_secs(1_700_000_000);

fn load(cedar: &str) -> Result<Policy, PolicyErrors> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.yaml"), YAML).unwrap();
    std::fs::write(dir.path().join("more.cedar"), cedar).unwrap();
    Policy::load(dir.path())
}

fn policy(cedar: &str) -> Policy {
    load(cedar).unwrap_or_else(|errors| panic!("{errors}"))
}

fn access<'p>(policy: &'p Policy, tool: &str, action: Action) -> Option<&'p Access> {
    let tool = policy.tool_named(tool).unwrap().id;
    policy.cedar().access(policy.agent("bot").unwrap(), tool, action)
}

fn process() -> Process {
    Process {
        pid: 42,
        start_ns: 1,
        exec: ExecId::new(9),
        exe: Some(PathBuf::from("/usr/bin/git")),
        sha256: Some(Sha256Digest([0xab; 32])),
        fsverity: None,
        code: Code::Own,
        uid: 7,
        gid: 7,
        cgroup: "/system.slice/bot.service".to_owned(),
        unit: Some("bot.service".to_owned()),
        container: None,
        comm: "git".to_owned(),
        ancestors: Vec::new(),
        spiffe_id: None,
    }
}

/// One call of the bot, with these grants.
struct Call<'a> {
    policy: &'a Policy,
    grants: Vec<Grant>,
    to: &'static str,
    wall: SystemTime,
    outside: Option<Reason>,
}

impl<'a> Call<'a> {
    fn new(policy: &'a Policy, to: &'static str) -> Self {
        let wall = SystemTime::UNIX_EPOCH + WALL;
        Self { policy, grants: Vec::new(), to, wall, outside: None }
    }

    fn with(mut self, grant: Grant) -> Self {
        self.grants.push(grant);
        self
    }

    fn ask<T>(&self, ask: impl FnOnce(&Question<'_>) -> T) -> T {
        let mut table = GrantTable::default();
        self.grants.iter().cloned().for_each(|grant| table.insert(grant));
        let destination = Destination::from_socket_addr(self.to.parse().unwrap(), PROTOCOL_TCP);
        let process = process();
        ask(&Question {
            policy: self.policy,
            agent: self.policy.agent("bot").unwrap(),
            grants: &table,
            instance: InstanceId::new(1),
            image: ImageOperand { outside: self.outside, via: &[], process: Some(&process) },
            destination: &destination,
            tool: self.policy.tool_at(&destination),
            now_ns: NOW,
            wall: self.wall,
        })
    }

    fn ruling(&self) -> Ruling {
        self.ask(rule)
    }

    fn reason(&self) -> Reason {
        match self.ruling() {
            Ruling::Allow { reason, .. }
            | Ruling::Deny { reason, .. }
            | Ruling::Wait { reason, .. } => reason,
        }
    }

    fn policies(&self) -> Vec<String> {
        self.ask(determining_policies).iter().map(ToString::to_string).collect()
    }
}

/// A grant of the mail tool for alice@example.com.
fn mail_grant() -> Grant {
    grant(1, "bot", &["mail"], 0, NOW + 900_000_000_000)
}

const MAIL: &str = "192.0.2.1:25";
const DNS: &str = "192.0.2.2:53";
const DEPLOY: &str = "192.0.2.3:443";
const WORLD: &str = "192.0.2.4:443";
const CODE: &str = "192.0.2.5:443";

#[test]
fn the_yaml_is_loaded_from_the_cedar_that_is_shown() {
    let policy = policy("");
    let text = &policy.cedar().texts()["yaml.cedar"];
    assert_eq!(
        &**text,
        r#"@id("yaml/bot/ceiling")
forbid (principal in Agent::"bot", action, resource) unless { resource in [Tool::"mail", Tool::"dns", Tool::"deploy", Tool::"code"] };

@id("yaml/bot/standing")
permit (principal in Agent::"bot", action, resource) when { resource in Tool::"dns" };

@id("yaml/bot/standing/approval")
@approval("required")
permit (principal in Agent::"bot", action, resource) when { resource in Tool::"deploy" };

@id("yaml/bot/granted")
permit (principal in Agent::"bot", action, resource) when { context has grant && resource in [Tool::"mail", Tool::"code"] };

@id("yaml/cat/ceiling")
forbid (principal in Agent::"cat", action, resource);
"#
    );
    assert!(matches!(access(&policy, "dns", Action::Connect), Some(Access::Standing)));
    assert!(matches!(access(&policy, "mail", Action::Connect), Some(Access::WithGrant)));
    assert!(access(&policy, "world", Action::Connect).is_none());
    assert!(!policy.must_ask_for_some(policy.agent("cat").unwrap()));
}

#[test]
fn policies_that_read_nothing_of_the_call_are_decided_once() {
    let policy = policy(
        r#"@id("no-listening") forbid (principal in Agent::"bot", action == Action::"NetworkListen", resource);
@id("mail-stands") permit (principal in Agent::"bot", action, resource in Tool::"mail");
@id("nobody-deploys") forbid (principal, action, resource) when { resource in [Tool::"deploy"] };
@id("of-another") forbid (principal in Agent::"cat", action, resource) when { context.time.hour > 5 };
"#,
    );
    for tool in ["mail", "dns", "deploy", "code"] {
        let Some(Access::Never(ids)) = access(&policy, tool, Action::Listen) else {
            panic!("{tool}")
        };
        assert!(ids.iter().any(|id| &**id == "no-listening"));
    }
    assert!(matches!(access(&policy, "mail", Action::Connect), Some(Access::Standing)));
    let Some(Access::Never(ids)) = access(&policy, "deploy", Action::Connect) else { panic!() };
    assert_eq!(ids.iter().map(|id| &**id).collect::<Vec<_>>(), ["nobody-deploys"]);
    assert_eq!(Call::new(&policy, MAIL).reason(), Reason::AllowedStanding);
}

#[test]
fn slices_hold_only_what_may_have_a_say() {
    let policy = policy(
        r#"@id("at-night") forbid (principal, action, resource in Tool::"mail") when { context.time.hour < 6 };
@id("of-another") forbid (principal in Agent::"cat", action, resource) when { context.time.hour < 6 };
@id("elsewhere") forbid (principal, action, resource in Tool::"dns") when { principal has uid && principal.uid == 0 };
"#,
    );
    let ids = |tool| match access(&policy, tool, Action::Connect) {
        Some(Access::Conditional(slice)) => {
            let mut ids: Vec<_> = slice.notes.keys().map(ToString::to_string).collect();
            ids.sort_unstable();
            (ids, slice.reads_time())
        }
        other => panic!("{tool}: {other:?}"),
    };
    assert_eq!(ids("mail"), (vec!["at-night".to_owned(), "yaml/bot/granted".to_owned()], true));
    assert_eq!(ids("dns"), (vec!["elsewhere".to_owned(), "yaml/bot/standing".to_owned()], false));
    assert!(matches!(access(&policy, "code", Action::Connect), Some(Access::WithGrant)));
    assert!(policy.must_ask_for_some(policy.agent("bot").unwrap()));
}

#[test]
fn permit_opens_nothing_beyond_the_ceiling_via_and_attestation() {
    let policy = policy(r#"@id("everything") permit (principal, action, resource);"#);
    assert_eq!(Call::new(&policy, WORLD).reason(), Reason::ToolNotApproved);
    assert_eq!(Call::new(&policy, "203.0.113.1:1").reason(), Reason::NoTool);
    assert_eq!(Call::new(&policy, CODE).reason(), Reason::NotVia);
    let outside = Call { outside: Some(Reason::SoftwareNotApproved), ..Call::new(&policy, MAIL) };
    assert_eq!(outside.reason(), Reason::SoftwareNotApproved);
    let Ruling::Allow { approval, .. } = Call::new(&policy, DEPLOY).ruling() else { panic!() };
    assert_eq!(approval, Approval::Required, "a permit takes no approval away");
    assert_eq!(Call::new(&policy, MAIL).reason(), Reason::AllowedStanding);
}

#[test]
fn permit_lets_an_approved_tool_be_used_without_a_grant_on_its_conditions() {
    let policy = policy(
        r#"@id("tuesdays") permit (principal in Agent::"bot", action, resource in Tool::"mail")
when { context.time.weekday == 2 && resource has port && resource.port == 587 };"#,
    );
    let call = Call::new(&policy, "192.0.2.1:587");
    assert_eq!(
        (call.reason(), call.policies()),
        (Reason::AllowedPolicy, vec!["tuesdays".to_owned()])
    );
    let Ruling::Allow { grant, expires_ns, .. } = call.ruling() else { panic!() };
    // Twenty seconds into the minute: forty are left.
    assert_eq!((grant, expires_ns), (None, NOW + 40_000_000_000));
    assert_eq!(Call::new(&policy, MAIL).reason(), Reason::NoGrant);
    let next_day =
        Call { wall: call.wall + Duration::from_hours(24), ..Call::new(&policy, "192.0.2.1:587") };
    assert_eq!(next_day.reason(), Reason::NoGrant);
    assert_eq!(next_day.with(mail_grant()).reason(), Reason::AllowedGrant);
}

#[test]
fn forbid_wins_over_a_standing_tool_a_grant_and_an_approval() {
    let policy = policy(
        r#"@id("no-root") forbid (principal, action, resource) when { principal has uid && principal.uid < 10 };"#,
    );
    for call in [
        Call::new(&policy, DNS),
        Call::new(&policy, MAIL).with(mail_grant()),
        Call::new(&policy, DEPLOY),
        // Nobody is asked for a grant that would not help.
        Call::new(&policy, MAIL),
    ] {
        assert!(matches!(call.ruling(), Ruling::Deny { reason: Reason::PolicyForbids, .. }));
        assert_eq!(call.policies(), ["no-root"]);
    }
}

#[test]
fn forbid_on_the_principal_leaves_the_grants_of_others() {
    let policy = policy(
        r#"@id("not-alice") forbid (principal, action, resource in Tool::"mail")
when { context has grant && context.grant.principal == "alice@example.com" };"#,
    );
    assert_eq!(Call::new(&policy, MAIL).reason(), Reason::NoGrant, "another's would help");
    let alices = Call::new(&policy, MAIL).with(mail_grant());
    assert_eq!(
        (alices.reason(), alices.policies()),
        (Reason::PolicyForbids, vec!["not-alice".to_owned()])
    );
    let bobs =
        Grant { principal: "bob@example.com".into(), ..grant(2, "bot", &["mail"], 0, NOW + 1) };
    let Ruling::Allow { grant, expires_ns, .. } = alices.with(bobs).ruling() else { panic!() };
    assert_eq!((grant, expires_ns), (Some(GrantId::new(2)), NOW + 1));
    // A use in hand or a live flow is under this very grant.
    let tool = policy.tool_named("mail").unwrap();
    let until = |grant: &Grant| Call::new(&policy, MAIL).ask(|q| q.permitted_until_ns(tool, grant));
    assert_eq!(until(&counted(mail_grant(), 1, 1)), None);
    let bobs = Grant { principal: "bob@example.com".into(), ..counted(mail_grant(), 1, 1) };
    assert_eq!(until(&bobs), Some(NEVER_NS));
}

#[test]
fn forbid_on_the_time_holds_when_its_time_comes() {
    let policy = policy(
        r#"@id("closed") forbid (principal, action, resource in Tool::"dns")
when { context.time.minute >= datetime("2023-11-14T22:14:00Z") && context.time.hour == 22 };"#,
    );
    let at = |seconds| Call {
        wall: SystemTime::UNIX_EPOCH + WALL + Duration::from_secs(seconds),
        ..Call::new(&policy, DNS)
    };
    let Ruling::Allow { expires_ns, .. } = at(39).ruling() else { panic!() };
    assert_eq!(expires_ns, NOW + 1_000_000_000);
    assert_eq!(at(40).reason(), Reason::PolicyForbids);
    assert!(
        at(40).ask(|question| Question { ..*question }.depends_on_time()),
        "its denial must not outlive the minute either"
    );
    assert_eq!(at(3600).reason(), Reason::AllowedStanding);
}

#[test]
fn policy_that_cannot_be_evaluated_denies_even_if_others_permit() {
    let policy = policy(
        r#"@id("overflow") forbid (principal, action, resource)
when { principal has uid && principal.uid + 9223372036854775807 < 0 };"#,
    );
    for call in [Call::new(&policy, DNS), Call::new(&policy, MAIL).with(mail_grant())] {
        assert!(matches!(call.ruling(), Ruling::Deny { reason: Reason::PolicyFailed, .. }));
        assert_eq!(call.policies(), ["overflow"]);
    }
}

#[test]
fn policy_that_fails_before_any_call_is_not_left_out() {
    let policy = policy(
        r#"@id("overflow") forbid (principal, action, resource)
when { context has grant && 9223372036854775807 + 1 > 0 };"#,
    );
    assert_eq!(Call::new(&policy, MAIL).with(mail_grant()).reason(), Reason::PolicyFailed);
}

#[test]
fn permit_can_ask_for_an_approver() {
    let policy = policy(
        r#"@id("with-a-yes") @approval("required") @reason("it costs money")
permit (principal, action, resource in Tool::"mail");"#,
    );
    let without = Call::new(&policy, MAIL).ruling();
    assert!(matches!(
        without,
        Ruling::Allow { approval: Approval::Required, reason: Reason::AllowedPolicy, .. }
    ));
    let granted = Call::new(&policy, MAIL).with(mail_grant()).ruling();
    assert!(matches!(
        granted,
        Ruling::Allow { approval: Approval::None, reason: Reason::AllowedGrant, .. }
    ));
}

#[test]
fn attestation_and_the_program_are_what_was_attested() {
    let digest = "ab".repeat(32);
    let policy = policy(&format!(
        r#"@id("program") permit (principal in Agent::"bot", action, resource in Tool::"mail")
when {{ context.attestation >= 2 && principal has sha256 && principal.sha256 == "{digest}"
  && principal has unit && principal.unit == "bot.service"
  && resource has address && resource.address.isInRange(ip("192.0.2.0/24")) }};"#
    ));
    assert_eq!(Call::new(&policy, MAIL).reason(), Reason::AllowedPolicy);
}

#[test]
fn explains_what_the_policies_say() {
    let policy = policy(
        r#"@id("no-root") forbid (principal, action, resource in Tool::"dns") when { principal has uid };
@id("alice") permit (principal, action, resource in Tool::"mail") when { resource has port };"#,
    );
    let last = |to| {
        let steps = Call::new(&policy, to).ask(|question| explain_rule(question, to));
        let step = steps.into_iter().next_back().unwrap();
        (step.question, step.found, step.holds)
    };
    assert_eq!(last(DNS), ("policy".to_owned(), "policies `no-root` forbid it".to_owned(), false));
    assert_eq!(last(MAIL), ("policy".to_owned(), "policies `alice` permit it".to_owned(), true));
}

#[test]
fn reads_are_found_wherever_they_hide() {
    let reads = |conditions: &str| {
        let text = format!(r#"@id("x") permit (principal, action, resource) {conditions};"#);
        let policy: cedar_policy::Policy = text.parse().unwrap();
        Reads::of_conditions(&policy.to_json().unwrap())
    };
    let known = Reads::default();
    assert_eq!(
        reads(r#"when { resource in Tool::"a" || principal in [Agent::"b", Agent::"c"] }"#),
        known
    );
    assert_eq!(reads(r#"when { action == Action::"NetworkListen" }"#), known);
    let grant = Reads { grant: true, time: false, call: false };
    assert_eq!(reads("unless { context has grant }"), grant);
    let time = Reads { grant: false, time: true, call: true };
    assert_eq!(reads("when { {Value: context.time.hour}.Value < 12 }"), time);
    assert_eq!(reads("when { if context.time.hour < 3 then true else false }"), time);
    assert_eq!(reads("when { [1, context.time.hour].contains(3) }"), time);
    let call = Reads { grant: false, time: false, call: true };
    assert_eq!(reads("when { resource has port }"), call);
    assert_eq!(reads(r#"when { principal == Instance::"i-1" }"#), call);
    assert_eq!(reads(r#"when { principal in Instance::"i-1" }"#), call);
    assert_eq!(reads("when { context.attestation > 2 }"), call);
    let all = Reads { grant: true, time: true, call: true };
    assert_eq!(reads("when { {a: context}.a.attestation > 2 }"), all);
    assert_eq!(reads("when { (if true then context else context).attestation > 2 }"), all);
    let attributes = Reads { grant: true, time: false, call: true };
    assert_eq!(reads(r#"when { context has grant && context.grant.task == "x" }"#), attributes);
}

#[test]
fn no_policy_takes_the_stack() {
    let problem = |condition: &str| {
        let text =
            format!("@id(\"deep\") forbid (principal, action, resource) when {{ {condition} }};");
        load(&text).err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    let depth = |levels| format!("{}true{}", "(".repeat(levels), ")".repeat(levels));
    assert!(problem(&depth(3000)).contains("nested deeper"));
    assert!(problem(&depth(32)).contains("nested deeper"));
    assert!(!problem(&depth(31)).contains("nested deeper"));
    assert!(problem(&format!("context.time{}", ".hour".repeat(100_000))).contains("4096 bytes"));
    // The deepest of each kind that fits.
    for deep in [
        format!("context.time{} == 1", ".a".repeat(1900)),
        format!("{}1 == context.attestation", "1+".repeat(1900)),
        format!("{}context.attestation == 7", "context.attestation == 1 || ".repeat(140)),
        format!("{}true", "if context has grant then true else ".repeat(110)),
        format!("{}true", "true&&".repeat(650)),
    ] {
        let found = problem(&deep);
        assert!(!found.contains("bytes") && !found.contains("nested"), "{found}");
    }
    let added = policy(&format!(
        "@id(\"deep\") forbid (principal, action, resource) when {{ {}context.attestation == 7 }};",
        "1+".repeat(1900)
    ));
    // Either way it is decided, and nobody's stack is gone.
    assert!(
        [Reason::AllowedStanding, Reason::PolicyFailed].contains(&Call::new(&added, DNS).reason())
    );
}

#[test]
fn the_docs_show_the_schema() {
    let page = include_str!("../../../../../docs/policy.md");
    for line in SCHEMA.lines().filter(|line| !line.is_empty()) {
        assert!(page.contains(line), "docs/policy.md lacks {line}");
    }
}
