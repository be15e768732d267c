//! What the daemon and its kernel programs do to real processes, with real sockets.
//!
//! Each test has a host of its own. A denied call is always followed by its positive twin: the
//! same call to a granted address, so that a broken server can't pass for enforcement.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is the verdict of a test"
)]

mod approvals;
mod basics;
mod bypass;
mod canary;
mod cedar;
mod doctor;
mod endpoints;
mod events;
mod families;
mod grants;
mod inventory;
mod lineage;
mod listening;
mod manifests;
mod policy;
mod restart;
mod scripts;
mod selectors;
mod sockets;
mod spiffe;
mod stalls;
mod tallies;
mod tokens;
mod unix;
mod via;
mod webhook;
