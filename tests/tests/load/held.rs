//! A thousand calls that wait for one decision.

use agent_enforcer_tests::{GrantRequest, Probe, TestHost, load::LoadOp, wait::wait_until};

use crate::account::{Account, LONG, alone};

const CALLS: u64 = 1000;
const POLICY: &str = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: model, cidrs: [192.0.2.10], ports: [7000], protocol: [tcp] }
  - { name: web, cidrs: [192.0.2.20], ports: [7000], protocol: [tcp] }
agents:
  - name: waits
    owner: owner@example.com
    purpose: Waits for its grants
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [model, web]
    standing: [model]
    stall_limit: @LIMIT@
"#;

fn host(stall_limit: &str) -> TestHost {
    TestHost::builder().policy(&POLICY.replace("@LIMIT@", stall_limit)).build()
}

/// Calls that wait, by what `pending` shows.
fn waiting(host: &TestHost) -> u64 {
    host.pending().iter().filter_map(|call| call["calls"].as_u64()).sum()
}

/// Two processes of one agent with [`CALLS`] held calls together.
fn hold(host: &TestHost) -> [Probe; 2] {
    let mut agents = [host.agent("waits"), host.agent("waits")];
    for agent in &mut agents {
        assert!(agent.connect("warm", host.at(10)).is_ok());
        let tally = agent.load(LoadOp::Hold { address: host.at(20), calls: CALLS / 2 });
        assert_eq!(tally.of(libc::EINPROGRESS), CALLS / 2, "{tally:?}");
    }
    agents
}

#[test]
fn one_grant_lets_a_thousand_waiting_calls_go() {
    let _alone = alone();
    let host = host("60s");
    let mut agents = hold(&host);
    wait_until("every call waits", LONG, || waiting(&host) == CALLS);
    assert!(host.servers.at(host.at(20)).is_empty(), "nothing on the wire");
    assert_eq!(host.cli(&["status"])["pending"], CALLS);
    host.grant(&GrantRequest::agent("waits", "web"));
    for agent in &mut agents {
        let tally = agent.load(LoadOp::Settle { millis: 40_000 });
        assert_eq!((tally.of(0), tally.total()), (CALLS / 2, CALLS / 2), "{tally:?}");
    }
    assert!(host.pending().is_empty());
    wait_until("every call is told, once", LONG, || {
        host.calls("allowed", "allowed_grant") == CALLS
    });
    let account = Account::of(&host);
    assert_eq!((account.stalled, account.denied), (CALLS, 0), "{account:?}");
}

#[test]
fn a_thousand_waiting_calls_time_out_and_each_is_told_once() {
    let _alone = alone();
    let host = host("4s");
    let mut agents = hold(&host);
    let tickets =
        agents.each_mut().map(|agent| agent.begin_load(LoadOp::Settle { millis: 40_000 }));
    for (agent, ticket) in agents.iter_mut().zip(tickets) {
        let tally = agent.finish_load(ticket);
        assert_eq!((tally.of(0), tally.of(libc::ETIME)), (0, 0), "{tally:?}");
        assert_eq!(tally.failed(), CALLS / 2);
    }
    wait_until("nothing waits", LONG, || waiting(&host) == 0);
    wait_until("every call is told", LONG, || host.calls("denied", "stall_timeout") >= CALLS);
    let account = Account::of(&host);
    assert_eq!((account.stalled, account.denied, account.lost), (CALLS, CALLS, 0), "{account:?}");
    assert!(host.servers.at(host.at(20)).is_empty(), "nothing on the wire");
}
