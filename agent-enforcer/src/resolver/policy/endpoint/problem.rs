//! What can be wrong with an endpoint, and what to do about it. Texts are quoted.

/// Why a text is no endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProblem {
    /// Not an endpoint.
    #[error(
        "{0} is not an endpoint; use unix:/PATH, unix:@NAME, vsock:CID:PORT, netlink:PROTOCOL or family:FAMILY"
    )]
    Unknown(String),
    /// Not the path of a socket.
    #[error(
        "{0} is not the path of one socket; write `unix:` and an absolute path without globs, `//`, `.`, `..` and a trailing `/`, or `unix:@NAME`"
    )]
    Path(String),
    /// Not an abstract name.
    #[error(
        "{0} is not an abstract name; write `unix:@` and 1 to 107 bytes without control characters"
    )]
    AbstractName(String),
    /// Not a vsock peer.
    #[error(
        "{0} is not a vsock peer; write it like `vsock:2:1024` or `vsock:2:*`, numbers below 4294967295"
    )]
    Vsock(String),
    /// Not a netlink protocol.
    #[error(
        "{0} is not a netlink protocol; write it like `netlink:audit`, or as a number of 0 to 31"
    )]
    Netlink(String),
    /// Not an address family.
    #[error(
        "{0} is not an address family; write it like `family:packet`, or as a number of 1 to 255"
    )]
    Family(String),
    /// A family that no tool can have as a whole.
    #[error(
        "{text} is too broad: sockets of that family are judged by what they call; use {instead}"
    )]
    JudgedFamily {
        /// The endpoint, quoted.
        text: String,
        /// What names single destinations of the family.
        instead: &'static str,
    },
}
