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
    connection::{Audience, Incoming, Peer},
    convert::to_status,
    error::ApiError,
    socket::ControlSocket,
    wire::{
        self, approvals_server::ApprovalsServer, control_server::ControlServer,
        events_response::Item,
    },
};
use crate::control::{
    AnswerSpec, Authority, Control, ControlError, EventFeed, ExplainQuestion, GrantSpec,
};

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
    audience: Audience,
    socket: ControlSocket,
    connections: UnixListener,
}

impl Listener {
    /// Takes the socket; see [`super::serve`]. Clients that connect wait until it is served.
    pub fn bind(socket: &Path, audience: Audience) -> Result<Self, ApiError> {
        let (socket, connections) = ControlSocket::bind(socket, audience)?;
        Ok(Self { audience, socket, connections })
    }

    /// Answers commands until `shutdown` completes, then ends event feeds, lets open commands
    /// finish (bounded) and removes the socket.
    pub async fn serve(
        self,
        control: Arc<dyn Control>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ApiError> {
        let Self { audience, socket, connections } = self;
        let failed =
            |source| ApiError::System { action: "serve", path: socket.path().to_owned(), source };
        let connections = tokio::net::UnixListener::from_std(connections).map_err(failed)?;
        let (stop, mut stopping) = watch::channel(false);
        let incoming = Incoming::new(connections, audience, Arc::clone(&control));
        let commands = Commands { control: Arc::clone(&control), stopping: stopping.clone() };
        let for_root =
            ControlServer::new(commands.clone()).max_decoding_message_size(REQUEST_LIMIT);
        let for_root = (audience == Audience::Root)
            .then(|| InterceptedService::new(for_root, check_peer(Audience::Root, &control)));
        let for_all = ApprovalsServer::new(commands).max_decoding_message_size(REQUEST_LIMIT);
        let for_all = InterceptedService::new(for_all, check_peer(audience, &control));
        let server = Server::builder()
            .max_concurrent_streams(STREAM_LIMIT)
            .http2_max_header_list_size(HEADER_LIMIT)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
            .add_optional_service(for_root)
            .add_service(for_all)
            .serve_with_incoming_shutdown(incoming, async {
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

/// The peer comes from the kernel, never from the request.
fn check_peer(
    audience: Audience,
    control: &Arc<dyn Control>,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + use<> {
    let control = Arc::clone(control);
    move |request| match request.extensions().get::<Peer>() {
        Some(peer) if audience.admits(*peer, &*control) => Ok(request),
        Some(peer) => {
            let who = match audience {
                Audience::Root => "root",
                Audience::Approvers => "root and the policy's approvers",
            };
            let uid = peer.uid;
            Err(Status::permission_denied(format!("this answers {who}, and this is user {uid}")))
        }
        None => Err(Status::permission_denied("the peer of this connection is unknown")),
    }
}

/// Who asks; `check_peer` has refused whoever is unknown.
fn authority<T>(request: &Request<T>) -> Result<Authority, Status> {
    let Peer { uid, pid } = request
        .extensions()
        .get::<Peer>()
        .ok_or_else(|| Status::permission_denied("the peer of this connection is unknown"))?;
    Ok(Authority { uid: *uid, pid: u32::try_from(*pid).unwrap_or_default() })
}

#[derive(Clone)]
struct Commands {
    control: Arc<dyn Control>,
    stopping: watch::Receiver<bool>,
}

impl Commands {
    async fn pending_for(&self, authority: Authority) -> Result<wire::PendingResponse, Status> {
        let calls = self
            .run(DEADLINE, move |control| async move { control.pending(authority).await })
            .await?;
        Ok(wire::PendingResponse { calls: calls.into_iter().map(Into::into).collect() })
    }

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

    async fn grant_present(
        &self,
        request: Request<wire::GrantPresentRequest>,
    ) -> Result<Response<wire::Grant>, Status> {
        log_change("grant present", &request);
        let wire::GrantPresentRequest { token } = request.into_inner();
        let grant =
            self.run(DEADLINE, |control| async move { control.grant_present(token).await }).await?;
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
        request: Request<wire::PendingRequest>,
    ) -> Result<Response<wire::PendingResponse>, Status> {
        Ok(Response::new(self.pending_for(authority(&request)?).await?))
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

#[tonic::async_trait]
impl wire::approvals_server::Approvals for Commands {
    async fn pending(
        &self,
        request: Request<wire::PendingRequest>,
    ) -> Result<Response<wire::PendingResponse>, Status> {
        Ok(Response::new(self.pending_for(authority(&request)?).await?))
    }

    type WatchPendingStream = ReceiverStream<Result<wire::PendingResponse, Status>>;

    async fn watch_pending(
        &self,
        request: Request<wire::WatchPendingRequest>,
    ) -> Result<Response<Self::WatchPendingStream>, Status> {
        let authority = authority(&request)?;
        let first = self.pending_for(authority).await?;
        let (queue, answers) = mpsc::channel(1);
        tokio::spawn(watch_pending(self.clone(), authority, first, queue));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn answer(
        &self,
        request: Request<wire::AnswerRequest>,
    ) -> Result<Response<wire::AnswerResponse>, Status> {
        log_change("answer", &request);
        let authority = authority(&request)?;
        let spec = AnswerSpec::from(request.into_inner());
        let answer = self
            .run(DEADLINE, move |control| async move { control.answer(spec, authority).await })
            .await?;
        Ok(Response::new(answer.into()))
    }
}

/// What waits, now and whenever it changes, until the client goes away or the daemon stops. A client
/// that is slow gets the newest state, not every one. Each time it is asked anew who may know it.
async fn watch_pending(
    commands: Commands,
    authority: Authority,
    first: wire::PendingResponse,
    queue: mpsc::Sender<Result<wire::PendingResponse, Status>>,
) {
    let mut changes = commands.control.pending_changes();
    changes.mark_unchanged();
    let mut stopping = commands.stopping.clone();
    let mut next = Ok(first);
    loop {
        let last = next.is_err();
        if queue.send(next).await.is_err() || last {
            return;
        }
        next = tokio::select! {
            () = queue.closed() => return,
            told = changes.changed() => match told {
                Ok(()) => commands.pending_for(authority).await,
                Err(_gone) => Err(ended()),
            },
            () = async { drop(stopping.wait_for(|stop| *stop).await) } => Err(ended()),
        };
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
    to_status(ControlError::Unavailable("the daemon is stopping: nothing more to tell".to_owned()))
}
