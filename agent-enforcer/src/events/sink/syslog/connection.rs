//! One way to a syslog receiver.
//!
//! In: a target, then messages. Out: bytes in the framing of the transport: a datagram each,
//! octet counting on TCP (RFC 6587), a newline behind each on a unix stream. Every operation has
//! a time limit. After an error the connection is of no use any more.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, sockopt},
};

use super::SyslogTarget;

const TIME_LIMIT: Duration = Duration::from_secs(2);
/// A TCP receiver that acknowledges nothing for so long is gone.
const DEAD_AFTER: Duration = Duration::from_secs(10);

pub(super) enum Connection {
    UnixDatagram(UnixDatagram),
    UnixStream(UnixStream),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Connection {
    pub(super) fn open(target: &SyslogTarget) -> io::Result<Self> {
        match target {
            SyslogTarget::Unix(path) => open_unix(path),
            SyslogTarget::Udp { host, port } => first_of(host, *port, open_udp).map(Self::Udp),
            SyslogTarget::Tcp { host, port } => first_of(host, *port, open_tcp).map(Self::Tcp),
        }
    }

    /// Sends a message, which holds no newline.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::UnixDatagram(socket) => whole(socket.send(message)?, message),
            Self::Udp(socket) => whole(socket.send(message)?, message),
            Self::UnixStream(stream) => {
                check_open(stream)?;
                stream.write_all(&[message, b"\n"].concat())
            }
            Self::Tcp(stream) => {
                check_open(stream)?;
                stream.write_all(&[format!("{} ", message.len()).as_bytes(), message].concat())
            }
        }
    }
}

fn open_unix(path: &Path) -> io::Result<Connection> {
    let datagram = UnixDatagram::unbound()?;
    match datagram.connect(path) {
        Ok(()) => {
            datagram.set_write_timeout(Some(TIME_LIMIT))?;
            Ok(Connection::UnixDatagram(datagram))
        }
        Err(error) if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(TIME_LIMIT))?;
            Ok(Connection::UnixStream(stream))
        }
        Err(error) => Err(error),
    }
}

fn open_udp(receiver: SocketAddr) -> io::Result<UdpSocket> {
    let own: SocketAddr = match receiver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own)?;
    socket.connect(receiver)?;
    socket.set_write_timeout(Some(TIME_LIMIT))?;
    Ok(socket)
}

fn open_tcp(receiver: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&receiver, TIME_LIMIT)?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    let dead_after_ms = u32::try_from(DEAD_AFTER.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&stream, dead_after_ms)?;
    Ok(stream)
}

/// The first address of a name that can be opened.
fn first_of<T>(host: &str, port: u16, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for receiver in (host, port).to_socket_addrs()? {
        match open(receiver) {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A receiver that has closed takes one more write without an error, and drops it: look first.
fn check_open(stream: &impl std::os::fd::AsFd) -> io::Result<()> {
    let mut ignored = [0; 512];
    match rustix::net::recv(stream, &mut ignored, RecvFlags::DONTWAIT) {
        Ok((0, _)) => Err(io::ErrorKind::ConnectionReset.into()),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn whole(sent: usize, message: &[u8]) -> io::Result<()> {
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
