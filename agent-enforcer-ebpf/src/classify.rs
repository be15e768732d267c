//! Is this process an agent's?
//!
//! Asked at exec and when a process enters a cgroup, of processes without a tag only. Questions,
//! in order: which terms does its cgroup (or an ancestor) satisfy, which its real user, which its
//! executable; the first term that all three leave standing names the agent. The process can
//! forge none of it: cgroup, credentials and the inode of the executable are the kernel's own
//! records. Once tagged, a process keeps its tag whatever it does.

use core::ffi::c_void;

use agent_enforcer_common::{
    id::AgentId,
    process::{TERM_WORDS, TermSet},
};
use aya_ebpf::helpers::generated::bpf_loop;

use crate::{
    kernel::{Address, cgroup::Cgroup, file::Executable},
    maps::selectors,
};

/// Cgroups deeper than this are not climbed to the root. An agent gains nothing by depth: its
/// processes are tagged before they can make cgroups.
const DEPTH_LIMIT: u32 = 512;

struct Climb {
    terms: TermSet,
    cgroup: u64,
    slot: u32,
}

/// The agent that a process belongs to.
#[inline(never)]
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the loop's own condition bounds the index, and a checked form costs the verifier more"
)]
pub(crate) fn classify(cgroup: Cgroup, uid: u32, executable: Executable) -> Option<AgentId> {
    let slot = selectors::slot_in_force();
    let defaults = selectors::defaults(slot)?;
    if defaults.terms == 0 {
        return None;
    }
    let mut climb = Climb { terms: TermSet::EMPTY, cgroup: cgroup.address(), slot };
    // SAFETY: the callback has the signature that the helper demands, and `climb` outlives it.
    unsafe {
        bpf_loop(DEPTH_LIMIT, climb_one as *mut c_void, (&raw mut climb).cast(), 0);
    }
    let users = selectors::user(uid, slot);
    let executables = selectors::executable(executable.inode, executable.device, slot);
    let mut word = 0;
    while word < TERM_WORDS {
        let cgroup = climb.terms.words[word] | defaults.any_cgroup.words[word];
        let user = users.map_or(0, |terms| terms.words[word]) | defaults.any_user.words[word];
        let executable =
            executables.map_or(0, |terms| terms.words[word]) | defaults.any_executable.words[word];
        let standing = cgroup & user & executable;
        if standing != 0 {
            return selectors::agent_of_term(slot, word as u32 * 64 + lowest_bit(standing));
        }
        word += 1;
    }
    None
}

/// One level up. Returns 1 to stop.
#[expect(clippy::indexing_slicing, reason = "the loop's own condition bounds the index")]
extern "C" fn climb_one(_turn: u64, context: *mut c_void) -> u64 {
    // SAFETY: the context is the caller's `Climb`.
    let climb = unsafe { &mut *context.cast::<Climb>() };
    let cgroup = Cgroup::new(Address::new(climb.cgroup));
    if let Some(id) = cgroup.id()
        && let Some(terms) = selectors::cgroup(id, climb.slot)
    {
        let mut word = 0;
        while word < TERM_WORDS {
            climb.terms.words[word] |= terms.words[word];
            word += 1;
        }
    }
    match cgroup.parent() {
        Some(parent) => {
            climb.cgroup = parent.address();
            0
        }
        None => 1,
    }
}

/// Position of the lowest bit; the target has no instruction for it.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::verbose_bit_mask,
    reason = "the low halves are meant, and what is proposed instead is what this stands in for"
)]
fn lowest_bit(mut word: u64) -> u32 {
    let mut position = 0;
    if word as u32 == 0 {
        position += 32;
        word >>= 32;
    }
    if word as u16 == 0 {
        position += 16;
        word >>= 16;
    }
    if word as u8 == 0 {
        position += 8;
        word >>= 8;
    }
    if word & 0xf == 0 {
        position += 4;
        word >>= 4;
    }
    if word & 0x3 == 0 {
        position += 2;
        word >>= 2;
    }
    if word & 0x1 == 0 {
        position += 1;
    }
    position
}
