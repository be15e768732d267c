//! Connections to the control socket before gRPC sees them: who is there, how many, how long.
//!
//! In: the listening socket. Out: [`Connection`]s that carry their peer. Never lets strangers or
//! half-open clients use up the places of root, and never ends because accepting failed.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::control::Control;

/// Connections of those who are let in, at the same time.
pub(super) const CONNECTION_LIMIT: usize = 64;
/// Connections of anybody else at the same time, each long enough to be told no.
const STRANGER_LIMIT: usize = 4;
/// How long a client may take to say its first words.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// The first words of HTTP/2: the preface and the header of the settings.
const GREETING_BYTES: usize = 24 + 9;
/// How long nothing is accepted after it failed (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end, from the kernel (`SO_PEERCRED`): as of connect(), not forgeable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// User, in the daemon's user namespace.
    pub(super) uid: u32,
    /// Process; 0 where it is not visible from the daemon's pid namespace.
    pub(super) pid: i32,
}

impl Peer {
    /// Whether it may give commands: root only.
    pub(super) const fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Root.
    Root,
    /// Root, and whom the policy in force names as an approver.
    Approvers,
}

impl Audience {
    /// Whether a peer is let in for as long as it likes. Commands ask again who it is.
    pub(super) fn admits(self, peer: Peer, control: &dyn Control) -> bool {
        match self {
            Self::Root => peer.is_root(),
            Self::Approvers => peer.is_root() || control.may_approve(peer.uid),
        }
    }
}

/// One accepted connection.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
    admitted: bool,
    /// Until the greeting was read; for a stranger, as long as the connection lasts.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of the greeting that are still to come.
    greeting: usize,
    _place: OwnedSemaphorePermit,
}

/// The stream of accepted connections; it never ends.
pub(super) struct Incoming {
    listener: UnixListener,
    audience: Audience,
    control: Arc<dyn Control>,
    places: Arc<Semaphore>,
    stranger_places: Arc<Semaphore>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Accepts on `listener`.
    pub(super) fn new(
        listener: UnixListener,
        audience: Audience,
        control: Arc<dyn Control>,
    ) -> Self {
        Self {
            listener,
            audience,
            control,
            places: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
            stranger_places: Arc::new(Semaphore::new(STRANGER_LIMIT)),
            pause: None,
        }
    }

    /// `None`: there is no place, and the connection is closed.
    fn admit(&self, stream: UnixStream) -> Option<Connection> {
        let credentials = match stream.peer_cred() {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "closed a control connection: its peer is unknown");
                return None;
            }
        };
        let peer = Peer { uid: credentials.uid(), pid: credentials.pid().unwrap_or(0) };
        let admitted = self.audience.admits(peer, &*self.control);
        let places = if admitted {
            &self.places
        } else {
            tracing::warn!(
                peer.uid,
                peer.pid,
                "refused a control connection: neither root nor an approver"
            );
            &self.stranger_places
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::warn!(peer.uid, peer.pid, "closed a control connection: too many at once");
            return None;
        };
        Some(Connection {
            stream,
            peer,
            admitted,
            deadline: Some(Box::pin(sleep(GREETING_LIMIT))),
            greeting: GREETING_BYTES,
            _place: place,
        })
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _address)) => {
                    if let Some(connection) = self.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a control connection");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            tracing::debug!(?self.peer, "closed a control connection: its time is over");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        self.greeting = self.greeting.saturating_sub(read);
        if self.greeting == 0 && self.admitted {
            self.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
