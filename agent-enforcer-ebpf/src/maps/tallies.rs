//! Allowed calls that are counted instead of recorded: a verdict names the tally of its calls.
//! Slots are given out, told of and taken back by the daemon, which never gives one to others
//! while a program may still count in it.

use agent_enforcer_common::tally::{TALLY_SLOTS, Tally};
use aya_ebpf::{macros::map, maps::Array};

use super::MMAPABLE;
use crate::{atomic::AtomicWord, report::coarse_now_ns};

#[map]
static AE_TALLIES: Array<Tally> = Array::with_max_entries(TALLY_SLOTS, MMAPABLE);

/// Counts a call; false where it must be told of by itself: its verdict has no tally, or it comes
/// from another network namespace than those of the tally.
#[inline(always)]
pub(crate) fn count(tally: u32, tgid: u32, netns_cookie: u64) -> bool {
    if tally == 0 {
        return false;
    }
    let Some(tally) = AE_TALLIES.get_ptr_mut(tally) else { return false };
    // SAFETY: array values live as long as the map; the daemon writes a template before any verdict
    // names its slot, and the words of the kernel side are only used atomically.
    unsafe {
        if core::ptr::read_volatile(&raw const (*tally).template.netns_cookie) != netns_cookie {
            return false;
        }
        // Before the count: who sees the count sees a moment that is not before it.
        AtomicWord::new(&raw mut (*tally).last_coarse_ns).store(coarse_now_ns());
        AtomicWord::new(&raw mut (*tally).last_tgid).store(u64::from(tgid));
        AtomicWord::new(&raw mut (*tally).count).fetch_add(1);
    }
    true
}
