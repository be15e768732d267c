//! Real processes for the tests of this folder: children that are ended with the test, and helper
//! processes, which are this test binary executed again.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::MetadataExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use agent_enforcer_common::record::ProcessFacts;

use super::procfs::ProcRoot;

/// Set for helper processes only, so that a run of the ignored tests does not wait for ever.
const HELPER: &str = "AGENT_ENFORCER_TEST_HELPER";
const READY: &str = "helper-is-ready";

/// A child process that is killed with the test.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Runs a program; when this returns it has been executed.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut started = None;
        eventually("the program starts", || match command.spawn() {
            // Just written, and a child of another test, forked meanwhile, still has it open.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => false,
            other => {
                started = Some(other.unwrap());
                true
            }
        });
        let mut child = started.unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Self { child, input, output }
    }

    /// Runs an ignored test of this binary as a process of its own, until it says that it is ready.
    pub(crate) fn helper(name: &str) -> Self {
        Self::helper_under(Command::new(std::env::current_exe().unwrap()), name)
    }

    /// As `helper`; `command` ends in executing this binary (`unshare --mount BINARY`).
    pub(crate) fn helper_under(mut command: Command, name: &str) -> Self {
        let name = name.split_once("::").map_or(name, |(_crate, rest)| rest);
        let arguments = ["--exact", "--ignored", "--nocapture"];
        command.arg(name).args(arguments).env(HELPER, "1").stderr(Stdio::inherit());
        let mut running = Self::start(&mut command);
        running.wait_for(READY);
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads lines until one contains `text`; returns it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            let line = self.read_line();
            assert!(!line.is_empty(), "the process ended before it said `{text}`");
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.output.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn write_line(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Kills it and does not reap it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.input = None;
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// In a helper process: `false` where the test was not started as one.
pub(crate) fn is_helper() -> bool {
    std::env::var_os(HELPER).is_some()
}

/// In a helper process: tells the parent, then waits until the parent closes the pipe.
pub(crate) fn helper_is_ready() {
    println!("{READY}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// Waits for something that must come to be.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::yield_now();
    }
}

/// What the kernel side would have recorded for a process: its start within the tick that /proc
/// tells, and the file that it really runs.
pub(crate) fn facts_of(pid: u32) -> ProcessFacts {
    let executable = std::fs::metadata(format!("/proc/{pid}/exe")).unwrap();
    ProcessFacts {
        start_ns: start_ns_of(pid) + 1_234_567,
        exe_inode: executable.ino(),
        exe_device: kernel_encoding(executable.dev()),
        tgid: pid,
        tid: pid,
        uid: 1000,
        gid: 1001,
        comm: *b"recorded\0\0\0\0\0\0\0\0",
        ..ProcessFacts::default()
    }
}

pub(crate) fn kernel_encoding(device: u64) -> u32 {
    rustix::fs::major(device) << 20 | rustix::fs::minor(device)
}

pub(crate) fn start_ns_of(pid: u32) -> u64 {
    let directory = ProcRoot::open().unwrap().process(pid).unwrap();
    directory.stat(&mut Vec::new()).unwrap().start_ns()
}

pub(crate) fn own_start_ns() -> u64 {
    start_ns_of(std::process::id())
}
