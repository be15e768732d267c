//! Where a call goes, in one canonical form.
//!
//! In: what the hooks see (IPv4 or IPv6 in any spelling, or a peer of another family). Out: a
//! [`Destination`], the same for every spelling of one peer: an IPv4 address is its IPv4-mapped IPv6
//! address, the unspecified address is loopback (net/ipv4/route.c `ip_route_output_key_hash_rcu`,
//! net/ipv6/tcp_ipv6.c `tcp_v6_connect`, since 2.6), a scope exists for link-local addresses only.

/// `IPPROTO_TCP`.
pub const PROTOCOL_TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const PROTOCOL_UDP: u8 = 17;

/// `::ffff:0:0/96` as a number.
const MAPPED_PREFIX: u64 = 0xffff << 32;
const LOOPBACK_V4: u32 = 0x7f00_0001;
const IP: u8 = PeerFamily::Ip as u8;

/// What a [`Destination`] is about. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PeerFamily {
    /// An IP address, port and transport protocol.
    Ip = 0,
    /// A unix socket, by the number that the kernel side gave its [`crate::peer::UnixPeer`].
    Unix = 1,
    /// `AF_VSOCK`: context id and port.
    Vsock = 2,
    /// `AF_NETLINK`: the protocol (`NETLINK_*`).
    Netlink = 3,
    /// A socket of any other family (`AF_*`), at its creation.
    Socket = 4,
    /// An IP address and port of this host, and a transport protocol: others may call there.
    Listen = 5,
}

impl PeerFamily {
    /// The family of a number from the wire.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Ip),
            1 => Some(Self::Unix),
            2 => Some(Self::Vsock),
            3 => Some(Self::Netlink),
            4 => Some(Self::Socket),
            5 => Some(Self::Listen),
            _ => None,
        }
    }
}

/// A canonical peer: address, transport protocol, port and (link-local only) interface; or, of a
/// family without addresses like these, two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Destination {
    /// IPv6 address in network byte order, IPv4 as `::ffff:a.b.c.d`. Two words, not bytes: BPF has
    /// no unaligned access, so that bytes are copied and compared one by one.
    address_be: [u64; 2],
    /// Interface index for link-local addresses, otherwise 0.
    scope: u32,
    /// Port in host byte order.
    port: u16,
    /// `IPPROTO_*`; 0 outside [`PeerFamily::Ip`].
    protocol: u8,
    /// [`PeerFamily`].
    family: u8,
}

const _: () = assert!(size_of::<Destination>() == 24);
crate::plain_data!(Destination);

impl Destination {
    /// From an IPv4 address.
    #[inline(always)]
    pub const fn v4(address: u32, port: u16, protocol: u8) -> Self {
        let address = if address == 0 { LOOPBACK_V4 } else { address };
        let low_be = (MAPPED_PREFIX | address as u64).to_be();
        Self { address_be: [0, low_be], scope: 0, port, protocol, family: IP }
    }

    /// From the halves of an IPv6 address; `scope` is the caller's scope id or interface.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is the IPv4 address")]
    pub const fn v6(address: [u64; 2], scope: u32, port: u16, protocol: u8) -> Self {
        let [high, low] = address;
        if high == 0 && low >> 32 == MAPPED_PREFIX >> 32 {
            return Self::v4(low as u32, port, protocol);
        }
        // The unspecified address is `::1`.
        let low = if high | low == 0 { 1 } else { low };
        let link_local = high >> 54 == 0xfe80 >> 6 || high >> 48 & 0xff0f == 0xff02;
        let scope = if link_local { scope } else { 0 };
        Self { address_be: [high.to_be(), low.to_be()], scope, port, protocol, family: IP }
    }

    /// An address of this host, as the place where it is called.
    #[inline(always)]
    #[must_use]
    pub const fn listening(self) -> Self {
        Self { family: PeerFamily::Listen as u8, ..self }
    }

    /// For a record about a socket or packet that goes nowhere yet.
    pub const fn without_peer(protocol: u8) -> Self {
        Self { address_be: [0; 2], scope: 0, port: 0, protocol, family: IP }
    }

