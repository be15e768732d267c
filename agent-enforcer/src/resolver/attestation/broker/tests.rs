use std::{path::Path, process::Child, process::Command, process::Stdio};

use agent_enforcer_common::id::ExecId;
use agent_enforcer_tests::{
    broker::{BROKER, Broker, CLIENT},
    certificates::{Authority, Credential},
};
use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::resolver::attestation::procfs::ProcRoot;

const WORKLOAD: &str = "spiffe://example.org/agent/coder";
const HOUR: Duration = Duration::from_hours(1);
const SLOW: Duration = Duration::from_secs(20);

/// A process to ask about.
struct Workload(Child);

impl Workload {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn subject(&self) -> Subject {
        let directory = ProcRoot::open().unwrap().process(self.pid()).unwrap();
        let start_ns = directory.stat(&mut Vec::new()).unwrap().start_ns();
        Subject { exec: ExecId::new(7), pid: self.pid(), start_ns }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    directory: TempDir,
    authority: Authority,
    /// Dropped on a thread of its own: a runtime can't be dropped within another.
    broker: Option<Broker>,
    workload: Workload,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("example.org");
        let credential = authority.svid(BROKER);
        let broker = Broker::start(directory.path(), &credential, &authority);
        let workload = Workload::start();
        broker.register(workload.pid(), WORKLOAD, HOUR);
        Self { directory, authority, broker: Some(broker), workload }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    /// A broker that shows something else.
    fn replace(&mut self, credential: &Credential) {
        self.stop();
        let broker = Broker::start(self.path(), credential, &self.authority);
        broker.register(self.workload.pid(), WORKLOAD, HOUR);
        self.broker = Some(broker);
    }

    fn stop(&mut self) {
        let broker = self.broker.take();
        std::thread::spawn(move || drop(broker)).join().unwrap();
    }

    fn config(&self, client: &str) -> BrokerConfig {
        let (svid, key) = self.authority.svid(client).write(self.path(), "daemon");
        BrokerConfig {
            address: BrokerAddress::Unix(self.path().join("broker.sock")),
            id: BROKER.parse().unwrap(),
            svid,
            key,
            bundle: self.authority.write(self.path(), "bundle.pem"),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start(config: BrokerConfig, patience: Duration) -> (SpiffeBroker, Receiver<Attestation>) {
    let (told, answers) = channel(16);
    let broker = SpiffeBroker::start_with(config, patience, move |_subject, result| {
        told.blocking_send(result).unwrap();
    });
    (broker, answers)
}

/// Asks once, as a client of its own.
async fn ask(stage: &Stage, client: &str) -> (Attestation, AttestorState) {
    let (broker, mut answers) = start(stage.config(client), SLOW);
    broker.ask(stage.workload.subject()).unwrap();
    let answer = answers.recv().await.unwrap();
    (answer, broker.state())
}

#[tokio::test]
async fn broker_tells_who_a_process_is() {
    let stage = Stage::new();
    let (answer, state) = ask(&stage, CLIENT).await;
    let [identity] = &answer.unwrap()[..] else { panic!("one identity") };
    assert_eq!(identity.id.as_str(), WORKLOAD);
    let left = identity.expires.duration_since(SystemTime::now()).unwrap();
    assert!(left > HOUR - Duration::from_mins(1) && left <= HOUR, "{left:?}");
    assert_eq!(stage.broker().asked(), [stage.workload.pid().cast_signed()]);
    assert_eq!(state.fault, None);
    assert!(state.address.starts_with("unix:/"), "{state:?}");
}

#[tokio::test]
async fn unknown_process_has_no_identity_and_that_is_no_fault_of_the_broker() {
    let stage = Stage::new();
    stage.broker().forget(stage.workload.pid());
    let (answer, state) = ask(&stage, CLIENT).await;
    let error = answer.unwrap_err();
    assert!(matches!(&error, AttestError::Refused { code, .. } if code == "PermissionDenied"));
    assert!(error.to_string().contains("no identity issued"), "{error}");
    assert_eq!(state.fault, None);
}

#[tokio::test]
async fn broker_asks_who_the_daemon_is() {
    let stage = Stage::new();
    let (answer, _) = ask(&stage, "spiffe://example.org/somebody").await;
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("may not ask"), "{error}");
    assert!(stage.broker().asked().is_empty());
    // A client of another trust domain does not come that far.
    let stranger = Authority::new("example.org");
    let mut config = stage.config(CLIENT);
    (config.svid, config.key) = stranger.svid(CLIENT).write(stage.path(), "stranger");
    let (broker, mut answers) = start(config, SLOW);
    broker.ask(stage.workload.subject()).unwrap();
    let error = answers.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, AttestError::Unreachable(_)), "{error}");
    assert!(stage.broker().asked().is_empty());
}

#[tokio::test]
async fn another_broker_is_not_believed() {
    let mut stage = Stage::new();
    let stranger = Authority::new("example.org");
    for (id, of_another, expected) in [
        (BROKER, true, "invalid peer certificate"),
        ("spiffe://example.org/other", false, "it is spiffe://example.org/other that answers"),
        ("spiffe://example.com/broker", false, "it is spiffe://example.com/broker that answers"),
    ] {
        let vouching = if of_another { &stranger } else { &stage.authority };
        let credential = vouching.svid(id);
        stage.replace(&credential);
        let (answer, state) = ask(&stage, CLIENT).await;
        let error = answer.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(state.fault, Some(error));
        assert!(stage.broker().asked().is_empty(), "nothing was asked of it");
    }
}

#[tokio::test]
async fn broker_that_is_down_is_a_fault_until_it_is_back() {
    let mut stage = Stage::new();
    stage.stop();
    let (broker, mut answers) = start(stage.config(CLIENT), SLOW);
    broker.ask(stage.workload.subject()).unwrap();
    let error = answers.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, AttestError::Unreachable(_)), "{error}");
    assert!(broker.state().fault.is_some());
    let credential = stage.authority.svid(BROKER);
    stage.replace(&credential);
    broker.ask(stage.workload.subject()).unwrap();
    answers.recv().await.unwrap().unwrap();
    assert_eq!(broker.state().fault, None);
}

