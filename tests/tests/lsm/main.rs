//! What the LSM plane adds, on kernels that have it: `cargo xtask test vm` boots some. Elsewhere
//! these tests are skipped, and counted as such.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is the verdict of a test"
)]

mod guard;
