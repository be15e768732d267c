//! Calls on sockets, as bare as they come.

use std::{
    mem::{size_of, zeroed},
    net::SocketAddr,
    os::fd::RawFd,
    ptr,
    time::Duration,
};

use libc::{c_int, c_void, sockaddr_storage, socklen_t};

use agent_enforcer_tests::wait::slowed;

use crate::serve::Outcome;

/// An address as the kernel takes it.
pub(crate) fn raw(address: SocketAddr) -> (sockaddr_storage, socklen_t) {
    // SAFETY: all zeroes is a valid `sockaddr_storage`.
    let mut storage: sockaddr_storage = unsafe { zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let inet = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is big enough for every address, and aligned.
            unsafe { ptr::write((&raw mut storage).cast(), inet) };
            length_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let inet6 = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::write((&raw mut storage).cast(), inet6) };
            length_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length)
}

fn length_of<T>() -> socklen_t {
    length(size_of::<T>())
}

fn length(bytes: usize) -> socklen_t {
    socklen_t::try_from(bytes).expect("addresses and options are short")
}

fn family(family: c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("a small number")
}

pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> RawFd {
    // SAFETY: plain numbers.
    unsafe { libc::socket(domain, kind, protocol) }
}

pub(crate) fn accept(listener: RawFd) -> RawFd {
    // SAFETY: no address is asked for.
    unsafe { libc::accept(listener, ptr::null_mut(), ptr::null_mut()) }
}

pub(crate) fn close(fd: RawFd) -> Outcome {
    // SAFETY: a descriptor of the probe, used by nobody else.
    Outcome::of(unsafe { libc::close(fd) }.into())
}

pub(crate) fn bind(fd: RawFd, address: SocketAddr) -> Outcome {
    let (storage, length) = raw(address);
    // SAFETY: an address of that length.
    Outcome::of(unsafe { libc::bind(fd, (&raw const storage).cast(), length) }.into())
}

pub(crate) fn listen(fd: RawFd) -> Outcome {
    // SAFETY: plain numbers.
    Outcome::of(unsafe { libc::listen(fd, 16) }.into())
}

pub(crate) fn connect(fd: RawFd, address: SocketAddr) -> Outcome {
    let (storage, length) = raw(address);
    // SAFETY: an address of that length.
    Outcome::of(unsafe { libc::connect(fd, (&raw const storage).cast(), length) }.into())
}

/// With any bytes as the peer's name.
pub(crate) fn bind_bytes(fd: RawFd, own: &[u8]) -> Outcome {
    // SAFETY: bytes of that length, whatever they are.
    Outcome::of(unsafe { libc::bind(fd, own.as_ptr().cast(), length(own.len())) }.into())
}

pub(crate) fn connect_bytes(fd: RawFd, peer: &[u8]) -> Outcome {
    let length = length(peer.len());
    // SAFETY: readable for its length; the kernel copies it whatever it is.
    Outcome::of(unsafe { libc::connect(fd, peer.as_ptr().cast(), length) }.into())
}

pub(crate) fn dial(address: SocketAddr) -> Outcome {
    match std::net::TcpStream::connect(address) {
        Ok(_connected) => Outcome::with(0, 0),
        Err(error) => Outcome::with(error.raw_os_error().unwrap_or(libc::EIO), -1),
    }
}

pub(crate) fn disconnect(fd: RawFd) -> Outcome {
    // SAFETY: all zeroes is an address of family `AF_UNSPEC`.
    let unspecified: libc::sockaddr = unsafe { zeroed() };
    let length = length_of::<libc::sockaddr>();
    // SAFETY: an address of that length.
    Outcome::of(unsafe { libc::connect(fd, &raw const unspecified, length) }.into())
}

pub(crate) fn set_nonblocking(fd: RawFd, on: bool) -> Outcome {
    let mut value = c_int::from(on);
    // SAFETY: the request takes a pointer to an int.
    Outcome::of(unsafe { libc::ioctl(fd, libc::FIONBIO, &raw mut value) }.into())
}

