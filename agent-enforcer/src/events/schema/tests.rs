mod attempt;

use std::{
    ffi::OsStr, net::SocketAddrV6, os::unix::ffi::OsStrExt as _, path::PathBuf, sync::Arc,
    time::Duration,
};

use agent_enforcer_common::{
    destination::Destination,
    id::{Generation, GrantId, InstanceId},
    reason::Reason,
    record::Hook,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    decision::{CallDecision, Code, Outcome, Script, Sha256Digest, Unverified},
    events::{
        GhostFacts, GrantFacts, InstanceFacts, LossCause, LostRecords, ManifestFacts, Silence,
        TokenFacts, TokenRefused, WebhookFacts,
        testing::{TestClock, call, process},
    },
    hostile_text::is_hostile,
};

mod peers;

const EPOCH_MS: u64 = 1_700_000_000_000;

/// Boot time 5 s is [`EPOCH_MS`].
fn moment() -> Moment {
    Moment::now(&TestClock::new(5_000_000_000, EPOCH_MS))
}

fn webhook_facts() -> WebhookFacts {
    WebhookFacts {
        question: "a-0123456789abcdef".to_owned(),
        url: "https://approvals.example.org/".to_owned(),
        error: "the webhook answered 500".to_owned(),
    }
}

#[test]
fn whom_a_broker_says_a_process_is_stands_in_its_events() {
    assert_eq!(call_event(call())["unmapped"]["agent_enforcer"].get("spiffe_id"), None);
    let id = "spiffe://example.org/agent/deploy-bot";
    let mut named = call();
    Arc::make_mut(&mut named.process).spiffe_id = Some(id.parse().unwrap());
    assert_eq!(call_event(named)["unmapped"]["agent_enforcer"]["spiffe_id"], id);
}

fn folded(call: CallDecision) -> Folded {
    Folded {
        count: 1,
        first_ns: call.time_ns,
        last_ns: call.time_ns,
        stalled_ns: call.stalled_ns,
        pids: vec![call.process.pid],
        more_pids: false,
        call: Box::new(call),
    }
}

fn parse(record: &Record) -> Value {
    assert!(!record.line.contains(is_hostile), "{}", record.line);
    serde_json::from_str(&record.line).unwrap()
}

fn call_event(call: CallDecision) -> Value {
    let mut schema = Schema::new("web-1".to_owned());
    parse(&schema.call(&folded(call), &moment(), Some(9)).unwrap())
}

fn daemon_record(event: &DaemonEvent) -> Record {
    let mut schema = Schema::new("web-1".to_owned());
    schema.daemon(event, (4_000_000_000, 4_000_000_000), &moment(), Some(9)).unwrap()
}

#[test]
fn denied_call_is_a_refused_network_activity_with_everything_known() {
    let event = call_event(call());
    let mut expected: Value = serde_json::from_str(include_str!("denied_call.json")).unwrap();
    expected["metadata"]["uid"] = event["metadata"]["uid"].clone();
    expected["metadata"]["product"]["version"] = env!("CARGO_PKG_VERSION").into();
    assert_eq!(event, expected);
}

#[test]
fn each_outcome_has_its_activity_action_and_disposition() {
    for (outcome, type_uid, action, disposition, status) in [
        (Outcome::Allowed, 400_101, 1, 1, 1),
        (Outcome::Denied, 400_105, 2, 2, 2),
        (Outcome::Audited, 400_101, 3, 17, 1),
        (Outcome::Stalled, 400_101, 4, 14, 99),
    ] {
        let event = call_event(CallDecision { outcome, ..call() });
        assert_eq!(event["type_uid"], type_uid, "{outcome:?}");
        assert_eq!(event["action_id"], action, "{outcome:?}");
        assert_eq!(event["disposition_id"], disposition, "{outcome:?}");
        assert_eq!(event["status_id"], status, "{outcome:?}");
        assert_eq!(event["policy"]["is_applied"], outcome != Outcome::Audited);
    }
}

#[test]
fn audited_call_tells_why_it_would_have_been_denied() {
    let event = call_event(CallDecision {
        outcome: Outcome::Audited,
        reason: Reason::Audited,
        audited_reason: Some(Reason::NoTool),
        ..call()
    });
    let extension = &event["unmapped"]["agent_enforcer"];
    assert_eq!(event["metadata"]["event_code"], "audited");
    assert_eq!(extension["audited_reason"], "no_tool");
    assert_eq!(extension["remedy"], Reason::NoTool.remedy());
    assert_eq!(event["severity_id"], 3);
}

