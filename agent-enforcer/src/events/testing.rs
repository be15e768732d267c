//! Values and fakes for the tests of this stage.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP},
    id::{ExecId, Generation, GrantId, InstanceId},
    reason::Reason,
    record::{Guard, Hook},
};

use super::Clock;
use crate::decision::{
    Ancestor, Attempt, CallDecision, Code, Container, GrantRef, Outcome, Process, Script,
    Sha256Digest,
};

/// A clock that stands still.
pub(super) struct TestClock {
    boot_ns: u64,
    epoch_ms: u64,
}

impl TestClock {
    pub(super) fn new(boot_ns: u64, epoch_ms: u64) -> Self {
        Self { boot_ns, epoch_ms }
    }
}

impl Clock for TestClock {
    fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.epoch_ms)
    }
}

pub(super) fn process(pid: u32) -> Process {
    Process {
        pid,
        start_ns: 2_000_000_000,
        exec: ExecId::new(9),
        exe: Some(PathBuf::from("/usr/bin/python3.11")),
        sha256: Some(Sha256Digest([0xab; 32])),
        fsverity: None,
        code: Code::Script(Script {
            path: PathBuf::from("/opt/bot/main.py"),
            sha256: Sha256Digest([0xcd; 32]),
            fsverity: None,
        }),
        uid: 1000,
        gid: 1001,
        cgroup: "/system.slice/bot.service".to_owned(),
        unit: Some("bot.service".to_owned()),
        container: Some(Container { runtime: "podman", id: "0a".repeat(32) }),
        comm: "python3".to_owned(),
        ancestors: vec![
            Ancestor { pid: 40, exe: PathBuf::from("/usr/bin/bash") },
            Ancestor { pid: 1, exe: PathBuf::from("/usr/lib/systemd/systemd") },
        ],
    }
}

/// A denied call with everything set.
pub(super) fn call() -> CallDecision {
    call_of_pid(42)
}

pub(super) fn call_of_pid(pid: u32) -> CallDecision {
    CallDecision {
        outcome: Outcome::Denied,
        reason: Reason::GrantExpired,
        audited_reason: None,
        miss_reason: None,
        count: 1,
        time_ns: 4_000_000_000,
        last_ns: 4_000_000_000,
        stalled_ns: 0,
        agent: "deploy-bot".into(),
        owner: "platform@example.com".into(),
        instance: InstanceId::new(0x1a2b),
        process: Arc::new(process(pid)),
        last_pid: pid,
        destination: Destination::v4(0xc000_0201, 443, PROTOCOL_TCP),
        peer: None,
        tool: Some("registry".into()),
        grant: Some(Arc::new(GrantRef {
            issuer: None,
            jti: None,
            txn: None,
            id: GrantId::new(42),
            principal: "alice@example.com".to_owned(),
            task: "TASK-7".to_owned(),
        })),
        approval: None,
        hook: Hook::Connect,
        socket_cookie: 4711,
        netns_cookie: 1,
        generation: Generation::new(3),
    }
}

/// An attempt to signal process 4.
pub(super) fn attempt() -> Attempt {
    Attempt {
        guard: Guard::Signal,
        target_pid: 4,
        argument: 9,
        time_ns: 4_000_000_000,
        agent: "deploy-bot".into(),
        owner: "platform@example.com".into(),
        instance: InstanceId::new(0x1a2b),
        process: Arc::new(process(42)),
        pid: 42,
    }
}

/// Waits until something is so; fails loudly when it does not come to be.
pub(super) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "never came to be: {what}");
        std::thread::yield_now();
    }
}

/// A file system of 256 KiB, gone with this value.
pub(super) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(super) fn mount() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let options = c"size=256k,mode=0700";
        rustix::mount::mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options,
        )
        .unwrap();
        Self(dir)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
