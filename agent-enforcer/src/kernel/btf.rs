//! Offsets of kernel struct fields, from the running kernel's own BTF.
//!
//! In: /sys/kernel/btf/vmlinux. Out: [`Offsets`], or the name of the field that is missing.
//! Offsets of another kernel would be wrong without any error, so none is ever assumed.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use agent_enforcer_common::{config::Offsets, guard::GuardOffsets};
use btf_rs::{Backend, Btf, Type};
use rustix::fs::{MemfdFlags, memfd_create};

/// Where the kernel shows its types (5.4, `CONFIG_DEBUG_INFO_BTF`).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the offsets are not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// No BTF.
    #[error(
        "cannot read the kernel's types at {path}: {source}; a kernel with CONFIG_DEBUG_INFO_BTF=y is needed"
    )]
    Read {
        /// The file.
        path: String,
        /// What the reader said.
        source: btf_rs::Error,
    },
    /// A struct or field is not there.
    #[error("this kernel has no field `{field}`; report it with the output of `uname -r`")]
    Missing {
        /// `struct.field`
        field: String,
    },
    /// A hook is not there, or not as it is known.
    #[error(
        "this kernel has no argument `{argument}` of the hook `{hook}`; start with `--plane cgroup`, and \
         report it with the output of `uname -r`"
    )]
    MissingArgument {
        /// The hook.
        hook: &'static str,
        /// Its argument.
        argument: &'static str,
    },
}

/// The offsets of the running kernel.
pub fn offsets() -> Result<Offsets, BtfError> {
    offsets_from(Path::new(VMLINUX))
}

/// Whether the kernel has cgroup hooks for unix sockets. Where its types can't be read it has none: that
/// is told for itself.
pub fn has_unix_hooks() -> bool {
    let length = |btf: Btf| field_offset(&btf, "bpf_sock_addr_kern", "uaddrlen");
    open(Path::new(VMLINUX)).ok().and_then(length).is_some()
}

/// What the hooks of self-protection need of the running kernel.
pub fn guard_offsets() -> Result<GuardOffsets, BtfError> {
    let btf = open(Path::new(VMLINUX))?;
    let field = |of: &str, name: &str| required(&btf, of, name);
    Ok(GuardOffsets {
        proc_inode_pid: field("proc_inode", "pid")?,
        proc_inode_sysctl: field("proc_inode", "sysctl")?,
        proc_inode_vfs_inode: field("proc_inode", "vfs_inode")?,
        dentry_d_parent: field("dentry", "d_parent")?,
        dentry_d_inode: field("dentry", "d_inode")?,
        dentry_d_sb: field("dentry", "d_sb")?,
        // A member of the union `d_u`, which has lost its name in 7.0.
        dentry_d_alias: field("dentry", "d_alias").or_else(|_named| field("dentry", "d_u"))?,
        inode_i_dentry: field("inode", "i_dentry")?,
        super_block_s_magic: field("super_block", "s_magic")?,
        file_dentry: field("file", "f_path")? + field("path", "dentry")?,
        file_f_mode: field("file", "f_mode")?,
        inode_i_mode: field("inode", "i_mode")?,
        inode_i_rdev: field("inode", "i_rdev")?,
        cred_euid: field("cred", "euid")?,
        cred_suid: field("cred", "suid")?,
        cred_fsuid: field("cred", "fsuid")?,
        cred_cap_permitted: field("cred", "cap_permitted")?,
        cred_user_ns: field("cred", "user_ns")?,
        user_namespace_level: field("user_namespace", "level")?,
        iattr_ia_valid: field("iattr", "ia_valid")?,
        setattr_dentry: argument(&btf, "inode_setattr", "dentry")?,
    })
}

fn open(path: &Path) -> Result<Btf, BtfError> {
    // A host may forbid files in memory (vm.memfd_noexec).
    mapped(path)
        .or_else(|_unmapped| Btf::from_file(path))
        .map_err(|source| BtfError::Read { path: path.display().to_string(), source })
}

