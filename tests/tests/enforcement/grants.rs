//! Grants: how they begin, end, are counted, and whom they serve.

use std::time::{Duration, SystemTime};

use agent_enforcer_tests::{
    GrantRequest, Op, TestHost, What,
    wait::{SOON, wait_until},
};

fn in_seconds(seconds: u64) -> String {
    let time = SystemTime::now() + Duration::from_secs(seconds);
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    // `date` knows the calendar.
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{since}"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A flow that was granted ends with its grant, and new calls with it.
fn assert_flow_ends(lifetime: &str, reason: &str, end: impl FnOnce(&TestHost, &str)) {
    let host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("strict", "web").lasting(lifetime));
    let mut agent = host.agent("strict");
    assert!(agent.connect("live", host.at(20)).is_ok());
    assert!(agent.connect("standing", host.at(10)).is_ok());
    assert!(agent.echoes("live") && agent.echoes("standing"));
    let stream =
        agent.begin(Op::Stream { name: "live".to_owned(), data: "x".repeat(100), pause_us: 2000 });
    end(&host, &grant);
    let ended = agent.finish(stream);
    assert!(!ended.is_ok(), "{ended:?}");
    host.servers.wait_for(host.at(20), &What::Reset, SOON);
    let arrived = host.servers.bytes_at(host.at(20));
    assert!(agent.connect("new", host.at(20)).is_denied());
    assert!(agent.is_denied_to_send("datagram", host.at(20)));
    host.wait_denied(reason, agent.pid());
    host.wait_event("of the live flow", |event| {
        event.own("reason") == reason && event.own("hook") == "egress"
    });
    assert_eq!(host.servers.bytes_at(host.at(20)), arrived, "bytes after the end");
    assert!(agent.echoes("standing"), "another flow of the agent was cut off too");
    let state = host.grant_view(&grant)["state"].clone();
    assert_eq!(format!("grant_{}", state.as_str().unwrap()), reason);
}

#[test]
fn live_flow_and_new_calls_end_when_the_grant_expires() {
    assert_flow_ends("2s", "grant_expired", |_, _| {});
}

#[test]
fn live_flow_and_new_calls_end_when_the_grant_is_revoked() {
    assert_flow_ends("15m", "grant_revoked", TestHost::revoke);
}

#[test]
fn call_after_the_end_of_a_live_flow_waits_for_the_next_grant() {
    let host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("waits", "web"));
    let mut agent = host.agent("waits");
    assert!(agent.connect("live", host.at(20)).is_ok());
    let stream =
        agent.begin(Op::Stream { name: "live".to_owned(), data: "x".repeat(100), pause_us: 2000 });
    host.revoke(&grant);
    assert!(!agent.finish(stream).is_ok());
    let waiting = agent.begin_connect("new", host.at(20));
    wait_until("it waits", SOON, || host.pending().len() == 1);
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(waiting).is_ok());
    assert!(agent.echoes("new"));
}

#[test]
fn live_datagrams_end_when_the_grant_is_revoked() {
    let host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("strict", "web"));
    let mut agent = host.agent("strict");
    assert!(agent.socket("u", host.at(20), libc::SOCK_DGRAM).is_ok());
    assert!(agent.run(Op::Connect { name: "u".to_owned(), address: host.at(20) }).is_ok());
    assert!(agent.echoes_soon("u"));
    let before = host.servers.bytes_at(host.at(20));
    host.revoke(&grant);
    wait_until("denied", SOON, || !agent.send("u", "leak").is_ok());
    host.wait_denied("grant_revoked", agent.pid());
    assert_eq!(host.servers.bytes_at(host.at(20)), before);
}

#[test]
fn revoked_flow_is_not_revived_by_a_new_grant() {
    let host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("strict", "web"));
    let mut agent = host.agent("strict");
    assert!(agent.connect("old", host.at(20)).is_ok());
    assert!(agent.echoes("old"));
    host.revoke(&grant);
    agent.send("old", "leak");
    host.servers.wait_for(host.at(20), &What::Reset, SOON);
    host.grant(&GrantRequest::agent("strict", "web"));
    assert!(!agent.echoes("old"));
    assert!(agent.connect("new", host.at(20)).is_ok());
    assert!(agent.echoes("new"));
}

#[test]
fn grant_that_begins_later_admits_nothing_before() {
    let host = TestHost::start();
    let request = GrantRequest::agent("strict", "web").not_before(&in_seconds(3));
    let grant = host.grant(&request);
    assert_eq!(host.grant_view(&grant)["state"], "not_yet_valid");
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(20)).is_denied());
    host.wait_denied("grant_not_yet_valid", agent.pid());
    wait_until("the grant begins", SOON, || host.grant_view(&grant)["state"] == "live");
    wait_until("it admits", SOON, || agent.connect("b", host.at(20)).is_ok());
    assert!(agent.echoes("b"));
}

