//! Where a call goes, in one canonical form.
//!
//! In: what the hooks see (IPv4 or IPv6, any spelling). Out: a [`Destination`], the same for
//! every spelling of one peer: an IPv4 address is its IPv4-mapped IPv6 address, the unspecified
//! address is loopback (net/ipv4/route.c `ip_route_output_key_hash_rcu`, net/ipv6/tcp_ipv6.c
//! `tcp_v6_connect`, since 2.6), a scope exists for link-local addresses only.

/// `IPPROTO_TCP`.
pub const PROTOCOL_TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const PROTOCOL_UDP: u8 = 17;

const MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
const LOOPBACK_V4: [u8; 4] = [127, 0, 0, 1];
const LOOPBACK_V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A canonical peer: address, transport protocol, port and (link-local only) interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Destination {
    /// IPv6 address in network byte order; IPv4 as `::ffff:a.b.c.d`.
    address: [u8; 16],
    /// Interface index for link-local addresses, otherwise 0.
    scope: u32,
    /// Port in host byte order.
    port: u16,
    /// `IPPROTO_*`.
    protocol: u8,
    _pad: u8,
}

const _: () = assert!(size_of::<Destination>() == 24);
crate::plain_data!(Destination);

impl Destination {
    /// From an IPv4 address in network byte order.
    #[inline(always)]
    pub fn v4(octets: [u8; 4], port: u16, protocol: u8) -> Self {
        let octets = if u32::from_ne_bytes(octets) == 0 { LOOPBACK_V4 } else { octets };
        let mut address = [0; 16];
        address[10] = MAPPED_PREFIX[10];
        address[11] = MAPPED_PREFIX[11];
        address[12] = octets[0];
        address[13] = octets[1];
        address[14] = octets[2];
        address[15] = octets[3];
        Self { address, scope: 0, port, protocol, _pad: 0 }
    }

    /// From an IPv6 address in network byte order; `scope` is the caller's scope id or interface.
    #[inline(always)]
    pub fn v6(octets: [u8; 16], scope: u32, port: u16, protocol: u8) -> Self {
        let bits = u128::from_be_bytes(octets);
        if bits == 0 {
            return Self { address: LOOPBACK_V6, scope: 0, port, protocol, _pad: 0 };
        }
        if bits >> 32 == 0xffff {
            let v4 = [octets[12], octets[13], octets[14], octets[15]];
            return Self::v4(v4, port, protocol);
        }
        let link_local = (octets[0] == 0xfe && octets[1] & 0xc0 == 0x80)
            || (octets[0] == 0xff && octets[1] & 0x0f == 0x02);
        let scope = if link_local { scope } else { 0 };
        Self { address: octets, scope, port, protocol, _pad: 0 }
    }

    /// For a record about a socket or packet that goes nowhere yet.
    pub const fn without_peer(protocol: u8) -> Self {
        Self { address: [0; 16], scope: 0, port: 0, protocol, _pad: 0 }
    }

    /// The address bytes, IPv4 as IPv4-mapped.
    #[inline(always)]
    pub const fn address(&self) -> [u8; 16] {
        self.address
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
            std::net::SocketAddr::V4(v4) => Self::v4(v4.ip().octets(), v4.port(), protocol),
            std::net::SocketAddr::V6(v6) => {
                Self::v6(v6.ip().octets(), v6.scope_id(), v6.port(), protocol)
            }
        }
    }

    /// The address as people write it: IPv4 again where it was IPv4.
    pub fn ip(&self) -> std::net::IpAddr {
        let v6 = std::net::Ipv6Addr::from(self.address);
        v6.to_ipv4_mapped().map_or(std::net::IpAddr::V6(v6), std::net::IpAddr::V4)
    }
}

#[cfg(feature = "user")]
impl std::fmt::Display for Destination {
    /// `127.0.0.1:80/tcp`, `[fe80::1%3]:53/udp`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn mapped_address_is_its_ipv4_address() {
        let v4 = Destination::v4([192, 0, 2, 1], 443, PROTOCOL_TCP);
        let mapped: std::net::Ipv6Addr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(v4, Destination::v6(mapped.octets(), 7, 443, PROTOCOL_TCP));
    }

    #[test]
    fn unspecified_address_is_loopback() {
        assert_eq!(
            Destination::v4([0; 4], 80, PROTOCOL_TCP),
            Destination::v4([127, 0, 0, 1], 80, PROTOCOL_TCP)
        );
        assert_eq!(Destination::v6([0; 16], 0, 80, PROTOCOL_TCP).to_string(), "[::1]:80/tcp");
        let mapped_zero: std::net::Ipv6Addr = "::ffff:0.0.0.0".parse().unwrap();
        assert_eq!(
            Destination::v6(mapped_zero.octets(), 0, 80, PROTOCOL_UDP).to_string(),
            "127.0.0.1:80/udp"
        );
    }

    #[test]
    fn scope_counts_for_link_local_only() {
        let global: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let local: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
        assert_eq!(Destination::v6(global.octets(), 3, 1, PROTOCOL_UDP).scope(), 0);
        assert_eq!(Destination::v6(local.octets(), 3, 1, PROTOCOL_UDP).scope(), 3);
        assert_ne!(
            Destination::v6(local.octets(), 3, 1, PROTOCOL_UDP),
            Destination::v6(local.octets(), 4, 1, PROTOCOL_UDP)
        );
    }
}
