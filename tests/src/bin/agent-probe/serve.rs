//! Requests in, answers out.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    os::fd::{FromRawFd as _, RawFd},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Instant,
};

use agent_enforcer_tests::script::{Op, Reply, Request};

use crate::{
    calls,
    lineage::{self, Repeat},
    load, tricks,
};

/// Sockets by their names; shared by the threads.
#[derive(Clone, Default)]
pub(crate) struct Sockets(Arc<Mutex<HashMap<String, RawFd>>>);

impl Sockets {
    pub(crate) fn table(&self) -> MutexGuard<'_, HashMap<String, RawFd>> {
        self.0.lock().expect("no thread panics with it")
    }

    /// A name that nobody made is a bad descriptor, as the kernel will say.
    pub(crate) fn fd(&self, name: &str) -> RawFd {
        self.table().get(name).copied().unwrap_or(-1)
    }

    /// What `socket` or `accept` returned has a name from now on.
    pub(crate) fn keep(&self, name: String, fd: RawFd) -> Outcome {
        if fd >= 0 {
            self.table().insert(name, fd);
        }
        Outcome::of(fd.into())
    }
}

/// What a call came to.
pub(crate) struct Outcome {
    pub(crate) errno: i32,
    pub(crate) value: i64,
    pub(crate) data: String,
}

impl Outcome {
    /// From what a system call returned: negative is an error, with its number in `errno`.
    pub(crate) fn of(value: i64) -> Self {
        let errno = if value < 0 {
            std::io::Error::last_os_error().raw_os_error().unwrap_or_default()
        } else {
            0
        };
        Self::with(errno, value)
    }

    /// From what was completed without a system call: negative is an error number.
    pub(crate) fn completed(result: i64) -> Self {
        let errno = result.min(0).checked_neg().and_then(|number| number.try_into().ok());
        Self::with(errno.expect("an error number"), result)
    }

    /// Without data.
    pub(crate) const fn with(errno: i32, value: i64) -> Self {
        Self { errno, value, data: String::new() }
    }
}

/// Serves until standard input ends; `sockets` are kept ones: `NAME=FD`.
pub(crate) fn serve(sockets: &[&str]) {
    let kept = sockets.iter().filter_map(|socket| {
        let (name, fd) = socket.split_once('=')?;
        Some((name.to_owned(), fd.parse().ok()?))
    });
    serve_lines(&Sockets(Arc::new(Mutex::new(kept.collect()))));
}

/// Reads byte by byte: what was read ahead would be lost to the next image.
struct Unbuffered(std::fs::File);

impl std::io::Read for Unbuffered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

pub(crate) fn serve_lines(sockets: &Sockets) {
    // SAFETY: standard input is open and nothing else in this process reads or closes it.
    let stdin = unsafe { std::fs::File::from_raw_fd(0) };
    for line in BufReader::new(Unbuffered(stdin)).lines().map_while(Result::ok) {
        let request: Request = serde_json::from_str(&line).expect("a request");
        if request.aside {
            let sockets = sockets.clone();
            thread::spawn(move || answer(&sockets, request));
        } else {
            answer(sockets, request);
        }
    }
}

/// Does one thing and tells what came of it.
pub(crate) fn answer(sockets: &Sockets, request: Request) {
    let Request { id, aside: _, op } = request;
    let begin = Instant::now();
    if let Some(outcome) = perform(sockets, id, op) {
        tell(id, outcome, begin);
    }
}

/// Does one thing; `None` where somebody else answers.
pub(crate) fn perform(sockets: &Sockets, id: u64, op: Op) -> Option<Outcome> {
    let fd = |name: &str| sockets.fd(name);
    Some(match op {
        Op::Pid => Outcome::with(0, std::process::id().into()),
        Op::InThread { op } => {
            let sockets = sockets.clone();
            return thread::spawn(move || perform(&sockets, id, *op))
                .join()
                .expect("the thread ends");
        }
        Op::Fork { kind, op } => return lineage::fork(sockets, id, &kind, *op),
        Op::LeaderExit => return lineage::leader_exit(sockets, id),
        Op::Exit => std::process::exit(0),
        Op::Run { argv } => lineage::run(&argv),
        Op::RunMemfd { op } => lineage::run_memfd(&op),
        Op::Exec { path, from_thread } => lineage::exec(sockets, path, from_thread),
        Op::SetUser { uid } => lineage::set_user(uid),
        Op::EnterCgroup { directory } => lineage::enter_cgroup(&directory),
        Op::LeaveNetwork => lineage::leave_network(),
        Op::Alarm { after_ms, restart } => lineage::alarm(after_ms, restart, Repeat::Once),
        Op::Socket { name, domain, kind, protocol } => {
            sockets.keep(name, calls::socket(domain, kind, protocol))
        }
        Op::Accept { name, connection } => sockets.keep(connection, calls::accept(fd(&name))),
        Op::Close { name } => {
            let fd = sockets.table().remove(&name);
            calls::close(fd.unwrap_or(-1))
        }
        Op::Bind { name, address } => calls::bind(fd(&name), address),
        Op::Listen { name } => calls::listen(fd(&name)),
        Op::Connect { name, address } => calls::connect(fd(&name), address),
        Op::Dial { address } => calls::dial(address),
        Op::Disconnect { name } => calls::disconnect(fd(&name)),
        Op::Nonblocking { name, on } => calls::set_nonblocking(fd(&name), on),
        Op::Connected { name, timeout_ms } => calls::connected(fd(&name), timeout_ms),
        Op::Send { name, data, flags } => calls::send(fd(&name), &data, flags),
        Op::SendTo { name, address, data, flags } => {
            calls::send_to(fd(&name), address, &data, flags)
        }
        Op::SendMany { name, addresses, data } => calls::send_many(fd(&name), &addresses, &data),
        Op::Receive { name, timeout_ms } => calls::receive(fd(&name), timeout_ms),
        Op::Stream { name, data, pause_us } => calls::stream(fd(&name), &data, pause_us),
        Op::SetOption { name, level, option, value } => {
            calls::set_option(fd(&name), level, option, &value)
        }
        Op::GetOption { name, level, option } => {
            let (result, value) = calls::get_int(fd(&name), level, option);
            Outcome { value: value.into(), ..Outcome::of(result.into()) }
        }
        Op::Load(op) => load::perform(&op),
        Op::Trick(trick) => tricks::perform(sockets, trick),
    })
}

/// Writes an answer in one call, so that lines of several processes do not mix.
pub(crate) fn tell(id: u64, outcome: Outcome, begin: Instant) {
    let Outcome { errno, value, data } = outcome;
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let reply = Reply { id, errno, value, data, micros, pid: std::process::id() };
    let line = serde_json::to_string(&reply).expect("plain data") + "\n";
    // SAFETY: the line is readable for its length.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}
