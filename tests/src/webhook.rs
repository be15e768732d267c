//! A web service that approvers' answers come from: HTTPS, and a key that signs.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Credential;

/// What the service does with a question.
#[derive(Clone)]
pub enum Turn {
    /// Answers with what this makes of the question.
    Answer(Arc<dyn Fn(&Value) -> String + Send + Sync>),
    /// Asks for patience, in seconds.
    NotYet(u64),
    /// Answers with a status and nothing else.
    Status(u16),
    /// Sends elsewhere.
    Redirect(String),
    /// Says nothing for so long.
    Silence(Duration),
}

impl Turn {
    /// An answer made of the question.
    pub fn answer(make: impl Fn(&Value) -> String + Send + Sync + 'static) -> Self {
        Self::Answer(Arc::new(make))
    }
}

/// A service that runs until it is dropped. It takes its turns one after another, the last one again
/// and again.
pub struct Webhook {
    address: SocketAddr,
    desk: Arc<Mutex<Desk>>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Desk {
    turns: VecDeque<Turn>,
    questions: Vec<Value>,
    bodies: Vec<Bytes>,
}

impl Webhook {
    /// Serves on a port of loopback.
    pub fn start(credential: &Credential, turns: impl IntoIterator<Item = Turn>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a port");
        listener.set_nonblocking(true).expect("an own socket");
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).expect("an own socket")
        };
        let desk = Desk { turns: turns.into_iter().collect(), ..Desk::default() };
        let desk = Arc::new(Mutex::new(desk));
        let acceptor = TlsAcceptor::from(credential.serve(b"http/1.1", None));
        runtime.spawn(accept(listener, acceptor, Arc::clone(&desk)));
        Self { address, desk, _runtime: runtime }
    }

    /// Where questions are posted to.
    pub fn url(&self) -> String {
        format!("https://{}/questions", self.address)
    }

    /// Takes these turns from now on.
    pub fn turn_to(&self, turns: impl IntoIterator<Item = Turn>) {
        self.desk().turns = turns.into_iter().collect();
    }

    /// What was posted so far.
    pub fn questions(&self) -> Vec<Value> {
        self.desk().questions.clone()
    }

    /// The same, as it came.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.desk().bodies.clone()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no test has failed within")
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, desk: Arc<Mutex<Desk>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, desk) = (acceptor.clone(), Arc::clone(&desk));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| serve(request, Arc::clone(&desk)));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(
    request: Request<Incoming>,
    desk: Arc<Mutex<Desk>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let posted = request.method() == "POST"
        && request.uri().path() == "/questions"
        && request.headers().get("content-type").is_some_and(|kind| kind == "application/json");
    let body = request.into_body().collect().await.expect("the whole question").to_bytes();
    let question: Value = serde_json::from_slice(&body).expect("a question is JSON");
    let turn = {
        let mut desk = desk.lock().expect("no test has failed within");
        desk.questions.push(question.clone());
        desk.bodies.push(body);
        let turn = desk.turns.front().cloned().expect("a turn");
        if desk.turns.len() > 1 {
            desk.turns.pop_front();
        }
        turn
    };
    let response = Response::builder();
    let answered = match turn {
        _ if !posted => response.status(400).body(Full::default()),
        Turn::Answer(make) => response.body(Full::from(make(&question))),
        Turn::NotYet(seconds) => {
            response.status(202).header("retry-after", seconds).body(Full::default())
        }
        Turn::Status(status) => response.status(status).body(Full::default()),
        Turn::Redirect(to) => response.status(307).header("location", to).body(Full::default()),
        Turn::Silence(time) => {
            tokio::time::sleep(time).await;
            response.body(Full::default())
        }
    };
    Ok(answered.expect("a response"))
}

/// SHA-256 over the inputs of a question as they stand in its body, hex.
pub fn digest_of_inputs(body: &[u8]) -> String {
    let text = std::str::from_utf8(body).expect("JSON is text");
    let (_, inputs) = text.split_once(r#""inputs":"#).expect("a question has inputs");
    let inputs = inputs.strip_suffix('}').expect("they come last");
    let digest = digest(&SHA256, inputs.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An Ed25519 key of an approver.
pub struct ApproverKey {
    kid: String,
    key: Ed25519KeyPair,
}

impl ApproverKey {
    /// A new one.
    pub fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), key: Ed25519KeyPair::generate().expect("a key") }
    }

    /// Its public part, a JSON Web Key on one line.
    pub fn jwk(&self) -> String {
        let x = BASE64_URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x }).to_string()
    }

    /// The claims of an answer to a question, good for a minute.
    pub fn claims(question: &Value, decision: &str) -> Value {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
        json!({
            "jti": format!("{}-answer", question["question"].as_str().unwrap_or_default()),
            "iat": now.as_secs(), "exp": now.as_secs() + 60,
            "aud": question["audience"], "question": question["question"],
            "digest": question["digest"], "nonce": question["nonce"],
            "decision": decision, "for": 600,
        })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": self.kid, "typ": "agent-approval+jwt" });
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let input = format!("{}.{}", part(&header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.key.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }
}
