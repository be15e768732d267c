//! Decisions: the exact cache and the allowed prefixes. Written by the daemon only.

use agent_enforcer_common::{
    destination::Destination,
    id::Generation,
    verdict::{PREFIX_FIXED_BITS, PortTable, PrefixKey, Verdict, VerdictKey},
};
use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, LruHashMap, lpm_trie::Key},
};

use crate::report::lives;

#[map]
static AE_VERDICTS: LruHashMap<VerdictKey, Verdict> = LruHashMap::with_max_entries(65_536, 0);

/// `BPF_F_NO_PREALLOC`, which the kernel demands of a trie (kernel/bpf/lpm_trie.c, 4.11).
const NO_PREALLOC: u32 = 1;

#[map]
static AE_PREFIXES: LpmTrie<PrefixKey, PortTable> = LpmTrie::with_max_entries(1 << 20, NO_PREALLOC);

/// The exact verdict, if it was made in `generation` and has not expired.
#[inline(always)]
pub(crate) fn exact(key: &VerdictKey, generation: Generation) -> Option<Verdict> {
    // SAFETY: the value is copied out at once; a torn copy needs a concurrent rewrite of the same
    // key, which the kernel does by replacing the element, not by writing into it.
    let verdict = unsafe { AE_VERDICTS.get(key) }.copied()?;
    (verdict.generation.get() == generation.get() && lives(verdict.expires_ns)).then_some(verdict)
}

/// Takes a verdict that admits one call; true for exactly one taker.
#[inline(always)]
pub(crate) fn take(key: &VerdictKey) -> bool {
    AE_VERDICTS.remove(key).is_ok()
}

/// What is allowed at the longest prefix that covers the destination.
#[inline(always)]
pub(crate) fn prefix(
    scope: u64,
    destination: &Destination,
    generation: Generation,
) -> Option<&'static PortTable> {
    let key = Key::new(
        PREFIX_FIXED_BITS + 128,
        PrefixKey {
            generation,
            scope,
            protocol: destination.protocol(),
            _pad: [0; 7],
            address: destination.address(),
        },
    );
    AE_PREFIXES.get(&key)
}
