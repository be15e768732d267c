//! What the daemon sets: field offsets of the running kernel, limits, agent profiles, and the
//! few words that change while everything runs.

/// Offsets of kernel struct fields, bytes, from the running kernel's BTF. Set before load.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `task_struct.cred`
    pub task_cred: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `mm_struct.exe_file`
    pub mm_exe_file: u32,
    /// `cred.uid`
    pub cred_uid: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `css_set.dfl_cgrp`
    pub css_set_dfl_cgrp: u32,
    /// `cgroup.self`
    pub cgroup_self: u32,
    /// `cgroup.kn`
    pub cgroup_kn: u32,
    /// `cgroup.root`
    pub cgroup_root: u32,
    /// `cgroup_root.hierarchy_id`
    pub cgroup_root_hierarchy_id: u32,
    /// `cgroup_subsys_state.parent`
    pub css_parent: u32,
    /// `cgroup_subsys_state.cgroup`
    pub css_cgroup: u32,
    /// `kernfs_node.id`
    pub kernfs_node_id: u32,
    /// `linux_binprm.file`
    pub binprm_file: u32,
    /// `file.f_inode`
    pub file_f_inode: u32,
    /// `file.f_flags`
    pub file_f_flags: u32,
    /// `inode.i_ino`
    pub inode_i_ino: u32,
    /// `inode.i_sb`
    pub inode_i_sb: u32,
    /// `super_block.s_dev`
    pub super_block_s_dev: u32,
    /// `sock.sk_socket`
    pub sock_sk_socket: u32,
    /// `socket.file`
    pub socket_file: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock_common.skc_family`
    pub sock_family: u32,
    /// `sock_common.skc_state`
    pub sock_state: u32,
    /// `sock_common.skc_daddr`
    pub sock_daddr: u32,
    /// `sock_common.skc_dport`
    pub sock_dport: u32,
    /// `sock_common.skc_v6_daddr`
    pub sock_v6_daddr: u32,
    /// `sock_common.skc_bound_dev_if`
    pub sock_bound_interface: u32,
    /// `sock_common.skc_net`
    pub sock_net: u32,
    /// `sock.sk_type`
    pub sock_type: u32,
    /// `sock.sk_protocol`
    pub sock_protocol: u32,
    /// `net.net_cookie`
    pub net_cookie: u32,
    /// `msghdr.msg_name`
    pub msghdr_name: u32,
    /// `msghdr.msg_namelen`
    pub msghdr_name_length: u32,
    /// `msghdr.msg_flags`
    pub msghdr_flags: u32,
    /// `unix_sock.addr`
    pub unix_addr: u32,
    /// `unix_sock.path`
    pub unix_path: u32,
    /// `unix_address.len`
    pub unix_address_length: u32,
    /// `unix_address.name`
    pub unix_address_name: u32,
    /// `path.dentry`
    pub path_dentry: u32,
    /// `dentry.d_inode`
    pub dentry_inode: u32,
    /// `inode.i_generation`
    pub inode_generation: u32,
    /// `task_struct.fs`
    pub task_fs: u32,
    /// `fs_struct.users`
    pub fs_users: u32,
    /// `fs_struct.root`
    pub fs_root: u32,
    /// `fs_struct.pwd`
    pub fs_pwd: u32,
    /// `task_struct.nsproxy`
    pub task_nsproxy: u32,
    /// `nsproxy.mnt_ns`
    pub nsproxy_mounts: u32,
    /// `mnt_namespace.ns.inum`
    pub mounts_number: u32,
    /// `mnt_namespace.user_ns`
    pub mounts_owner: u32,
    /// `user_namespace.level`
    pub user_namespace_level: u32,
    /// `mm_struct.arg_start`
    pub mm_arg_start: u32,
    /// `mm_struct.arg_end`
    pub mm_arg_end: u32,
    /// `linux_binprm.p`
    pub binprm_p: u32,
    /// `linux_binprm.exec`
    pub binprm_exec: u32,
    /// `linux_binprm.argc`
    pub binprm_argc: u32,
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `pt_regs.orig_ax`; x86-64 only, otherwise 0.
    pub regs_syscall: u32,
    /// `thread_info.status` in `task_struct`; x86-64 only, otherwise 0.
    pub task_status: u32,
    /// `pid.tasks`
    pub pid_tasks: u32,
    /// `task_struct.pid_links`
    pub task_pid_links: u32,
    /// `sock.sk_peer_pid`
    pub sock_peer_pid: u32,
    /// `sock_common.skc_node`
    pub sock_node: u32,
    /// `unix_table.buckets` in `net`
    pub net_unix_buckets: u32,
    /// `bpf_sock_addr_kern.sk`
    pub call_sk: u32,
    /// `bpf_sock_addr_kern.uaddr`
    pub call_address: u32,
    /// `bpf_sock_addr_kern.uaddrlen`, from 6.7 on; otherwise 0, and there are no hooks for unix sockets.
    pub call_address_length: u32,
}

/// Limits and budgets. Set before load.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Limits {
    /// Turns of the loop that waits in a hook for an answer; 0 skips the wait.
    pub wait_turns: u32,
    /// Calls that may wait in hooks at the same moment, on all CPUs together.
    pub waiters: u32,
    /// Age of the heartbeat from which the daemon counts as down, ns.
    pub heartbeat_stale_ns: u64,
    /// Questions that an instance may ask per second.
    pub requests_per_second: u64,
}

/// [`AgentProfile::flags`]: record what would be denied, and let it through.
pub const PROFILE_AUDIT: u32 = 1;
/// [`AgentProfile::flags`]: deny what has no verdict, without asking.
pub const PROFILE_DENY_ON_MISS: u32 = 2;
/// [`AgentProfile::flags`]: stop a blocking caller of TCP instead of holding its packets.
pub const PROFILE_PARK_TCP: u32 = 4;

/// What the kernel side needs of an agent's policy. Key: `AgentId`. Absent: deny everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AgentProfile {
    /// `PROFILE_*`.
    pub flags: u32,
    /// `SO_MARK` of the agent's sockets; 0 leaves the mark alone.
    pub socket_mark: u32,
}

/// Words that change while everything runs: indexes of the state array (`u64` each).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StateWord {
    /// The generation in force. Written by the daemon, in one write.
    Generation = 0,
    /// The daemon's last sign of life, ns of `CLOCK_BOOTTIME`.
    Heartbeat = 1,
    /// The selector slot in force.
    SelectorSlot = 2,
    /// Next instance, image or request number. Counted up by the kernel side.
    NextId = 3,
    /// Calls that wait in hooks at this moment. Counted by the kernel side.
    Waiters = 4,
    /// Processes that are agents' but found no room in the process table.
    Untracked = 5,
    /// Zero, for ever; nobody writes it. The verifier can't know that.
    Zero = 6,
    /// Thread group id of the daemon in the initial pid namespace. Written by the daemon.
    DaemonTgid = 7,
    /// How often the cgroup plane saw the daemon's own canary call. Counted by the kernel side.
    CgroupCanary = 8,
    /// How often the LSM plane saw the daemon's own canary call. Counted by the kernel side.
    LsmCanary = 9,
}

impl StateWord {
    /// Length of the state array.
    pub const SLOTS: u32 = 16;
}

const _: () = {
    assert!(size_of::<Offsets>() == 72 * 4);
    assert!(size_of::<Limits>() == 24);
    assert!(size_of::<AgentProfile>() == 8);
};
crate::plain_data!(Offsets, Limits, AgentProfile);
