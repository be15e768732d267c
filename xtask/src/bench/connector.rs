//! The measured process: connects where it is told to, and tells how long each connect() took.
//!
//! In: lines `tcp TIMES ADDRESS...` and `udp TIMES ADDRESS...` on standard input. Out: for each
//! line one line: the number of calls that failed, then each duration in ns, in order. Only the
//! connect() or sendto() itself is timed. It writes nothing while it measures.

use std::{
    io::{BufRead, Write, stdin, stdout},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::{
    net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, connect, sendto, socket_with,
        sockopt::{Timeout, set_socket_linger, set_socket_timeout},
    },
    thread::{CpuSet, sched_setaffinity},
};

/// A connect that takes so long measures nothing.
const LIMIT: Duration = Duration::from_secs(5);

/// Options of the hidden verb `__connector`.
#[derive(Args)]
pub(crate) struct Options {
    /// Processor to stay on
    #[arg(long)]
    cpu: Option<usize>,
}

/// What to connect.
#[derive(Clone, Copy)]
enum Kind {
    /// connect(), and a reset at once, so that no port stays taken.
    Tcp,
    /// sendto(), never blocking.
    Udp,
}

/// Measures until standard input ends.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(cpu) = options.cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("can't stay on processor {cpu}"))?;
    }
    println!("ready");
    for line in stdin().lock().lines() {
        let line = line.context("can't read what to do")?;
        let (kind, times, addresses) = parse(&line)?;
        let mut nanos = Vec::with_capacity(times * addresses.len());
        let mut failed = 0;
        for _ in 0..times {
            for address in &addresses {
                let (took, connected) = once(kind, address)?;
                nanos.push(took);
                failed += usize::from(!connected);
            }
        }
        let mut answer = failed.to_string();
        for took in nanos {
            answer.push(' ');
            answer.push_str(&took.as_nanos().to_string());
        }
        writeln!(stdout().lock(), "{answer}").context("can't tell the result")?;
    }
    Ok(())
}

fn once(kind: Kind, address: &SocketAddr) -> Result<(Duration, bool)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (form, flags) = match kind {
        Kind::Tcp => (SocketType::STREAM, SocketFlags::CLOEXEC),
        Kind::Udp => (SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK),
    };
    let socket = socket_with(family, form, flags, None).context("can't make a socket")?;
    let (begin, outcome) = match kind {
        Kind::Tcp => {
            set_socket_linger(&socket, Some(Duration::ZERO)).context("can't set linger")?;
            set_socket_timeout(&socket, Timeout::Send, Some(LIMIT)).context("can't set a limit")?;
            (Instant::now(), connect(&socket, address))
        }
        Kind::Udp => {
            let begin = Instant::now();
            (begin, sendto(&socket, b"x", SendFlags::empty(), address).map(|_| ()))
        }
    };
    let took = begin.elapsed();
    if took >= LIMIT {
        bail!("a call to {address} took {took:?}: nobody answers there");
    }
    Ok((took, outcome.is_ok()))
}

fn parse(line: &str) -> Result<(Kind, usize, Vec<SocketAddr>)> {
    let mut words = line.split(' ');
    let kind = match words.next() {
        Some("tcp") => Kind::Tcp,
        Some("udp") => Kind::Udp,
        Some(_) | None => bail!("unknown line: {line}"),
    };
    let times = words.next().context("a line has no number")?.parse().context("not a number")?;
    let addresses = words.map(str::parse).collect::<Result<Vec<_>, _>>().context("no address")?;
    Ok((kind, times, addresses))
}