#[tokio::test]
async fn slow_broker_is_not_waited_for() {
    let stage = Stage::new();
    stage.broker().delay(Duration::from_mins(1));
    let (broker, mut answers) = start(stage.config(CLIENT), Duration::from_millis(300));
    broker.ask(stage.workload.subject()).unwrap();
    let error = answers.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, AttestError::TimedOut(_)), "{error}");
    assert!(broker.state().fault.is_some());
}

#[tokio::test]
async fn identity_that_has_ended_is_none() {
    let stage = Stage::new();
    stage.broker().give_expired();
    let (answer, _) = ask(&stage, CLIENT).await;
    assert!(matches!(answer, Err(AttestError::Expired)), "{answer:?}");
}

#[tokio::test]
async fn number_that_became_another_process_is_nobody() {
    let stage = Stage::new();
    let (broker, mut answers) = start(stage.config(CLIENT), SLOW);
    let subject = stage.workload.subject();
    let other = Subject { start_ns: subject.start_ns + 1_000_000_000, ..subject };
    broker.ask(other).unwrap();
    assert!(matches!(answers.recv().await.unwrap(), Err(AttestError::Gone)));
    assert!(stage.broker().asked().is_empty(), "the broker is not asked about a number alone");
    // It ends while the broker thinks.
    stage.broker().delay(Duration::from_millis(500));
    let brief = Workload::start();
    stage.broker().register(brief.pid(), WORKLOAD, HOUR);
    broker.ask(brief.subject()).unwrap();
    while stage.broker().asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(brief);
    assert!(matches!(answers.recv().await.unwrap(), Err(AttestError::Gone)));
}

#[tokio::test]
async fn files_that_are_wrong_are_named() {
    let stage = Stage::new();
    let good = stage.config(CLIENT);
    let empty = stage.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let missing = stage.path().join("missing.pem");
    for (config, place) in [
        (BrokerConfig { svid: missing.clone(), ..good.clone() }, "missing.pem"),
        (BrokerConfig { key: missing, ..good.clone() }, "missing.pem"),
        (BrokerConfig { bundle: empty, ..good }, "empty.pem has no certificate"),
    ] {
        let (broker, _answers) = start(config, SLOW);
        let fault = broker.state().fault.unwrap();
        assert!(fault.contains(place), "{fault}");
    }
}

#[test]
fn answers_are_for_this_daemon_and_name_their_subject() {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use spiffe::broker_api::pb::spiffe::broker::Jwtsvid;

    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let answer = |id: &str, claims: &str| FetchJwtsvidResponse {
        svids: vec![Jwtsvid {
            spiffe_id: id.to_owned(),
            svid: format!("{}.{}.c2ln", part(r#"{"alg":"ES256","kid":"k"}"#), part(claims)),
            hint: String::new(),
        }],
    };
    let claims = r#"{"sub":"spiffe://a/b","aud":["agent-enforcer"],"exp":4294967295}"#;
    let now = SystemTime::now();
    assert!(identities(answer("spiffe://a/b", claims), now).is_ok());
    for (id, claims, expected) in [
        ("spiffe://a/c", claims.to_owned(), "is not the SVID's subject"),
        ("spiffe://a/b", claims.replace("agent-enforcer", "x"), "is not for"),
        ("spiffe://a/b", "{}".to_owned(), "answer is refused"),
    ] {
        let error = identities(answer(id, &claims), now).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let none = identities(FetchJwtsvidResponse::default(), now).unwrap_err().to_string();
    assert!(none.contains("names no identity"), "{none}");
}
