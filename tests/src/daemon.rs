//! The daemon as a process.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    binaries, planes,
    wait::{SOON, poll_for},
};

/// A daemon, running or not, in its directories.
#[derive(Debug)]
pub struct Daemon {
    directory: PathBuf,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that keeps everything below `directory`; it does not run yet.
    pub fn new(directory: &Path, cgroup_root: &Path, flags: &[String]) -> Self {
        let mut all = vec!["--cgroup-root".to_owned(), cgroup_root.display().to_string()];
        all.extend_from_slice(flags);
        Self { directory: directory.to_owned(), flags: all, child: None }
    }

    /// One more argument from the next start on.
    pub fn add_flag(&mut self, flag: &str) {
        self.flags.push(flag.to_owned());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where its event lines are.
    pub fn events_file(&self) -> PathBuf {
        self.path("events.jsonl")
    }

    /// Where its policy files are.
    pub fn policy_directory(&self) -> PathBuf {
        self.path("policy")
    }

    /// Where its grants are.
    pub fn state_directory(&self) -> PathBuf {
        self.path("state")
    }

    /// Where its pins are.
    pub fn bpffs(&self) -> PathBuf {
        self.path("bpf")
    }

    /// Cgroups in which the kernel sets timers of held connections, by their ids.
    pub fn held_cgroups(&self) -> Vec<u64> {
        let enforcer = self.path("bpf/agent-enforcer");
        let versions = fs::read_dir(enforcer).expect("the pins");
        let held =
            versions.map(|version| version.expect("a directory of pins").path().join("held"));
        let pins = held.flat_map(|held| fs::read_dir(held).expect("the pins of links to cgroups"));
        let names = pins.map(|pin| pin.expect("a pin").file_name());
        names.map(|name| name.to_string_lossy().parse().expect("a cgroup id")).collect()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The command line of a daemon on these directories.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binaries::daemon());
        command
            .arg("run")
            .arg("--policy")
            .arg(self.path("policy"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--runtime-dir")
            .arg(self.path("run"))
            .arg("--events")
            .arg(self.path("events.jsonl"))
            .arg("--bpffs")
            .arg(self.path("bpf"))
            .args(&self.flags)
            .stdin(Stdio::null());
        if let Some(plane) = planes::wished() {
            command.arg("--plane").arg(plane);
        }
        command
    }

    /// Starts it without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.path("daemon.log"));
        let log = log.expect("the daemon's log file");
        let child = self.command().stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("the daemon's binary runs"));
    }

    /// Starts it and waits until it answers; returns how long that took.
    pub fn start(&mut self) -> Duration {
        let begin = Instant::now();
        self.spawn();
        let pid = u64::from(self.pid());
        let answers = poll_for(SOON, || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().expect("a child of this process")
            {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            if !self.path("run/control.sock").exists() {
                return None;
            }
            let output = self.cli(&["status"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (status.get("pid").and_then(Value::as_u64) == Some(pid)).then_some(())
        });
        assert!(answers.is_some(), "the daemon does not answer:\n{}", self.log());
        begin.elapsed()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Whether it was started and not ended.
    pub const fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("the daemon runs");
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        let status = poll_for(SOON, || child.try_wait().expect("a child of this process"));
        status.unwrap_or_else(|| {
            let _ = child.kill();
            panic!("the daemon does not end:\n{}", self.log())
        })
    }

    /// Ends it as systemd does.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Runs a command of the operator, with JSON output.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        cli(&self.path("run"), arguments)
    }
}

/// Runs a command of the operator, for the daemon of a runtime directory.
pub fn cli(runtime_directory: &Path, arguments: &[&str]) -> Output {
    Command::new(binaries::daemon())
        .arg("--runtime-dir")
        .arg(runtime_directory)
        .args(["--output", "json"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the daemon's binary runs")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
