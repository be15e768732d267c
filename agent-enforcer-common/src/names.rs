//! Names of kernel programs, maps and globals. The kernel shows the first 15 characters.

/// cgroup `connect4`.
pub const CONNECT4: &str = "ae_connect4";
/// cgroup `connect6`.
pub const CONNECT6: &str = "ae_connect6";
/// cgroup `sendmsg4`.
pub const SENDMSG4: &str = "ae_sendmsg4";
/// cgroup `sendmsg6`.
pub const SENDMSG6: &str = "ae_sendmsg6";
/// cgroup `connect_unix`.
pub const CONNECT_UNIX: &str = "ae_connect_unix";
/// cgroup `sendmsg_unix`.
pub const SENDMSG_UNIX: &str = "ae_sendmsg_unix";
/// cgroup `sock_create`.
pub const SOCK_CREATE: &str = "ae_sock_create";
/// cgroup `skb/egress`.
pub const EGRESS: &str = "ae_egress";
/// cgroup `sock_ops`.
pub const SOCK_OPS: &str = "ae_sock_ops";
/// Raw tracepoint `sched_wakeup_new`.
pub const FORK: &str = "ae_fork";
/// Raw tracepoint `sched_process_exec`.
pub const EXEC: &str = "ae_exec";
/// Raw tracepoint `sched_process_exit`.
pub const EXIT: &str = "ae_exit";
/// Raw tracepoint `cgroup_attach_task`.
pub const CGROUP_ATTACH: &str = "ae_cgrp_attach";
/// Raw tracepoint `cgroup_mkdir`.
pub const CGROUP_MKDIR: &str = "ae_cgrp_mkdir";
/// Raw tracepoint `cgroup_rmdir`.
pub const CGROUP_RMDIR: &str = "ae_cgrp_rmdir";

/// LSM `socket_create`.
pub const LSM_CREATE: &str = "ae_lsm_create";
/// LSM `socket_post_create`.
pub const LSM_CREATED: &str = "ae_lsm_created";
/// LSM `socket_connect`.
pub const LSM_CONNECT: &str = "ae_lsm_connect";
/// LSM `socket_sendmsg`.
pub const LSM_SENDMSG: &str = "ae_lsm_sendmsg";
/// LSM `socket_listen`.
pub const LSM_LISTEN: &str = "ae_lsm_listen";
/// LSM `unix_stream_connect`.
pub const LSM_UNIX_CONNECT: &str = "ae_lsm_unixconn";
/// LSM `unix_may_send`.
pub const LSM_UNIX_SEND: &str = "ae_lsm_unixsend";
/// LSM `file_receive`.
pub const LSM_RECEIVE: &str = "ae_lsm_receive";
/// LSM `bprm_committed_creds`.
pub const LSM_EXEC: &str = "ae_lsm_exec";

/// LSM `bpf`.
pub const GUARD_BPF: &str = "ae_guard_bpf";
/// LSM `ptrace_access_check`.
pub const GUARD_PTRACE: &str = "ae_guard_ptrace";
/// LSM `ptrace_traceme`.
pub const GUARD_TRACEME: &str = "ae_guard_trcme";
/// LSM `task_kill`.
pub const GUARD_KILL: &str = "ae_guard_kill";
/// LSM `file_send_sigiotask`.
pub const GUARD_SIGIO: &str = "ae_guard_sigio";
/// LSM `task_setrlimit`.
pub const GUARD_RLIMIT: &str = "ae_guard_rlimit";
/// LSM `task_setnice`.
pub const GUARD_NICE: &str = "ae_guard_nice";
/// LSM `task_setioprio`.
pub const GUARD_IOPRIO: &str = "ae_guard_ioprio";
/// LSM `task_setscheduler`.
pub const GUARD_SCHEDULER: &str = "ae_guard_sched";
/// LSM `task_movememory`.
pub const GUARD_MEMORY: &str = "ae_guard_memory";
/// LSM `file_open`.
pub const GUARD_OPEN: &str = "ae_guard_open";
/// LSM `inode_create`.
pub const GUARD_CREATE: &str = "ae_guard_create";
/// LSM `inode_link`.
pub const GUARD_LINK: &str = "ae_guard_link";
/// LSM `inode_unlink`.
pub const GUARD_UNLINK: &str = "ae_guard_unlink";
/// LSM `inode_symlink`.
pub const GUARD_SYMLINK: &str = "ae_guard_symlnk";
/// LSM `inode_mkdir`.
pub const GUARD_MKDIR: &str = "ae_guard_mkdir";
/// LSM `inode_rmdir`.
pub const GUARD_RMDIR: &str = "ae_guard_rmdir";
/// LSM `inode_mknod`.
pub const GUARD_MKNOD: &str = "ae_guard_mknod";
/// LSM `inode_rename`.
pub const GUARD_RENAME: &str = "ae_guard_rename";
/// LSM `inode_setattr`.
pub const GUARD_SETATTR: &str = "ae_guard_attr";
/// LSM `inode_setxattr`.
pub const GUARD_SETXATTR: &str = "ae_guard_xattr";
/// LSM `inode_removexattr`.
pub const GUARD_REMOVEXATTR: &str = "ae_guard_rmxatr";
/// LSM `inode_set_acl`.
pub const GUARD_SET_ACL: &str = "ae_guard_acl";
/// LSM `inode_remove_acl`.
pub const GUARD_REMOVE_ACL: &str = "ae_guard_rmacl";