    /// A unix socket: the number of its [`crate::peer::UnixPeer`].
    #[inline(always)]
    pub const fn unix(peer: u64) -> Self {
        Self::of_family(PeerFamily::Unix, [0, peer])
    }

    /// A vsock peer.
    #[inline(always)]
    pub const fn vsock(cid: u32, port: u32) -> Self {
        Self::of_family(PeerFamily::Vsock, [cid as u64, port as u64])
    }

    /// A netlink socket of this protocol (`NETLINK_*`).
    #[inline(always)]
    pub const fn netlink(protocol: u32) -> Self {
        Self::of_family(PeerFamily::Netlink, [0, protocol as u64])
    }

    /// A socket of this family (`AF_*`).
    #[inline(always)]
    pub const fn socket(family: u32) -> Self {
        Self::of_family(PeerFamily::Socket, [0, family as u64])
    }

    #[inline(always)]
    const fn of_family(family: PeerFamily, [high, low]: [u64; 2]) -> Self {
        let address_be = [high.to_be(), low.to_be()];
        Self { address_be, scope: 0, port: 0, protocol: 0, family: family as u8 }
    }

    /// [`PeerFamily`].
    #[inline(always)]
    pub const fn family(&self) -> u8 {
        self.family
    }

    /// The two numbers of a peer that is no IP address, as the constructors took them.
    #[inline(always)]
    pub const fn numbers(&self) -> [u64; 2] {
        let [high, low] = self.address_be;
        [u64::from_be(high), u64::from_be(low)]
    }

    /// Family and protocol in one word, see [`crate::verdict::PrefixKey::protocol`].
    #[inline(always)]
    pub const fn kind(&self) -> u64 {
        (self.family as u64) << 8 | self.protocol as u64
    }

    /// The address in network byte order, IPv4 as IPv4-mapped.
    #[inline(always)]
    pub const fn address_be(&self) -> [u64; 2] {
        self.address_be
    }

    /// The port, host byte order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The transport protocol, `IPPROTO_*`.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The interface index of a link-local peer, otherwise 0.
    #[inline(always)]
    pub const fn scope(&self) -> u32 {
        self.scope
    }
}

#[cfg(feature = "user")]
impl Destination {
    /// From standard-library types; the port of `peer` is kept, its flow label is not.
    pub fn from_socket_addr(peer: std::net::SocketAddr, protocol: u8) -> Self {
        match peer {
            std::net::SocketAddr::V4(v4) => Self::v4(v4.ip().to_bits(), v4.port(), protocol),
            std::net::SocketAddr::V6(v6) => {
                Self::v6(halves(*v6.ip()), v6.scope_id(), v6.port(), protocol)
            }
        }
    }

    /// The address bytes, IPv4 as IPv4-mapped.
    pub fn octets(&self) -> [u8; 16] {
        let [high, low] = self.address_be.map(u64::from_be);
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }

    /// The address as people write it: IPv4 again where it was IPv4.
    pub fn ip(&self) -> std::net::IpAddr {
        let v6 = std::net::Ipv6Addr::from(self.octets());
        v6.to_ipv4_mapped().map_or(std::net::IpAddr::V6(v6), std::net::IpAddr::V4)
    }
}

/// An address as [`Destination::address_be`] has it.
#[cfg(feature = "user")]
pub fn words_be(address: std::net::Ipv6Addr) -> [u64; 2] {
    halves(address).map(u64::to_be)
}