#[test]
fn counted_grant_admits_exactly_its_uses_under_concurrency() {
    const USES: u32 = 5;
    let host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("strict", "web").uses(USES));
    let mut agents: Vec<_> = (0..3).map(|_| host.agent("strict")).collect();
    let mut tickets = Vec::new();
    for (position, agent) in agents.iter_mut().enumerate() {
        for call in 0..6 {
            tickets.push((position, agent.begin_connect(&call.to_string(), host.at(20))));
        }
    }
    let admitted =
        tickets.into_iter().filter(|(position, ticket)| agents[*position].finish(*ticket).is_ok());
    assert_eq!(admitted.count(), USES as usize);
    let view = host.grant_view(&grant);
    assert_eq!((&view["state"], &view["uses"]), (&"used_up".into(), &USES.into()));
    let told = || (host.calls("allowed", "allowed_grant"), host.calls("denied", "grant_used_up"));
    wait_until("every call is told", SOON, || told() >= (u64::from(USES), 18 - u64::from(USES)));
    assert_eq!(told(), (u64::from(USES), 18 - u64::from(USES)));
    let connected = host.servers.at(host.at(20));
    assert_eq!(connected.iter().filter(|what| **what == What::Connected).count(), USES as usize);
}

#[test]
fn held_calls_go_ahead_one_use_each_and_the_others_go_on_waiting() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let tickets: Vec<_> =
        (0..4).map(|n| agent.begin_connect(&n.to_string(), host.at(20))).collect();
    wait_until("four stalled", SOON, || host.calls("stalled", "stalled") == 4);
    let grant = host.grant(&GrantRequest::agent("waits", "web").uses(2));
    wait_until("two go ahead", SOON, || host.calls("allowed", "allowed_grant") == 2);
    wait_until("two wait", SOON, || {
        host.pending().first().is_some_and(|group| {
            (&group["calls"], &group["reason"]) == (&2.into(), &"grant_used_up".into())
        })
    });
    host.grant(&GrantRequest::agent("waits", "web"));
    for ticket in tickets {
        assert!(agent.finish(ticket).is_ok());
    }
    wait_until("all four told", SOON, || host.calls("allowed", "allowed_grant") == 4);
    assert_eq!(host.grant_view(&grant)["uses"], 2);
    for event in host.events().iter().filter(|event| event.is_call()) {
        assert_ne!(event.outcome(), "denied", "{event:?}");
        if event.outcome() == "allowed" {
            assert_eq!((event.pid(), event.own("hook")), (agent.pid().into(), "connect"));
            assert!(event.number("/unmapped/agent_enforcer/stalled_ns") > Some(0), "{event:?}");
        }
    }
}

#[test]
fn use_given_to_a_held_call_outlives_a_new_generation() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    assert!(agent.socket("u", host.at(20), libc::SOCK_DGRAM).is_ok());
    agent.run(Op::Nonblocking { name: "u".to_owned(), on: true });
    let send = |data: &str| Op::SendTo {
        name: "u".to_owned(),
        address: host.at(20),
        data: data.to_owned(),
        flags: 0,
    };
    assert_eq!(agent.run(send("early")).errno, libc::EAGAIN);
    host.wait_call("stalled", "stalled", agent.pid());
    let grant = host.grant(&GrantRequest::agent("waits", "web").uses(1));
    wait_until("its use is offered", SOON, || host.pending().is_empty());
    host.grant(&GrantRequest::agent("strict", "mail"));
    assert_eq!(host.calls("allowed", "allowed_grant"), 0, "nothing went ahead yet");
    wait_until("it goes ahead", SOON, || agent.run(send("late")).is_ok());
    assert_eq!(agent.receive("u").data, "late");
    let event = host.wait_call("allowed", "allowed_grant", agent.pid());
    assert!(event.number("/unmapped/agent_enforcer/stalled_ns") > Some(0), "{event:?}");
    assert_eq!(host.calls("allowed", "allowed_grant"), 1);
    assert_eq!(host.calls("denied", "grant_used_up"), 0);
    let view = host.grant_view(&grant);
    assert_eq!((&view["state"], &view["uses"]), (&"used_up".into(), &1.into()));
}

#[test]
fn live_flow_goes_on_after_the_last_use() {
    let host = TestHost::start();
    host.grant(&GrantRequest::agent("strict", "web").uses(1));
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(20)).is_ok());
    assert!(agent.connect("b", host.at(20)).is_denied());
    host.wait_denied("grant_used_up", agent.pid());
    assert!(agent.echoes("a"));
    // A new generation makes the flow prove itself again.
    host.grant(&GrantRequest::agent("strict", "mail"));
    assert!(agent.echoes("a"));
}

#[test]
fn live_flow_of_a_used_up_grant_ends_when_it_is_revoked() {
    let host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("strict", "web").uses(1));
    let mut agent = host.agent("strict");
    assert!(agent.connect("a", host.at(20)).is_ok());
    assert!(agent.echoes("a"));
    host.revoke(&grant);
    agent.send("a", "leak");
    host.servers.wait_for(host.at(20), &What::Reset, SOON);
    assert_eq!(host.servers.bytes_at(host.at(20)), 4);
}

#[test]
fn grant_of_an_instance_is_none_for_another_instance() {
    let host = TestHost::start();
    let (mut first, mut second) = (host.agent("strict"), host.agent("strict"));
    assert!(first.connect("s", host.at(10)).is_ok());
    let event = host.wait_call("allowed", "allowed_standing", first.pid());
    host.grant(&GrantRequest::instance(event.own("instance"), "web"));
    assert!(first.connect("a", host.at(20)).is_ok());
    assert!(first.echoes("a"));
    assert!(second.connect("a", host.at(20)).is_denied());
    host.wait_denied("no_grant", second.pid());
}
