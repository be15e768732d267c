//! Agents for whom a SPIFFE broker vouches.

use std::{fs, time::Duration};

use agent_enforcer_tests::{
    HostBuilder, Op, Probe, Signatory, TestHost, binaries,
    broker::{BROKER, Broker, CLIENT},
    certificates::Authority,
    wait::{SOON, wait_until},
};

const ID: &str = "spiffe://example.org/agent/strict";
const HOUR: Duration = Duration::from_hours(1);

const POLICY: &str = r#"apiVersion: agent-enforcer/v1
keys:
  - @OWNER@
signers:
  - { key: owner }
tools:
  - { name: model, cidrs: [192.0.2.10], ports: ["1-65535"] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Is vouched for
    agent_id: spiffe://example.org/agent/strict
    attestation: spiffe
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model]
    standing: [model]
    stall_limit: 0s
  - name: other
    owner: owner@example.com
    purpose: Is not
    selectors: [["cgroup:path:@CG@/other"]]
    tools: [model]
    standing: [model]
    stall_limit: 0s
"#;

/// Fields go in this order: the daemon ends before its broker.
struct Stage {
    host: TestHost,
    authority: Authority,
    broker: Option<Broker>,
}

impl Stage {
    fn new() -> Self {
        let broker = ["--spiffe-broker", "unix:@DIR@/broker.sock", "--spiffe-broker-id", BROKER];
        let files = ["--spiffe-svid", "@DIR@/daemon.pem", "--spiffe-key", "@DIR@/daemon.key"];
        let bundle = ["--spiffe-bundle", "@DIR@/bundle.pem"];
        let flags = broker.into_iter().chain(files).chain(bundle);
        let builder = flags.fold(TestHost::builder(), HostBuilder::flag);
        let host = builder.stopped().build();
        let authority = Authority::new("example.org");
        authority.write(host.directory(), "bundle.pem");
        authority.svid(CLIENT).write(host.directory(), "daemon");
        let owner = Signatory::new(host.directory(), "owner", "EdDSA");
        host.write_policy(&POLICY.replace("@OWNER@", &owner.jwk));
        let probe = format!("probe={}", binaries::probe().display());
        let named = ["--name", "strict", "--agent-id", ID, "--tool", "model"];
        let rest = ["--software", &probe, "--valid-for", "1h"];
        let manifest = owner.manifest(&[&named[..], &rest[..]].concat());
        fs::write(host.daemon.policy_directory().join("strict.json"), manifest).unwrap();
        let mut stage = Self { host, authority, broker: None };
        stage.start_broker();
        stage.host.daemon.start();
        stage
    }

    fn start_broker(&mut self) {
        let credential = self.authority.svid(BROKER);
        self.broker = Some(Broker::start(self.host.directory(), &credential, &self.authority));
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("the broker runs")
    }

    fn refuses(&self, agent: &mut Probe, reason: &str) {
        assert!(agent.connect("m", self.host.at(10)).is_denied(), "{reason}");
        self.host.wait_denied(reason, agent.pid());
        self.becomes(agent, reason);
    }

    /// Waits until a process that was asked about before is asked about again.
    fn becomes(&self, agent: &Probe, reason: &str) {
        let to = self.host.at(10).to_string();
        wait_until(reason, SOON, || self.host.explain(agent.pid(), &to)["reason"] == reason);
    }

    /// As [`Self::allows`], once what was denied before is forgotten.
    fn comes_to_allow(&self, agent: &mut Probe, name: &str) {
        self.becomes(agent, "allowed_standing");
        wait_until("an allowed call", SOON, || agent.connect(name, self.host.at(10)).is_ok());
    }

    fn allows(&self, agent: &mut Probe, name: &str) {
        assert!(agent.connect(name, self.host.at(10)).is_ok(), "{}", self.host.daemon.log());
    }
}

