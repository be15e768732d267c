//! Unix sockets of somebody who is no agent: echo servers, and a record of whatever arrives.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use crate::{Op, Probe, Reply, Trick, wait::SOON};

/// A server that lives as long as the test's process.
#[derive(Debug, Clone, Default)]
pub struct UnixServer {
    arrivals: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl UnixServer {
    /// Streams at a path, whatever was there before.
    pub fn at(path: &Path) -> Self {
        remove(path);
        Self::default().listening(UnixListener::bind(path).expect("an own path"))
    }

    /// Streams at a name of the abstract namespace.
    pub fn named(name: &str) -> Self {
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        Self::default().listening(UnixListener::bind_addr(&address).expect("a free name"))
    }

    /// Datagrams at a path.
    pub fn datagrams(path: &Path) -> Self {
        remove(path);
        let server = Self::default();
        let socket = UnixDatagram::bind(path).expect("an own path");
        let arrivals = Arc::clone(&server.arrivals);
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok(length) = socket.recv(&mut buffer) {
                arrivals.lock().expect("no panic").push(buffer[..length].to_vec());
            }
        });
        server
    }

    fn listening(self, listener: UnixListener) -> Self {
        let server = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // Arriving is an arrival, whatever is sent.
                self.arrivals.lock().expect("no panic").push(Vec::new());
                let server = self.clone();
                thread::spawn(move || server.echo(stream));
            }
        });
        server
    }

    fn echo(&self, mut stream: UnixStream) {
        let mut buffer = [0; 512];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            self.arrivals.lock().expect("no panic").push(buffer[..length].to_vec());
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    }

    /// What came, connections as nothing.
    pub fn arrivals(&self) -> Vec<Vec<u8>> {
        self.arrivals.lock().expect("no panic").clone()
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        Ok(()) | Err(_) => {}
    }
}

/// `sockaddr_un` of a path.
pub fn path_name(path: &Path) -> Vec<u8> {
    name(path.as_os_str().as_bytes())
}

/// `sockaddr_un` of a name of the abstract namespace.
pub fn abstract_name(text: &str) -> Vec<u8> {
    name(&[b"\0", text.as_bytes()].concat())
}

fn name(bytes: &[u8]) -> Vec<u8> {
    let family = u16::try_from(libc::AF_UNIX).expect("a small number");
    [&family.to_ne_bytes(), bytes].concat()
}

/// Gives an agent a new unix socket, `u`.
pub fn socket(agent: &mut Probe, kind: i32) {
    let op = Op::Socket { name: "u".to_owned(), domain: libc::AF_UNIX, kind, protocol: 0 };
    assert!(agent.run(op).is_ok());
}

/// Connects `u` to a `sockaddr_un`.
pub fn connect_op(peer: Vec<u8>) -> Op {
    Trick::ConnectBytes { name: "u".to_owned(), peer }.into()
}

/// Connects a new stream, `u`.
pub fn connect(agent: &mut Probe, peer: Vec<u8>) -> Reply {
    socket(agent, libc::SOCK_STREAM);
    decided(agent, &connect_op(peer))
}

/// Makes a call until it is decided: on a busy host the hooks of the cgroup plane don't get their
/// answer in the time for which they may wait, and the call is to be made again.
pub fn decided(agent: &mut Probe, op: &Op) -> Reply {
    let deadline = Instant::now() + SOON;
    loop {
        let reply = agent.run(op.clone());
        if reply.errno != libc::EAGAIN || Instant::now() > deadline {
            return reply;
        }
    }
}
