use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::mpsc::channel,
};

use rustix::net::{AddressFamily, SocketType, connect, listen, socket, sockopt};

use super::*;

const LONG_WAIT: Duration = Duration::from_secs(20);

fn own_netns() -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, c"/proc/thread-self/ns/net", flags, Mode::empty()).unwrap()
}

fn cookie(socket: impl AsFd) -> u64 {
    sockopt::socket_cookie(socket).unwrap()
}

/// Runs on a thread in a network namespace of its own, where loopback is up; ends with it.
fn in_own_netns<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: a new network namespace does not touch memory, files or the file system.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "needs root");
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            run()
        });
        inside.join().unwrap()
    })
}

/// Ends a socket that may not be where it is looked for yet.
fn reset_soon(netns: &OwnedFd, cookie: u64, protocol: u8) {
    let deadline = Instant::now() + LONG_WAIT;
    while reset(netns.as_fd(), cookie, protocol).unwrap() == Reset::AlreadyGone {
        assert!(Instant::now() < deadline, "the socket never appeared");
        thread::yield_now();
    }
}

/// A server that answers no SYN: its queue of connections is full.
struct Silent {
    listener: OwnedFd,
    address: SocketAddr,
    _queued: Vec<TcpStream>,
}

impl Silent {
    fn new(address: SocketAddr) -> Self {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let listener = socket(family, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        listen(&listener, 0).unwrap();
        let address = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
        let queued = vec![TcpStream::connect(address).unwrap()];
        Self { listener, address, _queued: queued }
    }
}

/// A blocking connect() that hangs in SYN_SENT fails at once when its socket is ended.
fn held_connect_fails(netns: &OwnedFd, server: &Silent, family: AddressFamily, to: SocketAddr) {
    let client = socket(family, SocketType::STREAM, None).unwrap();
    let number = cookie(&client);
    thread::scope(|scope| {
        let call = scope.spawn(|| connect(&client, &to));
        reset_soon(netns, number, IPPROTO_TCP);
        assert_eq!(call.join().unwrap(), Err(Errno::CONNABORTED));
    });
    assert_eq!(reset(netns.as_fd(), number, IPPROTO_TCP), Ok(Reset::AlreadyGone));
    drop(server.listener.try_clone().unwrap());
}

#[test]
fn a_blocking_connect_that_is_held_fails_at_once() {
    let netns = own_netns();
    let server = Silent::new((Ipv4Addr::LOCALHOST, 0).into());
    held_connect_fails(&netns, &server, AddressFamily::INET, server.address);
    let mapped = (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), server.address.port()).into();
    held_connect_fails(&netns, &server, AddressFamily::INET6, mapped);
    let server = Silent::new((Ipv6Addr::LOCALHOST, 0).into());
    held_connect_fails(&netns, &server, AddressFamily::INET6, server.address);
}

#[test]
fn a_held_connect_in_another_network_namespace_fails_at_once() {
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        let held = scope.spawn(|| {
            in_own_netns(|| {
                let server = Silent::new((Ipv4Addr::LOCALHOST, 0).into());
                let client = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
                sender.send((own_netns(), cookie(&client))).unwrap();
                connect(&client, &server.address)
            })
        });
        let (netns, cookie) = receiver.recv_timeout(LONG_WAIT).unwrap();
        // Not in this thread's namespace, which it also never leaves.
        let before = fstat(own_netns()).unwrap().st_ino;
        assert_eq!(reset(own_netns().as_fd(), cookie, IPPROTO_TCP), Ok(Reset::AlreadyGone));
        reset_soon(&netns, cookie, IPPROTO_TCP);
        assert_eq!(held.join().unwrap(), Err(Errno::CONNABORTED));
        assert_eq!(fstat(own_netns()).unwrap().st_ino, before);
    });
}

#[test]
fn an_established_flow_ends_at_both_ends() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let netns = own_netns();
        assert_eq!(reset(netns.as_fd(), cookie(&client), IPPROTO_TCP), Ok(Reset::Done));
        let written = client.write(b"x").unwrap_err();
        assert_eq!(written.kind(), std::io::ErrorKind::ConnectionAborted);
        let read = server.read(&mut [0; 1]).unwrap_err();
        assert_eq!(read.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn only_the_socket_with_the_cookie_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients: Vec<_> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    let victim = clients.swap_remove(25);
    let netns = own_netns();
    assert_eq!(reset(netns.as_fd(), cookie(&victim), IPPROTO_TCP), Ok(Reset::Done));
    for mut client in clients {
        client.write_all(b"x").unwrap();
    }
    assert!((&victim).write_all(b"x").is_err());
}

#[test]
fn a_datagram_flow_ends() {
    for (bind, target) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
        let server = UdpSocket::bind(bind).unwrap();
        let client = UdpSocket::bind(bind).unwrap();
        let port = server.local_addr().unwrap().port();
        client.connect((target, port)).unwrap();
        client.send(b"x").unwrap();
        let netns = own_netns();
        assert_eq!(reset(netns.as_fd(), cookie(&client), IPPROTO_UDP), Ok(Reset::Done));
        let error = client.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        assert!(client.send(b"x").is_err());
    }
}

#[test]
fn the_protocol_is_part_of_the_question() {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let netns = own_netns();
    assert_eq!(reset(netns.as_fd(), cookie(&client), IPPROTO_TCP), Ok(Reset::AlreadyGone));
    for protocol in [0, 1, 132, 136] {
        let error = reset(netns.as_fd(), cookie(&client), protocol).unwrap_err();
        assert_eq!(error, FlowError::Protocol(protocol));
    }
}

