//! The reasons of a decision, and that nobody else is touched.

use agent_enforcer_tests::{GrantRequest, TestHost, What, wait::SOON};

#[test]
fn allows_standing_tool_without_a_grant() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(10)).is_ok());
    assert!(agent.echoes("a"));
    host.wait_call("allowed", "allowed_standing", agent.pid());
}

#[test]
fn stalled_blocking_connect_succeeds_when_granted() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let ticket = agent.begin_connect("a", host.at(20));
    host.wait_call("stalled", "stalled", agent.pid());
    assert!(host.servers.at(host.at(20)).is_empty(), "nothing on the wire before the decision");
    host.grant(&GrantRequest::agent("waits", "web"));
    let reply = agent.finish(ticket);
    assert!(reply.is_ok(), "{reply:?}");
    assert!(agent.echoes("a"));
    host.servers.wait_for(host.at(20), &What::Connected, SOON);
    host.wait_call("allowed", "allowed_grant", agent.pid());
}
