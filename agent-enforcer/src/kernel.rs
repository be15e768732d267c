//! The kernel side, as the daemon sees it: the only `use aya` beside the map types.
//!
//! In: settings, tables, verdicts. Out: records, counters. Nothing here decides anything.

pub mod btf;
pub mod flows;
pub mod held;
pub mod loader;
pub mod mapped;
pub mod maps;
pub mod pins;
pub mod processes;
mod programs;
mod unix_hooks;
