//! The daemon's end of the control API.
//!
//! In: commands of local root. Out: what [`Control`] answers. Each command runs in a task of its
//! own: a client that goes away or a deadline that passes never stops a grant or a revocation
//! half way, and a panic takes nothing else down.

use std::{
    future::Future, io, os::unix::net::UnixListener, path::Path, pin::pin, sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, service::interceptor::InterceptedService, transport::Server,
};

use super::{
    DEADLINE, HEADER_LIMIT, LONG_DEADLINE, REQUEST_LIMIT,
    connection::{Incoming, Peer},
    convert::to_status,
    error::ApiError,
    socket::ControlSocket,
    wire::{self, control_server::ControlServer, events_response::Item},
};
use crate::control::{Control, ControlError, EventFeed, ExplainQuestion, GrantSpec};

/// Commands that one connection may have under way.
const STREAM_LIMIT: u32 = 16;
/// How often an idle client is asked whether it still lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(10);
/// How long open commands may go on after the shutdown was asked for.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Events that wait for a slow client before the feed counts what it skips.
const FEED_QUEUE: usize = 64;

/// A control socket that is bound but not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: ControlSocket,
    connections: UnixListener,
}

impl Listener {
    /// Takes the socket; see [`super::serve`]. Clients that connect wait until it is served.
    pub fn bind(socket: &Path) -> Result<Self, ApiError> {
        let (socket, connections) = ControlSocket::bind(socket)?;
        Ok(Self { socket, connections })
    }

    /// Answers commands until `shutdown` completes, then ends event feeds, lets open commands
    /// finish (bounded) and removes the socket.
    pub async fn serve(
        self,
        control: Arc<dyn Control>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ApiError> {
        let Self { socket, connections } = self;
        let failed =
            |source| ApiError::System { action: "serve", path: socket.path().to_owned(), source };
        let connections = tokio::net::UnixListener::from_std(connections).map_err(failed)?;
        let (stop, mut stopping) = watch::channel(false);
        let commands = Commands { control, stopping: stopping.clone() };
        let service = ControlServer::new(commands).max_decoding_message_size(REQUEST_LIMIT);
        let server = Server::builder()
            .max_concurrent_streams(STREAM_LIMIT)
            .http2_max_header_list_size(HEADER_LIMIT)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
            .add_service(InterceptedService::new(service, check_peer))
            .serve_with_incoming_shutdown(Incoming::new(connections), async {
                shutdown.await;
                stop.send_replace(true);
            });
        let drained = async {
            // The sender lives as long as the server; its end is no reason to stop waiting.
            let _ = stopping.wait_for(|stop| *stop).await;
            sleep(DRAIN_LIMIT).await;
        };
        let result = tokio::select! {
            result = pin!(server) => result.map_err(|error| failed(io::Error::other(error))),
            () = pin!(drained) => {
                tracing::warn!("control commands were cut off: they did not end in time");
                Ok(())
            }
        };
        result
    }
}

/// Root only, for now. The peer comes from the kernel, never from the request.
fn check_peer(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<Peer>() {
        Some(peer) if peer.may_command() => Ok(request),
        Some(peer) => Err(Status::permission_denied(format!(
            "the control API answers root, and this is user {}",
            peer.uid
        ))),
        None => Err(Status::permission_denied("the peer of this connection is unknown")),
    }
}

struct Commands {
    control: Arc<dyn Control>,
    stopping: watch::Receiver<bool>,
}

impl Commands {
    /// Runs one command to its end, and waits for it for at most `deadline`.
    async fn run<T, F>(
        &self,
        deadline: Duration,
        command: impl FnOnce(Arc<dyn Control>) -> F,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ControlError>> + Send + 'static,
    {
        let task = tokio::spawn(command(Arc::clone(&self.control)));
        match timeout(deadline, task).await {
            Ok(Ok(answer)) => answer.map_err(to_status),
            Ok(Err(failure)) => {
                tracing::error!(%failure, "a control command failed");
                Err(to_status(ControlError::Internal(format!("the command failed: {failure}"))))
            }
            Err(_elapsed) => Err(Status::deadline_exceeded(format!(
                "no answer within {} s; the command goes on",
                deadline.as_secs()
            ))),
        }
    }
}

/// Commands that change something leave a trace in the log whatever becomes of them.
fn log_change<T>(command: &'static str, request: &Request<T>) {
    if let Some(Peer { uid, pid }) = request.extensions().get::<Peer>() {
        tracing::info!(command, peer.uid = uid, peer.pid = pid, "control command");
    }
}

#[tonic::async_trait]
impl wire::control_server::Control for Commands {
    async fn status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let status = self.run(DEADLINE, |control| async move { control.status().await }).await?;
        Ok(Response::new(status.into()))
    }