pub(crate) fn set_option(fd: RawFd, level: c_int, option: c_int, value: &[u8]) -> Outcome {
    let length = length(value.len());
    // SAFETY: the value is readable for its length.
    Outcome::of(
        unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), length) }.into(),
    )
}

pub(crate) fn get_int(fd: RawFd, level: c_int, option: c_int) -> (c_int, c_int) {
    let (mut value, mut length) = (0, length_of::<c_int>());
    // SAFETY: an int and its length.
    let result =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut length) };
    (result, value)
}

fn wait(fd: RawFd, events: i16, timeout_ms: c_int) -> c_int {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one element.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) }
}

fn slowed_ms(timeout_ms: c_int) -> c_int {
    let timeout = Duration::from_millis(timeout_ms.unsigned_abs().into());
    c_int::try_from(slowed(timeout).as_millis()).expect("minutes at most")
}

/// Ticks like an event loop until the socket is writable or broken.
pub(crate) fn connected(fd: RawFd, timeout_ms: c_int) -> Outcome {
    const TICK_MS: c_int = 10;
    let timeout_ms = slowed_ms(timeout_ms);
    let mut ticks = 0;
    while wait(fd, libc::POLLOUT, TICK_MS) == 0 {
        ticks += 1;
        if ticks * TICK_MS >= timeout_ms {
            return Outcome::with(libc::ETIME, ticks.into());
        }
    }
    let (_, error) = get_int(fd, libc::SOL_SOCKET, libc::SO_ERROR);
    Outcome::with(error, ticks.into())
}

pub(crate) fn send(fd: RawFd, data: &str, flags: c_int) -> Outcome {
    // SAFETY: the data is readable for its length.
    Outcome::of(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) } as i64)
}

pub(crate) fn send_to(fd: RawFd, address: SocketAddr, data: &str, flags: c_int) -> Outcome {
    let (storage, length) = raw(address);
    // SAFETY: data and address are readable for their lengths.
    let sent = unsafe {
        libc::sendto(
            fd,
            data.as_ptr().cast(),
            data.len(),
            flags,
            (&raw const storage).cast(),
            length,
        )
    };
    Outcome::of(sent as i64)
}

pub(crate) fn send_many(fd: RawFd, addresses: &[SocketAddr], data: &str) -> Outcome {
    let mut names: Vec<_> = addresses.iter().map(|address| raw(*address)).collect();
    let mut part =
        libc::iovec { iov_base: data.as_ptr().cast_mut().cast::<c_void>(), iov_len: data.len() };
    let mut messages: Vec<libc::mmsghdr> = names
        .iter_mut()
        .map(|(storage, length)| {
            // SAFETY: all zeroes is a valid message.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_name = ptr::from_mut(storage).cast();
            message.msg_hdr.msg_namelen = *length;
            message.msg_hdr.msg_iov = &raw mut part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let count = u32::try_from(messages.len()).expect("few addresses");
    // SAFETY: messages whose names and parts outlive the call.
    let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, 0) };
    Outcome::of(sent.into())
}

pub(crate) fn receive(fd: RawFd, timeout_ms: c_int) -> Outcome {
    if wait(fd, libc::POLLIN, slowed_ms(timeout_ms)) == 0 {
        return Outcome::with(libc::ETIME, -1);
    }
    let mut buffer = vec![0_u8; 65536];
    // SAFETY: the buffer is writable for its length.
    let length = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let outcome = Outcome::of(length as i64);
    let bytes = buffer.get(..usize::try_from(length).unwrap_or_default()).unwrap_or_default();
    Outcome { data: String::from_utf8_lossy(bytes).into_owned(), ..outcome }
}

pub(crate) fn stream(fd: RawFd, data: &str, pause_us: u64) -> Outcome {
    let mut count = 0;
    loop {
        // SAFETY: the data is readable for its length.
        let sent = unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
        if sent < 0 {
            return Outcome { value: count, ..Outcome::of(-1) };
        }
        count += 1;
        std::thread::sleep(Duration::from_micros(pause_us));
    }
}
