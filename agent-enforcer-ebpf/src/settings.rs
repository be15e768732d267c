//! What the loader set before the programs were loaded. Read-only for the verifier, so that
//! branches on them cost nothing.

use agent_enforcer_common::{
    config::{Limits, Offsets},
    guard::GuardOffsets,
};

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_tgid: 0,
    task_group_leader: 0,
    task_start_boottime: 0,
    task_signal: 0,
    task_cgroups: 0,
    task_cred: 0,
    task_mm: 0,
    mm_exe_file: 0,
    cred_uid: 0,
    signal_live: 0,
    css_set_dfl_cgrp: 0,
    cgroup_self: 0,
    cgroup_kn: 0,
    cgroup_root: 0,
    cgroup_root_hierarchy_id: 0,
    css_parent: 0,
    css_cgroup: 0,
    kernfs_node_id: 0,
    binprm_file: 0,
    file_f_inode: 0,
    file_f_flags: 0,
    inode_i_ino: 0,
    inode_i_sb: 0,
    super_block_s_dev: 0,
    sock_sk_socket: 0,
    socket_file: 0,
    socket_sk: 0,
    sock_family: 0,
    sock_state: 0,
    sock_daddr: 0,
    sock_dport: 0,
    sock_v6_daddr: 0,
    sock_bound_interface: 0,
    sock_net: 0,
    sock_type: 0,
    sock_protocol: 0,
    net_cookie: 0,
    msghdr_name: 0,
    msghdr_name_length: 0,
    msghdr_flags: 0,
    unix_addr: 0,
    unix_path: 0,
    unix_address_length: 0,
    unix_address_name: 0,
    path_dentry: 0,
    dentry_inode: 0,
    inode_generation: 0,
    task_fs: 0,
    fs_users: 0,
    fs_root: 0,
    fs_pwd: 0,
    task_nsproxy: 0,
    nsproxy_mounts: 0,
    mounts_number: 0,
    mounts_owner: 0,
    user_namespace_level: 0,
    mm_arg_start: 0,
    mm_arg_end: 0,
    binprm_p: 0,
    binprm_exec: 0,
    binprm_argc: 0,
    task_flags: 0,
    regs_syscall: 0,
    task_status: 0,
    pid_tasks: 0,
    task_pid_links: 0,
    sock_peer_pid: 0,
    sock_node: 0,
    net_unix_buckets: 0,
    call_sk: 0,
    call_address: 0,
    call_address_length: 0,
};

#[unsafe(no_mangle)]
static LIMITS: Limits =
    Limits { wait_turns: 0, waiters: 0, heartbeat_stale_ns: 0, requests_per_second: 0 };

#[unsafe(no_mangle)]
static GUARD_OFFSETS: GuardOffsets = GuardOffsets {
    proc_inode_pid: 0,
    proc_inode_sysctl: 0,
    proc_inode_vfs_inode: 0,
    dentry_d_parent: 0,
    dentry_d_inode: 0,
    dentry_d_sb: 0,
    dentry_d_alias: 0,
    inode_i_dentry: 0,
    super_block_s_magic: 0,
    file_dentry: 0,
    file_f_mode: 0,
    inode_i_mode: 0,
    inode_i_rdev: 0,
    cred_euid: 0,
    cred_suid: 0,
    cred_fsuid: 0,
    cred_cap_permitted: 0,
    cred_user_ns: 0,
    user_namespace_level: 0,
    iattr_ia_valid: 0,
    setattr_dentry: 0,
};

/// Reads one field of a global: volatile, because the loader writes it behind the compiler's back.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static of integers, written before the program is loaded and never after.
        unsafe { core::ptr::read_volatile(&raw const crate::settings::offsets().$field) } as usize
    };
}
pub(crate) use offset;

/// As `offset!`, for what only the hooks of self-protection need.
macro_rules! guard_offset {
    ($field:ident) => {
        // SAFETY: as `offset!`.
        unsafe { core::ptr::read_volatile(&raw const crate::settings::guard_offsets().$field) }
            as usize
    };
}
pub(crate) use guard_offset;

#[inline(always)]
pub(crate) fn offsets() -> &'static Offsets {
    &OFFSETS
}

#[inline(always)]
pub(crate) fn guard_offsets() -> &'static GuardOffsets {
    &GUARD_OFFSETS
}

#[inline(always)]
pub(crate) fn limits() -> Limits {
    // SAFETY: as `offset!`.
    unsafe { core::ptr::read_volatile(&raw const LIMITS) }
}
