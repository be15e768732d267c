//! What is remembered of agents and instances, over restarts and crashes, and which of them are ghosts.

use std::{fs, process::Command};

use agent_enforcer_tests::{
    GrantRequest, TestHost, binaries,
    host::POLICY,
    wait::{SOON, wait_until},
};
use serde_json::{Value, json};

/// Short-lived instances of one agent.
const FLOOD: u64 = 2000;

fn agent(host: &TestHost, name: &str) -> Value {
    host.cli(&["agents", name])
}

fn count(value: &Value) -> usize {
    value.as_array().unwrap().len()
}

fn wait_stored(host: &TestHost) {
    wait_until("the inventory is stored", SOON, || host.counter("inventory_unstored") == 0);
}

/// [`POLICY`] without one of its agents.
fn policy_without(agent: &str) -> String {
    let begin = POLICY.find(&format!("  - name: {agent}\n")).unwrap();
    let rest = &POLICY[begin + 1..];
    let end = rest.find("\n  - name: ").map_or(POLICY.len(), |at| begin + 1 + at + 1);
    format!("{}{}", &POLICY[..begin], &POLICY[end..])
}

fn reload(host: &TestHost, policy: &str) {
    host.write_policy(policy);
    host.cli(&["policy", "reload"]);
}

fn ghost_events(host: &TestHost, code: &str, agent: &str, word: &str) -> usize {
    let events = host.events();
    let told = events.iter().filter(|event| {
        event.code() == code && event.own("agent") == agent && event.own("reason") == word
    });
    told.count()
}

#[test]
fn killed_daemon_remembers_who_acted_for_whom_and_under_what() {
    let mut host = TestHost::start();
    let grant = host.grant(&GrantRequest::agent("strict", "web"));
    let mut strict = host.agent("strict");
    let mut curt = host.agent("curt");
    assert!(strict.connect("granted", host.at(20)).is_ok());
    host.wait_call("allowed", "allowed_grant", strict.pid());
    assert!(strict.connect("denied", host.at(40)).is_denied());
    host.wait_denied("tool_not_approved", strict.pid());
    // By the kernel alone.
    assert!(curt.connect("denied", host.at(20)).is_denied());
    host.wait_denied("denied_on_miss", curt.pid());
    let live = agent(&host, "strict");
    assert_eq!((count(&live["instances"]), count(&live["ended_instances"])), (1, 0), "{live}");
    let instance = live["instances"][0].clone();
    assert_eq!(instance["sha256"].as_str().map(str::len), Some(64), "{instance}");
    strict.kill();
    host.wait_event("the end", |event| {
        event.code() == "instance_ended" && event.own("agent") == "strict"
    });
    wait_stored(&host);
    host.daemon.kill();
    // Nobody sees this one end.
    curt.kill();
    host.daemon.start();
    let strict = agent(&host, "strict");
    assert_eq!(
        (count(&strict["instances"]), count(&strict["ended_instances"])),
        (0, 1),
        "{strict}"
    );
    let ended = &strict["ended_instances"][0];
    assert_eq!((&ended["id"], &ended["sha256"]), (&instance["id"], &instance["sha256"]));
    assert!(ended["ended"].is_string() && ended["started"].is_string(), "{ended}");
    assert_eq!(ended["exe"], binaries::probe().display().to_string());
    for of in [ended, &strict] {
        assert_eq!(of["calls"], json!({"allowed": 1, "denied": 1, "audited": 0}), "{of}");
        assert_eq!(of["grants"], json!({"count": 1, "latest": [grant]}), "{of}");
        assert_eq!(of["principals"], json!({"count": 1, "latest": ["ada@example.com"]}), "{of}");
        let last = &of["last_action"];
        let destination = host.at(40).to_string() + "/tcp";
        assert_eq!(
            (&last["outcome"], &last["reason"], &last["tool"], &last["destination"]),
            (&"denied".into(), &"tool_not_approved".into(), &"admin".into(), &destination.into())
        );
    }
    assert_eq!(
        (&strict["owner"], &strict["instances_ever"]),
        (&"owner@example.com".into(), &1.into())
    );
    assert_eq!((&strict["ghosts"], &strict["in_policy"]), (&json!([]), &true.into()));
    let curt = agent(&host, "curt");
    assert_eq!((count(&curt["instances"]), count(&curt["ended_instances"])), (0, 1), "{curt}");
    assert_eq!(curt["calls"]["denied"], 1);
    assert_eq!(curt["last_action"]["reason"], "no_grant");
}

#[test]
fn agent_in_audit_mode_has_its_audited_calls_counted() {
    let mut host = TestHost::start();
    let mut watched = host.agent("watched");
    assert!(watched.connect("standing", host.at(10)).is_ok());
    assert!(watched.connect("audited", host.at(40)).is_ok());
    host.wait_call("audited", "audited", watched.pid());
    let found = agent(&host, "watched");
    assert_eq!(found["calls"], json!({"allowed": 1, "denied": 0, "audited": 1}), "{found}");
    assert_eq!(found["last_action"]["outcome"], "audited", "{found}");
    assert_eq!(found["grants"]["count"], 0);
    // A daemon that is told to end stores all that it knows.
    assert!(host.daemon.stop().success());
    host.daemon.start();
    assert_eq!(agent(&host, "watched")["calls"], found["calls"]);
}