#[test]
fn call_that_may_not_wait_tells_what_is_missing() {
    let event = call_event(CallDecision {
        reason: Reason::DeniedOnMiss,
        miss_reason: Some(Reason::GrantRevoked),
        ..call()
    });
    let extension = &event["unmapped"]["agent_enforcer"];
    assert_eq!(event["status_code"], "denied_on_miss");
    assert_eq!(extension["reason"], "denied_on_miss");
    assert_eq!(extension["miss_reason"], "grant_revoked");
    assert_eq!(extension["remedy"], Reason::GrantRevoked.remedy());
    assert_eq!(event["status_detail"], Reason::GrantRevoked.remedy());
    assert_eq!(event["severity_id"], 3);
    assert!(event["message"].as_str().unwrap().ends_with(": denied_on_miss (grant_revoked)"));
}

#[test]
fn every_reason_can_be_told() {
    for &reason in Reason::ALL {
        let event = call_event(CallDecision { reason, ..call() });
        assert_eq!(event["status_code"], reason.word());
        assert_eq!(event["status_detail"], reason.remedy());
        assert!(event["severity_id"].as_u64().is_some_and(|id| (1..=5).contains(&id)));
        let is_high = event["severity_id"].as_u64() >= Some(4);
        assert_eq!(event["is_alert"], is_high, "{reason:?}");
    }
}

#[test]
fn what_there_is_none_of_is_null() {
    let event = call_event(CallDecision { tool: None, grant: None, ..call() });
    let extension = event["unmapped"]["agent_enforcer"].as_object().unwrap();
    for key in ["principal", "grant", "task", "tool"] {
        assert_eq!(extension.get(key), Some(&Value::Null), "{key}");
    }
    for key in ["firewall_rule", "authorizations"] {
        assert_eq!(event.get(key), None, "{key}");
    }
    assert_eq!(event["actor"].get("user"), None);
}

#[test]
fn stalled_time_is_the_duration() {
    let event = call_event(CallDecision { stalled_ns: 250_000_000, ..call() });
    assert_eq!(event["duration"], 250);
    assert_eq!(event["start_time"], EPOCH_MS - 1000);
    assert_eq!(event["end_time"], EPOCH_MS - 750);
    assert_eq!(event["unmapped"]["agent_enforcer"]["stalled_ns"], 250_000_000);
}

#[test]
fn folded_calls_tell_their_count_span_and_processes() {
    let mut many = folded(call());
    many.count = 500;
    many.last_ns += 900_000_000;
    many.pids = vec![42, 43];
    many.more_pids = true;
    let record = Schema::new("web-1".to_owned()).call(&many, &moment(), Some(1)).unwrap();
    let event = parse(&record);
    assert_eq!(record.count, 500);
    assert_eq!(event["count"], 500);
    assert_eq!(event["start_time"], EPOCH_MS - 1000);
    assert_eq!(event["end_time"], EPOCH_MS - 100);
    assert_eq!(event["time"], EPOCH_MS - 100);
    assert_eq!(event["duration"], 900);
    let extension = event["unmapped"]["agent_enforcer"].as_object().unwrap();
    assert_eq!(extension["pids"], json!([42, 43]));
    assert_eq!(extension["more_pids"], true);
    // They are of one call only.
    assert!(!extension.contains_key("socket_cookie"));
    assert_eq!(event["connection_info"].get("uid"), None);
}

#[test]
fn ipv6_link_local_peer_names_its_interface() {
    let address: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let destination =
        Destination::from_socket_addr(SocketAddrV6::new(address, 53, 0, 3).into(), 17);
    let event = call_event(CallDecision { destination, ..call() });
    assert_eq!(event["dst_endpoint"], json!({"ip": "fe80::1", "port": 53, "interface_uid": "3"}));
    assert_eq!(event["connection_info"]["protocol_name"], "udp");
    assert_eq!(event["connection_info"]["protocol_ver_id"], 6);
    assert_eq!(event["unmapped"]["agent_enforcer"]["destination"], "[fe80::1%3]:53/udp");
}

#[test]
fn refused_socket_has_no_peer() {
    let destination = Destination::without_peer(132);
    let event = call_event(CallDecision { destination, hook: Hook::SocketCreate, ..call() });
    assert_eq!(event.get("dst_endpoint"), None);
    assert_eq!(event["connection_info"].get("protocol_name"), None);
    assert_eq!(event["connection_info"]["protocol_num"], 132);
    assert_eq!(event["connection_info"]["protocol_ver_id"], 0);
}

