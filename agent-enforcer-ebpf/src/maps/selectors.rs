//! The selectors of the policy, as the kernel side compares them: which terms a cgroup, a user or
//! an executable satisfies. Tables of cgroups are kept up by the mkdir hook; all else is the
//! daemon's. There are two slots: one in force, one being loaded.

use agent_enforcer_common::{
    config::StateWord,
    glob::GlobState,
    id::AgentId,
    process::{
        CgroupKey, CgroupPattern, ExecutableKey, PATTERN_LIMIT, SELECTOR_SLOTS, SelectorDefaults,
        TERM_LIMIT, TermSet, UserKey,
    },
    unit::UnitState,
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};

use super::state;
use crate::halves::low_half;

#[map]
static AE_CGROUPS: HashMap<CgroupKey, TermSet> = HashMap::with_max_entries(16_384, 0);

#[map]
static AE_USERS: HashMap<UserKey, TermSet> = HashMap::with_max_entries(4096, 0);

#[map]
static AE_EXECUTABLES: HashMap<ExecutableKey, TermSet> = HashMap::with_max_entries(16_384, 0);

#[map]
static AE_PATTERNS: Array<CgroupPattern> =
    Array::with_max_entries(PATTERN_LIMIT * SELECTOR_SLOTS, 0);

#[expect(clippy::cast_possible_truncation, reason = "1024")]
const TERMS: u32 = TERM_LIMIT as u32;

#[map]
static AE_TERMS: Array<AgentId> = Array::with_max_entries(TERMS * SELECTOR_SLOTS, 0);

#[map]
static AE_DEFAULTS: Array<SelectorDefaults> = Array::with_max_entries(SELECTOR_SLOTS, 0);

/// Longest cgroup path that the tracepoint gives (include/trace/events/cgroup.h: 1024).
pub(crate) const PATH_BYTES: usize = 1024;

/// Working space of one comparison of a new cgroup with the patterns. One is enough: cgroups are made and left under one kernel
/// lock (kernel/cgroup/cgroup.c `cgroup_mutex`, and `trace_cgroup_path_lock` around the
/// tracepoint).
///
/// VERIFIER: what the loop callbacks carry from turn to turn is here and not on the stack. The
/// verifier follows every value of a stack slot, and the loops would never look the same twice.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) terms: TermSet,
    pub(crate) unit: UnitState,
    pub(crate) glob: GlobState,
    pub(crate) slot: u32,
    pub(crate) path_length: u32,
    /// Where the unit's name begins that the cgroup is of; 0 is none.
    pub(crate) unit_start: u32,
    /// Where the part of the path begins that the pattern is compared with.
    pub(crate) text_start: u32,
    /// The pattern under comparison.
    pub(crate) position: u32,
    /// Whether it matches.
    pub(crate) matches: u32,
    /// Whether any pattern matched.
    pub(crate) any_match: u32,
    pub(crate) _pad: u32,
    pub(crate) path: [u8; PATH_BYTES],
}

#[map]
static AE_SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: one user at a time, see `Scratch`.
    AE_SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
pub(crate) fn slot_in_force() -> u32 {
    low_half(state::read(StateWord::SelectorSlot)) % SELECTOR_SLOTS
}

#[inline(always)]
pub(crate) fn defaults(slot: u32) -> Option<&'static SelectorDefaults> {
    AE_DEFAULTS.get(slot)
}

#[inline(always)]
pub(crate) fn pattern(slot: u32, position: u32) -> Option<&'static CgroupPattern> {
    AE_PATTERNS.get(slot * PATTERN_LIMIT + position)
}

#[inline(always)]
pub(crate) fn agent_of_term(slot: u32, term: u32) -> Option<AgentId> {
    AE_TERMS.get(slot * TERMS + term).copied().filter(|agent| !agent.is_none())
}

#[inline(always)]
pub(crate) fn cgroup(cgroup: u64, slot: u32) -> Option<&'static TermSet> {
    // SAFETY: elements are freed after an RCU grace period; the terms of a cgroup never change.
    unsafe { AE_CGROUPS.get(CgroupKey { cgroup, slot, _pad: 0 }) }
}

#[inline(always)]
pub(crate) fn set_cgroup(cgroup: u64, slot: u32, terms: &TermSet) -> Result<(), i32> {
    AE_CGROUPS.insert(CgroupKey { cgroup, slot, _pad: 0 }, terms, 0)
}

#[inline(always)]
pub(crate) fn forget_cgroup(cgroup: u64, slot: u32) {
    let _ = AE_CGROUPS.remove(CgroupKey { cgroup, slot, _pad: 0 });
}

#[inline(always)]
pub(crate) fn user(uid: u32, slot: u32) -> Option<&'static TermSet> {
    // SAFETY: as in `cgroup`.
    unsafe { AE_USERS.get(UserKey { uid, slot }) }
}

#[inline(always)]
pub(crate) fn executable(inode: u64, device: u32, slot: u32) -> Option<&'static TermSet> {
    // SAFETY: as in `cgroup`.
    unsafe { AE_EXECUTABLES.get(ExecutableKey { inode, device, slot }) }
}
