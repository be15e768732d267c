//! Whether the kernel ends sockets on demand (SOCK_DIAG, `CONFIG_INET_DIAG_DESTROY`).
//!
//! In: nothing. Out: the kernel's answer to ending a socket that was made for the question.
//! Touches no socket of anybody else.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt::{self, Timeout},
};

/// include/uapi/linux/sock_diag.h
const SOCK_DESTROY: u16 = 21;
/// include/uapi/linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// struct nlmsghdr, struct inet_diag_req_v2
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// `Ok` where it works; the kernel's error where it does not.
pub(super) fn destroy_works() -> io::Result<()> {
    let victim = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let SocketAddr::V4(address) = victim.local_addr()? else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    sockopt::set_socket_timeout(&kernel, Timeout::Recv, Some(ANSWER_LIMIT))?;
    send(&kernel, &destroy_request(address)?, SendFlags::empty())?;
    let mut answer = [0_u8; 512];
    let (received, _) = recv(&kernel, &mut answer, RecvFlags::empty())?;
    match acknowledgement(answer.get(..received).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A request to end the listening socket at `address`, any interface, any cookie.
fn destroy_request(address: SocketAddrV4) -> io::Result<Vec<u8>> {
    let length = u32::try_from(REQUEST_BYTES).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DESTROY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    bytes.extend([0; 8]); // sequence, port
    bytes.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // states
    bytes.extend(address.port().to_be_bytes());
    bytes.extend([0; 2]); // peer's port
    bytes.extend(address.ip().octets());
    bytes.extend([0; 12]);
    bytes.extend([0; 16]); // peer's address
    bytes.extend([0; 4]); // interface
    bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    Ok(bytes)
}

/// The error number of an acknowledgement, 0 or negative.
fn acknowledgement(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(answer.get(HEADER_BYTES..HEADER_BYTES + 4)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_the_size_that_its_header_names() {
        let request = destroy_request(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80)).unwrap();
        assert_eq!(request.len(), REQUEST_BYTES);
        assert_eq!(request[..4], 72_u32.to_ne_bytes());
    }

    #[test]
    fn torn_and_foreign_answers_say_nothing() {
        assert_eq!(acknowledgement(&[]), None);
        assert_eq!(acknowledgement(&[0; 20]), None);
        let mut answer = [0; 20];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-95_i32).to_ne_bytes());
        assert_eq!(acknowledgement(&answer), Some(-95));
        assert_eq!(acknowledgement(&answer[..19]), None);
    }
}
