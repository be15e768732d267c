//! Where the bench happens: a network namespace with addresses of its own, a cgroup outside the
//! enforced subtree and two inside it, listeners, and the daemon.
//!
//! In: the daemon's program. Out: [`Client`]s to measure with. A process outside the subtree that
//! the programs are attached to runs none of them: that is the comparison "no programs loaded",
//! without loading and unloading between blocks.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{ErrorKind, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::thread::sched_getaffinity;
use serde_json::Value;

use crate::{
    daemon::Daemon,
    host::{self, Cgroup, Folder, Namespace},
    lines::Lines,
};

/// Every address of the bench: a range set aside for benchmarks.
const RANGE: &str = "198.18.0.0/15";
/// The destination of which a verdict is in the kernel.
pub(super) const KNOWN: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), KNOWN_PORT));
const KNOWN_PORT: u16 = 7000;
/// First of the ports of the tool that must be asked for.
const ASKED_FIRST: u16 = 7100;
/// More ports than the kernel's prefix table holds for one prefix, so that some must be asked for;
/// none adjacent, so that they can't be folded into ranges.
const ASKED_COUNT: u16 = 64;

/// Connections that a listener keeps before they are drained.
const BACKLOG: i32 = 4096;
/// How long a client may take for one line of work.
const LINE_LIMIT: Duration = Duration::from_secs(20);

/// Everything that the rows need.
pub(super) struct World {
    pub(super) daemon: Daemon,
    listeners: Vec<TcpListener>,
    outside: Cgroup,
    _outside_parent: Cgroup,
    host: Cgroup,
    agent: Cgroup,
    _inside: Cgroup,
    _cgroup: Cgroup,
    namespace: Namespace,
    _folder: Folder,
}

/// Where a client is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Outside the enforced subtree: no program runs.
    Outside,
    /// Inside it, but no agent's.
    Host,
    /// Inside it, an agent's.
    Agent,
}

impl World {
    /// Sets everything up but starts no daemon yet.
    pub(super) fn build(program: PathBuf) -> Result<Self> {
        let name = host::run_name("bench");
        let folder = Folder::create(&name)?;
        let namespace = Namespace::create(&name)?;
        namespace.ip(&["route", "add", "local", RANGE, "dev", "lo"])?;
        let cgroup = Cgroup::create(&name)?;
        let outside_parent = cgroup.child("outside")?;
        let outside = outside_parent.child("host")?;
        let inside = cgroup.child("inside")?;
        let host = inside.child("host")?;
        let agent = inside.child("agent")?;
        let policy = policy(agent.selector_path());
        let daemon = {
            // Nothing but the enforced subtree runs the programs; no question is one too many.
            let options = [
                OsStr::new("--cgroup-root"),
                inside.path().as_os_str(),
                OsStr::new("--requests-per-second"),
                OsStr::new("10000000"),
            ];
            Daemon::prepare(program, &folder, &policy, &options)?
        };
        let listeners = host::inside(&namespace, listeners)?;
        Ok(Self {
            daemon,
            listeners,
            outside,
            _outside_parent: outside_parent,
            host,
            agent,
            _inside: inside,
            _cgroup: cgroup,
            namespace,
            _folder: folder,
        })
    }

    /// A new measured process.
    pub(super) fn client(&self, place: Place) -> Result<Client> {
        let mut command = host::verb_in(self.cgroup(place), &self.namespace, "__connector")?;
        if let Some(cpu) = last_processor()? {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("can't start a client")?;
        let input = child.stdin.take().context("the client has no input")?;
        let output = Lines::of(child.stdout.take().context("the client has no output")?);
        let client = Client { child, input, output };
        client.read_line()?;
        Ok(client)
    }

    /// Moves a client to another place; what it is stays what it is.
    pub(super) fn place(&self, client: &Client, place: Place) -> Result<()> {
        self.cgroup(place).take(client.child.id())
    }

    /// Takes every waiting connection off the listeners' queues.
    pub(super) fn drain(&self) -> Result<()> {
        for listener in &self.listeners {
            loop {
                match listener.accept() {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // Reset before it was accepted.
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error).context("can't accept"),
                }
            }
        }
        Ok(())
    }

    /// Questions that the kernel has asked so far.
    pub(super) fn questions(&self) -> Result<u64> {
        let status = self.daemon.control(&["status"])?;
        let counters = status.get("counters").and_then(Value::as_object);
        let requests = counters.and_then(|counters| counters.get("requests"));
        requests.and_then(Value::as_u64).context("`status` has no counter `requests`")
    }

