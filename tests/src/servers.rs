//! Servers of the rest of the world: TCP and UDP echo on each address, and a record of whatever
//! arrives, which is the truth about what an agent could send.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{network::Namespace, wait::poll_for};

/// Connections that may wait to be accepted; what finds no room is tried again a second later.
const BACKLOG: i32 = 4096;

/// What happened at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A TCP connection was made.
    Connected,
    /// Bytes came over a connection.
    Data(Vec<u8>),
    /// A connection was closed.
    Closed,
    /// A connection was reset.
    Reset,
    /// A datagram came.
    Datagram(Vec<u8>),
}

/// Something that arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// At which address.
    pub to: SocketAddr,
    /// From whom.
    pub from: SocketAddr,
    /// What.
    pub what: What,
}

/// Running servers; they end when dropped.
#[derive(Debug)]
pub struct Servers {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

struct Sockets {
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    connections: HashMap<u64, TcpStream>,
    next: u64,
}

impl Servers {
    /// Listens at each address, TCP and UDP.
    pub fn start(namespace: &Namespace, addresses: &[SocketAddr]) -> Self {
        let sockets = namespace.inside(|| Sockets::bind(addresses));
        let (stopped, stop) = rustix::pipe::pipe().expect("a pipe");
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&arrivals);
        let thread = std::thread::spawn(move || sockets.serve(&stopped, &record));
        Self { arrivals, stop: Some(stop), thread: Some(thread) }
    }

    /// All that arrived so far.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().expect("the server's thread lives").clone()
    }

    /// What arrived at one address.
    pub fn at(&self, to: SocketAddr) -> Vec<What> {
        self.arrivals().into_iter().filter(|it| it.to == to).map(|it| it.what).collect()
    }

    /// How many payload bytes arrived at an address.
    pub fn bytes_at(&self, to: SocketAddr) -> usize {
        let bytes = |what: &What| match what {
            What::Data(data) | What::Datagram(data) => data.len(),
            What::Connected | What::Closed | What::Reset => 0,
        };
        self.at(to).iter().map(bytes).sum()
    }

    /// Waits until something arrives at an address; panics after the deadline.
    pub fn wait_for(&self, to: SocketAddr, what: &What, deadline: Duration) {
        let found = poll_for(deadline, || self.at(to).contains(what).then_some(()));
        assert!(found.is_some(), "{what:?} did not arrive at {to}: {:?}", self.arrivals());
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sockets {
    fn bind(addresses: &[SocketAddr]) -> Self {
        let mut sockets = Self {
            listeners: Vec::new(),
            datagrams: Vec::new(),
            connections: HashMap::new(),
            next: 0,
        };
        for address in addresses {
            let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
            rustix::net::listen(&listener, BACKLOG).expect("a longer queue");
            listener.set_nonblocking(true).expect("a new socket");
            sockets.listeners.push(listener);
            let datagrams = UdpSocket::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
            datagrams.set_nonblocking(true).expect("a new socket");
            sockets.datagrams.push(datagrams);
        }
        sockets
    }

    fn serve(mut self, stopped: &OwnedFd, record: &Mutex<Vec<Arrival>>) {
        loop {
            {
                let mut fds = vec![PollFd::new(stopped, PollFlags::IN)];
                let listeners = self.listeners.iter().map(|socket| socket.as_fd());
                let datagrams = self.datagrams.iter().map(|socket| socket.as_fd());
                let connections = self.connections.values().map(|socket| socket.as_fd());
                fds.extend(
                    listeners
                        .chain(datagrams)
                        .chain(connections)
                        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
                );
                match poll(&mut fds, None) {
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => panic!("poll of the servers: {error}"),
                }
                if !fds[0].revents().is_empty() {
                    return;
                }
            }
            // Held over the answers, so that who has one finds in the record what it answers.
            let mut record = record.lock().expect("no reader panics with the lock");
            self.accept(&mut record);
            self.receive(&mut record);
            self.read(&mut record);
        }
    }

    fn accept(&mut self, new: &mut Vec<Arrival>) {
        for listener in &self.listeners {
            while let Ok((connection, from)) = listener.accept() {
                let to = listener.local_addr().expect("a bound socket");
                connection.set_nonblocking(true).expect("a new socket");
                self.connections.insert(self.next, connection);
                self.next += 1;
                new.push(Arrival { to, from, what: What::Connected });
            }
        }
    }

    fn receive(&self, new: &mut Vec<Arrival>) {
        for socket in &self.datagrams {
            let mut buffer = vec![0; 65536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let to = socket.local_addr().expect("a bound socket");
                let data = buffer[..length].to_vec();
                // The peer may be gone; then it gets no echo.
                let _ = socket.send_to(&data, from);
                new.push(Arrival { to, from, what: What::Datagram(data) });
            }
        }
    }

    fn read(&mut self, new: &mut Vec<Arrival>) {
        self.connections.retain(|_, connection| {
            let Ok(to) = connection.local_addr() else { return false };
            let from = connection.peer_addr().unwrap_or(to);
            let mut buffer = vec![0; 65536];
            loop {
                match connection.read(&mut buffer) {
                    Ok(0) => {
                        new.push(Arrival { to, from, what: What::Closed });
                        return false;
                    }
                    Ok(length) => {
                        let data = buffer[..length].to_vec();
                        let _ = connection.write_all(&data);
                        new.push(Arrival { to, from, what: What::Data(data) });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                    Err(_reset) => {
                        new.push(Arrival { to, from, what: What::Reset });
                        return false;
                    }
                }
            }
        });
    }
}
