//! Callers that are stopped until their call is decided.

use crate::{destination::Destination, id::RequestId};

/// Value of the table of stopped callers. Key: thread group id in the high half, thread id in the
/// low one, both of the initial pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ParkedCall {
    /// Where the call goes.
    pub destination: Destination,
    /// The question; a caller that was continued by somebody else asks under this number again.
    pub request: RequestId,
    /// Since when it is stopped, ns of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// Start of the thread group leader, ns of `CLOCK_BOOTTIME`: pids are given again.
    pub start_ns: u64,
}

const _: () = assert!(size_of::<ParkedCall>() == 48);
crate::plain_data!(ParkedCall);