    fn cgroup(&self, place: Place) -> &Cgroup {
        match place {
            Place::Outside => &self.outside,
            Place::Host => &self.host,
            Place::Agent => &self.agent,
        }
    }
}

/// A measured process; ended when dropped.
pub(super) struct Client {
    child: Child,
    input: ChildStdin,
    output: Lines,
}

/// What a client measured.
pub(super) struct Samples {
    /// Connects that failed.
    pub(super) failed: usize,
    /// Durations, us.
    pub(super) micros: Vec<f64>,
}

impl Client {
    /// Connects over TCP to each address, all of them `times` times.
    pub(super) fn tcp(&mut self, times: usize, addresses: &[SocketAddr]) -> Result<Samples> {
        self.measure("tcp", times, addresses)
    }

    /// Begins to send a datagram to each address.
    pub(super) fn begin_udp(&mut self, addresses: &[SocketAddr]) -> Result<()> {
        self.begin("udp", 1, addresses)
    }

    /// The result of what was begun.
    pub(super) fn end(&mut self) -> Result<Samples> {
        let line = self.read_line()?;
        let mut words = line.split_whitespace();
        let failed = words.next().context("a client said nothing")?.parse()?;
        let nanos = words.map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
        Ok(Samples { failed, micros: nanos.into_iter().map(|nanos| nanos / 1000.0).collect() })
    }

    fn measure(&mut self, kind: &str, times: usize, to: &[SocketAddr]) -> Result<Samples> {
        self.begin(kind, times, to)?;
        self.end()
    }

    fn begin(&mut self, kind: &str, times: usize, addresses: &[SocketAddr]) -> Result<()> {
        let mut line = format!("{kind} {times}");
        for address in addresses {
            write!(line, " {address}")?;
        }
        writeln!(self.input, "{line}").context("a client is gone")
    }

    fn read_line(&self) -> Result<String> {
        self.output.next(LINE_LIMIT)?.context("a client ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Nothing to do where it has ended already.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Destinations that nobody asked for before, but that the policy allows without a grant.
pub(super) fn asked(from: usize, count: usize) -> Vec<SocketAddr> {
    let ports = usize::from(ASKED_COUNT);
    let destination = |number: usize| {
        // 198.19.0.0 and on; the last ports are those that the table has no room for.
        let host = u32::from(Ipv4Addr::new(198, 19, 0, 1));
        let address = host + u32::try_from(number / (ports / 2)).unwrap_or(0);
        let offset = u16::try_from(ports / 2 + number % (ports / 2)).unwrap_or(0);
        SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(address), ASKED_FIRST + 2 * offset))
    };
    (from..from + count).map(destination).collect()
}

fn policy(agent_cgroup: &str) -> String {
    let ports: Vec<_> =
        (0..ASKED_COUNT).map(|number| (ASKED_FIRST + 2 * number).to_string()).collect();
    format!(
        "apiVersion: agent-enforcer/v1
tools:
  - name: known
    cidrs: [198.18.0.0/16]
    ports: [{KNOWN_PORT}]
    protocol: tcp
  - name: asked
    cidrs: [198.19.0.0/16]
    ports: [{}]
    protocol: [tcp, udp]
agents:
  - name: bench-agent
    owner: bench@example.com
    purpose: is measured
    selectors:
      - [\"cgroup:path:{agent_cgroup}\"]
    tools: [known, asked]
    standing: [known, asked]
    on_miss: stall
    mode: enforce
",
        ports.join(", ")
    )
}

fn listeners() -> Result<Vec<TcpListener>> {
    let asked = (0..ASKED_COUNT).map(|number| ASKED_FIRST + 2 * number);
    let listen = |port| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .with_context(|| format!("can't listen on port {port}"))?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    std::iter::once(KNOWN_PORT).chain(asked).map(listen).collect()
}

/// The last processor that this process may use: the first one serves most interrupts.
fn last_processor() -> Result<Option<usize>> {
    let set = sched_getaffinity(None).context("can't ask for the processors")?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).rev().find(|cpu| set.is_set(*cpu)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_destinations_never_repeat_and_stay_in_their_tool() {
        let destinations = asked(0, 10_000);
        let distinct: std::collections::BTreeSet<_> = destinations.iter().collect();
        assert_eq!(distinct.len(), destinations.len());
        assert_eq!(asked(10, 1), destinations[10..11]);
        for destination in destinations {
            let SocketAddr::V4(v4) = destination else { panic!("{destination}") };
            assert_eq!(v4.ip().octets()[..2], [198, 19]);
            assert_eq!((v4.port() - ASKED_FIRST) % 2, 0);
            assert!(v4.port() < ASKED_FIRST + 2 * ASKED_COUNT);
        }
    }
}
