//! Decisions: the exact cache and the allowed prefixes. Written by the daemon only.

use core::ptr::{read_volatile, write_volatile};

use agent_enforcer_common::{
    destination::Destination,
    id::Generation,
    verdict::{PREFIX_FIXED_BITS, PortTable, PrefixKey, Verdict, VerdictKey},
};
use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, LruHashMap, lpm_trie::Key},
};

use crate::{decide::Permit, report::lives};

#[map]
static AE_VERDICTS: LruHashMap<VerdictKey, Verdict> = LruHashMap::with_max_entries(65_536, 0);

/// `BPF_F_NO_PREALLOC`, which the kernel demands of a trie (kernel/bpf/lpm_trie.c, 4.11).
const NO_PREALLOC: u32 = 1;

#[map]
static AE_PREFIXES: LpmTrie<PrefixKey, PortTable> = LpmTrie::with_max_entries(1 << 20, NO_PREALLOC);

/// The exact verdict, if it was made in `generation` and has not expired: its action, and the terms of
/// a permit, which are written in any case.
#[inline(always)]
pub(crate) fn exact(key: &VerdictKey, generation: Generation, permit: &mut Permit) -> Option<u8> {
    let verdict = AE_VERDICTS.get_ptr(key)?;
    // SAFETY: the map's elements stay its own for ever. An element may be taken for another key
    // while it is read here (kernel/bpf/bpf_lru_list.c has no grace period), so the key in the
    // value is read last: what belongs to another question is no answer. Each term is written at
    // once, so that few of them need a place on the stack.
    let (made_in, action, made_for) = unsafe {
        let flags: u8 = read_volatile(&raw const (*verdict).flags);
        write_volatile(&raw mut permit.expires_ns, read_volatile(&raw const (*verdict).expires_ns));
        write_volatile(&raw mut permit.grant, read_volatile(&raw const (*verdict).grant));
        write_volatile(&raw mut permit.tool, read_volatile(&raw const (*verdict).tool));
        write_volatile(&raw mut permit.reason, read_volatile(&raw const (*verdict).reason));
        write_volatile(&raw mut permit.flags, u16::from(flags));
        write_volatile(&raw mut permit.tally, read_volatile(&raw const (*verdict).tally));
        let action = read_volatile(&raw const (*verdict).action);
        let generation = read_volatile(&raw const (*verdict).generation);
        (generation, action, read_volatile(&raw const (*verdict).key))
    };
    (made_for == *key && made_in == generation && lives(permit.expires_ns)).then_some(action)
}

/// Takes a verdict that admits one call; true for exactly one taker.
#[inline(always)]
pub(crate) fn take(key: &VerdictKey) -> bool {
    AE_VERDICTS.remove(key).is_ok()
}

/// A key of the trie where its words are aligned: the trie's own begins with 32 bits, and BPF
/// writes what is not aligned byte by byte.
#[repr(C)]
struct AlignedKey {
    _unused: u32,
    prefix_length: u32,
    data: PrefixKey,
}

const _: () = assert!(size_of::<AlignedKey>() == size_of::<u32>() + size_of::<Key<PrefixKey>>());

/// What is allowed at the longest prefix that covers the destination.
#[inline(always)]
pub(crate) fn prefix(
    scope: u64,
    destination: &Destination,
    generation: Generation,
) -> Option<&'static PortTable> {
    let data = PrefixKey {
        generation,
        scope,
        protocol: destination.kind(),
        address_be: destination.address_be(),
    };
    let key = AlignedKey { _unused: 0, prefix_length: PREFIX_FIXED_BITS + 128, data };
    // SAFETY: a `Key` is the prefix length and the data behind it, without alignment.
    AE_PREFIXES.get(unsafe { &*(&raw const key.prefix_length).cast::<Key<PrefixKey>>() })
}
