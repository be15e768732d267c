//! The command line's end of the control API.
//!
//! In: a socket path and domain words. Out: the daemon's answers, or an [`ApiError`] that says
//! what to do. Believes root only: a socket that somebody else serves is refused.

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::FileTypeExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    ANSWER_LIMIT, DEADLINE, HEADER_LIMIT, LONG_DEADLINE,
    convert::from_status,
    error::ApiError,
    socket::check_length,
    wire::{
        self, approvals_client::ApprovalsClient, control_client::ControlClient,
        events_response::Item,
    },
};
use crate::control::{
    AgentView, AnswerSpec, AnswerView, ExplainQuestion, Explanation, GrantSpec, GrantView,
    PendingView, PolicyView, Status as DaemonStatus,
};

/// How much longer than the daemon's own deadline a client waits, so that the daemon's word comes.
const GRACE: Duration = Duration::from_secs(2);
/// How often a silent daemon is asked whether it still lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(10);

/// A connection to the daemon. It is not made again when it breaks.
#[derive(Clone, Debug)]
pub struct Client {
    commands: ControlClient<Channel>,
    approvals: ApprovalsClient<Channel>,
}

/// What waits, as it changes.
#[derive(Debug)]
pub struct PendingStream {
    answers: Streaming<wire::PendingResponse>,
}

/// Which events to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventQuery {
    /// Go on with those to come.
    pub follow: bool,
    /// How many of the newest to begin with; `None` is all that the daemon keeps.
    pub count: Option<u64>,
}

/// One item of an [`EventStream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventItem {
    /// One JSON line, without its newline.
    Line(String),
    /// So many events were left out here, as this client was too slow.
    Skipped(u64),
}

/// Events as they arrive.
#[derive(Debug)]
pub struct EventStream {
    answers: Streaming<wire::EventsResponse>,
}

impl Client {
    /// Connects to the daemon that has `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, ApiError> {
        let stream = open(socket).await?;
        let lost =
            |error: &dyn std::error::Error| ApiError::ConnectionLost { detail: error.to_string() };
        // One stream for one connection: a reconnect would reach whoever has the path by then.
        let stream = Arc::new(Mutex::new(Some(stream)));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            async move { stream.map(TokioIo::new).ok_or(io::ErrorKind::NotConnected) }
        });
        // The address is never used: the connector has its stream already.
        let channel = Endpoint::from_static("http://control")
            .http2_max_header_list_size(HEADER_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_LIMIT)
            .keep_alive_while_idle(true)
            .connect_with_connector(tower::ServiceExt::map_err(connector, io::Error::from))
            .await
            .map_err(|error| lost(&error))?;
        let approvals =
            ApprovalsClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        let commands = ControlClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        Ok(Self { commands, approvals })
    }

    /// See [`crate::control::Control::status`].
    pub async fn status(&self) -> Result<DaemonStatus, ApiError> {
        let mut commands = self.commands.clone();
        Ok(within(DEADLINE, commands.status(wire::StatusRequest {})).await?.into())
    }

    /// See [`crate::control::Control::agents`].
    pub async fn agents(&self) -> Result<Vec<AgentView>, ApiError> {
        let mut commands = self.commands.clone();
        let wire::AgentsResponse { agents } =
            within(DEADLINE, commands.agents(wire::AgentsRequest {})).await?;
        Ok(agents.into_iter().map(Into::into).collect())
    }

    /// See [`crate::control::Control::policy_show`].
    pub async fn policy_show(&self) -> Result<PolicyView, ApiError> {
        let mut commands = self.commands.clone();
        Ok(within(DEADLINE, commands.policy_show(wire::PolicyShowRequest {})).await?.into())
    }

    /// See [`crate::control::Control::policy_reload`].
    pub async fn policy_reload(&self) -> Result<PolicyView, ApiError> {
        let mut commands = self.commands.clone();
        let answer = commands.policy_reload(wire::PolicyReloadRequest {});
        Ok(within(LONG_DEADLINE, answer).await?.into())
    }

    /// See [`crate::control::Control::grant_issue`].
    pub async fn grant_issue(&self, spec: GrantSpec) -> Result<GrantView, ApiError> {
        let mut commands = self.commands.clone();
        let request = wire::GrantIssueRequest::try_from(spec).map_err(ApiError::Refused)?;
        Ok(within(DEADLINE, commands.grant_issue(request)).await?.into())
    }

    /// See [`crate::control::Control::grant_present`].
    pub async fn grant_present(&self, token: String) -> Result<GrantView, ApiError> {
        let mut commands = self.commands.clone();
        let request = wire::GrantPresentRequest { token };
        Ok(within(DEADLINE, commands.grant_present(request)).await?.into())
    }

    /// See [`crate::control::Control::grant_list`].
    pub async fn grant_list(&self) -> Result<Vec<GrantView>, ApiError> {
        let mut commands = self.commands.clone();
        let wire::GrantListResponse { grants } =
            within(DEADLINE, commands.grant_list(wire::GrantListRequest {})).await?;
        Ok(grants.into_iter().map(Into::into).collect())
    }

    /// See [`crate::control::Control::grant_revoke`].
    pub async fn grant_revoke(&self, grant: String, reason: String) -> Result<GrantView, ApiError> {
        let mut commands = self.commands.clone();
        let request = wire::GrantRevokeRequest { grant, reason };
        Ok(within(DEADLINE, commands.grant_revoke(request)).await?.into())
    }

    /// See [`crate::control::Control::pending`].
    pub async fn pending(&self) -> Result<Vec<PendingView>, ApiError> {
        let mut approvals = self.approvals.clone();
        let wire::PendingResponse { calls } =
            within(DEADLINE, approvals.pending(wire::PendingRequest {})).await?;
        Ok(calls.into_iter().map(Into::into).collect())
    }

    /// The same, at once and whenever it changes.
    pub async fn watch_pending(&self) -> Result<PendingStream, ApiError> {
        let mut approvals = self.approvals.clone();
        let answers = approvals.watch_pending(wire::WatchPendingRequest {});
        Ok(PendingStream { answers: within(DEADLINE, answers).await? })
    }

    /// See [`crate::control::Control::answer`].
    pub async fn answer(&self, spec: AnswerSpec) -> Result<AnswerView, ApiError> {
        let mut approvals = self.approvals.clone();
        Ok(within(DEADLINE, approvals.answer(wire::AnswerRequest::from(spec))).await?.into())
    }

    /// See [`crate::control::Control::explain`].
    pub async fn explain(&self, question: ExplainQuestion) -> Result<Explanation, ApiError> {
        let mut commands = self.commands.clone();
        let request = wire::ExplainRequest::from(question);
        Ok(within(DEADLINE, commands.explain(request)).await?.into())
    }

    /// See [`crate::control::Control::events`].
    pub async fn events(&self, query: EventQuery) -> Result<EventStream, ApiError> {
        let EventQuery { follow, count } = query;
        let mut commands = self.commands.clone();
        let request = wire::EventsRequest { follow, count };
        Ok(EventStream { answers: within(DEADLINE, commands.events(request)).await? })
    }

    /// See [`crate::control::Control::detach`].
    pub async fn detach(&self, reason: String) -> Result<(), ApiError> {
        let mut commands = self.commands.clone();
        let wire::DetachResponse {} =
            within(LONG_DEADLINE, commands.detach(wire::DetachRequest { reason })).await?;
        Ok(())
    }
}

