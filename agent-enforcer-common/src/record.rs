//! What the kernel side tells the daemon through the ring buffer.
//!
//! Every record begins with its kind and its size, so that a daemon can refuse what it does not
//! know. A record that finds no room is counted (see `Counter`), never silently lost.

use crate::{
    destination::Destination,
    id::{AgentId, ExecId, GrantId, InstanceId, RequestId, ToolId},
    process::ProcessTag,
};

/// Kinds of records. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    /// A question: the call waits for its answer. A [`CallRecord`].
    Request = 1,
    /// A call was denied without asking. A [`CallRecord`].
    Denied = 2,
    /// A call was allowed without asking. A [`CallRecord`].
    Allowed = 3,
    /// A call of an agent in audit mode went through, although it would be denied. A [`CallRecord`].
    Audited = 4,
    /// A process was recognised as an agent's when it executed a program: a new instance. An
    /// [`ExecRecord`].
    Classified = 5,
    /// An agent's process executed a program. An [`ExecRecord`].
    Executed = 6,
    /// The last process of an instance exited. A [`ProcessRecord`].
    InstanceEnded = 7,
    /// A table of the kernel side is full. A [`ProcessRecord`].
    TableFull = 8,
    /// A flow that the daemon has denied sent a packet: it was held or live, and is to be reset.
    /// No event of its own. A [`CallRecord`].
    FlowDenied = 9,
    /// A process was recognised as an agent's when it entered a cgroup: a new instance, still with
    /// the program of its launcher. A [`ProcessRecord`].
    Joined = 10,
    /// A unix socket was named for the first time. A [`crate::peer::PeerRecord`].
    Peer = 11,
    /// An agent tried what is denied to every agent, whatever its grants. A [`GuardRecord`].
    Guarded = 12,
    /// Where does a path of a unix socket lead? A [`crate::peer::PathRecord`].
    Path = 13,
}

impl RecordKind {
    /// The kind of a number from the ring.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Request),
            2 => Some(Self::Denied),
            3 => Some(Self::Allowed),
            4 => Some(Self::Audited),
            5 => Some(Self::Classified),
            6 => Some(Self::Executed),
            7 => Some(Self::InstanceEnded),
            8 => Some(Self::TableFull),
            9 => Some(Self::FlowDenied),
            10 => Some(Self::Joined),
            11 => Some(Self::Peer),
            12 => Some(Self::Guarded),
            13 => Some(Self::Path),
            _ => None,
        }
    }
}

/// Where the call was seen. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hook {
    /// cgroup `connect4` / `connect6`.
    Connect = 1,
    /// cgroup `sendmsg4` / `sendmsg6`.
    Sendmsg = 2,
    /// cgroup `sock_create`.
    SocketCreate = 3,
    /// cgroup `skb/egress`.
    Egress = 4,
    /// LSM `socket_create`.
    LsmCreate = 5,
    /// LSM `socket_connect`.
    LsmConnect = 6,
    /// LSM `socket_sendmsg`.
    LsmSendmsg = 7,
    /// LSM `unix_stream_connect`.
    UnixConnect = 8,
    /// LSM `unix_may_send`.
    UnixSend = 9,
    /// cgroup `connect_unix`.
    CgroupUnixConnect = 10,
    /// cgroup `sendmsg_unix`.
    CgroupUnixSend = 11,
}

impl Hook {
    /// The hook of a number from the ring.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Connect),
            2 => Some(Self::Sendmsg),
            3 => Some(Self::SocketCreate),
            4 => Some(Self::Egress),
            5 => Some(Self::LsmCreate),
            6 => Some(Self::LsmConnect),
            7 => Some(Self::LsmSendmsg),
            8 => Some(Self::UnixConnect),
            9 => Some(Self::UnixSend),
            10 => Some(Self::CgroupUnixConnect),
            11 => Some(Self::CgroupUnixSend),
            _ => None,
        }
    }
}

