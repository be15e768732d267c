//! LSM `file_open` and `inode_*`: files that the enforcer lives by, and files that change the kernel
//! for all.
//!
//! Questions, in order:
//! 1. Is it written, made, removed or renamed on a file system that *is* the kernel (bpffs, tracefs,
//!    debugfs, securityfs, sysfs, `binfmt_misc`), in /proc about the daemon or all of the host, or, by
//!    an agent that acts as root, below /proc/sys or in a cgroup file system? Everybody else is kept
//!    from the latter two by their owner, but for what is of their own namespaces.
//! 2. Is it, or a directory above it, closed to agents? Then it is not even read; or is it one that
//!    services of the host act upon? Then it is only read.
//! 3. Is it a device that sends?
//!
//! Inodes are compared, never paths: an agent may spell a path in any way, and mount what it likes in
//! namespaces of its own. Files deeper than [`DEPTH_LIMIT`] below a closed directory would pass; no
//! agent can make any there, and the daemon makes none.

use core::ffi::c_void;

use agent_enforcer_common::{
    guard::{GUARDED_CONTENT, GUARDED_NAME, GUARDED_TREE},
    record::Guard,
};
use aya_ebpf::{helpers::generated::bpf_loop, programs::LsmContext};

use super::{GuardOutcome, Subject, is_daemon};
use crate::{
    kernel::{
        Address,
        cred::acts_as_root,
        dentry::{Dentry, Inode, OpenFile},
    },
    maps::{
        guarded,
        processes::{Standing, current_tgid, of_current},
    },
    settings::guard_offset,
};

/// Directories above a file that are looked at.
const DEPTH_LIMIT: u32 = 32;

/// Magic numbers of file systems, include/uapi/linux/magic.h.
const BPFFS: u64 = 0xcafe_4a11;
const TRACEFS: u64 = 0x7472_6163;
const DEBUGFS: u64 = 0x6462_6720;
const SECURITYFS: u64 = 0x7363_6673;
const SYSFS: u64 = 0x6265_6572;
const BINFMT_MISC: u64 = 0x4249_4e4d;
const PROCFS: u64 = 0x9fa0;
const CGROUP: u64 = 0x0027_e0eb;
const CGROUP2: u64 = 0x6367_7270;

/// `ATTR_MODE`, `ATTR_UID`, `ATTR_GID`, include/linux/fs.h.
const ATTR_RIGHTS: u32 = 1 | 2 | 4;

/// Numbers of character devices that send.
const MISC: u32 = 10;
const VFIO: u32 = 196;
const TUN: u32 = 200;
const VHOST_NET: u32 = 238;
const VHOST_VSOCK: u32 = 241;
const PPP: u32 = 108;
const ETHERD: u32 = 152;
const USB: u32 = 189;
const INFINIBAND: u32 = 231;

/// What is done to a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Opened to read.
    Read,
    /// Opened to write, or its times or size set.
    Write,
    /// Made, removed, renamed, or its owner, mode or extended attributes set.
    Change,
}

/// All that the rest of the host pays: one bit looked at.
#[inline(always)]
fn is_agents() -> bool {
    match of_current(current_tgid()) {
        Standing::Stranger | Standing::Daemon => false,
        Standing::Agent(_) | Standing::Untracked => true,
    }
}

/// `(struct file *file)`
#[inline(always)]
pub(crate) fn open(ctx: &LsmContext) -> GuardOutcome {
    if !is_agents() {
        return GuardOutcome::Pass;
    }
    let file = Address::of::<c_void>(ctx.arg(0)).map(OpenFile::new);
    let access = file.and_then(OpenFile::is_written);
    let access = if access == Some(false) { Access::Read } else { Access::Write };
    let dentry = file.and_then(OpenFile::dentry);
    match judge_device(dentry) {
        GuardOutcome::Pass => judge(dentry, access),
        GuardOutcome::Deny => GuardOutcome::Deny,
    }
}

/// What can't be read is judged as a file, and denied there.
#[inline(never)]
fn judge_device(dentry: Option<Dentry>) -> GuardOutcome {
    let device = dentry.and_then(Dentry::inode).and_then(Inode::character_device).unwrap_or(0);
    if !sends(device) {
        return GuardOutcome::Pass;
    }
    let Some(subject) = Subject::current() else { return GuardOutcome::Pass };
    subject.refuse(Guard::Device, 0, u64::from(device))
}

/// Whether what is written to a device goes out, past every hook of sockets. By the numbers that
/// Documentation/admin-guide/devices.txt gives, so that another node of it is no way round; what gets
/// its number at run time (macvtap, UIO, groups of VFIO) is there only where somebody made it.
const fn sends(device: u32) -> bool {
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    match major {
        MISC => matches!(minor, VFIO | TUN | VHOST_NET | VHOST_VSOCK),
        PPP | ETHERD | USB | INFINIBAND => true,
        _ => false,
    }
}

/// The dentry is argument `N`.
#[inline(always)]
pub(crate) fn change<const N: usize>(ctx: &LsmContext) -> GuardOutcome {
    if !is_agents() {
        return GuardOutcome::Pass;
    }
    judge(argument::<N>(ctx), Access::Change)
}

