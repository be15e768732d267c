//! The reasons of a decision, and that nobody else is touched.

use agent_enforcer_tests::{GrantRequest, TestHost};
use libc::{EACCES, SOCK_DGRAM};

#[test]
fn leaves_strangers_alone_and_tells_nothing_of_them() {
    let host = TestHost::start();
    let mut stranger = host.stranger();
    let before = host.events().len();
    for peer in [host.at(20), host.at(50), host.at6(50)] {
        assert!(stranger.connect("t", peer).is_ok());
        assert!(stranger.echoes("t"));
        assert!(stranger.send_to("u", peer, "hello").is_ok());
        assert_eq!(stranger.receive("u").data, "hello");
    }
    assert!(stranger.socket("ping", host.at(50), libc::SOCK_RAW).errno != EACCES);
    // A later event of an agent proves that earlier ones would be there.
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(50)).is_denied());
    host.wait_denied("no_tool", agent.pid());
    let events = host.events();
    assert!(events[before..].iter().all(|event| event.pid() != u64::from(stranger.pid())));
    assert_eq!(host.explain(stranger.pid(), "192.0.2.20:7000")["outcome"], "not_an_agent");
}

#[test]
fn allows_standing_tool_without_a_grant() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    for (name, peer) in [("4", host.at(10)), ("6", host.at6(10))] {
        assert!(agent.connect(name, peer).is_ok());
        assert!(agent.echoes(name));
        assert!(agent.send_to(&format!("u{name}"), peer, "hello").is_ok());
        assert_eq!(agent.receive(&format!("u{name}")).data, "hello");
    }
    host.wait_call("allowed", "allowed_standing", agent.pid());
}

/// A denied TCP call and a denied datagram of `agent`, with the same reason, and nothing on the wire.
fn assert_denied(host: &TestHost, agent: &str, to: u8, reason: &str) {
    let mut probe = host.agent(agent);
    for peer in [host.at(to), host.at6(to)] {
        assert!(probe.connect("t", peer).is_denied());
        assert!(probe.is_denied_to_send("u", peer));
        assert!(probe.socket("c", peer, SOCK_DGRAM).is_ok());
        assert!(host.servers.at(peer).is_empty());
    }
    let event = host.wait_denied(reason, probe.pid());
    assert_eq!(event.own("agent"), agent);
    assert!(host.reason_counter(reason) >= 4);
    let explained = host.explain(probe.pid(), &host.at(to).to_string());
    assert_eq!(explained["outcome"], "denied");
    assert_eq!(explained["reason"], reason);
    let twin = host.at(10);
    assert!(probe.connect("g", twin).is_ok());
    assert!(probe.echoes("g"));
    let explained = host.explain(probe.pid(), &twin.to_string());
    assert_eq!(explained["outcome"], "allowed");
}

#[test]
fn denies_destination_of_no_tool() {
    assert_denied(&TestHost::start(), "strict", 50, "no_tool");
}

#[test]
fn denies_destination_of_no_tool_at_once_although_the_agent_could_wait() {
    assert_denied(&TestHost::start(), "waits", 50, "no_tool");
}

#[test]
fn denies_tool_that_is_not_approved() {
    assert_denied(&TestHost::start(), "strict", 40, "tool_not_approved");
}

#[test]
fn denial_on_a_miss_has_one_word_everywhere_and_tells_what_is_missing() {
    let host = TestHost::start();
    for (to, missing) in [(20, "no_grant"), (40, "tool_not_approved"), (50, "no_tool")] {
        let before = host.reason_counter("denied_on_miss");
        let mut agent = host.agent("curt");
        assert!(agent.run(agent_enforcer_tests::Op::Dial { address: host.at(to) }).is_denied());
        let explained = host.explain(agent.pid(), &host.at(to).to_string());
        assert_eq!(explained["reason"], "denied_on_miss");
        let event = host.wait_denied("denied_on_miss", agent.pid());
        assert_eq!(event.own("miss_reason"), missing);
        assert_eq!(event.own("remedy"), explained["remedy"]);
        assert_eq!(host.reason_counter("denied_on_miss"), before + 1);
        assert_eq!(host.reason_counter(missing), 0);
    }
}

#[test]
fn kernel_denies_without_asking_where_the_agent_says_so() {
    let host = TestHost::start();
    let mut agent = host.agent("curt");
    assert_eq!(agent.connect("t", host.at(20)).errno, EACCES);
    assert_eq!(agent.send_to("u", host.at(20), "leak").errno, EACCES);
    host.wait_denied("denied_on_miss", agent.pid());
    assert_eq!(host.counter("requests"), 0);
    assert!(agent.connect("g", host.at(10)).is_ok());
}

#[test]
fn denies_approved_tool_without_a_grant_where_the_agent_must_not_wait() {
    assert_denied(&TestHost::start(), "strict", 20, "no_grant");
}

#[test]
fn grant_of_an_agent_is_none_for_another() {
    let host = TestHost::start();
    host.grant(&GrantRequest::agent("hasty", "web"));
    let (mut other, mut granted) = (host.agent("strict"), host.agent("hasty"));
    assert!(other.connect("a", host.at(20)).is_denied());
    assert!(granted.connect("a", host.at(20)).is_ok());
    assert!(other.connect("b", host.at(20)).is_denied());
    host.wait_denied("no_grant", other.pid());
}

#[test]
fn grant_of_a_tool_is_none_for_another() {
    let host = TestHost::start();
    host.grant(&GrantRequest::agent("strict", "web"));
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(20)).is_ok());
    assert!(agent.connect("b", host.at(30)).is_denied());
}

#[test]
fn audited_agent_goes_through_and_is_recorded() {
    let host = TestHost::start();
    let mut agent = host.agent("watched");
    for to in [20, 40, 50] {
        assert!(agent.connect("t", host.at(to)).is_ok(), "{to}");
        assert!(agent.echoes("t"), "{to}");
        assert!(agent.send_to("u", host.at(to), "hello").is_ok(), "{to}");
        assert_eq!(agent.receive("u").data, "hello", "{to}");
    }
    for reason in ["no_grant", "tool_not_approved", "no_tool"] {
        host.wait_event(reason, |event| {
            event.outcome() == "audited" && event.own("audited_reason") == reason
        });
    }
    assert_eq!(host.calls("denied", "no_tool"), 0);
}

#[test]
fn marks_sockets_where_the_policy_says_so() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(10)).is_ok());
    let mark = agent.run(agent_enforcer_tests::Op::GetOption {
        name: "a".to_owned(),
        level: libc::SOL_SOCKET,
        option: libc::SO_MARK,
    });
    assert_eq!(mark.value, 42);
}