    async fn agents(
        &self,
        _: Request<wire::AgentsRequest>,
    ) -> Result<Response<wire::AgentsResponse>, Status> {
        let agents = self.run(DEADLINE, |control| async move { control.agents().await }).await?;
        let agents = agents.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::AgentsResponse { agents }))
    }

    async fn policy_show(
        &self,
        _: Request<wire::PolicyShowRequest>,
    ) -> Result<Response<wire::PolicyResponse>, Status> {
        let policy =
            self.run(DEADLINE, |control| async move { control.policy_show().await }).await?;
        Ok(Response::new(policy.into()))
    }

    async fn policy_reload(
        &self,
        request: Request<wire::PolicyReloadRequest>,
    ) -> Result<Response<wire::PolicyResponse>, Status> {
        log_change("policy reload", &request);
        let policy =
            self.run(LONG_DEADLINE, |control| async move { control.policy_reload().await }).await?;
        Ok(Response::new(policy.into()))
    }

    async fn grant_issue(
        &self,
        request: Request<wire::GrantIssueRequest>,
    ) -> Result<Response<wire::Grant>, Status> {
        log_change("grant issue", &request);
        let spec = GrantSpec::try_from(request.into_inner()).map_err(to_status)?;
        let grant =
            self.run(DEADLINE, |control| async move { control.grant_issue(spec).await }).await?;
        Ok(Response::new(grant.into()))
    }

    async fn grant_list(
        &self,
        _: Request<wire::GrantListRequest>,
    ) -> Result<Response<wire::GrantListResponse>, Status> {
        let grants =
            self.run(DEADLINE, |control| async move { control.grant_list().await }).await?;
        let grants = grants.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::GrantListResponse { grants }))
    }

    async fn grant_revoke(
        &self,
        request: Request<wire::GrantRevokeRequest>,
    ) -> Result<Response<wire::Grant>, Status> {
        log_change("grant revoke", &request);
        let wire::GrantRevokeRequest { grant, reason } = request.into_inner();
        let grant = self
            .run(DEADLINE, |control| async move { control.grant_revoke(grant, reason).await })
            .await?;
        Ok(Response::new(grant.into()))
    }

    async fn pending(
        &self,
        _: Request<wire::PendingRequest>,
    ) -> Result<Response<wire::PendingResponse>, Status> {
        let calls = self.run(DEADLINE, |control| async move { control.pending().await }).await?;
        let calls = calls.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::PendingResponse { calls }))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let question = ExplainQuestion::try_from(request.into_inner()).map_err(to_status)?;
        let explanation =
            self.run(DEADLINE, |control| async move { control.explain(question).await }).await?;
        Ok(Response::new(explanation.into()))
    }

    type EventsStream = ReceiverStream<Result<wire::EventsResponse, Status>>;

    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let wire::EventsRequest { follow, count } = request.into_inner();
        let EventFeed { recent, live } =
            self.run(DEADLINE, |control| async move { control.events().await }).await?;
        let wanted =
            count.map_or(recent.len(), |count| usize::try_from(count).unwrap_or(usize::MAX));
        let left_out = recent.len().saturating_sub(wanted);
        let recent = recent.into_iter().skip(left_out);
        let (queue, answers) = mpsc::channel(FEED_QUEUE);
        let live = follow.then_some((live, self.stopping.clone()));
        tokio::spawn(feed(recent, live, queue));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn detach(
        &self,
        request: Request<wire::DetachRequest>,
    ) -> Result<Response<wire::DetachResponse>, Status> {
        log_change("detach", &request);
        let wire::DetachRequest { reason } = request.into_inner();
        self.run(LONG_DEADLINE, |control| async move { control.detach(reason).await }).await?;
        Ok(Response::new(wire::DetachResponse {}))
    }
}

type FeedQueue = mpsc::Sender<Result<wire::EventsResponse, Status>>;
type Live = (tokio::sync::broadcast::Receiver<String>, watch::Receiver<bool>);

/// Ends when the client goes away, and with an error when the daemon stops.
async fn feed(recent: impl Iterator<Item = String>, live: Option<Live>, queue: FeedQueue) {
    for line in recent {
        if queue.send(Ok(item(Item::Line(line)))).await.is_err() {
            return;
        }
    }
    let Some((mut live, mut stopping)) = live else { return };
    loop {
        let next = tokio::select! {
            // In this order, so that the events of the shutdown itself still arrive.
            biased;
            () = queue.closed() => return,
            received = live.recv() => match received {
                Ok(event) => Ok(item(Item::Line(event))),
                Err(RecvError::Lagged(skipped)) => Ok(item(Item::Skipped(skipped))),
                Err(RecvError::Closed) => Err(ended()),
            },
            _ = stopping.wait_for(|stop| *stop) => Err(ended()),
        };
        let last = next.is_err();
        if queue.send(next).await.is_err() || last {
            return;
        }
    }
}

fn item(item: Item) -> wire::EventsResponse {
    wire::EventsResponse { item: Some(item) }
}

fn ended() -> Status {
    to_status(ControlError::Unavailable("the daemon is stopping: no more events".to_owned()))
}
