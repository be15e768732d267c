//! What the daemon and its kernel programs do when something is wrong: with the command line, the
//! host, the disk, the tables, or the daemon itself.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic is the verdict of a test"
)]

mod attempt;
mod disk;
mod files;
mod full;
mod privileges;
mod silence;
mod startup;
