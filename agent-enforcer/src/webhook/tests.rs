use std::time::Instant;

use agent_enforcer_tests::{
    certificates::Authority,
    webhook::{Turn, Webhook as Service},
};
use tempfile::TempDir;
use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};

use super::*;

const SOON: Duration = Duration::from_secs(30);

/// Notes what comes; refuses answers that are `bad`.
#[derive(Clone)]
struct Notes(mpsc::UnboundedSender<Note>);

#[derive(Debug, PartialEq, Eq)]
enum Note {
    Answer(String),
    Failed(String),
}

impl Desk for Notes {
    async fn take(&self, answer: String) -> Result<(), ControlError> {
        if answer == "bad" {
            return Err(ControlError::Invalid("it does not hold".to_owned()));
        }
        self.0.send(Note::Answer(answer)).unwrap();
        Ok(())
    }

    fn failed(&self, facts: WebhookFacts) {
        assert_eq!(facts.question, "a-1");
        self.0.send(Note::Failed(facts.error)).unwrap();
    }
}

struct Stage {
    directory: TempDir,
    authority: Authority,
    service: Option<Service>,
    orders: mpsc::Sender<Order>,
    notes: UnboundedReceiver<Note>,
}

impl Stage {
    fn new(turns: impl IntoIterator<Item = Turn>) -> Self {
        let authority = Authority::new("web");
        let credential = authority.server("127.0.0.1");
        let service = Some(Service::start(&credential, turns));
        let (orders, asked) = mpsc::channel(16);
        let (told, notes) = mpsc::unbounded_channel();
        tokio::spawn(run(asked, Notes(told)));
        Self { directory: tempfile::tempdir().unwrap(), authority, service, orders, notes }
    }

    fn webhook(&self) -> Webhook {
        Webhook {
            url: self.service.as_ref().unwrap().url().parse().unwrap(),
            ca: Some(self.authority.write(self.directory.path(), "ca.pem")),
            timeout: Duration::from_secs(5),
            retries: 1,
        }
    }

    /// Posts a question; what it returns keeps it open.
    async fn post(&self, webhook: Webhook) -> oneshot::Sender<Infallible> {
        let (open, closed) = oneshot::channel();
        let body = br#"{"question":"a-1"}"#.to_vec();
        let webhook = Arc::new(webhook);
        let order = Order { webhook, question: "a-1".to_owned(), body, closed };
        self.orders.send(order).await.unwrap();
        open
    }

    async fn note(&mut self) -> Note {
        timeout(SOON, self.notes.recv()).await.unwrap().unwrap()
    }

    async fn failure(&mut self) -> String {
        match self.note().await {
            Note::Failed(error) => error,
            answer @ Note::Answer(_) => panic!("{answer:?}"),
        }
    }

    /// Posts one question, which gets no answer; why, and how often it was posted.
    async fn fails(turn: Turn) -> (String, usize) {
        let mut stage = Self::new([turn]);
        let _open = stage.post(stage.webhook()).await;
        (stage.failure().await, stage.asked())
    }

    fn asked(&self) -> usize {
        self.service.as_ref().unwrap().questions().len()
    }

    /// A runtime can't be dropped within another.
    fn stop(&mut self) {
        let service = self.service.take();
        std::thread::spawn(move || drop(service)).join().unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}

fn says(text: &str) -> Turn {
    let text = text.to_owned();
    Turn::answer(move |_| text.clone())
}

#[tokio::test]
async fn answer_comes_back_as_it_was_sent() {
    let mut stage = Stage::new([says(" h.p.s\n")]);
    let _open = stage.post(stage.webhook()).await;
    assert_eq!(stage.note().await, Note::Answer("h.p.s".to_owned()));
    let posted = stage.service.as_ref().unwrap().questions();
    assert_eq!(posted, [serde_json::json!({ "question": "a-1" })]);
}

#[tokio::test]
async fn service_that_needs_time_is_asked_again() {
    let mut stage = Stage::new([Turn::NotYet(1), Turn::NotYet(0), says("h.p.s")]);
    let begun = Instant::now();
    let _open = stage.post(Webhook { retries: 0, ..stage.webhook() }).await;
    assert_eq!(stage.note().await, Note::Answer("h.p.s".to_owned()));
    assert!(begun.elapsed() >= Duration::from_secs(2), "never more often than each second");
    assert_eq!(stage.asked(), 3);
}

#[tokio::test]
async fn what_failed_on_the_way_is_tried_again() {
    for turn in [Turn::Status(503), Turn::Status(429), Turn::Silence(SOON)] {
        let mut stage = Stage::new([turn, says("h.p.s")]);
        let _open =
            stage.post(Webhook { timeout: Duration::from_secs(1), ..stage.webhook() }).await;
        assert_eq!(stage.note().await, Note::Answer("h.p.s".to_owned()));
        assert_eq!(stage.asked(), 2);
    }
}

#[tokio::test]
async fn retries_end() {
    let (error, asked) = Stage::fails(Turn::Status(500)).await;
    assert!(error.contains("500") && asked == 2, "{error} {asked}");
}

#[tokio::test]
async fn service_that_is_down_is_told() {
    let mut stage = Stage::new([says("h.p.s")]);
    let webhook = stage.webhook();
    stage.stop();
    let _open = stage.post(webhook).await;
    let error = stage.failure().await;
    assert!(error.contains("can't be reached") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn what_the_service_does_on_purpose_is_not_tried_again() {
    let elsewhere = "https://127.0.0.1:1/".to_owned();
    for (turn, expected) in [
        (Turn::Redirect(elsewhere), "never followed"),
        (Turn::Status(403), "403"),
        (Turn::Status(204), "204"),
        (says(&"x".repeat(ANSWER_BYTES + 1)), "more than 8192 bytes"),
        (says("bad"), "refused: it does not hold"),
    ] {
        let (error, asked) = Stage::fails(turn).await;
        assert!(error.contains(expected), "{error}");
        assert_eq!(asked, 1, "{error}");
    }
}

#[tokio::test]
async fn only_the_named_authorities_vouch_for_the_service() {
    let mut stage = Stage::new([says("h.p.s")]);
    let other = Authority::new("web").write(stage.directory.path(), "other.pem");
    let _open = stage.post(Webhook { ca: Some(other), retries: 0, ..stage.webhook() }).await;
    let error = stage.failure().await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    // Those of the host don't know it either.
    let _open = stage.post(Webhook { ca: None, retries: 0, ..stage.webhook() }).await;
    let error = stage.failure().await;
    assert!(error.contains("webhook"), "{error}");
    let missing = stage.directory.path().join("missing.pem");
    let _open = stage.post(Webhook { ca: Some(missing), ..stage.webhook() }).await;
    assert!(stage.failure().await.contains("missing.pem"));
    let empty = stage.directory.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let _open = stage.post(Webhook { ca: Some(empty), ..stage.webhook() }).await;
    assert!(stage.failure().await.contains("has no certificate"));
    // Another name than its certificate's.
    let url = stage.webhook().url.as_str().replace("127.0.0.1", "localhost").parse().unwrap();
    let _open = stage.post(Webhook { url, retries: 0, ..stage.webhook() }).await;
    let error = stage.failure().await;
    assert!(error.contains("not valid for name"), "{error}");
    assert_eq!(stage.asked(), 0);
}

#[tokio::test]
async fn closed_question_is_asked_no_more() {
    let stage = Stage::new([Turn::NotYet(1)]);
    let open = stage.post(stage.webhook()).await;
    while stage.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(open);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(stage.asked(), 1);
}