#[test]
fn a_descriptor_of_something_else_is_no_namespace() {
    let file = openat(CWD, c"/proc/self/ns/uts", OFlags::RDONLY, Mode::empty()).unwrap();
    let error = reset(file.as_fd(), 1, IPPROTO_TCP).unwrap_err();
    assert!(matches!(error, FlowError::Namespace(_)), "{error}");
}

#[test]
fn without_the_privilege_it_says_so() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let error = thread::scope(|scope| {
        let unprivileged = scope.spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::NET_ADMIN);
            set_capabilities(None, sets).unwrap();
            reset(own_netns().as_fd(), cookie(&client), IPPROTO_TCP)
        });
        unprivileged.join().unwrap().unwrap_err()
    });
    assert_eq!(error, FlowError::NotPermitted);
}

#[test]
fn what_the_kernel_refuses_has_its_own_error() {
    for (errno, error) in [
        (Errno::OPNOTSUPP, FlowError::Unsupported(6)),
        (Errno::NOENT, FlowError::Unsupported(6)),
        (Errno::PERM, FlowError::NotPermitted),
        (Errno::NOMEM, FlowError::Netlink(Errno::NOMEM)),
    ] {
        assert_eq!(flow_error(DiagError::Refused(errno), 6), error);
    }
    assert_eq!(flow_error(DiagError::Malformed, 6), FlowError::Malformed);
    let system = flow_error(DiagError::System(Errno::NOBUFS), 6);
    assert_eq!(system, FlowError::Netlink(Errno::NOBUFS));
}

type Ended = Receiver<(u64, Result<Reset, FlowError>)>;

fn worker(queue: usize) -> (FlowReset, Ended) {
    let (sender, ended) = channel();
    let deliver = move |cookie, result| sender.send((cookie, result)).unwrap();
    (FlowReset::start(queue, deliver).unwrap(), ended)
}

#[test]
fn the_worker_ends_flows_of_many_namespaces_and_tells_of_each() {
    let (worker, ended) = worker(512);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let here: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (there, netns) = in_own_netns(|| {
        let sockets: Vec<_> = (0..100).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        (sockets, own_netns())
    });
    for (here, there) in here.iter().zip(&there) {
        worker.request(own_netns(), cookie(here), IPPROTO_TCP).unwrap();
        worker.request(netns.try_clone().unwrap(), cookie(there), IPPROTO_UDP).unwrap();
    }
    let mut results = HashMap::new();
    for _ in 0..200 {
        let (cookie, result) = ended.recv_timeout(LONG_WAIT).unwrap();
        assert_eq!(results.insert(cookie, result), None);
    }
    for cookie in here.iter().map(cookie).chain(there.iter().map(cookie)) {
        assert_eq!(results.get(&cookie), Some(&Ok(Reset::Done)));
    }
    drop(worker);
}

#[test]
fn the_worker_waits_for_a_connect_that_is_still_to_come() {
    let (worker, ended) = worker(8);
    let server = Silent::new((Ipv4Addr::LOCALHOST, 0).into());
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let number = cookie(&client);
    // Denied before connect() has got anywhere.
    worker.request(own_netns(), number, IPPROTO_TCP).unwrap();
    let called = connect(&client, &server.address);
    assert_eq!(called, Err(Errno::CONNABORTED));
    assert_eq!(ended.recv_timeout(LONG_WAIT).unwrap(), (number, Ok(Reset::Done)));
}

#[test]
fn the_worker_says_that_a_flow_is_gone_and_that_a_request_makes_no_sense() {
    let (worker, ended) = worker(8);
    worker.request(own_netns(), u64::MAX, IPPROTO_TCP).unwrap();
    let gone = ended.recv_timeout(LONG_WAIT).unwrap();
    assert_eq!(gone, (u64::MAX, Ok(Reset::AlreadyGone)));
    worker.request(own_netns(), 1, 132).unwrap();
    assert_eq!(ended.recv_timeout(LONG_WAIT).unwrap(), (1, Err(FlowError::Protocol(132))));
    let no_netns = openat(CWD, c"/dev/null", OFlags::RDONLY, Mode::empty()).unwrap();
    worker.request(no_netns, 2, IPPROTO_TCP).unwrap();
    let (cookie, result) = ended.recv_timeout(LONG_WAIT).unwrap();
    assert!(cookie == 2 && matches!(result, Err(FlowError::Namespace(_))), "{result:?}");
}

#[test]
fn a_full_queue_is_told() {
    let (sender, ended) = channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    // The first delivery waits until this test lets it go.
    let hold = move |_, _| {
        let _released = ended.lock().unwrap().recv();
    };
    let worker = FlowReset::start(1, hold).unwrap();
    let mut taken = 0;
    let busy = loop {
        match worker.request(own_netns(), 1, 132) {
            Ok(()) => taken += 1,
            Err(busy) => break busy,
        }
    };
    assert_eq!(busy, FlowBusy::QueueFull);
    assert!(taken >= 1);
    drop(sender);
}

#[test]
fn stopping_answers_everyone() {
    let (worker, ended) = worker(64);
    for cookie in 0..50 {
        worker.request(own_netns(), u64::MAX - cookie, IPPROTO_TCP).unwrap();
    }
    drop(worker);
    assert_eq!(ended.iter().count(), 50);
}