fn required(btf: &Btf, of: &str, name: &str) -> Result<u32, BtfError> {
    field_offset(btf, of, name).ok_or_else(|| BtfError::Missing { field: format!("{of}.{name}") })
}

/// Which argument of a hook of LSM has a name.
fn argument(btf: &Btf, hook: &'static str, name: &'static str) -> Result<u32, BtfError> {
    let place = || {
        let functions = btf.resolve_types_by_name(&format!("bpf_lsm_{hook}")).ok()?;
        functions.iter().find_map(|function| {
            let Type::Func(function) = function else { return None };
            let Type::FuncProto(form) = btf.resolve_chained_type(function).ok()? else {
                return None;
            };
            let mut names = form.parameters.iter().map(|it| btf.resolve_name(it));
            names.position(|found| found.is_ok_and(|found| found == name))
        })
    };
    let place = place().and_then(|place| u32::try_from(place).ok());
    place.ok_or(BtfError::MissingArgument { hook, argument: name })
}

fn offsets_from(path: &Path) -> Result<Offsets, BtfError> {
    let btf = open(path)?;
    let field = |of: &str, name: &str| required(&btf, of, name);
    Ok(Offsets {
        task_tgid: field("task_struct", "tgid")?,
        task_group_leader: field("task_struct", "group_leader")?,
        task_start_boottime: field("task_struct", "start_boottime")?,
        task_signal: field("task_struct", "signal")?,
        task_cgroups: field("task_struct", "cgroups")?,
        task_cred: field("task_struct", "cred")?,
        task_mm: field("task_struct", "mm")?,
        mm_exe_file: field("mm_struct", "exe_file")?,
        cred_uid: field("cred", "uid")?,
        signal_live: field("signal_struct", "live")?,
        css_set_dfl_cgrp: field("css_set", "dfl_cgrp")?,
        cgroup_self: field("cgroup", "self")?,
        cgroup_kn: field("cgroup", "kn")?,
        cgroup_root: field("cgroup", "root")?,
        cgroup_root_hierarchy_id: field("cgroup_root", "hierarchy_id")?,
        css_parent: field("cgroup_subsys_state", "parent")?,
        css_cgroup: field("cgroup_subsys_state", "cgroup")?,
        kernfs_node_id: field("kernfs_node", "id")?,
        binprm_file: field("linux_binprm", "file")?,
        file_f_inode: field("file", "f_inode")?,
        file_f_flags: field("file", "f_flags")?,
        inode_i_ino: field("inode", "i_ino")?,
        inode_i_sb: field("inode", "i_sb")?,
        super_block_s_dev: field("super_block", "s_dev")?,
        sock_sk_socket: field("sock", "sk_socket")?,
        socket_file: field("socket", "file")?,
        socket_sk: field("socket", "sk")?,
        sock_family: field("sock_common", "skc_family")?,
        sock_state: field("sock_common", "skc_state")?,
        sock_daddr: field("sock_common", "skc_daddr")?,
        sock_dport: field("sock_common", "skc_dport")?,
        sock_v6_daddr: field("sock_common", "skc_v6_daddr")?,
        sock_bound_interface: field("sock_common", "skc_bound_dev_if")?,
        sock_net: field("sock_common", "skc_net")?,
        sock_type: field("sock", "sk_type")?,
        sock_protocol: field("sock", "sk_protocol")?,
        net_cookie: field("net", "net_cookie")?,
        msghdr_name: field("msghdr", "msg_name")?,
        msghdr_name_length: field("msghdr", "msg_namelen")?,
        msghdr_flags: field("msghdr", "msg_flags")?,
        unix_addr: field("unix_sock", "addr")?,
        unix_path: field("unix_sock", "path")?,
        unix_address_length: field("unix_address", "len")?,
        unix_address_name: field("unix_address", "name")?,
        path_dentry: field("path", "dentry")?,
        dentry_inode: field("dentry", "d_inode")?,
        inode_generation: field("inode", "i_generation")?,
        task_fs: field("task_struct", "fs")?,
        fs_users: field("fs_struct", "users")?,
        fs_root: field("fs_struct", "root")?,
        fs_pwd: field("fs_struct", "pwd")?,
        task_nsproxy: field("task_struct", "nsproxy")?,
        nsproxy_mounts: field("nsproxy", "mnt_ns")?,
        mounts_number: field("mnt_namespace", "ns")? + field("ns_common", "inum")?,
        mounts_owner: field("mnt_namespace", "user_ns")?,
        user_namespace_level: field("user_namespace", "level")?,
        mm_arg_start: field("mm_struct", "arg_start")?,
        mm_arg_end: field("mm_struct", "arg_end")?,
        binprm_p: field("linux_binprm", "p")?,
        binprm_exec: field("linux_binprm", "exec")?,
        binprm_argc: field("linux_binprm", "argc")?,
        task_flags: field("task_struct", "flags")?,
        regs_syscall: field("pt_regs", "orig_ax").unwrap_or_default(),
        task_status: match (field("task_struct", "thread_info"), field("thread_info", "status")) {
            (Ok(info), Ok(status)) => info + status,
            (Err(_), _) | (_, Err(_)) => 0,
        },
        pid_tasks: field("pid", "tasks")?,
        task_pid_links: field("task_struct", "pid_links")?,
        sock_peer_pid: field("sock", "sk_peer_pid")?,
        sock_node: field("sock_common", "skc_node")?,
        net_unix_buckets: field("net", "unx")?
            + field("netns_unix", "table")?
            + field("unix_table", "buckets")?,
        call_sk: field("bpf_sock_addr_kern", "sk")?,
        call_address: field("bpf_sock_addr_kern", "uaddr")?,
        call_address_length: field("bpf_sock_addr_kern", "uaddrlen").unwrap_or_default(),
    })
}

