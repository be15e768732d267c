//! What makes a process an agent's: user, executable, cgroup, all of them together, and digests.

use std::path::Path;

use agent_enforcer_tests::{
    Op, Probe, TestHost,
    wait::{SOON, wait_until},
};

const USER: u32 = 64_123;

/// A policy with one agent of these selectors; .10 is standing, all else denied.
fn policy(selectors: &str) -> String {
    format!(
        r"apiVersion: agent-enforcer/v1
tools:
  - {{ name: model, cidrs: [192.0.2.10], ports: [7000] }}
agents:
  - name: chosen
    owner: owner@example.com
    purpose: Is recognised
    selectors: [{selectors}]
    tools: [model]
    standing: [model]
"
    )
}

fn assert_agent(host: &TestHost, probe: &mut Probe) {
    assert!(probe.run(Op::Dial { address: host.at(50) }).is_denied());
    assert!(probe.run(Op::Dial { address: host.at(10) }).is_ok());
    assert_eq!(host.wait_denied("no_tool", probe.pid()).own("agent"), "chosen");
}

fn assert_stranger(host: &TestHost, probe: &mut Probe) {
    assert!(probe.run(Op::Dial { address: host.at(50) }).is_ok());
    assert_eq!(host.explain(probe.pid(), "192.0.2.50:7000")["outcome"], "not_an_agent");
}

