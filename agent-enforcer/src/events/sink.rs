//! Where lines go. A sink that fails keeps what it can, counts what it cannot, and delays nobody.

pub(super) mod file;
pub(super) mod syslog;
