//! `SOCK_DIAG` in the network namespace of the calling thread: list sockets, destroy one.
//!
//! In: protocol and family, or one socket's id. Out: ids of sockets, the kernel's answer.
//! Only messages from the kernel (port 0) with the number of our request are believed: whoever
//! owns the namespace may send us others.

use std::{os::fd::OwnedFd, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, Parseable as _,
};
use netlink_packet_sock_diag::{
    SOCK_DIAG_BY_FAMILY, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::{self, SocketAddrNetlink},
        recvfrom, sendto, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// What the kernel sends in one piece is at most this long (`netlink_dump`), bytes.
const MESSAGE_BYTES: usize = 64 << 10;
/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiagError {
    /// A system call failed.
    System(Errno),
    /// The kernel said no.
    Refused(Errno),
    /// The answer isn't as sock_diag(7) says.
    Malformed,
}

impl From<Errno> for DiagError {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

/// One conversation with the kernel.
pub(super) struct Diag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a message was.
enum Answer<'a> {
    Socket(&'a [u8]),
    End(Result<(), DiagError>),
}

impl Diag {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, DiagError> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(MESSAGE_BYTES) })
    }

    /// Calls `visit` with each socket of a protocol and family, until it returns `false`; after that
    /// this conversation can't be used any more.
    pub(super) fn list(
        &mut self,
        protocol: u8,
        family: u8,
        visit: &mut dyn FnMut(SocketId) -> bool,
    ) -> Result<(), DiagError> {
        // A socket in TIME_WAIT has no owner any more. A listener is no flow: what it answers to one
        // peer is denied packet by packet, and the others still reach it.
        let states = StateFlags::all() - StateFlags::TIME_WAIT - StateFlags::LISTEN;
        let request = request(protocol, family, states, any_socket(family));
        self.send(NLM_F_DUMP, SockDiagMessage::InetRequest(request).into())?;
        self.receive(&mut |answer| match answer {
            Answer::Socket(payload) => match InetResponseHeader::parse(payload) {
                Ok(found) if visit(found.socket_id.clone()) => None,
                Ok(_) => Some(Ok(())),
                Err(_) => Some(Err(DiagError::Malformed)),
            },
            Answer::End(result) => Some(result),
        })
    }

    /// Destroys the socket with exactly this id, cookie included.
    pub(super) fn destroy(
        &mut self,
        protocol: u8,
        family: u8,
        id: SocketId,
    ) -> Result<(), DiagError> {
        let request =
            SockDiagMessage::InetRequest(request(protocol, family, StateFlags::all(), id));
        self.send(NLM_F_ACK, SockDiagDestroy::new(request).into())?;
        self.receive(&mut |answer| match answer {
            Answer::Socket(_) => None,
            Answer::End(result) => Some(result),
        })
    }

    fn send<I: NetlinkSerializable>(
        &mut self,
        flags: u16,
        payload: NetlinkPayload<I>,
    ) -> Result<(), DiagError> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Hands each message to `take` until that returns the result.
    fn receive(
        &mut self,
        take: &mut dyn FnMut(Answer<'_>) -> Option<Result<(), DiagError>>,
    ) -> Result<(), DiagError> {
        loop {
            self.buffer.clear();
            let room = spare_capacity(&mut self.buffer);
            let (received, length, sender) = match recvfrom(&self.socket, room, RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            if received < length {
                return Err(DiagError::Malformed);
            }
            if let Some(result) = self.messages(take) {
                return result;
            }
        }
    }

    fn messages(
        &self,
        take: &mut dyn FnMut(Answer<'_>) -> Option<Result<(), DiagError>>,
    ) -> Option<Result<(), DiagError>> {
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(rest) else {
                return Some(Err(DiagError::Malformed));
            };
            if message.sequence_number() == self.sequence {
                let answer = match message.message_type() {
                    SOCK_DIAG_BY_FAMILY => Answer::Socket(message.payload()),
                    NLMSG_DONE | NLMSG_ERROR => Answer::End(status(message.payload())),
                    _ => Answer::End(Err(DiagError::Malformed)),
                };
                if let Some(result) = take(answer) {
                    return Some(result);
                }
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        None
    }
}

/// `NLMSG_ERROR` and `NLMSG_DONE` begin with 0 or a negative errno.
fn status(payload: &[u8]) -> Result<(), DiagError> {
    let code = payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    match code {
        None => Err(DiagError::Malformed),
        Some(0) => Ok(()),
        Some(code) => Err(DiagError::Refused(Errno::from_raw_os_error(code.saturating_neg()))),
    }
}

fn any_socket(family: u8) -> SocketId {
    if i32::from(family) == i32::from(AddressFamily::INET.as_raw()) {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    }
}

fn request(protocol: u8, family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_UDP};

    use super::*;

    #[test]
    fn a_protocol_without_diagnosis_is_refused_by_the_kernel() {
        // IPPROTO_IGMP: no module of the kernel lists its sockets.
        let mut diag = Diag::open().unwrap();
        let result = diag.list(2, AF_INET, &mut |_| true);
        assert_eq!(result, Err(DiagError::Refused(Errno::NOENT)));
    }

    #[test]
    fn messages_of_others_are_not_believed() {
        let mut diag = Diag::open().unwrap();
        // Gives our socket its port.
        diag.list(IPPROTO_UDP, AF_INET6, &mut |_| true).unwrap();
        let port: SocketAddrNetlink =
            rustix::net::getsockname(&diag.socket).unwrap().try_into().unwrap();
        let other = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )
        .unwrap();
        // NLMSG_DONE with the number of the next request: "there is no such socket".
        let mut lie = Vec::new();
        for word in [20_u32, 2 << 16 | 3, 2, 0, 0] {
            lie.extend(word.to_ne_bytes());
        }
        sendto(&other, &lie, SendFlags::empty(), &port).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wanted = rustix::net::sockopt::socket_cookie(&socket).unwrap();
        let mut found = false;
        diag.list(IPPROTO_UDP, AF_INET, &mut |id| {
            found |= u64::from_ne_bytes(id.cookie) == wanted;
            true
        })
        .unwrap();
        assert!(found);
    }
}
