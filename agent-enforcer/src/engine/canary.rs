//! Do the kernel programs still run? Asked once a second, for ever.
//!
//! The daemon makes a call that the programs of a plane must see, and looks whether they counted it:
//! connect() of a datagram socket for the cgroup plane, which sends nothing, and bpf() for the LSM
//! plane, which looking up the count is. That programs load, attach and stay pinned proves nothing:
//! `kernel.ftrace_enabled` silences those of BPF LSM (before 7.0), a link can be detached by whoever
//! may. Nothing here changes a verdict; what is left of enforcement goes on denying.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use agent_enforcer_common::config::StateWord;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::{Engine, nanoseconds};
use crate::{
    events::{DaemonEvent, Silence},
    host::Plane,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Looks without a sign after which a plane counts as silent.
const PATIENCE: u32 = 3;
/// The discard service, where nobody need listen.
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
const OWN_CGROUP: &str = "/proc/self/cgroup";

/// See the module's header.
#[derive(Debug)]
pub(super) struct Canary {
    next_ns: u64,
    /// Mount point of cgroup v2.
    cgroups: PathBuf,
    /// The cgroup that enforcement is attached to.
    cgroup_root: PathBuf,
    cgroup: Signs,
    /// None where the plane is not in force.
    lsm: Option<Signs>,
}

impl Canary {
    pub(super) fn new(plane: Plane, cgroups: &Path, cgroup_root: PathBuf) -> Self {
        let cgroup = Signs::of("cgroup", CGROUP_REMEDY);
        let lsm = match plane {
            Plane::Cgroup => None,
            Plane::Lsm => Some(Signs::of("lsm", LSM_REMEDY)),
        };
        Self { next_ns: 0, cgroups: cgroups.to_owned(), cgroup_root, cgroup, lsm }
    }

    /// For `status`.
    pub(super) fn problems(&self) -> Vec<String> {
        let silent = self.lsm.iter().chain([&self.cgroup]).filter(|signs| signs.told);
        silent
            .map(|signs| {
                let Silence { plane, since_ns: _, remedy } = signs.silence;
                format!("the {plane} plane is silent, its programs do not run: {remedy}")
            })
            .collect()
    }

    /// Whether the daemon's own calls pass the programs of the cgroup plane: those of a cgroup see what
    /// is below it only.
    fn is_below_root(&self) -> io::Result<bool> {
        let own = fs::read_to_string(OWN_CGROUP)?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
        Ok(path.is_some_and(|path| self.cgroups.join(path).starts_with(&self.cgroup_root)))
    }
}

const CGROUP_REMEDY: &str = "find out who detached the programs (`bpftool cgroup tree`), then \
    `systemctl restart agent-enforcer`";
const LSM_REMEDY: &str = "`sysctl kernel.ftrace_enabled=1`, and find out who switched it off; if it is \
    1, `systemctl restart agent-enforcer`";

/// What was seen of one plane.
#[derive(Debug)]
struct Signs {
    silence: Silence,
    /// The count at the last look, once there was one.
    count: Option<u64>,
    missed: u32,
    told: bool,
}

/// What a look comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Nothing,
    Silent,
    Back,
}

impl Signs {
    const fn of(plane: &'static str, remedy: &'static str) -> Self {
        let silence = Silence { plane, since_ns: 0, remedy };
        Self { silence, count: None, missed: 0, told: false }
    }

    /// Takes the count after a call that must have been counted.
    fn look(&mut self, count: u64, now_ns: u64) -> Turn {
        let Some(before) = self.count.replace(count) else { return Turn::Nothing };
        if before != count {
            self.missed = 0;
            return if std::mem::take(&mut self.told) { Turn::Back } else { Turn::Nothing };
        }
        if self.missed == 0 {
            self.silence.since_ns = now_ns;
        }
        self.missed = self.missed.saturating_add(1);
        if self.missed < PATIENCE || self.told {
            return Turn::Nothing;
        }
        self.told = true;
        Turn::Silent
    }

    /// Nothing can be seen from here: what was known stays known.
    const fn rest(&mut self) {
        self.count = None;
    }
}

impl Engine {
    /// Calls, and looks whether it was seen.
    pub(super) fn watch_planes(&mut self, now_ns: u64) {
        if now_ns < self.canary.next_ns {
            return;
        }
        self.canary.next_ns = now_ns + nanoseconds(EVERY);
        self.watch_cgroup_plane(now_ns);
        // To look is the call.
        let count = self.verdicts.word(StateWord::LsmCanary);
        if let (Some(signs), Ok(count)) = (&mut self.canary.lsm, count) {
            let turn = signs.look(count, now_ns);
            let silence = signs.silence;
            self.tell_turn(turn, silence);
        }
    }

    fn watch_cgroup_plane(&mut self, now_ns: u64) {
        let called = self.canary.is_below_root().and_then(|is_below| {
            if is_below {
                // Whether loopback is up or not.
                call()?;
            }
            Ok(is_below)
        });
        let count = self.verdicts.word(StateWord::CgroupCanary);
        let signs = &mut self.canary.cgroup;
        match (called, count) {
            (Ok(true), Ok(count)) => {
                let turn = signs.look(count, now_ns);
                let silence = signs.silence;
                self.tell_turn(turn, silence);
            }
            (Ok(false), _) => signs.rest(),
            // No call, no sign.
            (Err(error), _) => tracing::warn!(%error, "the cgroup plane can't be watched"),
            (Ok(true), Err(error)) => tracing::warn!(%error, "the cgroup plane can't be watched"),
        }
    }

    fn tell_turn(&self, turn: Turn, silence: Silence) {
        let plane = silence.plane;
        match turn {
            Turn::Nothing => {}
            Turn::Silent => {
                tracing::error!(plane, remedy = silence.remedy, "the programs do not run any more");
                self.tell(DaemonEvent::PlaneSilent(silence));
            }
            Turn::Back => {
                tracing::warn!(plane, "the programs run again");
                self.tell(DaemonEvent::PlaneBack(silence));
            }
        }
    }
}

/// Passes the hook of `connect4`, whatever comes of it: the hook is asked before there is a route.
fn call() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let _wherever = connect(&socket, &NOWHERE);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plane_is_silent_after_three_looks_without_a_sign_and_told_once() {
        let mut signs = Signs::of("lsm", "");
        let turns = [7, 8, 8, 8, 8, 8, 9, 9, 10, 10, 10, 10].map(|count| signs.look(count, count));
        let told: Vec<_> =
            turns.iter().enumerate().filter(|(_, turn)| **turn != Turn::Nothing).collect();
        assert_eq!(told, [(4, &Turn::Silent), (6, &Turn::Back), (11, &Turn::Silent)]);
        assert_eq!(signs.silence.since_ns, 10);
        signs.rest();
        assert!(signs.told);
        assert_eq!([10, 11].map(|count| signs.look(count, 1)), [Turn::Nothing, Turn::Back]);
    }

    #[test]
    fn first_look_tells_nothing_whatever_an_earlier_daemon_left() {
        assert_eq!(Signs::of("lsm", "").look(0, 1), Turn::Nothing);
    }
}
