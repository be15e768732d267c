//! Ends single flows: the denied one whose caller waits, the live one whose grant is gone.
//!
//! In: the network namespace of a socket, its cookie, its protocol. Out: the socket is destroyed
//! (`SOCK_DIAG` / `SOCK_DESTROY`), its owner's calls fail with `ECONNABORTED` at once.
//! Network namespaces are entered on threads of their own, never on the caller's. Sockets are found
//! by listing those of the namespace: requests that wait together share one list.
//! Nothing here decides which flow has to end.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, inet::SocketId};
use rustix::{
    fs::{CWD, Mode, OFlags, fstat, openat},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use self::diag::{Diag, DiagError};

mod diag;

/// A socket may be missed while others come and go around it; how often its list is read.
const LISTS: usize = 2;
/// When the worker looks again for a socket that it did not find, counted from the request: a call
/// can be denied before connect() has put its socket where it can be found.
const LOOK_AGAIN: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
];
/// How many requests share one list.
const BATCH: usize = 4096;

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It is destroyed.
    Done,
    /// There is no such socket (any more) in that network namespace.
    AlreadyGone,
}

/// Why a flow could not be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Neither TCP nor UDP.
    #[error("cannot end a flow of IP protocol {0}; only TCP (6) and UDP (17) have flows")]
    Protocol(u8),
    /// The network namespace can't be entered.
    #[error("cannot enter the network namespace of the flow: {0}; the daemon needs CAP_SYS_ADMIN")]
    Namespace(Errno),
    /// No thread.
    #[error("cannot start a thread to end a flow; raise the daemon's TasksMax")]
    Thread,
    /// Not privileged.
    #[error("the kernel does not let the daemon end flows; it needs CAP_NET_ADMIN")]
    NotPermitted,
    /// The kernel can't.
    #[error(
        "the kernel cannot end flows of IP protocol {0}; it needs CONFIG_INET_DIAG_DESTROY \
             and the modules tcp_diag and udp_diag"
    )]
    Unsupported(u8),
    /// Talking to the kernel failed.
    #[error("cannot ask the kernel to end a flow: {0}; see the kernel's log")]
    Netlink(Errno),
    /// The kernel's answer makes no sense.
    #[error(
        "the kernel's answer about a flow has an unknown format; report it with the kernel's version"
    )]
    Malformed,
}

/// Destroys one socket by its cookie (`SO_COOKIE`), on a thread of its own, and waits for it.
/// `protocol`: `IPPROTO_TCP` or `IPPROTO_UDP`.
pub fn reset(netns: BorrowedFd<'_>, cookie: u64, protocol: u8) -> Result<Reset, FlowError> {
    let ended = thread::scope(|scope| {
        let end = move || {
            enter(netns)?;
            end_flows(&[Flow { cookie, protocol }]).pop().unwrap_or(Err(FlowError::Malformed))
        };
        let thread = thread::Builder::new().name("flow-reset".to_owned());
        let thread = thread.spawn_scoped(scope, end).map_err(|_| FlowError::Thread)?;
        thread.join().map_err(|_| FlowError::Thread)
    });
    ended.flatten()
}

/// A request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowBusy {
    /// Too many wait.
    #[error("too many flows wait to be ended; their packets stay blocked until they time out")]
    QueueFull,
    /// The worker is gone.
    #[error("the thread that ends flows has stopped; restart the daemon")]
    Stopped,
}

/// One thread that ends flows. Dropping it finishes what was requested.
#[derive(Debug)]
pub struct FlowReset {
    queue: Option<SyncSender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Request {
    netns: OwnedFd,
    flow: Flow,
    since: Instant,
    looks: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    cookie: u64,
    protocol: u8,
}

impl FlowReset {
    /// Starts the thread. At most `queue` requests wait; `deliver` is called on the thread, once for
    /// each request, with its cookie. It must not block.
    pub fn start(
        queue: usize,
        deliver: impl Fn(u64, Result<Reset, FlowError>) + Send + 'static,
    ) -> Result<Self, FlowError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let home = openat(CWD, c"/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(FlowError::Namespace)?;
        let (sender, receiver) = sync_channel(queue);
        let thread = thread::Builder::new().name("flow-reset".to_owned());
        let thread = thread
            .spawn(move || Worker { home, deliver }.run(&receiver))
            .map_err(|_| FlowError::Thread)?;
        Ok(Self { queue: Some(sender), thread: Some(thread) })
    }

    /// Ends one socket by its cookie, later. A socket that is not there yet is looked for again for
    /// some 100 ms.
    pub fn request(&self, netns: OwnedFd, cookie: u64, protocol: u8) -> Result<(), FlowBusy> {
        let flow = Flow { cookie, protocol };
        let request = Request { netns, flow, since: Instant::now(), looks: 0 };
        let queue = self.queue.as_ref().ok_or(FlowBusy::Stopped)?;
        queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => FlowBusy::QueueFull,
            TrySendError::Disconnected(_) => FlowBusy::Stopped,
        })
    }
}

impl Drop for FlowReset {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that ends flows panicked");
        }
    }
}

struct Worker<D> {
    /// The namespace to wait in: a foreign one would be kept alive.
    home: OwnedFd,
    deliver: D,
}

