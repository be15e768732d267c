//! Many calls and many processes at once: every one is decided, told exactly once, and nobody else
//! notices. One test at a time: each is to have the machine for itself.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic is the verdict of a test"
)]

mod account;
mod bomb;
mod flood;
mod held;
mod limits;
