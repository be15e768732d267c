//! Which prefix speaks for which address: the one place that knows the exemptions.
//!
//! In: networks and canonical addresses. Out: whether one prefix covers another, and an index
//! from an address to the tools there. Lookup (`rule`) and tables (`compile`) both ask here, so
//! they can't differ.
//!
//! An IPv6 prefix says nothing about IPv4, which lives at `::ffff:0:0/96` in canonical form; and
//! no prefix but the exact host says anything about a cloud metadata service, because whoever
//! reaches it takes over the machine's own identity. Both are *barriers*: a prefix shorter than a
//! barrier does not cover what is behind it.

use std::collections::HashMap;

use agent_enforcer_common::{
    destination::{Destination, PeerFamily},
    id::ToolId,
};
use ipnet::IpNet;

use super::{Endpoint, Tool};

/// Bits of a canonical address.
const ADDRESS_BITS: u8 = 128;
/// Bits before the IPv4 address in its canonical form.
const MAPPED_BITS: u8 = 96;
const MAPPED: u128 = 0xffff << 32;

/// Prefixes that no shorter prefix reaches through.
pub(super) const BARRIERS: [Prefix; 3] = [
    Prefix { address: MAPPED, length: MAPPED_BITS },
    // 169.254.169.254
    Prefix { address: MAPPED | 0xa9fe_a9fe, length: ADDRESS_BITS },
    // fd00:ec2::254
    Prefix { address: 0xfd00_0ec2 << 96 | 0x254, length: ADDRESS_BITS },
];

/// A prefix over canonical addresses, host bits clear. Sorts a prefix before all that it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Prefix {
    address: u128,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits (at most 128) that `address` is in.
    const fn containing(address: u128, length: u8) -> Self {
        let mask = if length == 0 { 0 } else { u128::MAX << (ADDRESS_BITS - length) };
        Self { address: address & mask, length }
    }

    /// The canonical form of a network.
    pub(super) fn of(network: IpNet) -> Self {
        match network {
            IpNet::V4(v4) => {
                let address = MAPPED | u128::from(u32::from(v4.network()));
                Self::containing(address, MAPPED_BITS + v4.prefix_len())
            }
            IpNet::V6(v6) => Self::containing(u128::from(v6.network()), v6.prefix_len()),
        }
    }

    /// The prefix of one address.
    pub(super) const fn host(address: [u8; 16]) -> Self {
        Self { address: u128::from_be_bytes(address), length: ADDRESS_BITS }
    }

    /// The prefix of a peer of another family: its two numbers, as the kernel side has them.
    pub(super) const fn of_numbers([high, low]: [u64; 2]) -> Self {
        Self { address: (high as u128) << 64 | low as u128, length: ADDRESS_BITS }
    }

    /// The prefix of all peers with this first number.
    pub(super) const fn of_first_number(high: u64) -> Self {
        Self::containing((high as u128) << 64, 64)
    }

    /// First address, network byte order.
    pub(super) const fn octets(self) -> [u8; 16] {
        self.address.to_be_bytes()
    }

    /// Length in bits over the canonical address.
    pub(super) const fn length(self) -> u8 {
        self.length
    }

    /// Whether every address of `other` is an address of this, exemptions apart.
    pub(super) const fn contains(self, other: Self) -> bool {
        self.length <= other.length
            && Self::containing(other.address, self.length).address == self.address
    }

    /// Whether this prefix speaks for `other`: contains it, with no barrier between.
    pub(super) fn covers(self, other: Self) -> bool {
        self.contains(other) && self.length >= other.shortest_cover()
    }

    /// The shortest prefix length that may speak for this prefix.
    fn shortest_cover(self) -> u8 {
        let behind = BARRIERS.iter().filter(|barrier| barrier.contains(self));
        behind.map(|barrier| barrier.length).max().unwrap_or(0)
    }
}

/// Whether a network speaks for an IP destination, or for an address at which somebody is called.
pub(in crate::resolver) fn network_covers(network: IpNet, destination: &Destination) -> bool {
    let family = destination.family();
    let of_ip = family == PeerFamily::Ip as u8 || family == PeerFamily::Listen as u8;
    of_ip && Prefix::of(network).covers(Prefix::host(destination.octets()))
}

/// From addresses to the tools that have a network there.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressIndex {
    tools: HashMap<Prefix, Vec<ToolId>>,
    /// Prefix lengths in use, longest first.
    lengths: Vec<u8>,
}