impl<D: Fn(u64, Result<Reset, FlowError>)> Worker<D> {
    fn run(self, queue: &Receiver<Request>) {
        let mut again: Vec<Request> = Vec::new();
        let mut open = true;
        while open || !again.is_empty() {
            let mut due = Vec::new();
            let received = match again.iter().filter_map(Request::due).min() {
                _ if !open => Err(RecvTimeoutError::Timeout),
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(when) => queue.recv_timeout(when.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(request) => due.push(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
            due.extend(queue.try_iter().take(BATCH));
            let now = Instant::now();
            let is_due =
                |request: &mut Request| !open || request.due().is_none_or(|when| when <= now);
            due.extend(again.extract_if(.., is_due));
            if !open {
                // The daemon stops: each is looked for once more, at once.
                for request in &mut due {
                    request.looks = LOOK_AGAIN.len();
                }
            }
            again.extend(self.end(due));
        }
    }

    /// Returns the requests to look at again.
    fn end(&self, requests: Vec<Request>) -> Vec<Request> {
        let mut namespaces: HashMap<Option<(u64, u64)>, Vec<Request>> = HashMap::new();
        for request in requests {
            let namespace = fstat(&request.netns).map(|found| (found.st_dev, found.st_ino)).ok();
            namespaces.entry(namespace).or_default().push(request);
        }
        let mut again = Vec::new();
        for requests in namespaces.into_values() {
            let results = self.end_in_namespace(&requests);
            for (mut request, result) in requests.into_iter().zip(results) {
                request.looks += 1;
                if result == Ok(Reset::AlreadyGone) && request.due().is_some() {
                    again.push(request);
                } else {
                    (self.deliver)(request.flow.cookie, result);
                }
            }
        }
        again
    }

    fn end_in_namespace(&self, requests: &[Request]) -> Vec<Result<Reset, FlowError>> {
        let flows: Vec<Flow> = requests.iter().map(|request| request.flow).collect();
        let Some(first) = requests.first() else { return Vec::new() };
        let results = match enter(first.netns.as_fd()) {
            Ok(()) => end_flows(&flows),
            Err(error) => vec![Err(error); flows.len()],
        };
        if let Err(error) = enter(self.home.as_fd()) {
            tracing::error!(%error, "the thread that ends flows cannot leave a network namespace");
        }
        results
    }
}

impl Request {
    /// When to look for it (again); `None`: no more.
    fn due(&self) -> Option<Instant> {
        match self.looks.checked_sub(1) {
            None => Some(self.since),
            Some(looks) => LOOK_AGAIN.get(looks).map(|&after| self.since + after),
        }
    }
}

fn enter(netns: BorrowedFd<'_>) -> Result<(), FlowError> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(FlowError::Namespace)
}

/// Ends flows in the network namespace of the calling thread; one result for each.
fn end_flows(flows: &[Flow]) -> Vec<Result<Reset, FlowError>> {
    let with = |protocol| {
        let cookies = flows.iter().filter(move |flow| flow.protocol == protocol);
        end_sockets(protocol, cookies.map(|flow| flow.cookie).collect())
    };
    let (tcp, udp) = (with(IPPROTO_TCP), with(IPPROTO_UDP));
    let result = |flow: &Flow| {
        let ended = match flow.protocol {
            IPPROTO_TCP => &tcp,
            IPPROTO_UDP => &udp,
            other => return Err(FlowError::Protocol(other)),
        };
        ended
            .as_ref()
            .map_err(|&error| error)?
            .get(&flow.cookie)
            .copied()
            .unwrap_or(Ok(Reset::AlreadyGone))
    };
    flows.iter().map(result).collect()
}

/// Ends the sockets of one protocol that have these cookies; the results of those that were found.
fn end_sockets(
    protocol: u8,
    mut wanted: HashSet<u64>,
) -> Result<HashMap<u64, Result<Reset, FlowError>>, FlowError> {
    let mut ended = HashMap::new();
    for _ in 0..LISTS {
        for family in [AF_INET, AF_INET6] {
            if wanted.is_empty() {
                return Ok(ended);
            }
            let mut found: Vec<SocketId> = Vec::new();
            let mut visit = |id: SocketId| {
                if wanted.remove(&cookie_of(&id)) {
                    found.push(id);
                }
                !wanted.is_empty()
            };
            Diag::open()
                .and_then(|mut diag| diag.list(protocol, family, &mut visit))
                .map_err(|error| flow_error(error, protocol))?;
            // A conversation of its own: a list that was left early still has answers under way.
            let mut diag = Diag::open().map_err(|error| flow_error(error, protocol))?;
            for id in found {
                let cookie = cookie_of(&id);
                ended.insert(cookie, destroy(&mut diag, protocol, family, id));
            }
        }
    }
    Ok(ended)
}

fn destroy(diag: &mut Diag, protocol: u8, family: u8, id: SocketId) -> Result<Reset, FlowError> {
    match diag.destroy(protocol, family, id) {
        Ok(()) => Ok(Reset::Done),
        // Closed, or its place was taken by another socket, since it was listed.
        Err(DiagError::Refused(Errno::NOENT | Errno::STALE)) => Ok(Reset::AlreadyGone),
        Err(error) => Err(flow_error(error, protocol)),
    }
}

fn flow_error(error: DiagError, protocol: u8) -> FlowError {
    match error {
        DiagError::Malformed => FlowError::Malformed,
        DiagError::Refused(Errno::PERM | Errno::ACCESS) => FlowError::NotPermitted,
        // ENOENT for a list: no handler for the protocol.
        DiagError::Refused(Errno::OPNOTSUPP | Errno::NOENT) => FlowError::Unsupported(protocol),
        DiagError::System(errno) | DiagError::Refused(errno) => FlowError::Netlink(errno),
    }
}

/// The kernel tells the lower half first, whatever the byte order of the machine.
fn cookie_of(id: &SocketId) -> u64 {
    let cookie = u64::from_ne_bytes(id.cookie);
    if cfg!(target_endian = "big") { cookie.rotate_left(32) } else { cookie }
}

#[cfg(test)]
mod tests;
