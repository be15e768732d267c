//! Requests in, answers out.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    os::fd::{FromRawFd as _, RawFd},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use agent_enforcer_tests::script::{Op, Reply, Request};

use crate::{calls, lineage, load};

/// Sockets by their names; shared by the threads.
pub(crate) type Sockets = Arc<Mutex<HashMap<String, RawFd>>>;

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
        Self { errno, value, data: String::new() }
    }
}

/// Serves until standard input ends; `sockets` are kept ones: `NAME=FD`.
pub(crate) fn serve(sockets: &[&str]) {
    let kept = sockets.iter().filter_map(|socket| {
        let (name, fd) = socket.split_once('=')?;
        Some((name.to_owned(), fd.parse().ok()?))
    });
    let sockets = Arc::new(Mutex::new(kept.collect()));
    serve_lines(&sockets);
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
            let sockets = Arc::clone(sockets);
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
    match op {
        Op::Pid => {
            Some(Outcome { errno: 0, value: i64::from(std::process::id()), data: String::new() })
        }
        Op::InThread { op } => {
            let sockets = Arc::clone(sockets);
            thread::spawn(move || perform(&sockets, id, *op)).join().expect("the thread ends")
        }
        Op::Fork { .. }
        | Op::Run { .. }
        | Op::RunMemfd { .. }
        | Op::Exec { .. }
        | Op::LeaderExit
        | Op::Exit
        | Op::SetUser { .. }
        | Op::EnterCgroup { .. }
        | Op::Alarm { .. } => lineage::perform(sockets, id, op),
        Op::Load(op) => Some(load::perform(&op)),
        other => Some(calls::perform(sockets, other)),
    }
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