/// [`CallRecord::flags`]: the flow was admitted before and is decided again.
pub const CALL_LIVE_FLOW: u8 = 1;
/// [`CallRecord::flags`]: the kernel side does not know the image's identity (any more).
pub const CALL_UNATTESTED: u8 = 2;
/// [`CallRecord::flags`]: the call took a verdict that admits one.
pub const CALL_TOOK_USE: u8 = 4;
/// [`CallRecord::flags`]: the caller is stopped until the daemon continues it.
pub const CALL_PARKED: u8 = 8;

/// First bytes of every record.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RecordHeader {
    /// [`RecordKind`].
    pub kind: u32,
    /// Bytes of the whole record.
    pub size: u32,
    /// When, ns of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

/// The process behind a record.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ProcessFacts {
    /// The instance.
    pub instance: InstanceId,
    /// The program image.
    pub exec: ExecId,
    /// Start of the thread group leader, ns of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// Inode number of the executable, as recorded at exec.
    pub exe_inode: u64,
    /// Cgroup id of the process, 0 where the hook does not know it.
    pub cgroup: u64,
    /// Kernel device number of the executable, as recorded at exec.
    pub exe_device: u32,
    /// The agent.
    pub agent: AgentId,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace, 0 where the hook does not know it.
    pub tid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Real group id in the initial user namespace.
    pub gid: u32,
    /// Name of the thread as it chose it: never used for identity.
    pub comm: [u8; 16],
}

impl ProcessFacts {
    /// What a tag tells of its process; the rest is not known.
    pub fn of(tag: &ProcessTag) -> Self {
        let ProcessTag { instance, exec, start_ns, exe_inode, exe_device, agent } = *tag;
        Self { instance, exec, start_ns, exe_inode, exe_device, agent, ..Self::default() }
    }

    /// The tag of the process.
    pub const fn tag(&self) -> ProcessTag {
        ProcessTag {
            instance: self.instance,
            exec: self.exec,
            start_ns: self.start_ns,
            exe_inode: self.exe_inode,
            exe_device: self.exe_device,
            agent: self.agent,
        }
    }
}

/// A record about a call or a packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct CallRecord {
    /// Kind, size and time.
    pub header: RecordHeader,
    /// The process.
    pub process: ProcessFacts,
    /// Where the call goes.
    pub destination: Destination,
    /// The question's number; none for anything but a request.
    pub request: RequestId,
    /// The socket's cookie, unique until the host restarts.
    pub socket_cookie: u64,
    /// Cookie of the network namespace; 0 where the kernel does not tell.
    pub netns_cookie: u64,
    /// The generation in force when the call was judged.
    pub generation: u64,
    /// The grant that the verdict or the flow has, or none.
    pub grant: GrantId,
    /// The tool that the verdict or the flow has, or none.
    pub tool: ToolId,
    /// [`crate::reason::Reason`].
    pub reason: u16,
    /// [`Hook`].
    pub hook: u8,
    /// `CALL_*`.
    pub flags: u8,
    /// The processor on which the hook ran.
    pub cpu: u32,
    /// Zero.
    pub _pad: u32,
}

/// A record about a process.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProcessRecord {
    /// Kind, size and time.
    pub header: RecordHeader,
    /// The process.
    pub process: ProcessFacts,
}

/// Bytes of a program's arguments that a record has room for.
pub const ARGUMENT_BYTES: usize = 512;

/// What a program was started with and where, as it was before its first instruction: afterwards
/// the process can change all of it. What could not be read is 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExecView {
    /// Inode number of the working directory.
    pub directory_inode: u64,
    /// Inode number of the root directory.
    pub root_inode: u64,
    /// Kernel device number of the working directory.
    pub directory_device: u32,
    /// Kernel device number of the root directory.
    pub root_device: u32,
    /// Number of the mount namespace, as /proc/PID/ns/mnt shows it.
    pub mounts: u32,
    /// How deep below the initial user namespace, 0, the one is that owns those mounts.
    pub mounts_level: u32,
    /// How many arguments there are, the program's name included.
    pub arguments: u32,
    /// Bytes of `text` that count; what is behind them is left over from other records.
    pub text_length: u32,
    /// The beginning of the arguments, each with a zero behind it; the environment may follow.
    pub text: [u8; ARGUMENT_BYTES],
}