impl PendingStream {
    /// What waits now; `None` when the daemon ends.
    pub async fn next(&mut self) -> Result<Option<Vec<PendingView>>, ApiError> {
        let answer = self.answers.message().await;
        let answer = answer.map_err(|status| from_status(&status, KEEPALIVE + KEEPALIVE_LIMIT))?;
        Ok(answer
            .map(|wire::PendingResponse { calls }| calls.into_iter().map(Into::into).collect()))
    }
}

impl EventStream {
    /// The next item; `None` when all that was asked for was sent. An error ends the stream.
    pub async fn next(&mut self) -> Result<Option<EventItem>, ApiError> {
        loop {
            let answer = self.answers.message().await;
            match answer.map_err(|status| from_status(&status, KEEPALIVE + KEEPALIVE_LIMIT))? {
                Some(wire::EventsResponse { item: Some(Item::Line(line)) }) => {
                    return Ok(Some(EventItem::Line(line)));
                }
                Some(wire::EventsResponse { item: Some(Item::Skipped(skipped)) }) => {
                    return Ok(Some(EventItem::Skipped(skipped)));
                }
                // A kind of item of a newer daemon.
                Some(wire::EventsResponse { item: None }) => {}
                None => return Ok(None),
            }
        }
    }
}

async fn within<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ApiError> {
    let waited = deadline + GRACE;
    match timeout(waited, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(&status, deadline)),
        Err(_elapsed) => Err(ApiError::TimedOut { after: waited }),
    }
}

async fn open(socket: &Path) -> Result<UnixStream, ApiError> {
    check_length(socket)?;
    let path = socket.to_owned();
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(source) => return Err(refusal(socket, source)),
    };
    let server = stream.peer_cred().map_err(|source| ApiError::System {
        action: "identify the server of",
        path,
        source,
    })?;
    if server.uid() != 0 {
        return Err(ApiError::ForeignServer { path: socket.to_owned(), uid: server.uid() });
    }
    Ok(stream)
}

fn refusal(socket: &Path, source: io::Error) -> ApiError {
    let path = socket.to_owned();
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT | Errno::NOTDIR) => ApiError::NoSocket { path },
        Some(Errno::ACCESS | Errno::PERM) => ApiError::PermissionDenied { path },
        // connect(2) says the same of a file that is no socket.
        Some(Errno::CONNREFUSED) => {
            match fs::metadata(socket).map(|found| found.file_type().is_socket()) {
                Ok(false) => ApiError::NotASocket { path },
                Ok(true) | Err(_) => ApiError::NotListening { path },
            }
        }
        Some(Errno::AGAIN) => ApiError::ConnectionLost {
            detail: "too many clients wait for the daemon already".to_owned(),
        },
        Some(_) | None => ApiError::System { action: "connect to", path, source },
    }
}
