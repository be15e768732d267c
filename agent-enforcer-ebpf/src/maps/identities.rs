//! Which program images are attested, and which are refused. Written by the daemon only.

use agent_enforcer_common::{id::ExecId, process::Identity};
use aya_ebpf::{macros::map, maps::LruHashMap};

#[map]
static AE_IDENTITIES: LruHashMap<ExecId, Identity> = LruHashMap::with_max_entries(65_536, 0);

#[inline(always)]
pub(crate) fn get(exec: &ExecId) -> Option<Identity> {
    // SAFETY: the value is copied out at once.
    unsafe { AE_IDENTITIES.get(exec) }.copied()
}
