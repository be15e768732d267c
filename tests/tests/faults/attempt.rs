//! One attempt to start a daemon that is to be refused.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use agent_enforcer_tests::{
    TestHost,
    wait::{SOON, poll_for},
};

/// A command line of `agent-enforcer run`, to be changed.
pub(crate) struct Attempt {
    program: OsString,
    arguments: Vec<OsString>,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Exit status; `None`: by a signal.
    pub status: Option<i32>,
    /// What was said.
    pub error: String,
}

impl Attempt {
    /// On the directories of a host.
    pub(crate) fn on(host: &TestHost) -> Self {
        let command = host.daemon.command();
        Self {
            program: command.get_program().to_owned(),
            arguments: command.get_args().map(OsStr::to_owned).collect(),
        }
    }

    /// Gives a flag another value, or adds it.
    pub(crate) fn with(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_owned();
        match self.arguments.iter().position(|argument| argument == flag) {
            Some(place) => self.arguments[place + 1] = value,
            None => self.arguments.extend([flag.into(), value]),
        }
        self
    }

    /// Runs another binary of the daemon.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.into();
        self
    }

    /// Runs it through `setpriv` with options.
    pub(crate) fn through_setpriv(mut self, options: &[&str]) -> Self {
        let mut arguments: Vec<OsString> = options.iter().map(OsString::from).collect();
        arguments.push(self.program);
        arguments.append(&mut self.arguments);
        Self { program: "setpriv".into(), arguments }
    }

    /// Runs it; it must end by itself, with an error.
    pub(crate) fn refused(self) -> Refusal {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let mut stderr = child.stderr.take().expect("a pipe");
        let reader = std::thread::spawn(move || {
            let mut error = String::new();
            stderr.read_to_string(&mut error).expect("text");
            error
        });
        let status = poll_for(SOON, || child.try_wait().expect("a child of this process"));
        if status.is_none() {
            child.kill().expect("a child of this process");
            child.wait().expect("a child of this process");
        }
        let error = reader.join().expect("the thread that reads");
        let status = status.unwrap_or_else(|| panic!("the daemon runs:\n{error}"));
        assert!(!status.success(), "the daemon ended well:\n{error}");
        Refusal { status: status.code(), error }
    }
}

impl Refusal {
    /// Exit status and every one of the words.
    pub(crate) fn expect(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{}", self.error);
        for word in words {
            assert!(self.error.contains(word), "`{word}` is not in: {}", self.error);
        }
    }
}

/// Nothing is pinned, so nothing was put in force.
pub(crate) fn assert_nothing_pinned(host: &TestHost) {
    let pins = files_below(&host.daemon.bpffs().join("agent-enforcer"));
    assert!(pins.is_empty(), "{pins:?}");
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry of the directory").path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
