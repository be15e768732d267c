//! The real daemon, run beside whatever else this host does: own policy, state, sockets and pins.
//!
//! In: the program and a policy. Out: a running daemon that answers, and its command line. When
//! dropped it ends the daemon and its enforcement; the bpffs guard is the second safety line.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::ErrorKind,
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    command,
    host::{Bpffs, Folder},
    interrupt, wait,
};

const START_LIMIT: Duration = Duration::from_secs(15);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether a starting daemon has ended.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// A daemon and everything it was given.
pub(crate) struct Daemon {
    program: PathBuf,
    policy: PathBuf,
    state: PathBuf,
    runtime: PathBuf,
    ready: PathBuf,
    events: PathBuf,
    log: PathBuf,
    options: Vec<OsString>,
    child: Option<Child>,
    detached: bool,
    // Dropped last: with the mount every pin goes.
    bpffs: Bpffs,
}

impl Daemon {
    /// Prepares a daemon with one policy file and further options; `start` starts it.
    pub(crate) fn prepare(
        program: PathBuf,
        folder: &Folder,
        policy: &str,
        options: &[&OsStr],
    ) -> Result<Self> {
        let daemon = Self {
            program,
            policy: folder.child("policies")?,
            state: folder.child("state")?,
            runtime: folder.child("runtime")?,
            ready: folder.file("ready.sock"),
            events: folder.file("events.jsonl"),
            log: folder.file("daemon.log"),
            options: options.iter().map(OsString::from).collect(),
            child: None,
            detached: true,
            bpffs: Bpffs::mount(&folder.child("bpffs")?)?,
        };
        fs::write(daemon.policy.join("policy.yaml"), policy).context("can't write the policy")?;
        Ok(daemon)
    }

    /// Copies a file into its policy directory; it is read with the next reload.
    pub(crate) fn add_to_policy(&self, name: &str, file: &Path) -> Result<()> {
        fs::copy(file, self.policy.join(name))
            .with_context(|| format!("can't copy {}", file.display()))?;
        Ok(())
    }

    /// Starts it and waits until it says that it enforces; returns how long that took.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let ready = self.ready_socket()?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.run_command();
        // Its own process group: a Ctrl-C at the terminal must not end it before its agents.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env("NOTIFY_SOCKET", &self.ready);
        let begin = Instant::now();
        let child = command.spawn().with_context(|| {
            format!("can't start {}; build it with `cargo xtask build`", self.program.display())
        })?;
        self.child = Some(child);
        self.detached = false;
        wait::for_answer("the daemon to enforce", START_LIMIT, || {
            if let Some(status) = self.ended()? {
                bail!("it ended ({status})");
            }
            told_ready(&ready)
        })
        .with_context(|| format!("the daemon did not start; its log:\n{}\n", self.last_words()))?;
        Ok(begin.elapsed())
    }

    /// The command that runs it.
    pub(crate) fn run_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--policy").arg(&self.policy);
        command.arg("--state-dir").arg(&self.state).arg("--runtime-dir").arg(&self.runtime);
        command.arg("--events").arg(&self.events).arg("--bpffs").arg(self.bpffs.path());
        command.args(&self.options);
        command
    }

    /// Asks it something, as a program does.
    pub(crate) fn control(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.control_command(words);
        let text = command::capture(command.args(["--output", "json"]))?;
        serde_json::from_str(&text)
            .with_context(|| format!("`{}` did not write JSON", command::describe(&command)))
    }

    /// Asks it something, as a person does.
    pub(crate) fn control_text(&self, words: &[&str]) -> Result<String> {
        command::capture(&mut self.control_command(words))
    }

    /// Stops it in order; enforcement stays.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        self.end(Signal::TERM)
    }

    /// Kills it; enforcement stays.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus> {
        self.end(Signal::KILL)
    }

    /// Ends enforcement, and the daemon with it.
    pub(crate) fn detach(&mut self) -> Result<()> {
        self.control_text(&["detach", "--yes", "--reason", "end of the run"])?;
        self.detached = true;
        if self.child.is_some() {
            self.await_end()?;
        }
        Ok(())
    }

    /// Its process id while it runs.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).context("the daemon does not run")
    }

    /// Every call event so far: the part that is agent-enforcer's own.
    pub(crate) fn call_events(&self) -> Result<Vec<Value>> {
        let own = |event: Value| event.pointer("/unmapped/agent_enforcer").cloned();
        let calls = self.event_lines()?.into_iter().filter_map(|line| {
            let event: Value = serde_json::from_str(&line).ok()?;
            own(event).filter(|call| call.get("destination").is_some())
        });
        Ok(calls.collect())
    }

    /// Every complete line of the events file.
    pub(crate) fn event_lines(&self) -> Result<Vec<String>> {
        if !self.events.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&self.events)
            .with_context(|| format!("can't read {}", self.events.display()))?;
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        Ok(complete.lines().map(str::to_owned).collect())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        command::last_lines(&log, 15)
    }

    fn control_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg("--runtime-dir").arg(&self.runtime);
        command
    }

    /// Where it will say what systemd is told.
    fn ready_socket(&self) -> Result<UnixDatagram> {
        if self.ready.exists() {
            fs::remove_file(&self.ready).context("can't remove the socket of an earlier start")?;
        }
        let socket = UnixDatagram::bind(&self.ready).context("can't make a socket")?;
        socket.set_read_timeout(Some(READY_PAUSE))?;
        Ok(socket)
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait().context("can't ask for the daemon's end")?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the daemon has no pid")?, signal)
            .context("can't send the daemon a signal")?;
        self.await_end()
    }

    fn await_end(&mut self) -> Result<ExitStatus> {
        wait::for_answer("the daemon to end", STOP_LIMIT, || self.ended())
    }
}

fn told_ready(socket: &UnixDatagram) -> Result<Option<()>> {
    let mut buffer = [0; 256];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            Ok(text.lines().any(|line| line == "READY=1").then_some(()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error).context("can't hear from the daemon"),
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        interrupt::cleaning_up();
        if self.child.is_some() && !self.detached && self.detach().is_ok() {
            return;
        }
        if let Some(child) = &mut self.child {
            let ended = child.kill().and_then(|()| child.wait());
            if let Err(error) = ended {
                eprintln!("can't end the daemon (pid {}): {error}", child.id());
            }
        }
    }
}