#[test]
fn agent_is_who_the_broker_says() {
    let stage = Stage::new();
    let mut agent = stage.host.agent("strict");
    stage.refuses(&mut agent, "spiffe_unavailable");
    stage.broker().register(agent.pid(), ID, HOUR);
    stage.comes_to_allow(&mut agent, "a");
    assert!(agent.echoes("a"));
    let explained = stage.host.explain(agent.pid(), &stage.host.at(10).to_string());
    assert!(explained["steps"].to_string().contains(&format!("attested as {ID}")), "{explained}");
    let allowed = stage.host.wait_call("allowed", "allowed_standing", agent.pid());
    assert_eq!(allowed.own("spiffe_id"), ID);
    let agents = stage.host.cli(&["agents"]);
    assert_eq!(agents[0]["instances"][0]["spiffe_id"], ID);
    let asked = stage.broker().asked();
    assert!(asked.iter().all(|pid| *pid == agent.pid().cast_signed()), "{asked:?}");
    // It has its answer: nobody is asked again.
    stage.allows(&mut agent, "b");
    assert_eq!(stage.broker().asked(), asked);

    let mut twin = stage.host.agent("strict");
    stage.broker().register(twin.pid(), "spiffe://example.org/agent/other", HOUR);
    stage.becomes(&twin, "spiffe_id_mismatch");
    stage.refuses(&mut twin, "spiffe_id_mismatch");
    let refused = stage.host.wait_event("the refusal", |event| event.code() == "identity_refused");
    assert_eq!(refused.own("spiffe_id"), "spiffe://example.org/agent/other");
    assert_eq!(refused.own("reason"), "spiffe_id_mismatch");
    assert!(agent.echoes("a"), "the other instance goes on");

    // Nobody asks about agents whom this host knows by itself.
    let asked = stage.broker().asked();
    let mut other = stage.host.agent("other");
    stage.allows(&mut other, "a");
    assert_eq!(stage.broker().asked(), asked);
}

#[test]
fn identity_is_renewed_and_ends_with_what_vouches_for_it() {
    let stage = Stage::new();
    let mut agent = stage.host.agent("strict");
    stage.broker().register(agent.pid(), ID, Duration::from_secs(3));
    stage.comes_to_allow(&mut agent, "a");
    let before = stage.broker().asked().len();
    wait_until("renewals", SOON, || stage.broker().asked().len() >= before + 3);
    assert!(agent.echoes("a"), "a flow outlives what vouched for it first");
    stage.allows(&mut agent, "b");
    stage.broker().forget(agent.pid());
    let (name, data) = ("a".to_owned(), "x".to_owned());
    let cut = agent.begin(Op::Stream { name, data, pause_us: 20_000 });
    let cut = agent.wait_for(cut, Duration::from_secs(20)).expect("an end");
    assert!(!cut.is_ok(), "{cut:?}");
    stage.refuses(&mut agent, "spiffe_unavailable");
    stage.broker().register(agent.pid(), ID, HOUR);
    stage.comes_to_allow(&mut agent, "c");
}

#[test]
fn broker_that_is_down_is_told_and_asked_again() {
    let mut stage = Stage::new();
    let mut known = stage.host.agent("strict");
    stage.broker().register(known.pid(), ID, HOUR);
    stage.comes_to_allow(&mut known, "a");
    let status = stage.host.cli(&["status"]);
    assert!(status["spiffe_broker"].as_str().unwrap().ends_with("/broker.sock"), "{status}");
    stage.broker = None;
    fs::remove_file(stage.host.directory().join("broker.sock")).unwrap();
    let mut agent = stage.host.agent("strict");
    stage.refuses(&mut agent, "spiffe_unavailable");
    stage.allows(&mut known, "b");
    let problems = stage.host.cli(&["status"])["problems"].to_string();
    assert!(problems.contains("the SPIFFE broker can't be reached"), "{problems}");
    stage.start_broker();
    stage.broker().register(agent.pid(), ID, HOUR);
    stage.comes_to_allow(&mut agent, "a");
    let problems = stage.host.cli(&["status"])["problems"].to_string();
    assert!(!problems.contains("SPIFFE"), "{problems}");
}
