//! Many calls and many processes at once: every one is decided, told exactly once, and nobody else
//! notices. One test at a time: each is to have the machine for itself.

mod account;
mod bomb;
mod flood;
mod held;
mod limits;