/// Dentries are arguments `ONE` and `OTHER`.
#[inline(always)]
pub(crate) fn change_both<const ONE: usize, const OTHER: usize>(ctx: &LsmContext) -> GuardOutcome {
    if !is_agents() {
        return GuardOutcome::Pass;
    }
    match judge(argument::<ONE>(ctx), Access::Change) {
        GuardOutcome::Pass => judge(argument::<OTHER>(ctx), Access::Change),
        GuardOutcome::Deny => GuardOutcome::Deny,
    }
}

/// `inode_setattr([struct mnt_idmap *idmap,] struct dentry *dentry, struct iattr *attr)`
#[inline(always)]
pub(crate) fn set_attributes(ctx: &LsmContext) -> GuardOutcome {
    if guard_offset!(setattr_dentry) == 0 {
        set_attributes_at::<0, 1>(ctx)
    } else {
        set_attributes_at::<1, 2>(ctx)
    }
}

/// To set times, as whoever installs a program does, opens no way.
#[inline(always)]
fn set_attributes_at<const DENTRY: usize, const ATTRIBUTES: usize>(
    ctx: &LsmContext,
) -> GuardOutcome {
    if !is_agents() {
        return GuardOutcome::Pass;
    }
    let set = Address::of::<c_void>(ctx.arg(ATTRIBUTES));
    let set: Option<u32> = set.and_then(|set| set.read(guard_offset!(iattr_ia_valid)));
    let changes_rights = set.is_none_or(|set| set & ATTR_RIGHTS != 0);
    let access = if changes_rights { Access::Change } else { Access::Write };
    judge(argument::<DENTRY>(ctx), access)
}

#[inline(always)]
fn argument<const N: usize>(ctx: &LsmContext) -> Option<Dentry> {
    Address::of::<c_void>(ctx.arg(N)).map(Dentry::new)
}

/// What can't be read is denied.
#[inline(never)]
fn judge(dentry: Option<Dentry>, access: Access) -> GuardOutcome {
    let Some(subject) = Subject::current() else { return GuardOutcome::Pass };
    let file_system = dentry.and_then(Dentry::file_system);
    if let (Some(dentry), Some(file_system)) = (dentry, file_system)
        && (access == Access::Read || !changes_kernel(dentry, file_system))
        && !is_closed(dentry, access)
    {
        return GuardOutcome::Pass;
    }
    subject.refuse(Guard::File, 0, file_system.unwrap_or(0))
}

/// Whether to write there changes the kernel or the daemon.
#[inline(always)]
fn changes_kernel(dentry: Dentry, file_system: u64) -> bool {
    match file_system {
        BPFFS | TRACEFS | DEBUGFS | SECURITYFS | SYSFS | BINFMT_MISC => true,
        CGROUP | CGROUP2 => acts_as_root(),
        PROCFS => dentry.inode().is_none_or(changes_proc),
        _ => false,
    }
}

#[inline(always)]
fn changes_proc(inode: Inode) -> bool {
    match inode.proc_pid() {
        Some(pid) => pid.tgid().is_some_and(is_daemon),
        None => !inode.is_sysctl() || acts_as_root(),
    }
}

struct Climb {
    dentry: u64,
    found: u32,
    /// The flags that count for the name itself.
    own: u32,
    /// The flags that count for the directories above it.
    above: u32,
}

/// Whether a unix socket in the file system is in a directory that is closed to agents.
#[inline(always)]
pub(crate) fn is_closed_socket(dentry: Dentry) -> bool {
    is_closed(dentry, Access::Read)
}

/// Whether it is closed to agents, or stands on the way to what is.
#[inline(always)]
fn is_closed(dentry: Dentry, access: Access) -> bool {
    let above = if access == Access::Read { GUARDED_TREE } else { GUARDED_TREE | GUARDED_CONTENT };
    let own = if access == Access::Change { above | GUARDED_NAME } else { above };
    let mut climb = Climb { dentry: dentry.address(), found: 0, own, above };
    // SAFETY: the callback has the signature that the helper demands, and `climb` outlives it.
    unsafe {
        bpf_loop(DEPTH_LIMIT, climb_one as *mut c_void, (&raw mut climb).cast(), 0);
    }
    climb.found != 0
}

/// One level up. Returns 1 to stop.
extern "C" fn climb_one(turn: u64, context: *mut c_void) -> u64 {
    // SAFETY: the context is the caller's `Climb`.
    let climb = unsafe { &mut *context.cast::<Climb>() };
    let dentry = Dentry::new(Address::new(climb.dentry));
    let counts = if turn == 0 { climb.own } else { climb.above };
    // What is still to be made has none.
    let flags = dentry.inode().map_or(0, |inode| match inode.identity() {
        Some(identity) => guarded::flags(&identity) & counts,
        None => GUARDED_TREE,
    });
    if flags != 0 {
        climb.found = flags;
        return 1;
    }
    match dentry.parent() {
        Some(parent) if parent.address() != climb.dentry => {
            climb.dentry = parent.address();
            0
        }
        Some(_) => 1,
        None => {
            climb.found = GUARDED_TREE;
            1
        }
    }
}
