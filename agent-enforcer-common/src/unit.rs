//! The systemd unit on a cgroup path, found one byte at a time, so that a bounded kernel loop and a
//! plain loop in the daemon give the same answer.
//!
//! systemd's own rule (src/basic/cgroup-util.c `cg_path_get_unit`): from the root of the hierarchy
//! skip slices; the first other component is the unit, or there is none. What lies below it was
//! named by whoever the unit was delegated to, and is nobody's identity.

use crate::glob::END;

const SLICE: u64 = suffix(*b"\0\0.slice");
/// The other types of units that have cgroups.
const SERVICE: u64 = suffix(*b".service");
const SCOPE: u64 = suffix(*b"\0\0.scope");
const SOCKET: u64 = suffix(*b"\0.socket");
const MOUNT: u64 = suffix(*b"\0\0.mount");
const SWAP: u64 = suffix(*b"\0\0\0.swap");

/// A search under way. Begin with `Default`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct UnitState {
    /// The last bytes before `position`, the very last one lowest.
    tail: u64,
    position: u32,
    /// Where the component begins that `position` is in.
    start: u32,
}

/// What one step found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitStep {
    /// Not known yet: step again.
    Again,
    /// The unit's name.
    Unit {
        /// Its first byte on the path.
        start: u32,
        /// Behind its last byte: the end of the path is that of the unit's own cgroup.
        end: u32,
    },
    /// No unit.
    NoUnit,
}

impl UnitState {
    /// One step. `byte_at` returns the byte of the path at a position, [`END`] from the end on.
    #[inline(always)]
    pub fn step(&mut self, byte_at: impl Fn(u32) -> u8) -> UnitStep {
        let byte = byte_at(self.position);
        if byte != b'/' && byte != END {
            self.tail = self.tail << 8 | u64::from(byte);
            self.position += 1;
            return UnitStep::Again;
        }
        let end = self.position;
        // Put before names that could be taken for the kernel's own files.
        let is_escaped = self.start < end && byte_at(self.start) == b'_';
        let start = self.start + u32::from(is_escaped);
        let ends_with = |suffix| ends_with(self.tail, end - start, suffix);
        if end > self.start && !ends_with(SLICE) {
            let is_unit = ends_with(SERVICE)
                || ends_with(SCOPE)
                || ends_with(SOCKET)
                || ends_with(MOUNT)
                || ends_with(SWAP);
            return if is_unit { UnitStep::Unit { start, end } } else { UnitStep::NoUnit };
        }
        if byte == END {
            return UnitStep::NoUnit;
        }
        self.position += 1;
        self.start = self.position;
        UnitStep::Again
    }
}

/// Whether a name of some length, whose last bytes are `tail`, has something before this suffix.
#[inline(always)]
const fn ends_with(tail: u64, length: u32, suffix: u64) -> bool {
    let unused = suffix.leading_zeros() / 8;
    length > 8 - unused && tail & (u64::MAX >> (8 * unused)) == suffix
}

const fn suffix(text: [u8; 8]) -> u64 {
    u64::from_be_bytes(text)
}

/// The unit on a cgroup path, and what follows it: nothing where the path is the unit's own.
#[cfg(feature = "user")]
pub fn unit_of(path: &str) -> Option<(&str, &str)> {
    let mut state = UnitState::default();
    loop {
        match state.step(|position| path.as_bytes().get(position as usize).copied().unwrap_or(END))
        {
            UnitStep::Again => {}
            UnitStep::Unit { start, end } => {
                let (start, end) = (start as usize, end as usize);
                return path.get(start..end).zip(path.get(end..));
            }
            UnitStep::NoUnit => return None,
        }
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_first_component_below_the_slices() {
        for (path, unit, below) in [
            ("/init.scope", "init.scope", ""),
            ("/agent.service", "agent.service", ""),
            ("/system.slice/agent.service", "agent.service", ""),
            ("/system.slice/system-agent.slice/agent@7.service", "agent@7.service", ""),
            ("/a.slice/a-b.slice/a-b-c.slice/x.scope", "x.scope", ""),
            ("/system.slice/docker-1a2b.scope", "docker-1a2b.scope", ""),
            ("/system.slice/agent.socket", "agent.socket", ""),
            ("/system.slice/mnt-data.mount", "mnt-data.mount", ""),
            ("/system.slice/dev-sda2.swap", "dev-sda2.swap", ""),
            ("/system.slice/_memory.service", "memory.service", ""),
            ("/system.slice/agent.service/worker", "agent.service", "/worker"),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", ""),
        ] {
            assert_eq!(unit_of(path), Some((unit, below)), "{path}");
        }
    }

    #[test]
    fn what_a_delegate_names_is_no_unit() {
        for (path, unit, below) in [
            ("/system.slice/agent.service/payments.service", "agent.service", "/payments.service"),
            (
                "/system.slice/agent.service/x.slice/payments.service",
                "agent.service",
                "/x.slice/payments.service",
            ),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/payments.service",
                "user@7.service",
                "/app.slice/payments.service",
            ),
        ] {
            assert_eq!(unit_of(path), Some((unit, below)), "{path}");
        }
    }

    #[test]
    fn other_paths_have_no_unit() {
        for path in [
            "",
            "/",
            "/system.slice",
            "/system.slice/system-agent.slice",
            "/my-cgroup/payments.service",
            "/.slice/payments.service",
            "/_.slice/payments.service",
            "/slice/payments.service",
            "/.service",
            "/system.slice/_.service",
            "/system.slice/service",
            "/system.slice/agent.service.d",
            "/system.slice/agent.timer",
            "/../agent.service",
        ] {
            assert_eq!(unit_of(path), None, "{path}");
        }
    }
}