/// The types as a map of their bytes: a few are looked up out of a hundred thousand, all of which
/// would be built otherwise. The kernel's own file can be mapped from 6.16 on only, so a copy is.
fn mapped(path: &Path) -> Result<Btf, btf_rs::Error> {
    let mut copy = File::from(memfd_create(c"btf", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    io::copy(&mut File::open(path)?, &mut copy)?;
    Btf::from_file_with_backend(format!("/proc/self/fd/{}", copy.as_raw_fd()), Backend::Mmap)
}

/// Offset of a field in bytes, looking into anonymous members.
fn field_offset(btf: &Btf, of: &str, name: &str) -> Option<u32> {
    let types = btf.resolve_types_by_name(of).ok()?;
    types.iter().find_map(|found| member_bits(btf, found, name)).map(|bits| bits / 8)
}

fn member_bits(btf: &Btf, of: &Type, name: &str) -> Option<u32> {
    let (Type::Struct(members) | Type::Union(members)) = of else { return None };
    for member in &members.members {
        let member_name = btf.resolve_name(member).unwrap_or_default();
        if member_name == name {
            return Some(member.bit_offset());
        }
        if member_name.is_empty()
            && let Ok(inner) = btf.resolve_chained_type(member)
            && let Some(bits) = member_bits(btf, &inner, name)
        {
            return Some(member.bit_offset() + bits);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_fields_inside_anonymous_members() {
        let btf = mapped(Path::new(VMLINUX)).unwrap();
        assert!(field_offset(&btf, "task_struct", "tgid").unwrap() > 0);
        assert_eq!(field_offset(&btf, "task_struct", "no_such_field"), None);
        assert!(offsets().is_ok());
    }

    #[test]
    fn names_the_file_that_is_no_btf() {
        let error = offsets_from(Path::new("/proc/self/status")).unwrap_err();
        assert!(error.to_string().contains("/proc/self/status"), "{error}");
    }
}
