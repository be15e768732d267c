//! The SPIFFE Broker API as an [`Attestor`]: which SPIFFE IDs a process of this host has.
//!
//! In: questions, from the engine. Out: answers, through one closure. The broker is known by its
//! X.509-SVID and knows the daemon by its own (`tls`), whatever carries the connection. It is asked
//! for JWT-SVIDs: other than X.509-SVIDs, these come without the workload's private key, and they are
//! for an audience at which nobody else is. They are read and forgotten; the connection is what they
//! are believed for. How many questions wait, and how long, is bounded.

mod address;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use spiffe::{
    JwtSvid,
    broker_api::{
        SecurityHeader,
        pb::spiffe::broker::{
            FetchJwtsvidRequest, FetchJwtsvidResponse, WorkloadPidReference, api_client::ApiClient,
        },
    },
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Uri},
};

pub use address::{BrokerAddress, BrokerAddressError};

use super::{
    attestor::{
        AttestError, Attestation, Attestor, AttestorBusy, AttestorState, Identity, Subject,
    },
    bound::BoundProcess,
};
use crate::resolver::spiffe::SpiffeId;

/// Questions that may wait for their turn.
const QUEUE: usize = 1024;
/// Questions that the broker has at the same time.
const AT_ONCE: usize = 16;
/// How long the broker may take, connecting included: shorter than a call waits for its identity.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer, bytes.
const ANSWER_BYTES: usize = 1 << 20;
/// Whom the JWT-SVIDs are for.
const AUDIENCE: &str = "agent-enforcer";

type Client = ApiClient<InterceptedService<Channel, SecurityHeader>>;
type Deliver = dyn Fn(Subject, Attestation) + Send + Sync;

/// Which broker, and who the daemon is to it.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where it is.
    pub address: BrokerAddress,
    /// Its own SPIFFE ID: who answers under another is not believed.
    pub id: SpiffeId,
    /// The daemon's X.509-SVID with its chain, PEM. Read for each connection, so that it may change.
    pub svid: PathBuf,
    /// The private key of that, PKCS #8 in PEM.
    pub key: PathBuf,
    /// The X.509 authorities of the broker's trust domain, PEM.
    pub bundle: PathBuf,
}

/// See the module's header.
pub struct SpiffeBroker {
    address: String,
    questions: mpsc::Sender<Subject>,
    fault: Arc<Mutex<Option<String>>>,
}

/// What a task needs for one question.
#[derive(Clone)]
struct Desk {
    client: Client,
    patience: Duration,
}

impl SpiffeBroker {
    /// Begins to take questions; needs a tokio runtime. `deliver` is called once for each question,
    /// on a thread that may block.
    pub fn start(
        config: BrokerConfig,
        deliver: impl Fn(Subject, Attestation) + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(config, PATIENCE, deliver)
    }

    fn start_with(
        config: BrokerConfig,
        patience: Duration,
        deliver: impl Fn(Subject, Attestation) + Send + Sync + 'static,
    ) -> Self {
        let address = config.address.to_string();
        // Told at once, not at the first question; the files may still come.
        let fault = tls::client_config(&config).err().map(|error| error.to_string());
        if let Some(fault) = &fault {
            tracing::warn!(%address, fault, "the SPIFFE broker can't be asked yet");
        }
        let fault = Arc::new(Mutex::new(fault));
        let (questions, asked) = mpsc::channel(QUEUE);
        let desk = Desk { client: client(config), patience };
        tokio::spawn(serve(desk, asked, Arc::clone(&fault), Arc::new(deliver)));
        Self { address, questions, fault }
    }
}

impl Attestor for SpiffeBroker {
    fn ask(&self, subject: Subject) -> Result<(), AttestorBusy> {
        self.questions.try_send(subject).map_err(|_full| AttestorBusy)
    }

    fn state(&self) -> AttestorState {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        AttestorState { address: self.address.clone(), fault }
    }
}