#[test]
fn process_that_was_gone_has_no_file() {
    let mut gone = process(42);
    gone.exe = None;
    gone.sha256 = None;
    gone.ancestors.clear();
    let event = call_event(CallDecision { process: Arc::new(gone), ..call() });
    let process = event["actor"]["process"].as_object().unwrap();
    for key in ["file", "parent_process", "ancestry"] {
        assert!(!process.contains_key(key), "{key}");
    }
}

#[test]
fn hostile_strings_do_not_break_the_line_and_are_not_lost() {
    let hostile = "a\n\u{1b}]52;c;eA==\u{7}\0\u{9b}\u{2028}\u{202e}\u{e0041}\"}";
    let mut evil = process(42);
    evil.comm = hostile.to_owned();
    evil.cgroup = hostile.to_owned();
    evil.unit = Some(hostile.to_owned());
    evil.exe = Some(PathBuf::from(hostile));
    evil.ancestors[0].exe = PathBuf::from(hostile);
    let mut decision = CallDecision { process: Arc::new(evil), ..call() };
    let grant = Arc::make_mut(decision.grant.as_mut().unwrap());
    grant.task = hostile.to_owned();
    grant.principal = hostile.to_owned();
    // `parse` sees to the line.
    let event = call_event(decision);
    let extension = &event["unmapped"]["agent_enforcer"];
    for value in [
        &event["actor"]["process"]["name"],
        &event["actor"]["process"]["file"]["path"],
        &event["actor"]["process"]["ancestry"][0]["path"],
        &event["actor"]["user"]["name"],
        &extension["cgroup"],
        &extension["unit"],
        &extension["task"],
    ] {
        assert_eq!(value, hostile);
    }
}

#[test]
fn paths_that_are_not_utf8_are_encoded_and_named() {
    let mut odd = process(42);
    odd.exe = Some(PathBuf::from(OsStr::from_bytes(b"/opt/100%/\xff")));
    odd.ancestors[1].exe = PathBuf::from(OsStr::from_bytes(b"/sbin/\xfe"));
    odd.code = Code::Script(Script {
        path: PathBuf::from(OsStr::from_bytes(b"/opt/\xfd")),
        sha256: Sha256Digest([1; 32]),
        fsverity: Some(Sha256Digest([2; 32])),
    });
    let event = call_event(CallDecision { process: Arc::new(odd.clone()), ..call() });
    assert_eq!(event["actor"]["process"]["file"]["path"], "/opt/100%25/%FF");
    assert_eq!(event["actor"]["process"]["file"]["name"], "%FF");
    assert_eq!(event["actor"]["process"]["ancestry"][1]["path"], "/sbin/%FE");
    assert_eq!(
        event["unmapped"]["agent_enforcer"]["percent_encoded"],
        json!(["process.file.path", "unmapped.agent_enforcer.script", "process.ancestry[1].path"])
    );
    assert_eq!(event["unmapped"]["agent_enforcer"]["script"], "/opt/%FD");
    odd.code = Code::Unverified(Unverified::InlineCode);
    let event = call_event(CallDecision { process: Arc::new(odd), ..call() });
    assert_eq!(event["unmapped"]["agent_enforcer"]["unverified"], "inline_code");
    assert_eq!(event["unmapped"]["agent_enforcer"]["script"], json!(null));
}

#[test]
fn event_uids_are_unique_over_runs_of_the_daemon() {
    let uids = |schema: &mut Schema| {
        [(); 2].map(|()| {
            let record = schema.call(&folded(call()), &moment(), None).unwrap();
            let event = parse(&record);
            assert_eq!(event["metadata"].get("sequence"), None);
            event["metadata"]["uid"].as_str().unwrap().to_owned()
        })
    };
    let [first, second] = uids(&mut Schema::new(String::new()));
    let [third, _] = uids(&mut Schema::new(String::new()));
    assert_ne!(first, second);
    assert_ne!(first, third);
}

fn grant_facts() -> GrantFacts {
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    GrantFacts {
        grant: GrantId::new(42),
        agent: "deploy-bot".into(),
        instance: Some(InstanceId::new(0x1a2b)),
        tools: vec!["registry".to_owned(), "tickets".to_owned()],
        principal: "alice@example.com".to_owned(),
        task: "TASK-7".to_owned(),
        locations: vec!["192.0.2.1:443/tcp".to_owned()],
        token: Some(TokenFacts {
            issuer: "https://issuer.example".to_owned(),
            jti: "t-1".to_owned(),
            txn: Some("change-77".to_owned()),
            parent: Some(GrantId::new(41)),
        }),
        reason: "release day".to_owned(),
        not_before: at(EPOCH_MS),
        expires: at(EPOCH_MS + 1),
    }
}

