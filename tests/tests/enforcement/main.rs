//! What the daemon and its kernel programs do to real processes.

mod basics;
