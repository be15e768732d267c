//! Files and directories that are closed to agents. Written by the daemon alone; what finds no room
//! there is the daemon's alarm.

use agent_enforcer_common::guard::{GUARDED_INODES, GuardedInode};
use aya_ebpf::{macros::map, maps::HashMap};

#[map]
static AE_GUARDED: HashMap<GuardedInode, u32> = HashMap::with_max_entries(GUARDED_INODES, 0);

/// `GUARDED_*` of an inode, 0 where it is not guarded.
#[inline(always)]
pub(crate) fn flags(inode: &GuardedInode) -> u32 {
    // SAFETY: the value is copied out at once.
    unsafe { AE_GUARDED.get(inode) }.copied().unwrap_or(0)
}