/// A record about a program that was executed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExecRecord {
    /// Kind, size and time.
    pub header: RecordHeader,
    /// The process.
    pub process: ProcessFacts,
    /// How it began.
    pub view: ExecView,
}

/// What is denied to every agent, whatever its grants. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Guard {
    /// `bpf()`; the argument is its command.
    Bpf = 1,
    /// Reading or changing a process that is not of its own instance (ptrace, `pidfd_getfd`,
    /// `process_vm_readv`, `/proc/PID/mem`); the argument is the access mode.
    Ptrace = 2,
    /// A signal to the daemon; the argument is its number.
    Signal = 3,
    /// Limits or scheduling of the daemon; the argument is the limit's number, or 0.
    Limits = 4,
    /// A file that the enforcer lives by, or that changes the kernel for all; the argument is the
    /// file system's magic number.
    File = 5,
    /// A device that sends; the argument is its number, as the kernel keeps it (include/linux/kdev_t.h:
    /// the major number above 20 bits of the minor one).
    Device = 6,
}

impl Guard {
    /// The guard of a number from the ring.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Bpf),
            2 => Some(Self::Ptrace),
            3 => Some(Self::Signal),
            4 => Some(Self::Limits),
            5 => Some(Self::File),
            6 => Some(Self::Device),
            _ => None,
        }
    }

    /// The word in the event.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::Ptrace => "ptrace",
            Self::Signal => "signal",
            Self::Limits => "limits",
            Self::File => "file",
            Self::Device => "device",
        }
    }
}

/// A record about what an agent may not do to the host.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuardRecord {
    /// Kind, size and time.
    pub header: RecordHeader,
    /// The process.
    pub process: ProcessFacts,
    /// [`Guard`].
    pub guard: u32,
    /// Thread group that it was aimed at, 0 where it was none.
    pub target_tgid: u32,
    /// See [`Guard`].
    pub argument: u64,
}

/// Per-CPU counters beside the one per reason. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Questions asked.
    Requests = 0,
    /// Questions answered while the call waited in the hook.
    AnsweredInHook = 1,
    /// Calls that went on to be held.
    Held = 2,
    /// Deny records that found no room in the ring.
    LostDenied = 3,
    /// Allow records that found no room in the ring.
    LostAllowed = 4,
    /// Audit records that found no room in the ring.
    LostAudited = 5,
    /// Process records that found no room in the ring.
    LostProcess = 6,
    /// Processes that found no room in the process table.
    ProcessTableFull = 7,
    /// Cgroups that found no room in the table of matched cgroups.
    CgroupTableFull = 8,
    /// Wishes to reset a denied flow that found no room in the ring.
    LostFlowDenied = 9,
    /// Callers that were stopped.
    Parked = 10,
    /// Callers that were to be stopped and could not be.
    ParkFailed = 11,
    /// Guard records that found no room in the ring.
    LostGuarded = 12,
    /// Unix sockets that could not be named.
    PeerUnnamed = 13,
}

impl Counter {
    /// Length of the counter array.
    pub const SLOTS: u32 = 16;
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 16);
    assert!(size_of::<ProcessFacts>() == 80);
    // The kernel side clears the name in words of eight bytes.
    assert!(core::mem::offset_of!(ProcessFacts, comm).is_multiple_of(8));
    assert!(size_of::<CallRecord>() == 176);
    assert!(size_of::<ProcessRecord>() == 96);
    assert!(size_of::<ExecView>() == 40 + ARGUMENT_BYTES);
    assert!(size_of::<ExecRecord>() == 96 + size_of::<ExecView>());
    assert!(size_of::<GuardRecord>() == 112);
};
crate::plain_data!(RecordHeader, ProcessFacts, CallRecord, ProcessRecord, ExecRecord, GuardRecord);
