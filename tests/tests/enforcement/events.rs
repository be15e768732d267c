//! What an event says of a call.

use agent_enforcer_tests::{GrantRequest, Op, TestHost, binaries};

#[test]
fn event_names_everything_of_a_granted_call() {
    let host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("strict", "web"));
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(20)).is_ok());
    let event = host.wait_call("allowed", "allowed_grant", agent.pid());
    let generation = host.cli(&["policy", "show"])["generation"].as_u64();
    let exe = binaries::probe().display().to_string();
    let sum = std::process::Command::new("sha256sum").arg(&exe).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    for (field, wanted) in [
        ("/unmapped/agent_enforcer/agent", "strict"),
        ("/unmapped/agent_enforcer/owner", "owner@example.com"),
        ("/unmapped/agent_enforcer/principal", "ada@example.com"),
        ("/unmapped/agent_enforcer/grant", &grant),
        ("/unmapped/agent_enforcer/task", "TASK-1"),
        ("/unmapped/agent_enforcer/tool", "web"),
        ("/unmapped/agent_enforcer/destination", "192.0.2.20:7000/tcp"),
        ("/unmapped/agent_enforcer/hook", "connect"),
        ("/actor/process/file/path", &exe),
        ("/actor/process/file/hashes/0/value", &sum[..64]),
        ("/dst_endpoint/ip", "192.0.2.20"),
        ("/status_code", "allowed_grant"),
    ] {
        assert_eq!(event.text(field), wanted, "{field}");
    }
    assert_eq!(event.number("/unmapped/agent_enforcer/generation"), generation);
    assert_eq!(event.number("/type_uid"), Some(400_101));
    assert!(event.own("instance").starts_with("i-"));
    assert!(event.number("/actor/process/created_time").is_some());
    assert_eq!(event.own("cgroup"), format!("{}/strict", host.cgroup_name()));
    let agents = host.cli(&["agents"]);
    let strict = agents.as_array().unwrap().iter().find(|view| view["name"] == "strict").unwrap();
    assert_eq!(strict["instances"][0]["id"], event.own("instance"));
    assert_eq!(strict["instances"][0]["sha256"], sum[..64]);
}

#[test]
fn event_of_a_denied_call_is_an_ocsf_refusal() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at6(50)).is_denied());
    let event = host.wait_denied("no_tool", agent.pid());
    for (field, wanted) in [
        ("/class_uid", 4001),
        ("/activity_id", 5),
        ("/type_uid", 400_105),
        ("/action_id", 2),
        ("/disposition_id", 2),
    ] {
        assert_eq!(event.number(field), Some(wanted), "{field}");
    }
    assert_eq!(event.text("/dst_endpoint/ip"), "2001:db8::50");
}

#[test]
fn sequence_has_no_gap_and_counts_are_exact_over_a_restart() {
    let mut host = TestHost::start();
    let mut agent = host.agent("strict");
    for round in 0..2 {
        for _ in 0..50 {
            assert!(agent.run(Op::Dial { address: host.at(50) }).is_denied());
        }
        if round == 0 {
            host.daemon.stop();
            host.daemon.start();
        }
    }
    host.daemon.stop();
    assert_eq!(host.calls("denied", "no_tool"), 100);
    let sequence: Vec<_> = host.events().iter().map(|event| event.sequence().unwrap()).collect();
    assert_eq!(sequence, (1..=sequence.len() as u64).collect::<Vec<_>>());
}

#[test]
fn every_denied_call_is_one_event_call() {
    let host = TestHost::start();
    let mut agent = host.agent("hasty");
    for to in [20, 40, 50] {
        agent.run(Op::Dial { address: host.at(to) });
    }
    let reasons = ["stall_timeout", "tool_not_approved", "no_tool"];
    for reason in reasons {
        host.wait_denied(reason, agent.pid());
    }
    for reason in reasons {
        assert_eq!(host.calls("denied", reason), 1, "{reason}");
    }
}
