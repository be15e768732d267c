//! What the kernel side knows of a process, a program image and an instance, and how it
//! recognises an agent's process by its cgroup, user and executable.

use crate::id::{AgentId, ExecId, InstanceId};

/// How many selector terms a policy may have in all; one bit each.
pub const TERM_LIMIT: usize = 1024;
/// 64-bit words of a [`TermSet`].
pub const TERM_WORDS: usize = TERM_LIMIT / 64;
/// Longest cgroup pattern, bytes.
pub const PATTERN_BYTES: usize = 192;
/// How many cgroup patterns a policy may have in all.
pub const PATTERN_LIMIT: u32 = 256;
/// Two sets of selector tables: one in force, one being loaded.
pub const SELECTOR_SLOTS: u32 = 2;
/// Process ids are below this (`PID_MAX_LIMIT`, include/linux/threads.h).
pub const PID_LIMIT: u32 = 4 << 20;

/// Value of the process table: the mark of an agent's process. Key: thread group id.
///
/// A pid is never used without its start time: the fork hook removes a left-over entry of a
/// reused pid, and the daemon compares `start_ns` with /proc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessTag {
    /// The instance it belongs to; inherited over fork, kept over exec.
    pub instance: InstanceId,
    /// The program image; inherited over fork, new at exec.
    pub exec: ExecId,
    /// Start of the thread group leader, ns of `CLOCK_BOOTTIME` (`task_struct.start_boottime`).
    pub start_ns: u64,
    /// Inode number of the executable, as recorded at exec.
    pub exe_inode: u64,
    /// Kernel device number (`super_block.s_dev`) of the executable, as recorded at exec.
    pub exe_device: u32,
    /// The agent it belongs to.
    pub agent: AgentId,
}

/// Value of the instance table. Key: [`InstanceId`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct InstanceState {
    /// Live processes; at 0 the instance has ended.
    pub processes: u64,
    /// Start of the current rate window, ns of `CLOCK_BOOTTIME`.
    pub window_start_ns: u64,
    /// Questions asked in the current rate window.
    pub window_requests: u64,
    /// The agent it is of.
    pub agent: AgentId,
    /// Unused.
    pub _pad: u32,
}

/// Value of the identity table. Key: [`ExecId`]. Absent: not attested yet, so ask.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Identity {
    /// `Reason::None` when attested, otherwise why the image may not act at all.
    pub reason: u16,
    /// Unused.
    pub _pad: [u8; 6],
}

/// A set of selector terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TermSet {
    /// Bit `n % 64` of word `n / 64` stands for term `n`.
    pub words: [u64; TERM_WORDS],
}

impl TermSet {
    /// No term.
    pub const EMPTY: Self = Self { words: [0; TERM_WORDS] };
}

/// Key of the table of matched cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CgroupKey {
    /// Cgroup id (`kernfs_node.id`).
    pub cgroup: u64,
    /// Selector slot.
    pub slot: u32,
    /// Unused.
    pub _pad: u32,
}

/// Key of the table of matched users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct UserKey {
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Selector slot.
    pub slot: u32,
}

/// Key of the table of matched executables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ExecutableKey {
    /// Inode number.
    pub inode: u64,
    /// Kernel device number (`super_block.s_dev`).
    pub device: u32,
    /// Selector slot.
    pub slot: u32,
}

/// Per slot: the terms that name no cgroup, no user, no executable, so that any will do.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SelectorDefaults {
    /// Terms without a cgroup selector.
    pub any_cgroup: TermSet,
    /// Terms without a user selector.
    pub any_user: TermSet,
    /// Terms without an executable selector.
    pub any_executable: TermSet,
    /// Cgroup patterns in use in this slot.
    pub patterns: u32,
    /// Terms in use in this slot.
    pub terms: u32,
}

/// What a [`CgroupPattern`] is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PatternScope {
    /// The whole path from the root of the hierarchy.
    Path = 1,
    /// The name of a systemd unit; the unit's own cgroup matches, nothing else does.
    SystemUnit = 2,
}

/// One cgroup glob: `?` one character but `/`, `*` any run without `/`, `**` any run.
///
/// Compared by the kernel when a cgroup is made, by the daemon for those that exist. Index in
/// its table: slot x [`PATTERN_LIMIT`] + position.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CgroupPattern {
    /// The terms that the pattern satisfies.
    pub terms: TermSet,
    /// [`PatternScope`].
    pub scope: u32,
    /// Bytes in use of `glob`.
    pub length: u32,
    /// The pattern, not terminated.
    pub glob: [u8; PATTERN_BYTES],
}

const _: () = {
    assert!(size_of::<ProcessTag>() == 40);
    assert!(size_of::<InstanceState>() == 32);
    assert!(size_of::<Identity>() == 8);
    assert!(size_of::<TermSet>() == 128);
    assert!(size_of::<CgroupKey>() == 16);
    assert!(size_of::<UserKey>() == 8);
    assert!(size_of::<ExecutableKey>() == 16);
    assert!(size_of::<SelectorDefaults>() == 392);
    assert!(size_of::<CgroupPattern>() == 328);
};
crate::plain_data!(
    ProcessTag,
    InstanceState,
    Identity,
    TermSet,
    CgroupKey,
    UserKey,
    ExecutableKey,
    SelectorDefaults,
    CgroupPattern,
);
