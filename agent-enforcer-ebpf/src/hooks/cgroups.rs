//! Raw tracepoints `cgroup_mkdir` and `cgroup_rmdir`: a cgroup that a selector names is known
//! before a process can be in it.
//!
//! The path is the kernel's own (kernel/cgroup/cgroup.c calls the tracepoint under
//! `cgroup_mutex`). Both selector slots are kept up, so that a new set can be loaded while
//! cgroups come and go.

use core::ffi::c_void;

use agent_enforcer_common::{
    glob::{END, GlobState, GlobStep},
    process::{
        CgroupPattern, PATTERN_BYTES, PATTERN_LIMIT, PatternScope, ProcessTag, SELECTOR_SLOTS,
        TERM_WORDS, TermSet,
    },
    record::{Counter, RecordKind},
    unit::{UnitState, UnitStep},
};
use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_loop, programs::RawTracePointContext};

use crate::{
    halves::low_half,
    kernel::{
        Address,
        cgroup::{Cgroup, copy_string},
    },
    maps::{
        counters,
        selectors::{self, PATH_BYTES, Scratch},
    },
    report,
};

/// Steps of one comparison; a pattern with several `**` over a long path needs some thousands.
const STEP_LIMIT: u32 = 1 << 16;
/// Steps of the search for a unit: every byte of the path, and its end.
#[expect(clippy::cast_possible_truncation, reason = "1024")]
const UNIT_STEPS: u32 = PATH_BYTES as u32 + 1;

/// `(struct cgroup *cgrp, const char *path)`
#[inline(always)]
pub(crate) fn mkdir(ctx: &RawTracePointContext) {
    // SAFETY: `bpf_raw_tracepoint_args` is an array of u64.
    let (cgroup, path) = unsafe {
        let arguments = ctx.as_ptr().cast::<u64>();
        (core::ptr::read_volatile(arguments), core::ptr::read_volatile(arguments.add(1)))
    };
    let cgroup = Cgroup::new(Address::new(cgroup));
    if cgroup.is_v2() != Some(true) {
        return;
    }
    let Some(id) = cgroup.id() else { return };
    let Some(scratch) = selectors::scratch() else { return };
    let Some(path_length) = copy_string(Address::new(path), &mut scratch.path) else { return };
    scratch.path_length = path_length;
    scratch.unit = UnitState::default();
    scratch.unit_start = 0;
    // SAFETY: the callback has the signature that the helper demands (5.17), and no context.
    unsafe {
        bpf_loop(UNIT_STEPS, find_unit as *mut c_void, core::ptr::null_mut(), 0);
    }
    let mut slot = 0;
    while slot < SELECTOR_SLOTS {
        compare(id, slot);
        slot += 1;
    }
}

/// `(struct cgroup *cgrp, const char *path)`
#[inline(always)]
pub(crate) fn rmdir(ctx: &RawTracePointContext) {
    // SAFETY: `bpf_raw_tracepoint_args` is an array of u64.
    let cgroup = unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>()) };
    let cgroup = Cgroup::new(Address::new(cgroup));
    if cgroup.is_v2() != Some(true) {
        return;
    }
    let Some(id) = cgroup.id() else { return };
    let mut slot = 0;
    while slot < SELECTOR_SLOTS {
        selectors::forget_cgroup(id, slot);
        slot += 1;
    }
}

#[inline(always)]
fn compare(id: u64, slot: u32) {
    let Some(defaults) = selectors::defaults(slot) else { return };
    if defaults.patterns == 0 {
        return;
    }
    let Some(scratch) = selectors::scratch() else { return };
    scratch.terms = TermSet::EMPTY;
    scratch.slot = slot;
    scratch.any_match = 0;
    let patterns =
        if defaults.patterns < PATTERN_LIMIT { defaults.patterns } else { PATTERN_LIMIT };
    // SAFETY: as in `mkdir`.
    unsafe {
        bpf_loop(patterns, compare_one as *mut c_void, core::ptr::null_mut(), 0);
    }
    // Looked up anew: the callbacks wrote through references of their own, and what the compiler
    // knows of the one from before the loop is no longer so.
    let Some(scratch) = selectors::scratch() else { return };
    if scratch.any_match != 0 && selectors::set_cgroup(id, slot, &scratch.terms).is_err() {
        counters::count(Counter::CgroupTableFull);
        report::process::<false>(RecordKind::TableFull, 0, &ProcessTag::default());
    }
}