/// A client that connects when it has something to ask, and again when that has broken.
fn client(config: BrokerConfig) -> Client {
    let config = Arc::new(config);
    let connector = tower::service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move { tls::connect(&config).await.map(TokioIo::new) }
    });
    // The address is never used: the connector has its own.
    let channel = Endpoint::from_static("http://broker").connect_with_connector_lazy(connector);
    ApiClient::with_interceptor(channel, SecurityHeader::new())
        .max_decoding_message_size(ANSWER_BYTES)
}

/// Asks for as long as anybody has questions.
async fn serve(
    desk: Desk,
    mut asked: mpsc::Receiver<Subject>,
    fault: Arc<Mutex<Option<String>>>,
    deliver: Arc<Deliver>,
) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            subject = asked.recv(), if under_way.len() < AT_ONCE => {
                let Some(subject) = subject else { break };
                let (desk, fault, deliver) = (desk.clone(), Arc::clone(&fault), Arc::clone(&deliver));
                under_way.spawn(async move {
                    let result = desk.ask(subject).await;
                    note(&fault, &result);
                    tokio::task::spawn_blocking(move || deliver(subject, result)).await
                });
            }
            Some(ended) = under_way.join_next(), if !under_way.is_empty() => {
                if let Err(error) | Ok(Err(error)) = ended {
                    tracing::error!(%error, "a question to the SPIFFE broker came to nothing");
                }
            }
        }
    }
}

fn note(fault: &Mutex<Option<String>>, result: &Attestation) {
    let found = match result {
        Err(error) if error.is_fault() => Some(error.to_string()),
        // It says nothing about the broker.
        Err(AttestError::Gone | AttestError::Process(_)) => return,
        Ok(_) | Err(_) => None,
    };
    *fault.lock().unwrap_or_else(PoisonError::into_inner) = found;
}

impl Desk {
    /// One question, from binding the process to binding it again.
    async fn ask(mut self, subject: Subject) -> Attestation {
        let Subject { exec: _, pid, start_ns } = subject;
        let process = BoundProcess::open(pid, start_ns)?;
        let pid = i32::try_from(pid).map_err(|_none| AttestError::Gone)?;
        let request = FetchJwtsvidRequest {
            reference: Some(WorkloadPidReference { pid }.into()),
            audience: vec![AUDIENCE.to_owned()],
            spiffe_id: String::new(),
        };
        let answer = timeout(self.patience, self.client.fetch_jwtsvid(request)).await;
        let answer = answer.map_err(|_elapsed| AttestError::TimedOut(self.patience))?;
        if !process.runs() {
            return Err(AttestError::Gone);
        }
        identities(answer.map_err(|status| refused(&status))?.into_inner(), SystemTime::now())
    }
}

fn identities(answer: FetchJwtsvidResponse, now: SystemTime) -> Attestation {
    let malformed = |problem: String| AttestError::Malformed(problem);
    let mut found = Vec::new();
    for svid in answer.svids {
        let parsed =
            JwtSvid::parse_insecure(&svid.svid).map_err(|error| malformed(error.to_string()))?;
        if parsed.spiffe_id().to_string() != svid.spiffe_id {
            return Err(malformed(format!("{} is not the SVID's subject", svid.spiffe_id)));
        }
        if !parsed.audience().iter().any(|name| name == AUDIENCE) {
            return Err(malformed(format!("the SVID is not for `{AUDIENCE}`")));
        }
        let id = svid.spiffe_id.parse().map_err(|error| malformed(format!("{error}")))?;
        found.push(Identity { id, expires: parsed.expiry().into() });
    }
    if found.is_empty() {
        return Err(malformed("it names no identity".to_owned()));
    }
    found.retain(|identity: &Identity| identity.expires > now);
    if found.is_empty() { Err(AttestError::Expired) } else { Ok(found) }
}

/// What the broker says about the workload, apart from not being there.
fn refused(status: &Status) -> AttestError {
    let (code, message) = (status.code(), status.message());
    match code {
        Code::PermissionDenied | Code::NotFound | Code::InvalidArgument | Code::Unauthenticated => {
            AttestError::Refused { code: format!("{code:?}"), message: message.to_owned() }
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => AttestError::Unreachable(format!("{code:?}: {message}")),
    }
}
