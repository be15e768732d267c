//! Calls on sockets, as bare as they come.

use std::{
    mem::{size_of, zeroed},
    net::SocketAddr,
    os::fd::RawFd,
    ptr,
    time::Duration,
};

use agent_enforcer_tests::script::Op;
use libc::{c_int, c_void, sockaddr_storage, socklen_t};

use crate::serve::{Outcome, Sockets};

/// An address as the kernel takes it.
pub(crate) fn raw(address: SocketAddr) -> (sockaddr_storage, socklen_t) {
    // SAFETY: all zeroes is a valid `sockaddr_storage`.
    let mut storage: sockaddr_storage = unsafe { zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let inet = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is big enough for every address, and aligned.
            unsafe { ptr::write((&raw mut storage).cast(), inet) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let inet6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::write((&raw mut storage).cast(), inet6) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as socklen_t)
}

fn fd(sockets: &Sockets, name: &str) -> RawFd {
    // A name that nobody made is a bad descriptor, as the kernel will say.
    sockets.lock().expect("no thread panics with it").get(name).copied().unwrap_or(-1)
}

/// Does one call.
pub(crate) fn perform(sockets: &Sockets, op: Op) -> Outcome {
    match op {
        Op::Socket { name, domain, kind, protocol } => {
            // SAFETY: plain numbers.
            let fd = unsafe { libc::socket(domain, kind, protocol) };
            if fd >= 0 {
                sockets.lock().expect("no thread panics with it").insert(name, fd);
            }
            Outcome::of(fd.into())
        }
        Op::Close { name } => {
            let fd = sockets.lock().expect("no thread panics with it").remove(&name);
            // SAFETY: a descriptor of this table, used by nobody else.
            Outcome::of(unsafe { libc::close(fd.unwrap_or(-1)) }.into())
        }
        Op::Accept { name, connection } => {
            let listener = fd(sockets, &name);
            // SAFETY: no address is asked for.
            let fd = unsafe { libc::accept(listener, ptr::null_mut(), ptr::null_mut()) };
            if fd >= 0 {
                sockets.lock().expect("no thread panics with it").insert(connection, fd);
            }
            Outcome::of(fd.into())
        }
        Op::Bind { name, address } => {
            let (storage, length) = raw(address);
            // SAFETY: an address of that length.
            Outcome::of(
                unsafe { libc::bind(fd(sockets, &name), (&raw const storage).cast(), length) }
                    .into(),
            )
        }
        // SAFETY: plain numbers.
        Op::Listen { name } => Outcome::of(unsafe { libc::listen(fd(sockets, &name), 16) }.into()),
        Op::Connect { name, address } => {
            let (storage, length) = raw(address);
            // SAFETY: an address of that length.
            Outcome::of(
                unsafe { libc::connect(fd(sockets, &name), (&raw const storage).cast(), length) }
                    .into(),
            )
        }
        Op::Dial { address } => match std::net::TcpStream::connect(address) {
            Ok(_connected) => Outcome { errno: 0, value: 0, data: String::new() },
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                Outcome { errno, value: -1, data: String::new() }
            }
        },
        Op::Disconnect { name } => {
            // SAFETY: all zeroes is an address of family `AF_UNSPEC`.
            let unspecified: libc::sockaddr = unsafe { zeroed() };
            let length = size_of::<libc::sockaddr>() as socklen_t;
            // SAFETY: an address of that length.
            Outcome::of(
                unsafe { libc::connect(fd(sockets, &name), &raw const unspecified, length) }.into(),
            )
        }
        Op::Nonblocking { name, on } => {
            let mut value = c_int::from(on);
            // SAFETY: the request takes a pointer to an int.
            Outcome::of(
                unsafe { libc::ioctl(fd(sockets, &name), libc::FIONBIO, &raw mut value) }.into(),
            )
        }
        Op::Connected { name, timeout_ms } => connected(fd(sockets, &name), timeout_ms),
        Op::Send { name, data, flags } => {
            // SAFETY: the data is readable for its length.
            let sent =
                unsafe { libc::send(fd(sockets, &name), data.as_ptr().cast(), data.len(), flags) };
            Outcome::of(sent as i64)
        }
        Op::SendTo { name, address, data, flags } => {
            Outcome::of(send_to(fd(sockets, &name), address, &data, flags))
        }
        Op::SendMany { name, addresses, data } => send_many(fd(sockets, &name), &addresses, &data),
        Op::Receive { name, timeout_ms } => receive(fd(sockets, &name), timeout_ms),
        Op::Stream { name, data, pause_us } => stream(fd(sockets, &name), &data, pause_us),
        Op::SetOption { name, level, option, value } => {
            let length = value.len() as socklen_t;
            // SAFETY: the value is readable for its length.
            Outcome::of(
                unsafe {
                    libc::setsockopt(
                        fd(sockets, &name),
                        level,
                        option,
                        value.as_ptr().cast(),
                        length,
                    )
                }
                .into(),
            )
        }
        Op::GetOption { name, level, option } => {
            let (result, value) = get_int(fd(sockets, &name), level, option);
            let outcome = Outcome::of(result.into());
            Outcome { value: value.into(), ..outcome }
        }
        other => panic!("{other:?} is no call on a socket"),
    }
}

pub(crate) fn get_int(fd: RawFd, level: c_int, option: c_int) -> (c_int, c_int) {
    let (mut value, mut length) = (0, size_of::<c_int>() as socklen_t);
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

/// Ticks like an event loop until the socket is writable or broken.
fn connected(fd: RawFd, timeout_ms: c_int) -> Outcome {
    const TICK_MS: c_int = 10;
    let mut ticks = 0;
    while wait(fd, libc::POLLOUT, TICK_MS) == 0 {
        ticks += 1;
        if ticks * TICK_MS >= timeout_ms {
            return Outcome { errno: libc::ETIME, value: ticks.into(), data: String::new() };
        }
    }
    let (_, error) = get_int(fd, libc::SOL_SOCKET, libc::SO_ERROR);
    Outcome { errno: error, value: ticks.into(), data: String::new() }
}

fn send_to(fd: RawFd, address: SocketAddr, data: &str, flags: c_int) -> i64 {
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
    sent as i64
}

fn send_many(fd: RawFd, addresses: &[SocketAddr], data: &str) -> Outcome {
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
    // SAFETY: messages whose names and parts outlive the call.
    let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), messages.len() as u32, 0) };
    Outcome::of(sent.into())
}

fn receive(fd: RawFd, timeout_ms: c_int) -> Outcome {
    if wait(fd, libc::POLLIN, timeout_ms) == 0 {
        return Outcome { errno: libc::ETIME, value: -1, data: String::new() };
    }
    let mut buffer = [0_u8; 65536];
    // SAFETY: the buffer is writable for its length.
    let length = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let outcome = Outcome::of(length as i64);
    let bytes = buffer.get(..usize::try_from(length).unwrap_or_default()).unwrap_or_default();
    Outcome { data: String::from_utf8_lossy(bytes).into_owned(), ..outcome }
}

fn stream(fd: RawFd, data: &str, pause_us: u64) -> Outcome {
    let mut count = 0;
    loop {
        // SAFETY: the data is readable for its length.
        let sent = unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
        if sent < 0 {
            let failed = Outcome::of(-1);
            return Outcome { value: count, ..failed };
        }
        count += 1;
        std::thread::sleep(Duration::from_micros(pause_us));
    }
}