/// Thread group id -> `ProcessTag`.
pub const PROCS: &str = "AE_PROCS";
/// Bitmap of the thread groups that are looked at: those in `PROCS`, those that found no room there,
/// and the daemon.
pub const MARKED: &str = "AE_MARKED";
/// `InstanceId` -> `InstanceState`.
pub const INSTANCES: &str = "AE_INSTANCES";
/// `ExecId` -> `Identity`.
pub const IDENTITIES: &str = "AE_IDENTITIES";
/// `AgentId` -> `AgentProfile`.
pub const PROFILES: &str = "AE_PROFILES";
/// `VerdictKey` -> `Verdict`.
pub const VERDICTS: &str = "AE_VERDICTS";
/// `PrefixKey` -> `PortTable`.
pub const PREFIXES: &str = "AE_PREFIXES";
/// `RequestId` -> `Reason`.
pub const ENDED: &str = "AE_ENDED";
/// Socket -> `SocketTag`.
pub const TAGS: &str = "AE_TAGS";
/// `UnixPeer` -> `NumberedPeer`.
pub const PEERS: &str = "AE_PEERS";
/// Number of a question -> `FoundSocket`.
pub const FOUND: &str = "AE_FOUND";
/// Thread group and thread id -> `ParkedCall`.
pub const PARKED: &str = "AE_PARKED";
/// `GuardedInode` -> `GUARDED_*`.
pub const GUARDED: &str = "AE_GUARDED";
/// Records for the daemon.
pub const RING: &str = "AE_RING";
/// Slot -> `Tally`.
pub const TALLIES: &str = "AE_TALLIES";
/// `StateWord` -> `u64`.
pub const STATE: &str = "AE_STATE";
/// `Reason` -> `u64`, per CPU.
pub const REASONS: &str = "AE_REASONS";
/// `Counter` -> `u64`, per CPU.
pub const COUNTERS: &str = "AE_COUNTERS";
/// `CgroupKey` -> `TermSet`.
pub const CGROUPS: &str = "AE_CGROUPS";
/// `UserKey` -> `TermSet`.
pub const USERS: &str = "AE_USERS";
/// `ExecutableKey` -> `TermSet`.
pub const EXECUTABLES: &str = "AE_EXECUTABLES";
/// Slot x `PATTERN_LIMIT` + position -> `CgroupPattern`.
pub const PATTERNS: &str = "AE_PATTERNS";
/// Slot x `TERM_LIMIT` + term -> `AgentId`.
pub const TERMS: &str = "AE_TERMS";
/// Slot -> `SelectorDefaults`.
pub const DEFAULTS: &str = "AE_DEFAULTS";
/// Global: `Offsets`.
pub const OFFSETS: &str = "OFFSETS";
/// Global: `Limits`.
pub const LIMITS: &str = "LIMITS";
/// Global: `GuardOffsets`.
pub const GUARD_OFFSETS: &str = "GUARD_OFFSETS";

/// Every map that outlives the daemon.
pub const MAPS: &[&str] = &[
    PROCS,
    MARKED,
    INSTANCES,
    IDENTITIES,
    PROFILES,
    VERDICTS,
    PREFIXES,
    ENDED,
    TAGS,
    PEERS,
    FOUND,
    PARKED,
    GUARDED,
    RING,
    TALLIES,
    STATE,
    REASONS,
    COUNTERS,
    CGROUPS,
    USERS,
    EXECUTABLES,
    PATTERNS,
    TERMS,
    DEFAULTS,
];
