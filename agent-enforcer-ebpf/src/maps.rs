//! Every map, private behind accessors in a file named by what it holds.
//!
//! An accessor never invents an answer: what is missing is `None`, what is full is an error, and
//! the caller decides (it denies). Enforcement maps are not LRU; the exact verdict cache, the
//! identity cache and the ended questions are, because losing an entry there only causes a new question.

pub(crate) mod counters;
pub(crate) mod ended;
pub(crate) mod found;
pub(crate) mod guarded;
pub(crate) mod identities;
pub(crate) mod instances;
pub(crate) mod parked;
pub(crate) mod peers;
pub(crate) mod processes;
pub(crate) mod profiles;
pub(crate) mod ring;
pub(crate) mod selectors;
pub(crate) mod state;
pub(crate) mod tags;
pub(crate) mod tallies;
pub(crate) mod verdicts;

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h, 5.5).
const MMAPABLE: u32 = 1 << 10;
