//! What is done in great numbers, see [`LoadOp`].

use std::{
    net::SocketAddr,
    os::fd::RawFd,
    sync::{
        Mutex,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use agent_enforcer_tests::{
    load::{LoadOp, Tally},
    wait::slowed,
};

use crate::{calls::raw, serve::Outcome};

static HELD: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
static CROWD: Mutex<Option<Crowd>> = Mutex::new(None);

/// A tree of processes; it lives until `release` is closed.
struct Crowd {
    root: libc::pid_t,
    release: RawFd,
}

/// Does it.
pub(crate) fn perform(op: &LoadOp) -> Outcome {
    let tally = match *op {
        LoadOp::Flood { address, ports, calls, millis } => {
            flood(address, ports, calls, slowed(Duration::from_millis(millis)))
        }
        LoadOp::Hold { address, calls } => hold(address, calls),
        LoadOp::Settle { millis } => settle(slowed(Duration::from_millis(millis))),
        LoadOp::Crowd { address, processes } => crowd(address, processes),
        LoadOp::Disperse => disperse(),
    };
    Outcome { data: serde_json::to_string(&tally).expect("plain data"), ..Outcome::with(0, 0) }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// A new TCP socket, or the errno.
fn try_socket(address: SocketAddr, flags: i32) -> Result<RawFd, i32> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(domain, libc::SOCK_STREAM | flags, 0) };
    if fd < 0 { Err(errno()) } else { Ok(fd) }
}

fn socket(address: SocketAddr, flags: i32) -> RawFd {
    try_socket(address, flags).unwrap_or_else(|errno| panic!("no socket: errno {errno}"))
}

/// `connect`; 0 or the errno.
fn connect(fd: RawFd, address: SocketAddr) -> i32 {
    let (storage, length) = raw(address);
    // SAFETY: an address of that length.
    let result = unsafe { libc::connect(fd, (&raw const storage).cast(), length) };
    if result == 0 { 0 } else { errno() }
}

fn close(fd: RawFd) {
    // SAFETY: a descriptor of this file, used by nobody else.
    unsafe { libc::close(fd) };
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn flood(address: SocketAddr, ports: u16, calls: u64, limit: Duration) -> Tally {
    let mut tally = Tally::default();
    let end = Instant::now() + limit;
    for call in 0..calls {
        if Instant::now() >= end {
            break;
        }
        let turn = u16::try_from(call % u64::from(ports)).expect("less than a port number");
        let address = SocketAddr::new(address.ip(), address.port() + turn);
        let fd = socket(address, 0);
        let begin = Instant::now();
        tally.add(connect(fd, address), micros(begin));
        close(fd);
    }
    tally
}

fn hold(address: SocketAddr, calls: u64) -> Tally {
    let mut tally = Tally::default();
    let mut held = HELD.lock().expect("no thread panics with it");
    for _ in 0..calls {
        let fd = socket(address, libc::SOCK_NONBLOCK);
        let begin = Instant::now();
        let errno = connect(fd, address);
        tally.add(errno, micros(begin));
        if errno == libc::EINPROGRESS {
            held.push(fd);
        } else {
            close(fd);
        }
    }
    tally
}

fn settle(limit: Duration) -> Tally {
    let mut tally = Tally::default();
    let begin = Instant::now();
    let mut held = std::mem::take(&mut *HELD.lock().expect("no thread panics with it"));
    while !held.is_empty() && begin.elapsed() < limit {
        let mut polls: Vec<_> =
            held.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLOUT, revents: 0 }).collect();
        // SAFETY: as many elements as it is told.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 100) };
        for poll in polls.iter().filter(|poll| poll.revents != 0) {
            let (_, error) = crate::calls::get_int(poll.fd, libc::SOL_SOCKET, libc::SO_ERROR);
            tally.add(error, micros(begin));
            close(poll.fd);
            held.retain(|&fd| fd != poll.fd);
        }
    }
    for fd in held {
        tally.add(libc::ETIME, micros(begin));
        close(fd);
    }
    tally
}

/// Results of a crowd, one per process, shared by all of them; negative is none yet.
struct Results {
    first: *const AtomicI32,
    length: usize,
}

impl Results {
    fn new(length: usize) -> Self {
        // SAFETY: a new mapping, which is zeroes and stays until the process ends.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length * size_of::<AtomicI32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(pages != libc::MAP_FAILED, "shared memory: {}", std::io::Error::last_os_error());
        let results = Self { first: pages.cast(), length };
        for result in results.all() {
            result.store(-1, Ordering::SeqCst);
        }
        results
    }

    fn all(&self) -> &[AtomicI32] {
        // SAFETY: a mapping of that many, which is never unmapped; zeroes are valid.
        unsafe { std::slice::from_raw_parts(self.first, self.length) }
    }
}

fn crowd(address: SocketAddr, processes: u32) -> Tally {
    let results = Results::new(processes as usize);
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert!(unsafe { libc::pipe(ends.as_mut_ptr()) } == 0, "a pipe");
    let [waits, release] = ends;
    // SAFETY: the child only makes system calls.
    let root = unsafe { libc::fork() };
    assert!(root >= 0, "a process: {}", std::io::Error::last_os_error());
    if root == 0 {
        close(release);
        member(0, address, results.all(), waits);
    }
    close(waits);
    *CROWD.lock().expect("no thread panics with it") = Some(Crowd { root, release });
    let end = Instant::now() + slowed(Duration::from_secs(50));
    while results.all().iter().any(|result| result.load(Ordering::SeqCst) < 0) {
        assert!(Instant::now() < end, "the crowd does not end its calls");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut tally = Tally::default();
    for result in results.all() {
        tally.add(result.load(Ordering::SeqCst), 0);
    }
    tally
}

/// The life of one process of a crowd: its children first, so that the tree grows as fast as it can.
fn member(number: usize, address: SocketAddr, results: &[AtomicI32], waits: RawFd) -> ! {
    let mut children = 0;
    for child in [2 * number + 1, 2 * number + 2] {
        if child < results.len() {
            // SAFETY: as in `crowd`.
            match unsafe { libc::fork() } {
                0 => member(child, address, results, waits),
                // No room for it: everything below is missing too, which the tally tells.
                ..0 => fail_below(child, results, errno()),
                _ => children += 1,
            }
        }
    }
    let result = match try_socket(address, 0) {
        Ok(fd) => {
            let result = connect(fd, address);
            close(fd);
            result
        }
        Err(errno) => errno,
    };
    results[number].store(result, Ordering::SeqCst);
    let mut byte = 0_u8;
    // SAFETY: room for one byte; returns when the other end is closed.
    unsafe { libc::read(waits, (&raw mut byte).cast(), 1) };
    for _ in 0..children {
        // SAFETY: any child of this process.
        unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
    }
    // SAFETY: ends the child without its parent's clean-up.
    unsafe { libc::_exit(0) }
}

fn fail_below(number: usize, results: &[AtomicI32], errno: i32) {
    if let Some(result) = results.get(number) {
        result.store(errno, Ordering::SeqCst);
        fail_below(2 * number + 1, results, errno);
        fail_below(2 * number + 2, results, errno);
    }
}

fn disperse() -> Tally {
    let crowd = CROWD.lock().expect("no thread panics with it").take();
    if let Some(Crowd { root, release }) = crowd {
        close(release);
        // SAFETY: a child of this process.
        unsafe { libc::waitpid(root, std::ptr::null_mut(), 0) };
    }
    Tally::default()
}