#[test]
fn agent_that_leaves_the_policy_is_a_ghost_and_its_calls_still_count() {
    let mut host = TestHost::start();
    let mut strict = host.agent("strict");
    assert!(strict.connect("standing", host.at(10)).is_ok());
    host.wait_call("allowed", "allowed_standing", strict.pid());
    assert_eq!(host.cli(&["agents", "--ghosts"]), json!([]));
    reload(&host, &policy_without("strict"));
    let told = host.wait_event("the ghost", |event| event.code() == "ghost_found");
    assert_eq!((told.own("agent"), told.own("reason")), ("strict", "not_in_policy"));
    assert_eq!(told.own("owner"), "owner@example.com");
    let ghosts = host.cli(&["agents", "--ghosts"]);
    assert_eq!((count(&ghosts), &ghosts[0]["name"]), (1, &"strict".into()), "{ghosts}");
    assert_eq!(ghosts[0]["ghosts"][0]["word"], "not_in_policy");
    assert_eq!((&ghosts[0]["mode"], &ghosts[0]["in_policy"]), (&"none".into(), &false.into()));
    assert!(strict.connect("gone", host.at(10)).is_denied());
    wait_until("its denial counts", SOON, || agent(&host, "strict")["calls"]["denied"] == 1);
    wait_stored(&host);
    host.daemon.kill();
    host.daemon.start();
    assert!(strict.connect("gone", host.at(10)).is_denied());
    wait_until("it counts after a restart", SOON, || {
        agent(&host, "strict")["calls"]["denied"].as_u64() >= Some(2)
    });
    let found = agent(&host, "strict");
    assert_eq!(count(&found["instances"]), 1, "it runs on: {found}");
    assert_eq!(ghost_events(&host, "ghost_found", "strict", "not_in_policy"), 1, "told once");
    reload(&host, POLICY);
    host.wait_event("its return", |event| event.code() == "ghost_gone");
    assert_eq!(host.cli(&["agents", "--ghosts"]), json!([]));
    let unknown = host.try_cli(&["agents", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn agent_that_does_nothing_is_unused_until_it_acts() {
    let host = TestHost::builder().flag("--unused-after").flag("6s").build();
    let mut strict = host.agent("strict");
    let is_unused = || agent(&host, "strict")["ghosts"][0]["word"] == "unused";
    wait_until("it is unused", SOON, is_unused);
    assert_eq!(ghost_events(&host, "ghost_found", "strict", "unused"), 1);
    assert!(strict.connect("standing", host.at(10)).is_ok());
    host.wait_event("it acts", |event| {
        event.code() == "ghost_gone" && event.own("agent") == "strict"
    });
}

#[test]
fn agent_of_many_instances_pushes_out_its_own_alone() {
    let mut host = TestHost::start();
    let mut quiet = host.agent("hasty");
    assert!(quiet.connect("standing", host.at(10)).is_ok());
    quiet.kill();
    host.wait_event("its end", |event| event.code() == "instance_ended");
    let join = host.cgroup("strict").join("cgroup.procs");
    let script = format!(
        "i=0; while [ $i -lt {FLOOD} ]; do (echo 0 > {}; exec /bin/true); i=$((i+1)); done",
        join.display()
    );
    assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
    wait_until("all have ended", 6 * SOON, || {
        let strict = agent(&host, "strict");
        strict["instances_ever"] == FLOOD && count(&strict["instances"]) == 0
    });
    let store = host.daemon.state_directory().join("grants.redb");
    wait_stored(&host);
    let check = |host: &TestHost| {
        let strict = agent(host, "strict");
        assert_eq!(
            (count(&strict["ended_instances"]), &strict["instances_forgotten"]),
            (256, &(FLOOD - 256).into())
        );
        assert_eq!(count(&agent(host, "hasty")["ended_instances"]), 1, "the others keep theirs");
    };
    check(&host);
    let bytes = fs::metadata(store).unwrap().len();
    assert!(bytes < 4 << 20, "the store has {bytes} bytes");
    host.daemon.kill();
    host.daemon.start();
    check(&host);
}

#[test]
fn instance_that_ends_while_its_call_waits_has_ended() {
    let host = TestHost::start();
    let mut waits = host.agent("waits");
    let _waiting = waits.begin_connect("waits", host.at(20));
    wait_until("it waits", SOON, || host.pending().len() == 1);
    let pid = waits.pid();
    waits.kill();
    host.wait_denied("caller_gone", pid);
    wait_until("it has ended", SOON, || {
        let waits = agent(&host, "waits");
        (count(&waits["instances"]), count(&waits["ended_instances"])) == (0, 1)
    });
    let waits = agent(&host, "waits");
    assert_eq!((&waits["calls"]["denied"], &waits["instances_ever"]), (&1.into(), &1.into()));
}