/// One step of the search for the unit that the cgroup is of. Returns 1 to stop.
extern "C" fn find_unit(_turn: u64, _context: *mut c_void) -> u64 {
    let Some(scratch) = selectors::scratch() else { return 1 };
    let Scratch { unit, path, path_length, .. } = scratch;
    match unit.step(|position| byte(path, *path_length, position)) {
        UnitStep::Again => 0,
        UnitStep::Unit { start, end } => {
            // Above it everything is a slice: only a unit's own cgroup ends here.
            if end == *path_length {
                scratch.unit_start = start;
            }
            1
        }
        UnitStep::NoUnit => 1,
    }
}

/// One pattern. Returns 0 to go on.
#[expect(clippy::indexing_slicing, reason = "the loop's own condition bounds the index")]
extern "C" fn compare_one(turn: u64, _context: *mut c_void) -> u64 {
    let Some(scratch) = selectors::scratch() else { return 1 };
    let Some(pattern) = selectors::pattern(scratch.slot, low_half(turn)) else { return 1 };
    scratch.text_start = 0;
    if pattern.scope == PatternScope::SystemUnit as u32 {
        if scratch.unit_start == 0 {
            return 0;
        }
        scratch.text_start = scratch.unit_start;
    }
    scratch.position = low_half(turn);
    scratch.glob = GlobState::default();
    scratch.matches = 0;
    // SAFETY: as in `mkdir`.
    unsafe {
        bpf_loop(STEP_LIMIT, step_one as *mut c_void, core::ptr::null_mut(), 0);
    }
    // Anew, as in `compare`.
    let Some(scratch) = selectors::scratch() else { return 1 };
    if scratch.matches != 0 {
        scratch.any_match = 1;
        let mut word = 0;
        while word < TERM_WORDS {
            scratch.terms.words[word] |= pattern.terms.words[word];
            word += 1;
        }
    }
    0
}

/// One step of the glob. Returns 1 to stop.
extern "C" fn step_one(_turn: u64, _context: *mut c_void) -> u64 {
    let Some(scratch) = selectors::scratch() else { return 1 };
    let Some(pattern) = selectors::pattern(scratch.slot, scratch.position) else { return 1 };
    let Scratch { glob, path, path_length, text_start, .. } = scratch;
    let step = glob.step(
        |position| pattern_byte(pattern, position),
        |position| byte(path, *path_length, *text_start + position),
    );
    match step {
        GlobStep::Again => 0,
        GlobStep::Match => {
            scratch.matches = 1;
            1
        }
        GlobStep::Mismatch => 1,
    }
}

/// VERIFIER: the compiler may check `position - 1` in place of what it calculated from it, and
/// verifiers to 6.18 forget that the one bounds the other. A hidden value is checked itself.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "the condition above it bounds the index")]
fn pattern_byte(pattern: &CgroupPattern, position: u32) -> u8 {
    let position = core::hint::black_box(position) as usize;
    if position >= pattern.length as usize || position >= PATTERN_BYTES {
        return END;
    }
    pattern.glob[position]
}

/// VERIFIER: the mask bounds the index.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "the mask bounds the index")]
fn byte(path: &[u8; PATH_BYTES], length: u32, position: u32) -> u8 {
    if position >= length {
        return END;
    }
    path[position as usize & (PATH_BYTES - 1)]
}

const _: () = assert!(PATH_BYTES.is_power_of_two());
