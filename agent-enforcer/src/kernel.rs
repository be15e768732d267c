//! What the daemon asks of the kernel directly.

pub mod flows;