fn token_refused() -> TokenRefused {
    TokenRefused {
        word: "token_replayed",
        error: "a token with the id \"t-1\" came already".to_owned(),
        remedy: "issue a new token with an id of its own",
    }
}

fn manifest_facts() -> ManifestFacts {
    ManifestFacts {
        agent: "deploy-bot".into(),
        owner: "platform@example.com".into(),
        agent_id: "spiffe://example.org/agent/deploy".to_owned(),
        version: Some(3),
        digest: Some("ab".repeat(32)),
        signers: vec!["owner-2030".to_owned()],
    }
}

fn ghost_facts() -> GhostFacts {
    GhostFacts {
        agent: "deploy-bot".into(),
        owner: "platform@example.com".into(),
        word: "unused".into(),
        since: SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH_MS),
        remedy: "ask its owner",
    }
}

fn instance_facts() -> InstanceFacts {
    InstanceFacts {
        agent: "deploy-bot".into(),
        owner: "platform@example.com".into(),
        instance: InstanceId::new(0x1a2b),
        process: Arc::new(process(42)),
    }
}

const SILENCE: Silence = Silence { plane: "cgroup", since_ns: 4_000_000_000, remedy: "restart it" };

fn daemon_events() -> Vec<(DaemonEvent, u64, u64)> {
    vec![
        (
            DaemonEvent::Started {
                version: "1.2.3".to_owned(),
                generation: Generation::new(3),
                plane: "cgroup".to_owned(),
            },
            600_203,
            1,
        ),
        (DaemonEvent::Stopped, 600_204, 2),
        (DaemonEvent::Detached { reason: "maintenance".to_owned() }, 600_207, 4),
        (
            DaemonEvent::PolicyLoaded {
                generation: Generation::new(3),
                directory: PathBuf::from(OsStr::from_bytes(b"/etc/\xffpolicy")),
                agents: 2,
                tools: 5,
            },
            300_410,
            1,
        ),
        (DaemonEvent::PolicyRejected { error: "a.yaml:1:2: no\nsuch key".to_owned() }, 300_410, 3),
        (DaemonEvent::GrantIssued(grant_facts()), 300_501, 1),
        (DaemonEvent::GrantRevoked(grant_facts()), 300_502, 2),
        (DaemonEvent::GrantExpired(grant_facts()), 300_502, 1),
        (DaemonEvent::GrantUsedUp(grant_facts()), 300_502, 1),
        (DaemonEvent::InstanceStarted(instance_facts()), 100_701, 1),
        (DaemonEvent::InstanceEnded(instance_facts()), 100_702, 1),
        (
            DaemonEvent::IdentityRefused {
                agent: "deploy-bot".into(),
                instance: InstanceId::new(0x1a2b),
                process: Arc::new(process(42)),
                reason: Reason::DigestMismatch,
            },
            200_401,
            4,
        ),
        (DaemonEvent::GrantRefused(Box::new(token_refused())), 200_401, 3),
        (DaemonEvent::WebhookFailed(Box::new(webhook_facts())), 600_801, 4),
        (DaemonEvent::ManifestAccepted(Box::new(manifest_facts())), 300_410, 1),
        (
            DaemonEvent::ManifestRefused(Box::new(manifest_facts()), Reason::ManifestExpired),
            300_410,
            4,
        ),
        (DaemonEvent::GhostFound(Box::new(ghost_facts())), 200_401, 3),
        (DaemonEvent::GhostGone(Box::new(ghost_facts())), 200_403, 1),
        (DaemonEvent::RecordsLost { kind: LostRecords::Denied, count: 7 }, 600_801, 4),
        (
            DaemonEvent::EventsLost { what: EventClass::Denied, count: 8, why: LossCause::Disk },
            600_801,
            4,
        ),
        (DaemonEvent::TableFull { table: "AE_PROCS" }, 600_801, 4),
        (DaemonEvent::PlaneSilent(SILENCE), 200_401, 5),
        (DaemonEvent::PlaneBack(SILENCE), 200_403, 3),
        (
            DaemonEvent::Alarm {
                what: "canary call was not denied".to_owned(),
                remedy: "see `agent-enforcer doctor`".to_owned(),
            },
            200_401,
            5,
        ),
    ]
}

