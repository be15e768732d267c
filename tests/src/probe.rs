//! A probe from the outside: a real process that does what it is told, one [`Op`] at a time.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    binaries,
    network::Namespace,
    script::{Op, Reply, Request},
    wait::{SOON, poll_for, slowed},
};

/// How long a probe may take where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer that is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// A running probe; it is killed when dropped.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    stdin: ChildStdin,
    replies: Receiver<Reply>,
    early: HashMap<u64, Reply>,
    next: u64,
}

impl Probe {
    /// Starts `program`, a copy of the probe, in a namespace; it enters its cgroup before it
    /// becomes `program`.
    pub fn start(program: &Path, cgroup: &Path, uid: Option<u32>, namespace: &Namespace) -> Self {
        let mut command = Command::new(binaries::probe());
        command.arg("launch").arg(cgroup);
        command.arg(uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()));
        command.arg(program).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = namespace.inside(|| command.spawn()).expect("the probe's binary runs");
        let mut probe = Self::of(child);
        // It serves, so it is in its cgroup and is its last image.
        probe.run(Op::Pid);
        probe
    }

    fn of(mut child: Child) -> Self {
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let reply = serde_json::from_str(&line);
                let reply = reply.unwrap_or_else(|error| panic!("{error} in {line:?}"));
                if sender.send(reply).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, replies, early: HashMap::new(), next: 1 }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn request(&mut self, op: Op, aside: bool) -> Ticket {
        let request = Request { id: self.next, aside, op };
        self.next += 1;
        let line = serde_json::to_string(&request).expect("plain data");
        writeln!(self.stdin, "{line}").expect("the probe reads");
        Ticket(request.id)
    }

    /// Does something and waits for it.
    pub fn run(&mut self, op: Op) -> Reply {
        let what = format!("{op:?}");
        let ticket = self.request(op, false);
        self.wait_for(ticket, PATIENCE)
            .unwrap_or_else(|| panic!("the probe does not answer: {what}"))
    }

    /// Becomes a program that serves as this one does, and waits until it serves.
    pub fn become_program(&mut self, path: &Path, from_thread: bool) -> Reply {
        let path = path.display().to_string();
        self.request(Op::Exec { path, from_thread }, false);
        self.run(Op::Pid)
    }

    /// Begins something in a thread of its own.
    pub fn begin(&mut self, op: Op) -> Ticket {
        self.request(op, true)
    }

    /// The answer to what was begun.
    pub fn finish(&mut self, ticket: Ticket) -> Reply {
        self.wait_for(ticket, PATIENCE).expect("the probe answers in time")
    }

    /// The answer to what was begun, if it comes in time.
    pub fn wait_for(&mut self, ticket: Ticket, deadline: Duration) -> Option<Reply> {
        let end = Instant::now() + slowed(deadline);
        loop {
            if let Some(reply) = self.early.remove(&ticket.0) {
                return Some(reply);
            }
            match self.replies.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(reply) => {
                    self.early.insert(reply.id, reply);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("the probe runs");
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A new socket of the family of `address`.
    pub fn socket(&mut self, name: &str, address: SocketAddr, kind: i32) -> Reply {
        let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        self.run(Op::Socket { name: name.to_owned(), domain, kind, protocol: 0 })
    }

    /// A new TCP socket connects, blocking.
    pub fn connect(&mut self, name: &str, address: SocketAddr) -> Reply {
        let ticket = self.begin_connect(name, address);
        self.finish(ticket)
    }

    /// A new TCP socket begins to connect, blocking.
    pub fn begin_connect(&mut self, name: &str, address: SocketAddr) -> Ticket {
        let made = self.socket(name, address, libc::SOCK_STREAM);
        assert!(made.is_ok(), "a TCP socket: {made:?}");
        self.begin(Op::Connect { name: name.to_owned(), address })
    }

    /// A new UDP socket sends one datagram.
    pub fn send_to(&mut self, name: &str, address: SocketAddr, data: &str) -> Reply {
        let made = self.socket(name, address, libc::SOCK_DGRAM);
        assert!(made.is_ok(), "a UDP socket: {made:?}");
        let (name, data) = (name.to_owned(), data.to_owned());
        self.run(Op::SendTo { name, address, data, flags: 0 })
    }

    /// Sends over a connected socket.
    pub fn send(&mut self, name: &str, data: &str) -> Reply {
        self.run(Op::Send {
            name: name.to_owned(),
            data: data.to_owned(),
            flags: libc::MSG_NOSIGNAL,
        })
    }

    /// Receives within two seconds.
    pub fn receive(&mut self, name: &str) -> Reply {
        self.run(Op::Receive { name: name.to_owned(), timeout_ms: 2000 })
    }

    /// A new UDP socket is denied to send, which nothing may pass: a question that is answered too
    /// late for the hook loses the datagram, so it is sent until it is denied.
    pub fn is_denied_to_send(&mut self, name: &str, address: SocketAddr) -> bool {
        poll_for(SOON, || (self.send_to(name, address, "leak").errno == libc::EACCES).then_some(()))
            .is_some()
    }

    /// As [`Self::echoes`] for datagrams: the first may be lost while it is decided.
    pub fn echoes_soon(&mut self, name: &str) -> bool {
        let receive = |name: &str| Op::Receive { name: name.to_owned(), timeout_ms: 100 };
        poll_for(SOON, || {
            (self.send(name, "echo").is_ok() && self.run(receive(name)).data == "echo")
                .then_some(())
        })
        .is_some()
    }

    /// A byte there and back: the flow lives.
    pub fn echoes(&mut self, name: &str) -> bool {
        self.send(name, "echo").is_ok() && self.receive(name).data == "echo"
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.kill();
    }
}
