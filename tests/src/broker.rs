//! A SPIFFE broker: the public protocol, served over mutual TLS on a unix socket.
//!
//! It knows the workloads that a test registers, by their process ids, and asks of its clients what
//! the specification says: an X.509-SVID of its own trust domain, the security header, a reference
//! by pid. The client's SPIFFE ID must be the one that may ask.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use prost::Name as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Server, server::Connected},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::certificates::{Authority, Credential};

/// Generated from the public protocol.
#[expect(missing_docs, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
mod pb {
    tonic::include_proto!("spiffe.broker");
}

use pb::{
    FetchJwtsvidRequest, FetchJwtsvidResponse, Jwtsvid, SubscribeToJwtBundlesRequest,
    SubscribeToJwtBundlesResponse, SubscribeToX509BundlesRequest, SubscribeToX509BundlesResponse,
    SubscribeToX509svidRequest, SubscribeToX509svidResponse, WorkloadPidReference,
    api_server::{Api, ApiServer},
};

/// The SPIFFE ID of the one client that may ask.
pub const CLIENT: &str = "spiffe://example.org/agent-enforcer";
/// The broker's own SPIFFE ID.
pub const BROKER: &str = "spiffe://example.org/broker";

/// A broker that runs until it is dropped.
pub struct Broker {
    socket: PathBuf,
    desk: Arc<Mutex<Desk>>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Desk {
    workloads: HashMap<i32, Vec<(String, Duration)>>,
    expired: bool,
    delay: Duration,
    asked: Vec<i32>,
}

impl Broker {
    /// Serves below a directory, as `credential`, clients of `authority`.
    pub fn start(directory: &Path, credential: &Credential, authority: &Authority) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let socket = directory.join("broker.sock");
        // One that was ended leaves its socket.
        let _ = std::fs::remove_file(&socket);
        let desk = Arc::new(Mutex::new(Desk::default()));
        let service = ApiServer::new(Service(Arc::clone(&desk)));
        let acceptor = TlsAcceptor::from(credential.serve(b"h2", Some(authority)));
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&socket).expect("a socket of a test")
        };
        let (connections, incoming) = tokio::sync::mpsc::channel(16);
        runtime.spawn(accept(listener, acceptor, connections));
        runtime.spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming)),
        );
        Self { socket, desk, _runtime: runtime }
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A process is that workload from now on; its SVIDs last for `life`.
    pub fn register(&self, pid: u32, id: &str, life: Duration) {
        let ids = vec![(id.to_owned(), life)];
        self.desk().workloads.insert(pid.cast_signed(), ids);
    }

    /// A process is none of its workloads any more.
    pub fn forget(&self, pid: u32) {
        self.desk().workloads.remove(&pid.cast_signed());
    }

    /// Its SVIDs have ended when they come.
    pub fn give_expired(&self) {
        self.desk().expired = true;
    }

    /// It takes so long from now on.
    pub fn delay(&self, delay: Duration) {
        self.desk().delay = delay;
    }

    /// The process ids that it was asked about.
    pub fn asked(&self) -> Vec<i32> {
        self.desk().asked.clone()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no test has failed within")
    }
}

async fn accept(
    listener: UnixListener,
    acceptor: TlsAcceptor,
    connections: tokio::sync::mpsc::Sender<std::io::Result<Connection>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = connections.send(Ok(Connection(stream))).await;
            }
        });
    }
}

/// A connection whose client has shown its certificate.
struct Connection(TlsStream<UnixStream>);

/// Who is at the other end.
#[derive(Clone)]
struct Peer(Option<String>);

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let chain = self.0.get_ref().1.peer_certificates().unwrap_or_default();
        Peer(chain.first().and_then(|certificate| spiffe_id(certificate)))
    }
}

fn spiffe_id(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(context)
    }
}

struct Service(Arc<Mutex<Desk>>);

#[tonic::async_trait]
impl Api for Service {
    type SubscribeToX509SVIDStream =
        ReceiverStream<Result<SubscribeToX509svidResponse, Status>>;
    type SubscribeToX509BundlesStream =
        ReceiverStream<Result<SubscribeToX509BundlesResponse, Status>>;
    type SubscribeToJWTBundlesStream =
        ReceiverStream<Result<SubscribeToJwtBundlesResponse, Status>>;

    async fn subscribe_to_x509svid(
        &self,
        _request: Request<SubscribeToX509svidRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDStream>, Status> {
        Err(Status::unimplemented("no private keys here"))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        _request: Request<SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        Err(Status::unimplemented("no bundles here"))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<FetchJwtsvidRequest>,
    ) -> Result<Response<FetchJwtsvidResponse>, Status> {
        let header = request.metadata().get("broker.spiffe.io").map(|value| value.as_bytes());
        if header != Some(b"true") {
            return Err(Status::invalid_argument("the security header is missing"));
        }
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
        if peer.as_deref() != Some(CLIENT) {
            return Err(Status::unauthenticated(format!("{peer:?} may not ask")));
        }
        let FetchJwtsvidRequest { reference, audience, spiffe_id: _ } = request.into_inner();
        let reference = reference.and_then(|reference| reference.reference);
        let reference = reference.ok_or_else(|| Status::invalid_argument("no reference"))?;
        if reference.type_url != WorkloadPidReference::type_url() {
            return Err(Status::invalid_argument("not a reference by pid"));
        }
        let reference: WorkloadPidReference = prost::Message::decode(&*reference.value)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (ids, delay, expired) = {
            let mut desk = self.0.lock().expect("no test has failed within");
            desk.asked.push(reference.pid);
            (desk.workloads.get(&reference.pid).cloned(), desk.delay, desk.expired)
        };
        tokio::time::sleep(delay).await;
        let none = || Status::new(Code::PermissionDenied, "no identity issued");
        let svids = ids.ok_or_else(none)?.into_iter().map(|(id, life)| {
            let svid = token(&id, &audience, if expired { None } else { Some(life) });
            Jwtsvid { spiffe_id: id, svid, hint: String::new() }
        });
        Ok(Response::new(FetchJwtsvidResponse { svids: svids.collect() }))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        _request: Request<SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        Err(Status::unimplemented("no bundles here"))
    }
}

/// A JWT-SVID that lasts so long, or has ended. Its signature is nobody's: the connection counts.
fn token(id: &str, audience: &[String], life: Option<Duration>) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    let exp = life.map_or(now.as_secs() - 60, |life| (now + life).as_secs());
    let header = serde_json::json!({ "alg": "ES256", "kid": "broker-1", "typ": "JWT" });
    let claims = serde_json::json!({ "sub": id, "aud": audience, "exp": exp });
    let part = |json: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.{}", part(header), part(claims), BASE64_URL_SAFE_NO_PAD.encode([0; 64]))
}
