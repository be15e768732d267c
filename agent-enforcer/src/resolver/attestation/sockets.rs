//! Sockets that a running process already holds, taken as duplicates of its descriptors.
//!
//! In: a process, bound to its start time. Out: its INET and INET6 sockets, one at a time. A
//! snapshot, and never complete: the process goes on opening and closing, a thread may have a
//! descriptor table of its own, a descriptor may be in flight between processes. What is missed is
//! judged when it is used. Nothing is read from a socket or written to it.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    net::{AddressFamily, sockopt::socket_domain},
    process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::procfs::{ProcDir, ProcError, ProcRoot, same_start};

/// How many descriptors of one process are looked at.
pub const DESCRIPTOR_LIMIT: usize = 1 << 20;

/// The sockets of a process can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// /proc can't be read, or the process is gone.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// No duplicate of its descriptors can be made.
    #[error(
        "cannot take duplicates of the process's descriptors: {0}; the daemon needs CAP_SYS_PTRACE"
    )]
    Pidfd(#[source] io::Error),
}

/// The INET and INET6 sockets of a process that started at `start_ns` (ns of `CLOCK_BOOTTIME`).
///
/// The process may be anyone's, so descriptors are identified before they are duplicated: taking a
/// duplicate of a file and closing it again can have effects, taking one of a socket has none.
pub fn sockets_of(pid: u32, start_ns: u64) -> Result<Sockets, SocketsError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcError::Gone)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|source| match source {
        rustix::io::Errno::SRCH => ProcError::Gone.into(),
        _ => SocketsError::Pidfd(source.into()),
    })?;
    let directory = ProcRoot::open()?.process(pid)?;
    if !same_start(directory.stat(&mut Vec::new())?.start_ns(), start_ns) {
        return Err(ProcError::Gone.into());
    }
    let mut numbers = directory.numbers(c"fd")?;
    let unseen = numbers.len().saturating_sub(DESCRIPTOR_LIMIT);
    numbers.truncate(DESCRIPTOR_LIMIT);
    Ok(Sockets { pidfd, directory, numbers: numbers.into_iter(), unseen })
}

/// See [`sockets_of`].
#[derive(Debug)]
pub struct Sockets {
    pidfd: OwnedFd,
    directory: ProcDir,
    numbers: std::vec::IntoIter<u32>,
    unseen: usize,
}

impl Sockets {
    /// How many descriptors were not looked at, because there are more than [`DESCRIPTOR_LIMIT`], or
    /// could not be duplicated so far although they are sockets.
    pub const fn unseen(&self) -> usize {
        self.unseen
    }

    fn socket(&mut self, number: u32) -> Option<OwnedFd> {
        let link = self.directory.link(&format!("fd/{number}")).ok()?;
        if !link.starts_with(b"socket:[") {
            return None;
        }
        let number = ForeignRawFd::try_from(number).ok()?;
        let socket = match pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            // Closed, or exited, meanwhile.
            Err(rustix::io::Errno::BADF | rustix::io::Errno::SRCH) => return None,
            Err(_) => {
                self.unseen += 1;
                return None;
            }
        };
        let domain = socket_domain(socket.as_fd()).ok()?;
        [AddressFamily::INET, AddressFamily::INET6].contains(&domain).then_some(socket)
    }
}

impl Iterator for Sockets {
    type Item = OwnedFd;

    fn next(&mut self) -> Option<OwnedFd> {
        loop {
            let number = self.numbers.next()?;
            if let Some(socket) = self.socket(number) {
                return Some(socket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::net::UnixStream,
    };

    use rustix::net::sockopt::socket_cookie;

    use super::*;
    use crate::resolver::attestation::testing::own_start_ns;

    #[test]
    fn finds_the_inet_sockets_of_a_process_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagram = UdpSocket::bind("[::1]:0").unwrap();
        let unix = UnixStream::pair().unwrap();
        let mut sockets = sockets_of(std::process::id(), own_start_ns()).unwrap();
        let found: BTreeSet<u64> =
            sockets.by_ref().map(|socket| socket_cookie(&socket).unwrap()).collect();
        assert_eq!(sockets.unseen(), 0);
        for cookie in [socket_cookie(&listener), socket_cookie(&stream), socket_cookie(&datagram)] {
            assert!(found.contains(&cookie.unwrap()));
        }
        assert!(!found.contains(&socket_cookie(&unix.0).unwrap()));
    }

    #[test]
    fn refuses_a_pid_with_another_start() {
        let wrong = own_start_ns() + 1_000_000_000;
        let error = sockets_of(std::process::id(), wrong).unwrap_err();
        assert!(matches!(error, SocketsError::Proc(ProcError::Gone)), "{error}");
    }

    #[test]
    fn refuses_a_pid_that_is_nobodys() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let error = sockets_of(child.id(), 0).unwrap_err();
        assert!(matches!(error, SocketsError::Proc(ProcError::Gone)), "{error}");
    }
}
