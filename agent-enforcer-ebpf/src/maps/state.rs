//! The words that change while everything runs.

use agent_enforcer_common::{config::StateWord, id::Generation};
use aya_ebpf::{macros::map, maps::Array};

use crate::{atomic::AtomicWord, settings};

#[map]
static AE_STATE: Array<u64> = Array::with_max_entries(StateWord::SLOTS, 0);

#[inline(always)]
fn word(word: StateWord) -> Option<AtomicWord> {
    let pointer = AE_STATE.get_ptr_mut(word as u32)?;
    // SAFETY: array values live as long as the map, are 8-byte aligned, and are only used atomically.
    Some(unsafe { AtomicWord::new(pointer) })
}

#[inline(always)]
pub(crate) fn read(which: StateWord) -> u64 {
    let Some(word) = word(which) else { return 0 };
    word.load()
}

/// What the verifier knows of a value is lost when it is combined with this zero.
#[inline(always)]
pub(crate) fn hidden_zero() -> Option<u64> {
    Some(word(StateWord::Zero)?.load())
}

/// Adds and returns the value before; `u64::MAX` where the word does not exist.
#[inline(always)]
pub(crate) fn fetch_add(which: StateWord, amount: u64) -> u64 {
    word(which).map_or(u64::MAX, |word| word.fetch_add(amount))
}

#[inline(always)]
pub(crate) fn subtract(which: StateWord, amount: u64) {
    if let Some(word) = word(which) {
        word.fetch_add(amount.wrapping_neg());
    }
}

#[inline(always)]
pub(crate) fn generation() -> Generation {
    Generation::new(read(StateWord::Generation))
}

/// Whether the daemon gave a sign of life lately.
#[inline(always)]
pub(crate) fn daemon_alive(now_ns: u64) -> bool {
    let heartbeat_ns = read(StateWord::Heartbeat);
    heartbeat_ns.wrapping_add(settings::limits().heartbeat_stale_ns) > now_ns
}

/// The next number for an instance, an image or a request; never 0, never given twice.
#[inline(always)]
pub(crate) fn next_id() -> u64 {
    fetch_add(StateWord::NextId, 1)
}
