//! Destinations without an IP address, as people write them.
//!
//! In: text such as `unix:/run/docker.sock`. Out: an [`Endpoint`], or what is wrong with the text and
//! how it is written right. No globs: a socket that a service of another name makes is another
//! service. What an endpoint is on this host *now* (which inode a path leads to) is not asked here.

mod names;
mod problem;

use std::{fmt, sync::Arc};

use agent_enforcer_common::{
    destination::{Destination, PeerFamily},
    peer::UNIX_NAME_BYTES,
};

use super::{
    coverage::Prefix,
    network::decimal,
    place::quote,
    selector::{PATH_LIMIT, normal_path},
};
use names::{FAMILIES, NETLINKS, Names};
pub use problem::EndpointProblem;

/// Netlink protocols that a kernel can have (`MAX_LINKS`, include/uapi/linux/netlink.h).
const NETLINK_LIMIT: u32 = 32;
/// Address families that a policy may name, more than any kernel has.
const FAMILY_LIMIT: u32 = 256;
/// `VMADDR_CID_ANY` and `VMADDR_PORT_ANY`: for binding, never a destination.
const VSOCK_ANY: u32 = u32::MAX;
/// Longest abstract name, bytes: one byte of `sun_path` marks it.
const ABSTRACT_LIMIT: usize = 107;

const _: () = assert!(ABSTRACT_LIMIT < UNIX_NAME_BYTES);

/// A destination that is no IP address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A unix socket in the file system: whatever socket this path leads to.
    UnixPath(Arc<str>),
    /// A unix socket in the abstract namespace of the host's network namespace, without its `@`.
    UnixAbstract(Arc<str>),
    /// A vsock peer.
    Vsock {
        /// Context id.
        cid: u32,
        /// `None` is any port.
        port: Option<u32>,
    },
    /// Netlink sockets of a protocol (`NETLINK_*`).
    Netlink(u32),
    /// Sockets of an address family (`AF_*`).
    Family(u32),
}

impl Endpoint {
    /// Parses an endpoint of a policy or a command line.
    pub fn parse(text: &str) -> Result<Self, EndpointProblem> {
        let (kind, value) =
            text.split_once(':').ok_or_else(|| EndpointProblem::Unknown(quote(text)))?;
        match kind {
            "unix" => unix(text, value),
            "vsock" => vsock(value).ok_or_else(|| EndpointProblem::Vsock(quote(text))),
            "netlink" => NETLINKS
                .parse(value, 0..NETLINK_LIMIT)
                .map(Self::Netlink)
                .ok_or_else(|| EndpointProblem::Netlink(quote(text))),
            "family" => family(text, value),
            _ => Err(EndpointProblem::Unknown(quote(text))),
        }
    }

    /// The destination that it is, where its name alone tells: not for unix sockets, which the kernel
    /// side numbers, and not for a vsock peer with any port.
    pub fn destination(&self) -> Option<Destination> {
        match *self {
            Self::Vsock { cid, port: Some(port) } => Some(Destination::vsock(cid, port)),
            Self::Netlink(protocol) => Some(Destination::netlink(protocol)),
            Self::Family(family) => Some(Destination::socket(family)),
            Self::Vsock { port: None, .. } | Self::UnixPath(_) | Self::UnixAbstract(_) => None,
        }
    }

    /// Where the kernel side finds it, and what [`Destination::kind`] is there. `None` for unix
    /// sockets: their numbers are not known before they are asked for.
    pub(super) fn prefix(&self) -> Option<(PeerFamily, Prefix)> {
        let exact = |family, numbers| Some((family, Prefix::of_numbers(numbers)));
        match *self {
            Self::Vsock { cid, port } => {
                let (family, cid) = (PeerFamily::Vsock, u64::from(cid));
                match port {
                    Some(port) => exact(family, [cid, port.into()]),
                    None => Some((family, Prefix::of_first_number(cid))),
                }
            }
            Self::Netlink(protocol) => exact(PeerFamily::Netlink, [0, protocol.into()]),
            Self::Family(family) => exact(PeerFamily::Socket, [0, family.into()]),
            Self::UnixPath(_) | Self::UnixAbstract(_) => None,
        }
    }

    /// The endpoints that cover a destination: itself, and what is broader. None for IP addresses and
    /// unix sockets.
    pub(super) fn covering(destination: &Destination) -> impl Iterator<Item = Self> {
        let [high, low] = destination.numbers().map(|number| u32::try_from(number).ok());
        let (exact, broader) = match PeerFamily::from_raw(destination.family()) {
            Some(PeerFamily::Vsock) => (
                high.zip(low).map(|(cid, port)| Self::Vsock { cid, port: Some(port) }),
                high.map(|cid| Self::Vsock { cid, port: None }),
            ),
            Some(PeerFamily::Netlink) => (low.map(Self::Netlink), None),
            Some(PeerFamily::Socket) => (low.map(Self::Family), None),
            Some(PeerFamily::Ip | PeerFamily::Listen | PeerFamily::Unix) | None => (None, None),
        };
        exact.into_iter().chain(broader)
    }

