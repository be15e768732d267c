//! Every system call that may be stopped and restarted, under a rain of signals.

use std::{collections::BTreeMap, ffi::c_int, mem::size_of, net::SocketAddr, os::fd::RawFd, slice};

use agent_enforcer_tests::{
    trick::{StormCalls, Writer},
    unix::path_name,
};

use crate::{
    calls::{close, connect, connect_bytes, raw, send_many, send_to, socket},
    lineage::{Repeat, alarm},
    serve::Outcome,
    tricks::{send_message, write},
};

const DATA: &str = "storm";
/// Between two signals.
const OFTEN_MS: u64 = 3;

/// See `Trick::Storm`.
pub(crate) fn perform(calls: &StormCalls, rounds: u16, restart: bool) -> Outcome {
    let begun = alarm(OFTEN_MS, restart, Repeat::Always);
    assert!(begun.errno == 0, "a timer");
    let (mut sent, mut errors) = (0, BTreeMap::new());
    for round in 0..rounds {
        match call_once(calls, round) {
            0 => sent += 1,
            errno => *errors.entry(errno).or_insert(0) += 1,
        }
    }
    alarm(0, restart, Repeat::Always);
    let words: Vec<_> = errors.iter().map(|(errno, count)| format!("{errno}:{count}")).collect();
    Outcome { data: words.join(" "), ..Outcome::of(sent) }
}

/// One call; its errno.
fn call_once(calls: &StormCalls, round: u16) -> c_int {
    match calls {
        StormCalls::Datagrams { address } => send_once(peer(*address, round), round),
        StormCalls::Connects { address } => {
            let peer = peer(*address, round);
            closing(socket(domain(peer), libc::SOCK_STREAM, 0), |fd| connect(fd, peer))
        }
        StormCalls::Sockets { protocol } => {
            // SAFETY: no memory is involved.
            let fd = unsafe {
                libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol + c_int::from(round))
            };
            let outcome = Outcome::of(fd.into());
            close(fd);
            outcome.errno
        }
        StormCalls::Unix { prefix } => {
            let name = path_name(format!("{prefix}{round}").as_ref());
            closing(socket(libc::AF_UNIX, libc::SOCK_STREAM, 0), |fd| connect_bytes(fd, &name))
        }
    }
}

fn closing(fd: RawFd, work: impl FnOnce(RawFd) -> Outcome) -> c_int {
    let outcome = work(fd);
    close(fd);
    outcome.errno
}

fn peer(mut address: SocketAddr, round: u16) -> SocketAddr {
    address.set_port(address.port() + round);
    address
}

const fn domain(peer: SocketAddr) -> c_int {
    if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// One datagram; its errno.
fn send_once(peer: SocketAddr, round: u16) -> c_int {
    closing(socket(domain(peer), libc::SOCK_DGRAM, 0), |fd| match round % 6 {
        0 => send_to(fd, peer, DATA, 0),
        1 => send_many(fd, &[peer], DATA),
        2 => send_message(fd, &mut bytes(peer), DATA, None),
        3 => write_connected(fd, peer, Writer::Plain),
        4 => write_connected(fd, peer, Writer::Vector),
        _ => write_connected(fd, peer, Writer::File),
    })
}

fn write_connected(fd: RawFd, peer: SocketAddr, writer: Writer) -> Outcome {
    let connected = connect(fd, peer);
    if connected.errno == 0 { write(fd, DATA, writer) } else { connected }
}

fn bytes(peer: SocketAddr) -> Vec<u8> {
    let (storage, length) = raw(peer);
    let all = size_of::<libc::sockaddr_storage>();
    // SAFETY: plain data, whole.
    let bytes = unsafe { slice::from_raw_parts((&raw const storage).cast::<u8>(), all) };
    bytes[..length as usize].to_vec()
}
