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
    // A call whose answer another call of the same program took asks again, so that more may be
    // told than happened; what is admitted is exact (above, and on the wire below).
    wait_until("every use is told", SOON, || {
        host.calls("allowed", "allowed_grant") >= u64::from(USES)
            && host.calls("denied", "grant_used_up") > 0
    });
    let connected = host.servers.at(host.at(20));
    assert_eq!(connected.iter().filter(|what| **what == What::Connected).count(), USES as usize);
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