/// The halves of an address, as [`Destination::v6`] takes them.
#[cfg(feature = "user")]
#[expect(clippy::cast_possible_truncation, reason = "each half is what is kept")]
fn halves(address: std::net::Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(feature = "user")]
impl std::fmt::Display for Destination {
    /// `127.0.0.1:80/tcp`, `[fe80::1%3]:53/udp`, `listen:127.0.0.1:80/tcp`, `vsock:2:1024`, `netlink:16`, `family:17`; a unix
    /// socket by the number of its peer, `unix:#7`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [high, low] = self.numbers();
        match PeerFamily::from_raw(self.family) {
            Some(PeerFamily::Ip) => {}
            Some(PeerFamily::Listen) => f.write_str("listen:")?,
            Some(PeerFamily::Unix) => return write!(f, "unix:#{low}"),
            Some(PeerFamily::Vsock) => return write!(f, "vsock:{high}:{low}"),
            Some(PeerFamily::Netlink) => return write!(f, "netlink:{low}"),
            Some(PeerFamily::Socket) => return write!(f, "family:{low}"),
            None => return write!(f, "unknown:{}:{high}:{low}", self.family),
        }
        match self.ip() {
            std::net::IpAddr::V4(v4) => write!(f, "{v4}:{}", self.port)?,
            std::net::IpAddr::V6(v6) if self.scope != 0 => {
                write!(f, "[{v6}%{}]:{}", self.scope, self.port)?;
            }
            std::net::IpAddr::V6(v6) => write!(f, "[{v6}]:{}", self.port)?,
        }
        match self.protocol {
            PROTOCOL_TCP => f.write_str("/tcp"),
            PROTOCOL_UDP => f.write_str("/udp"),
            other => write!(f, "/{other}"),
        }
    }
}

#[cfg(test)]
#[cfg(feature = "user")]
mod tests {
    use super::*;

    fn v6(address: &str, scope: u32, port: u16) -> Destination {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        Destination::v6(halves(address), scope, port, PROTOCOL_TCP)
    }

    #[test]
    fn mapped_address_is_its_ipv4_address() {
        let v4 = Destination::v4(0xc000_0201, 443, PROTOCOL_TCP);
        assert_eq!(v4, v6("::ffff:192.0.2.1", 7, 443));
        assert_eq!(v4.to_string(), "192.0.2.1:443/tcp");
        assert_eq!(v4.octets()[10..], [0xff, 0xff, 192, 0, 2, 1]);
    }

    #[test]
    fn unspecified_address_is_loopback() {
        let v4 = Destination::v4(0, 80, PROTOCOL_TCP);
        assert_eq!(v4, Destination::v4(0x7f00_0001, 80, PROTOCOL_TCP));
        assert_eq!(v6("::", 0, 80).to_string(), "[::1]:80/tcp");
        assert_eq!(v6("::ffff:0.0.0.0", 0, 80).to_string(), "127.0.0.1:80/tcp");
    }

    #[test]
    fn numbers_of_other_families_are_no_addresses() {
        let peers = [
            (Destination::unix(7), "unix:#7", [0, 7]),
            (Destination::vsock(2, 1024), "vsock:2:1024", [2, 1024]),
            (Destination::netlink(16), "netlink:16", [0, 16]),
            (Destination::socket(17), "family:17", [0, 17]),
        ];
        for (peer, shown, numbers) in peers {
            assert_eq!(peer.to_string(), shown);
            assert_eq!(peer.numbers(), numbers);
            let ip = v6("::7", 0, 0);
            assert_ne!(peer.kind(), ip.kind());
            assert_ne!(peer, Destination { address_be: peer.address_be, ..ip });
        }
    }

    #[test]
    fn own_address_that_is_called_is_no_destination_of_calls() {
        let peer = Destination::v4(0xc000_0201, 80, PROTOCOL_TCP);
        let own = peer.listening();
        assert_eq!(own.to_string(), "listen:192.0.2.1:80/tcp");
        assert_ne!(own, peer);
        assert_ne!(own.kind(), peer.kind());
        assert_eq!((own.octets(), own.port()), (peer.octets(), peer.port()));
    }

    #[test]
    fn scope_counts_for_link_local_only() {
        for global in ["2001:db8::1", "::1", "fec0::1", "fe40::1", "ff05::2", "ff0e::2"] {
            assert_eq!(v6(global, 3, 1).scope(), 0, "{global}");
        }
        for local in ["fe80::1", "febf::1", "ff02::2", "ff12::2"] {
            assert_eq!(v6(local, 3, 1).scope(), 3, "{local}");
        }
        assert_ne!(v6("fe80::1", 3, 1), v6("fe80::1", 4, 1));
    }
}
