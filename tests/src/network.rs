//! Network namespaces, joined by a veth pair. They go with the last process and descriptor.
//!
//! Addresses are of the documentation ranges: `192.0.2.0/24` and `2001:db8::/64`. The agents' side
//! has `.1`; the other side has `.2`, which is the router, and the hosts of [`HOSTS`].

use std::{
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Last parts of the remote hosts' addresses.
pub const HOSTS: [u8; 6] = [2, 10, 20, 30, 40, 50];

/// The IPv4 address of a host of the test network.
pub const fn v4(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, host))
}

/// The IPv6 address of a host of the test network.
pub fn v6(host: u8) -> IpAddr {
    // `2001:db8::20` reads like `192.0.2.20`.
    let last = u16::from_str_radix(&host.to_string(), 16).expect("decimal digits are hex digits");
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with loopback up.
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            #[expect(
                deprecated,
                reason = "the safe form can't unshare the file table, which is not wanted"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET)
                .expect("a network namespace; T1 tests need root");
            File::open("/proc/thread-self/ns/net").expect("/proc of this thread")
        })
        .join()
        .expect("the thread that made a namespace");
        let namespace = Self { file };
        namespace.ip("link set lo up\n");
        namespace
    }

    /// The one that the test itself is in, which is the daemon's as well.
    pub fn own() -> Self {
        let file = File::open("/proc/self/ns/net").expect("/proc of this process");
        Self { file }
    }

    /// Runs `work` in a thread that is in the namespace: sockets and children of it are there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("the test's own network namespace");
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs lines of `ip -batch` in the namespace.
    pub fn ip(&self, batch: &str) {
        let output = self.inside(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("`ip`; install iproute2");
            ip.stdin.take().expect("a pipe").write_all(batch.as_bytes()).expect("ip reads");
            ip.wait_with_output().expect("ip ends")
        });
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip -batch:\n{batch}\n{error}");
    }

    /// The index of an interface of the namespace.
    pub fn index_of(&self, interface: &str) -> u32 {
        self.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
            rustix::net::netdevice::name_to_index(&socket, interface).expect("an own interface")
        })
    }

    /// Sets a sysctl of the namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.inside(|| {
            let path = format!("/proc/sys/{name}");
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        });
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

/// The agents' namespace and the one of the rest of the world.
#[derive(Debug)]
pub struct Network {
    /// Where agents run.
    pub agents: Namespace,
    /// Where servers run.
    pub remote: Namespace,
}

impl Network {
    /// Two namespaces with a cable between them.
    pub fn new() -> Self {
        let (agents, remote) = (Namespace::new(), Namespace::new());
        let peer = format!("/proc/{}/fd/{}", std::process::id(), remote.file.as_raw_fd());
        agents.ip(&format!("link add veth0 type veth peer name veth0 netns {peer}\n"));
        let mut batch = String::from("link set veth0 up\n");
        for host in HOSTS {
            batch.extend([
                format!("addr add {}/24 dev veth0\n", v4(host)),
                format!("addr add {}/64 dev veth0 nodad\n", v6(host)),
            ]);
        }
        remote.ip(&batch);
        agents.ip(&format!(
            "link set veth0 up\naddr add {}/24 dev veth0\naddr add {}/64 dev veth0 nodad\n\
             route add default via {}\nroute add default via {}\n",
            v4(1),
            v6(1),
            v4(2),
            v6(2)
        ));
        Self { agents, remote }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}