#[test]
fn each_daemon_event_has_its_class_severity_and_word() {
    for (event, type_uid, severity) in daemon_events() {
        let record = daemon_record(&event);
        let told = parse(&record);
        let word = event.word();
        assert_eq!(told["type_uid"], type_uid, "{word}");
        assert_eq!(told["class_uid"], type_uid / 100, "{word}");
        assert_eq!(told["category_uid"], type_uid / 100_000, "{word}");
        assert_eq!(told["severity_id"], severity, "{word}");
        assert_eq!(told["metadata"]["event_code"], word);
        assert_eq!(told["unmapped"]["agent_enforcer"]["event"], word);
        assert_eq!(told["time"], EPOCH_MS - 1000, "{word}");
        assert!(!told["message"].as_str().unwrap().is_empty(), "{word}");
        assert_eq!((record.word, record.class), (word, EventClass::Daemon));
    }
}

#[test]
fn daemon_events_have_what_their_class_requires() {
    for (event, type_uid, _) in daemon_events() {
        let told = parse(&daemon_record(&event));
        let required: &[&str] = match type_uid / 100 {
            6002 => &["/app/name", "/app/version"],
            3004 => &["/entity/name", "/entity/type_id"],
            3005 => &["/user/name", "/privileges/0", "/actor/user/name"],
            1007 => &["/process/pid", "/actor/process/pid", "/device/type_id"],
            2004 => &["/finding_info/uid", "/finding_info/title", "/remediation/desc"],
            6008 => &["/message", "/unmapped/agent_enforcer/remedy"],
            other => panic!("class {other} is not expected"),
        };
        for pointer in required {
            assert!(told.pointer(pointer).is_some(), "{} lacks {pointer}", event.word());
        }
    }
}

#[test]
fn grant_event_tells_who_what_for_whom_and_until_when() {
    let told = parse(&daemon_record(&DaemonEvent::GrantIssued(grant_facts())));
    assert_eq!(
        told["message"],
        "g-42 granted to deploy-bot: registry, tickets, 192.0.2.1:443/tcp for alice@example.com"
    );
    assert_eq!(told["user"], json!({"name": "deploy-bot", "type_id": 4}));
    assert_eq!(
        told["unmapped"]["agent_enforcer"],
        json!({
            "event": "grant_issued", "agent": "deploy-bot", "instance": "i-1a2b",
            "principal": "alice@example.com", "grant": "g-42", "task": "TASK-7",
            "tools": ["registry", "tickets"], "locations": ["192.0.2.1:443/tcp"],
            "issuer": "https://issuer.example", "jti": "t-1", "txn": "change-77", "parent": "g-41",
            "not_before": EPOCH_MS, "expires": EPOCH_MS + 1,
            "reason": "release day",
        })
    );
}

#[test]
fn a_ghost_and_its_end_are_of_one_finding() {
    let found = parse(&daemon_record(&DaemonEvent::GhostFound(Box::new(ghost_facts()))));
    let gone = parse(&daemon_record(&DaemonEvent::GhostGone(Box::new(ghost_facts()))));
    assert_eq!(found["finding_info"]["uid"], format!("ghost-deploy-bot-unused-{EPOCH_MS}"));
    assert_eq!(found["finding_info"]["uid"], gone["finding_info"]["uid"]);
    assert_eq!(found["message"], "agent deploy-bot became a ghost: unused");
    assert_eq!(
        found["unmapped"]["agent_enforcer"],
        json!({
            "event": "ghost_found", "agent": "deploy-bot", "owner": "platform@example.com",
            "reason": "unused", "remedy": "ask its owner",
        })
    );
}

#[test]
fn refused_identity_shows_the_process_as_evidence() {
    let event = DaemonEvent::IdentityRefused {
        agent: "deploy-bot".into(),
        instance: InstanceId::new(0x1a2b),
        process: Arc::new(process(42)),
        reason: Reason::ExecutableMismatch,
    };
    let told = parse(&daemon_record(&event));
    assert_eq!(told["evidences"][0]["process"]["pid"], 42);
    assert_eq!(told["finding_info"]["uid"], told["metadata"]["uid"]);
    assert_eq!(told["unmapped"]["agent_enforcer"]["reason"], "executable_mismatch");
    assert_eq!(told["severity_id"], 5);
    assert_eq!(told["is_alert"], true);
}

#[test]
fn sums_of_losses_tell_their_span() {
    let event = DaemonEvent::RecordsLost { kind: LostRecords::Process, count: 7 };
    let mut schema = Schema::new("web-1".to_owned());
    let span = (3_000_000_000, 4_000_000_000);
    let told = parse(&schema.daemon(&event, span, &moment(), Some(9)).unwrap());
    assert_eq!(told["count"], 7);
    assert_eq!(told["duration"], 1000);
    assert_eq!(told["unmapped"]["agent_enforcer"]["lost"], "process");
    assert_eq!(told["unmapped"]["agent_enforcer"]["lost_count"], 7);
}