    /// The endpoint that covers all of this one and more.
    pub(super) const fn broader(&self) -> Option<Self> {
        match self {
            Self::Vsock { cid, port: Some(_) } => Some(Self::Vsock { cid: *cid, port: None }),
            Self::Vsock { port: None, .. }
            | Self::UnixPath(_)
            | Self::UnixAbstract(_)
            | Self::Netlink(_)
            | Self::Family(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixPath(path) => write!(f, "unix:{path}"),
            Self::UnixAbstract(name) => write!(f, "unix:@{name}"),
            Self::Vsock { cid, port: Some(port) } => write!(f, "vsock:{cid}:{port}"),
            Self::Vsock { cid, port: None } => write!(f, "vsock:{cid}:*"),
            Self::Netlink(protocol) => NETLINKS.show(*protocol, "netlink", f),
            Self::Family(family) => FAMILIES.show(*family, "family", f),
        }
    }
}

/// The word of a netlink protocol or address family, where it has one.
pub fn family_word(destination: &Destination) -> Option<&'static str> {
    let [_, number] = destination.numbers();
    let number = u32::try_from(number).ok()?;
    match PeerFamily::from_raw(destination.family())? {
        PeerFamily::Netlink => NETLINKS.word(number),
        PeerFamily::Socket => FAMILIES.word(number),
        PeerFamily::Ip | PeerFamily::Listen | PeerFamily::Unix | PeerFamily::Vsock => None,
    }
}

fn unix(text: &str, value: &str) -> Result<Endpoint, EndpointProblem> {
    let Some(name) = value.strip_prefix('@') else {
        normal_path(value).map_err(|_| EndpointProblem::Path(quote(text)))?;
        if value.len() > PATH_LIMIT || value.contains(['*', '?']) {
            return Err(EndpointProblem::Path(quote(text)));
        }
        return Ok(Endpoint::UnixPath(value.into()));
    };
    let fits = (1..=ABSTRACT_LIMIT).contains(&name.len());
    if !fits || name.chars().any(char::is_control) {
        return Err(EndpointProblem::AbstractName(quote(text)));
    }
    Ok(Endpoint::UnixAbstract(name.into()))
}

fn vsock(value: &str) -> Option<Endpoint> {
    let number = |text: &str| decimal::<u32>(text).filter(|number| *number != VSOCK_ANY);
    let (cid, port) = value.split_once(':')?;
    let port = if port == "*" { None } else { Some(number(port)?) };
    Some(Endpoint::Vsock { cid: number(cid)?, port })
}

fn family(text: &str, value: &str) -> Result<Endpoint, EndpointProblem> {
    /// Families whose sockets are judged by what they call, and how that is written.
    const JUDGED: [(&str, u32, &str); 5] = [
        ("unix", 1, "`unix:/PATH` or `unix:@NAME`"),
        ("inet", 2, "`cidrs`"),
        ("inet6", 10, "`cidrs`"),
        ("netlink", 16, "`netlink:PROTOCOL`"),
        ("vsock", 40, "`vsock:CID:PORT`"),
    ];
    let number = decimal::<u32>(value);
    let judged = JUDGED.iter().find(|(word, of, _)| *word == value || number == Some(*of));
    if let Some((_, _, instead)) = judged {
        return Err(EndpointProblem::JudgedFamily { text: quote(text), instead });
    }
    FAMILIES
        .parse(value, 1..FAMILY_LIMIT)
        .map(Endpoint::Family)
        .ok_or_else(|| EndpointProblem::Family(quote(text)))
}

impl Names {
    /// A word or a number in range.
    fn parse(&self, text: &str, range: std::ops::Range<u32>) -> Option<u32> {
        let named = self.0.iter().find(|(_, word)| *word == text).map(|(number, _)| *number);
        named.or_else(|| decimal(text).filter(|number| range.contains(number)))
    }

    fn word(&self, number: u32) -> Option<&'static str> {
        self.0.iter().find(|(of, _)| *of == number).map(|(_, word)| *word)
    }

    fn show(&self, number: u32, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word(number) {
            Some(word) => write!(f, "{kind}:{word}"),
            None => write!(f, "{kind}:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in [
            "unix:/run/docker.sock",
            "unix:@/tmp/.X11-unix/X0",
            "unix:@ spaced",
            "vsock:2:1024",
            "vsock:2:*",
            "vsock:0:0",
            "netlink:audit",
            "netlink:31",
            "family:packet",
            "family:255",
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn numbers_and_words_are_the_same() {
        for (word, number) in [("netlink:route", "netlink:0"), ("family:bluetooth", "family:31")] {
            assert_eq!(Endpoint::parse(word).unwrap(), Endpoint::parse(number).unwrap());
            assert_eq!(Endpoint::parse(number).unwrap().to_string(), word);
        }
    }

    #[test]
    fn a_vsock_peer_is_covered_by_itself_and_by_any_port() {
        let covering: Vec<_> = Endpoint::covering(&Destination::vsock(3, 7))
            .map(|endpoint| endpoint.to_string())
            .collect();
        assert_eq!(covering, ["vsock:3:7", "vsock:3:*"]);
        assert_eq!(Endpoint::covering(&Destination::v4(1, 1, 6)).count(), 0);
        assert_eq!(Endpoint::covering(&Destination::unix(1)).count(), 0);
    }

    #[test]
    fn an_endpoint_covers_its_own_destination() {
        for text in ["vsock:2:1024", "netlink:audit", "family:packet"] {
            let endpoint = Endpoint::parse(text).unwrap();
            let destination = endpoint.destination().unwrap();
            assert_eq!(Endpoint::covering(&destination).next(), Some(endpoint));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_endpoint_that_reads_back_or_a_problem(text in "(unix:|vsock:|netlink:|family:)?.{0,20}") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                let shown = endpoint.to_string();
                prop_assert_eq!(Endpoint::parse(&shown).unwrap(), endpoint);
            }
        }
    }
}
