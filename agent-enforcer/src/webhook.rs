//! Questions to approvers over HTTPS, and the signed answers that come back.
//!
//! In: [`Order`]s, from the engine; each is bounded as its question is. Out: answers as text, to the
//! [`Desk`], which verifies them; and what went wrong. `200` with a body is an answer, `202` is "not
//! yet": the same question is posted again after `Retry-After`. What failed on the way is tried again,
//! what the service did on purpose is not. A question that is closed is asked no more. Nothing here
//! decides: without an answer that holds, a call waits to its end and is denied.

#[cfg(test)]
mod tests;

use std::{convert::Infallible, error::Error as _, fs, sync::Arc, time::Duration};

use reqwest::{
    Certificate, Client, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER},
    redirect,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use crate::{control::ControlError, events::WebhookFacts, resolver::policy::Webhook};

/// Questions that may wait to be posted: as many as may be open.
pub const QUEUE: usize = 256;
/// Requests at the same time.
const AT_ONCE: usize = 16;
/// Largest answer, bytes.
const ANSWER_BYTES: usize = 8 << 10;
/// Before the first request that is made again; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Before a question is posted again that has no answer yet, where the service does not say.
const POLL: Duration = Duration::from_secs(5);
const LONGEST_POLL: Duration = Duration::from_mins(1);

/// A question to be posted.
#[derive(Debug)]
pub struct Order {
    /// Where to.
    pub webhook: Arc<Webhook>,
    /// The question, `a-0123456789abcdef`.
    pub question: String,
    /// What is posted, JSON.
    pub body: Vec<u8>,
    /// Cut when the question is closed.
    pub closed: oneshot::Receiver<Infallible>,
}

/// Where answers go.
pub trait Desk: Clone + Send + Sync + 'static {
    /// Takes an answer, if it holds.
    fn take(&self, answer: String) -> impl Future<Output = Result<(), ControlError>> + Send;
    /// A question gets no answer from the webhook.
    fn failed(&self, facts: WebhookFacts);
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The authorities can't be read.
    #[error("the authorities of the webhook can't be used: {0}; see its `ca`")]
    Authorities(String),
    /// No connection, or one that broke.
    #[error("the webhook can't be reached: {0}; see that it runs, and its certificate")]
    Unreachable(String),
    /// No answer in time.
    #[error("the webhook did not answer in time; raise its `timeout`, or see its load")]
    TimedOut,
    /// Somebody else is to be asked.
    #[error("the webhook sends elsewhere ({0}), which is never followed; name the right `url`")]
    Redirect(StatusCode),
    /// It failed, or will not.
    #[error("the webhook answered {0}; see its log")]
    Status(StatusCode),
    /// Too much.
    #[error("the webhook's answer has more than {ANSWER_BYTES} bytes; send the signed answer only")]
    TooLarge,
    /// Not text.
    #[error("the webhook's answer is no text; send a compact JWS")]
    NotText,
    /// An answer that does not hold.
    #[error("the webhook's answer is refused: {0}")]
    Refused(ControlError),
}

impl Failure {
    /// Whether another request might end otherwise.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut => true,
            Self::Status(status) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Authorities(_)
            | Self::Redirect(_)
            | Self::TooLarge
            | Self::NotText
            | Self::Refused(_) => false,
        }
    }
}

/// What the service said.
#[derive(Debug)]
enum Said {
    Answer(String),
    NotYet(Duration),
}

/// Posts questions until nobody has any more.
pub async fn run(mut orders: mpsc::Receiver<Order>, desk: impl Desk) {
    let requests = Arc::new(Semaphore::new(AT_ONCE));
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { break };
                open.spawn(attend(order, Arc::clone(&requests), desk.clone()));
            }
            Some(ended) = open.join_next(), if !open.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a question to the webhook came to nothing");
                }
            }
        }
    }
}

/// One question, from its first post to its answer.
async fn attend(order: Order, requests: Arc<Semaphore>, desk: impl Desk) {
    let Order { webhook, question, body, mut closed } = order;
    let asked = tokio::select! {
        biased;
        _cut = &mut closed => return,
        asked = ask(&webhook, &body, &requests) => asked,
    };
    let result = match asked {
        // It closes the question, so it must not end with it.
        Ok(answer) => desk.take(answer).await.map_err(Failure::Refused),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = result {
        let (url, error) = (webhook.url.to_string(), failure.to_string());
        tracing::warn!(question, url, error, "a question has no answer from the webhook");
        desk.failed(WebhookFacts { question, url, error });
    }
}

async fn ask(webhook: &Webhook, body: &[u8], requests: &Semaphore) -> Result<String, Failure> {
    let client = client(webhook).await?;
    let mut left = webhook.retries;
    let mut pause = FIRST_PAUSE;
    loop {
        let said = {
            let _turn = requests.acquire().await;
            request(&client, webhook, body).await
        };
        match said {
            Ok(Said::Answer(answer)) => return Ok(answer),
            Ok(Said::NotYet(poll)) => {
                (left, pause) = (webhook.retries, FIRST_PAUSE);
                tokio::time::sleep(poll).await;
            }
            Err(failure) if left > 0 && failure.may_pass() => {
                left -= 1;
                tracing::info!(url = %webhook.url, error = %failure, "a question is posted again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// A client of its own for each question: the policy and the file of authorities may change.
async fn client(webhook: &Webhook) -> Result<Client, Failure> {
    let (ca, timeout) = (webhook.ca.clone(), webhook.timeout);
    let build = move || {
        let mut builder = Client::builder()
            .https_only(true)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(timeout)
            .user_agent(concat!("agent-enforcer/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = ca {
            let unusable = |error: &dyn std::fmt::Display| {
                Failure::Authorities(format!("{}: {error}", path.display()))
            };
            let pem = fs::read(&path).map_err(|error| unusable(&error))?;
            let authorities =
                Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
            if authorities.is_empty() {
                return Err(unusable(&"it has no certificate"));
            }
            builder = builder.tls_certs_only(authorities);
        }
        builder.build().map_err(|error| Failure::Authorities(chain(&error)))
    };
    let built = tokio::task::spawn_blocking(build).await;
    built.unwrap_or_else(|error| Err(Failure::Authorities(error.to_string())))
}

async fn request(client: &Client, webhook: &Webhook, body: &[u8]) -> Result<Said, Failure> {
    let request = client
        .post(webhook.url.clone())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/jwt")
        .body(body.to_vec());
    let response = request.send().await.map_err(|error| broken(&error))?;
    let status = response.status();
    if status == StatusCode::ACCEPTED {
        return Ok(Said::NotYet(poll_after(&response)));
    }
    if status.is_redirection() {
        return Err(Failure::Redirect(status));
    }
    if status != StatusCode::OK {
        return Err(Failure::Status(status));
    }
    let bytes = read(response).await?;
    let text = String::from_utf8(bytes).map_err(|_not_utf8| Failure::NotText)?;
    Ok(Said::Answer(text.trim().to_owned()))
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        if bytes.len() + chunk.len() > ANSWER_BYTES {
            return Err(Failure::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn poll_after(response: &Response) -> Duration {
    let wished = response.headers().get(RETRY_AFTER);
    let seconds = wished.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let wished = seconds.map_or(POLL, Duration::from_secs);
    wished.clamp(Duration::from_secs(1), LONGEST_POLL)
}

fn broken(error: &reqwest::Error) -> Failure {
    if error.is_timeout() { Failure::TimedOut } else { Failure::Unreachable(chain(error)) }
}

/// An error with its causes, which name what its own text hides.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
