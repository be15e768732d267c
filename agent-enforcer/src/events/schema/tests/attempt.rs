//! Events of what agents try against the host, and of planes that fall silent.

use agent_enforcer_common::record::Guard;

use super::*;
use crate::{
    decision::Attempt,
    events::{fold::FoldedAttempt, testing::attempt},
};

fn told(attempt: Attempt, count: u64) -> Value {
    let last_ns = attempt.time_ns + (count - 1) * 1_000_000;
    let first_ns = attempt.time_ns;
    let folded = FoldedAttempt { attempt: Box::new(attempt), count, first_ns, last_ns };
    let mut schema = Schema::new("web-1".to_owned());
    let record = schema.attempt(&folded, &moment(), Some(9)).unwrap();
    assert_eq!((record.word, record.class, record.count), ("guarded", EventClass::Guarded, count));
    parse(&record)
}

#[test]
fn attempt_is_a_blocked_finding_with_its_process_as_evidence() {
    let told = told(attempt(), 1);
    assert_eq!(told["type_uid"], 200_401);
    assert_eq!(told["severity_id"], 4);
    assert_eq!(told["disposition_id"], 2);
    assert_eq!(told["metadata"]["event_code"], "guarded");
    assert_eq!(told["evidences"][0]["process"]["pid"], 42);
    assert_eq!(told["message"], "deploy-bot i-1a2b [42] was denied to send the daemon signal 9");
    let own = &told["unmapped"]["agent_enforcer"];
    assert_eq!((&own["guard"], &own["target_pid"]), (&json!("signal"), &json!(4)));
    assert_eq!((&own["argument"], &own["reason"]), (&json!(9), &json!("guarded")));
}

#[test]
fn folded_attempts_tell_how_many_and_from_when_to_when() {
    let told = told(attempt(), 1001);
    assert_eq!((&told["count"], &told["duration"]), (&json!(1001), &json!(1000)));
}

#[test]
fn each_guard_is_told_in_its_own_words() {
    let guards =
        [Guard::Bpf, Guard::Ptrace, Guard::Signal, Guard::Limits, Guard::File, Guard::Device];
    let mut messages = std::collections::BTreeSet::new();
    for guard in guards {
        let told = told(Attempt { guard, ..attempt() }, 1);
        assert_eq!(told["unmapped"]["agent_enforcer"]["guard"], guard.word());
        messages.insert(told["message"].to_string());
    }
    assert_eq!(messages.len(), guards.len());
}

#[test]
fn silence_and_its_end_are_one_finding() {
    let silence = Silence { plane: "lsm", since_ns: 4_000_000_000, remedy: "switch it on" };
    let begin = parse(&daemon_record(&DaemonEvent::PlaneSilent(silence)));
    let end = parse(&daemon_record(&DaemonEvent::PlaneBack(silence)));
    assert_eq!(begin["finding_info"]["uid"], end["finding_info"]["uid"]);
    assert_eq!((&begin["type_uid"], &begin["status"]), (&json!(200_401), &json!("New")));
    assert_eq!((&end["type_uid"], &end["status_id"]), (&json!(200_403), &json!(4)));
    assert_eq!(begin["unmapped"]["agent_enforcer"]["plane"], "lsm");
}