fn digest(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn recognises_processes_of_a_user() {
    let host = TestHost::builder().policy(&policy(&format!("[unix:uid:{USER}]"))).build();
    let program = host.copy_of_probe("program");
    assert_agent(&host, &mut host.probe(&program, "anywhere", Some(USER)));
    assert_stranger(&host, &mut host.probe(&program, "anywhere", Some(USER + 1)));
    assert_stranger(&host, &mut host.probe(&program, "anywhere", None));
}

#[test]
fn recognises_executables_that_were_there_and_that_come_later() {
    let host =
        TestHost::builder().policy(&policy(r#"["unix:path:@DIR@/agent-*"]"#)).stopped().build();
    let mut host = host;
    let early = host.copy_of_probe("agent-early");
    let other = host.copy_of_probe("other");
    host.daemon.start();
    assert_agent(&host, &mut host.probe(&early, "anywhere", None));
    assert_stranger(&host, &mut host.probe(&other, "anywhere", None));
    let late = host.copy_of_probe("agent-late");
    wait_until("the new executable is recognised", SOON, || {
        let probe = host.probe(&late, "anywhere", None);
        host.explain(probe.pid(), "192.0.2.50:7000")["agent"] == "chosen"
    });
    assert_agent(&host, &mut host.probe(&late, "anywhere", None));
}

#[test]
fn recognises_hard_link_of_an_executable() {
    let mut host =
        TestHost::builder().policy(&policy(r#"["unix:path:@DIR@/agent"]"#)).stopped().build();
    let program = host.copy_of_probe("agent");
    let link = host.directory().join("innocent");
    std::fs::hard_link(&program, &link).unwrap();
    host.daemon.start();
    assert_agent(&host, &mut host.probe(&link, "anywhere", None));
}

/// A policy whose agent is the units `ae-t1@*.service`.
fn units() -> String {
    policy(r#"["systemd:id:ae-t1@*.service"]"#)
}

/// Cgroups below a slice, and whether they are of such a unit.
const UNITS: [(&str, bool); 8] = [
    ("ae-t1@1.service", true),
    ("ae-t1@2.service/worker", true),
    ("deep.slice/deep-er.slice/ae-t1@3.service", true),
    ("ae-t1.service", false),
    ("deep.slice/worker", false),
    // Named by whoever the subtree was delegated to.
    ("other.service/ae-t1@4.service", false),
    ("other.service/sub.slice/ae-t1@5.service", false),
    ("plain/ae-t1@6.service", false),
];

fn assert_units(host: &TestHost, program: &Path) {
    for (cgroup, is_agent) in UNITS {
        println!("{cgroup}");
        let mut probe = host.probe(program, cgroup, None);
        if is_agent {
            assert_agent(host, &mut probe);
        } else {
            assert_stranger(host, &mut probe);
        }
    }
}

#[test]
fn recognises_units_whose_cgroups_are_made_while_it_runs() {
    let host = TestHost::builder().policy(&units()).build();
    assert_units(&host, &host.copy_of_probe("program"));
}

#[test]
fn recognises_units_whose_cgroups_were_there_before_it_runs() {
    let mut host = TestHost::builder().policy(&units()).stopped().build();
    for (cgroup, _) in UNITS {
        host.cgroup(cgroup);
    }
    host.daemon.start();
    assert_units(&host, &host.copy_of_probe("program"));
}

#[test]
fn adopts_processes_of_units_and_tells_the_unit() {
    let mut host = TestHost::builder().policy(&units()).stopped().build();
    let probe = agent_enforcer_tests::binaries::probe();
    let mut unit = host.probe(probe, "deep.slice/ae-t1@1.service/worker", None);
    let mut impostor = host.probe(probe, "other.service/ae-t1@2.service", None);
    host.daemon.start();
    assert_agent(&host, &mut unit);
    assert_stranger(&host, &mut impostor);
    let event = host.wait_denied("no_tool", unit.pid());
    assert_eq!(event.own("unit"), "ae-t1@1.service");
}

#[test]
fn recognises_cgroups_that_were_there_before_it_runs() {
    let mut host =
        TestHost::builder().policy(&policy(r#"["cgroup:path:@CG@/*/jobs"]"#)).stopped().build();
    let cgroup = host.cgroup("team/jobs/one");
    host.daemon.start();
    assert!(cgroup.exists());
    assert_agent(
        &host,
        &mut host.probe(agent_enforcer_tests::binaries::probe(), "team/jobs/one", None),
    );
    assert_stranger(
        &host,
        &mut host.probe(agent_enforcer_tests::binaries::probe(), "team/other", None),
    );
}

#[test]
fn recognises_only_what_holds_for_the_whole_term() {
    let term = format!(r#"["cgroup:path:@CG@/both", "unix:uid:{USER}", "unix:path:@DIR@/agent"]"#);
    let mut host = TestHost::builder().policy(&policy(&term)).stopped().build();
    let (program, other) = (host.copy_of_probe("agent"), host.copy_of_probe("other"));
    host.daemon.start();
    assert_agent(&host, &mut host.probe(&program, "both", Some(USER)));
    assert_stranger(&host, &mut host.probe(&program, "both", None));
    assert_stranger(&host, &mut host.probe(&program, "elsewhere", Some(USER)));
    assert_stranger(&host, &mut host.probe(&other, "both", Some(USER)));
}

#[test]
fn denies_executable_with_another_digest_than_demanded() {
    let good = digest(agent_enforcer_tests::binaries::probe());
    let term = format!(r#"["unix:path:@DIR@/agent", "unix:sha256:{good}"]"#);
    let mut host = TestHost::builder().policy(&policy(&term)).stopped().build();
    let program = host.copy_of_probe("agent");
    host.daemon.start();
    assert_agent(&host, &mut host.probe(&program, "anywhere", None));

    let mut changed = std::fs::read(&program).unwrap();
    changed.push(0);
    let replacement = host.directory().join("replacement");
    std::fs::write(&replacement, changed).unwrap();
    std::fs::set_permissions(&replacement, std::fs::metadata(&program).unwrap().permissions())
        .unwrap();
    std::fs::rename(&replacement, &program).unwrap();
    wait_until("the new file is recognised", SOON, || {
        let probe = host.probe(&program, "anywhere", None);
        host.explain(probe.pid(), "192.0.2.10:7000")["agent"] == "chosen"
    });
    let mut probe = host.probe(&program, "anywhere", None);
    assert_ne!(probe.run(Op::Dial { address: host.at(10) }).errno, 0);
    let event = host.wait_denied("digest_mismatch", probe.pid());
    let told = event.text("/actor/process/file/hashes/0/value");
    assert_eq!(told, digest(&program));
    host.wait_event("the finding", |event| event.code() == "identity_refused");
}

#[test]
fn adopts_processes_and_sockets_that_are_older_than_the_daemon() {
    let mut host = TestHost::builder().stopped().build();
    let mut agent = host.agent("strict");
    for (name, to) in [("standing", 10), ("none", 50)] {
        assert!(agent.connect(name, host.at(to)).is_ok());
        assert!(agent.echoes(name));
    }
    let mut stranger = host.stranger();
    assert!(stranger.connect("s", host.at(50)).is_ok());
    host.daemon.start();
    assert!(agent.run(Op::Dial { address: host.at(50) }).is_denied());
    assert!(agent.run(Op::Dial { address: host.at(10) }).is_ok());
    assert!(agent.echoes("standing"));
    assert!(!agent.echoes("none"));
    assert_eq!(host.servers.bytes_at(host.at(50)), 4);
    assert!(stranger.echoes("s"));
    let event = host.wait_denied("no_tool", agent.pid());
    assert_eq!(event.own("agent"), "strict");
}