impl AddressIndex {
    /// Indexes the networks of all tools.
    pub(super) fn of_destinations<'t>(tools: impl IntoIterator<Item = &'t Tool>) -> Self {
        let networks = |tool: &'t Tool| tool.networks.iter().map(|network| (*network, tool.id));
        Self::new(tools.into_iter().flat_map(networks))
    }

    /// Indexes the addresses at which agents may be called.
    pub(super) fn of_listeners<'t>(tools: impl IntoIterator<Item = &'t Tool>) -> Self {
        let networks = |tool: &'t Tool| tool.listen.iter().map(|range| (range.network, tool.id));
        Self::new(tools.into_iter().flat_map(networks))
    }

    fn new(networks: impl Iterator<Item = (IpNet, ToolId)>) -> Self {
        let mut index = Self::default();
        for (network, tool) in networks {
            let tools = index.tools.entry(Prefix::of(network)).or_default();
            if tools.last() != Some(&tool) {
                tools.push(tool);
            }
        }
        index.lengths = index.tools.keys().map(|prefix| prefix.length).collect();
        index.lengths.sort_unstable_by(|a, b| b.cmp(a));
        index.lengths.dedup();
        index
    }

    /// The tools that have a network covering a canonical address, ports and protocol aside.
    pub(super) fn at(&self, address: [u8; 16]) -> impl Iterator<Item = ToolId> {
        self.covering(Prefix::host(address)).map(|(_, tool)| tool)
    }

    /// The networks that cover a prefix (itself included), longest first, each with its tool.
    pub(super) fn covering(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, ToolId)> {
        let shortest = prefix.shortest_cover();
        let lengths = self.lengths.iter().copied();
        lengths
            .filter(move |length| (shortest..=prefix.length).contains(length))
            .map(move |length| Prefix::containing(prefix.address, length))
            .filter_map(|cover| self.tools.get_key_value(&cover))
            .flat_map(|(cover, tools)| tools.iter().map(|tool| (*cover, *tool)))
    }
}

/// From endpoints to the one tool that names each.
#[derive(Clone, Debug, Default)]
pub(super) struct EndpointIndex(HashMap<Endpoint, ToolId>);

impl EndpointIndex {
    /// Indexes the endpoints of all tools.
    pub(super) fn new(tools: &[Tool]) -> Self {
        let named = |tool: &Tool| {
            let id = tool.id;
            tool.endpoints.iter().map(move |endpoint| (endpoint.clone(), id)).collect::<Vec<_>>()
        };
        Self(tools.iter().flat_map(named).collect())
    }

    /// The tool of a destination that is neither an IP address nor a unix socket.
    pub(super) fn at(&self, destination: &Destination) -> Option<ToolId> {
        Endpoint::covering(destination).find_map(|endpoint| self.named(&endpoint))
    }

    /// The tool that names this very endpoint.
    pub(super) fn named(&self, endpoint: &Endpoint) -> Option<ToolId> {
        self.0.get(endpoint).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::of(text.parse().unwrap())
    }

    #[test]
    fn ipv6_prefix_says_nothing_about_ipv4() {
        assert!(prefix("::/0").contains(prefix("192.0.2.1/32")));
        for wide in ["::/0", "::/8", "::/80"] {
            assert!(!prefix(wide).covers(prefix("192.0.2.1/32")), "{wide}");
            assert!(!prefix(wide).covers(prefix("0.0.0.0/0")), "{wide}");
            assert!(prefix(wide).covers(prefix("::1/128")), "{wide}");
        }
        assert!(prefix("0.0.0.0/0").covers(prefix("192.0.2.1/32")));
    }

    #[test]
    fn only_the_exact_host_covers_a_metadata_address() {
        for wide in ["0.0.0.0/0", "169.254.0.0/16", "169.254.169.254/31"] {
            assert!(!prefix(wide).covers(prefix("169.254.169.254/32")), "{wide}");
        }
        assert!(prefix("169.254.169.254/32").covers(prefix("169.254.169.254/32")));
        assert!(prefix("169.254.0.0/16").covers(prefix("169.254.169.253/32")));
        assert!(!prefix("fd00:ec2::/32").covers(prefix("fd00:ec2::254/128")));
        assert!(prefix("fd00:ec2::254/128").covers(prefix("fd00:ec2::254/128")));
        assert!(prefix("fd00:ec2::/32").covers(prefix("fd00:ec2::253/128")));
    }
}
