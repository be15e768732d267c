//! Where a packet really goes, or comes from: its headers, not the address that its sender named.
//!
//! In: a packet from its network header on. Out: the [`Destination`] at one of its ends, or why it
//! can't be trusted to have one: IP options and routing headers send it elsewhere than its header
//! says, and an agent needs neither.

use crate::{
    destination::{Destination, PROTOCOL_TCP, PROTOCOL_UDP},
    reason::Reason,
};

const NEXT_HOP_BY_HOP: u8 = 0;
const NEXT_ROUTING: u8 = 43;
const NEXT_DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are followed before a packet counts as malformed.
const EXTENSION_LIMIT: u32 = 4;
const TCP_RESET: u8 = 0x04;

/// Reads a packet.
pub trait Load {
    /// `N` bytes from `offset`; `None` beyond the end.
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// `N` 32-bit words from `offset`, as they are in the packet; `None` beyond the end. BPF reads
    /// a word at once only where it knows the alignment.
    fn words_be<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
}

/// Which end of a packet decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it goes: of what this host began.
    Receiver,
    /// Where it comes from: of what others began by calling this host.
    Sender,
}

/// What egress needs of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The end that decides: its peer, or the address of this host that was called.
    pub destination: Destination,
    /// Offset of the transport header.
    transport: u32,
    /// Bytes of the whole packet by its IP header.
    length: u32,
}

impl Packet {
    /// Reads the headers. `interface` is the index of the interface it leaves by.
    #[inline(always)]
    pub fn parse(packet: &impl Load, interface: u32, end: End) -> Result<Self, Reason> {
        // Every packet that can be judged is longer; one read has all of IPv4 without options.
        let start = packet.words_be::<6>(0).ok_or(Reason::MalformedPacket)?;
        match start[0].to_ne_bytes()[0] >> 4 {
            4 => Self::parse_v4(start.map(u32::from_be), end),
            6 => Self::parse_v6(packet, interface, end),
            _ => Err(Reason::MalformedPacket),
        }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are the low bits of a word")]
    fn parse_v4(header: [u32; 6], end: End) -> Result<Self, Reason> {
        let [version_length, fragment, protocol, source, address, ports] = header;
        if version_length >> 24 & 0x0f != 5 {
            return Err(Reason::SourceRoute);
        }
        // A fragment has no ports; the hook sees packets before the kernel cuts them.
        if fragment & 0x1fff != 0 {
            return Err(Reason::MalformedPacket);
        }
        let protocol = (protocol >> 16) as u8;
        if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
            return Err(Reason::ProtocolNotAllowed);
        }
        let destination = match end {
            End::Receiver => Destination::v4(address, ports as u16, protocol),
            End::Sender => Destination::v4(source, (ports >> 16) as u16, protocol).listening(),
        };
        Ok(Self { destination, transport: 20, length: version_length & 0xffff })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are the low bits of a word")]
    fn parse_v6(packet: &impl Load, interface: u32, end: End) -> Result<Self, Reason> {
        let header = packet.words_be::<11>(0).ok_or(Reason::MalformedPacket)?.map(u32::from_be);
        let [_, length_next, source_a, source_b, source_c, source_d, a, b, c, d, ports] = header;
        let [a, b, c, d] = match end {
            End::Receiver => [a, b, c, d],
            End::Sender => [source_a, source_b, source_c, source_d],
        };
        let address = [u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d)];
        let (protocol, transport, ports) = match (length_next >> 8) as u8 {
            next @ (PROTOCOL_TCP | PROTOCOL_UDP) => (next, 40, ports),
            next => Self::behind_extensions(packet, next)?,
        };
        let destination = match end {
            End::Receiver => Destination::v6(address, interface, ports as u16, protocol),
            End::Sender => {
                Destination::v6(address, interface, (ports >> 16) as u16, protocol).listening()
            }
        };
        Ok(Self { destination, transport, length: 40 + (length_next >> 16) })
    }

    /// Protocol, offset and ports of a transport header behind extension headers.
    #[inline(always)]
    fn behind_extensions(packet: &impl Load, next: u8) -> Result<(u8, u32, u32), Reason> {
        let mut protocol = next;
        let mut transport = 40;
        let mut extension = 0;
        while extension < EXTENSION_LIMIT {
            match protocol {
                NEXT_HOP_BY_HOP | NEXT_DESTINATION_OPTIONS => {
                    let [next, words] =
                        packet.bytes::<2>(transport).ok_or(Reason::MalformedPacket)?;
                    protocol = next;
                    transport += (u32::from(words) + 1) * 8;
                }
                NEXT_ROUTING => return Err(Reason::SourceRoute),
                _ => break,
            }
            extension += 1;
        }
        Ok((protocol, transport, ports(packet, protocol, transport)?))
    }

    /// Whether it is a TCP reset that carries nothing.
    #[inline(always)]
    pub fn is_bare_reset(&self, packet: &impl Load) -> bool {
        if self.destination.protocol() != PROTOCOL_TCP {
            return false;
        }
        match packet.bytes::<14>(self.transport) {
            Some(tcp) => {
                let header_bytes = u32::from(tcp[12] >> 4) * 4;
                tcp[13] & TCP_RESET != 0 && self.transport + header_bytes == self.length
            }
            None => false,
        }
    }
}

#[inline(always)]
fn ports(packet: &impl Load, protocol: u8, transport: u32) -> Result<u32, Reason> {
    match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => {
            packet.bytes::<4>(transport).map(u32::from_be_bytes).ok_or(Reason::MalformedPacket)
        }
        _ => Err(Reason::ProtocolNotAllowed),
    }
}

#[cfg(all(test, feature = "user"))]
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "packets are made by hand here"
)]
mod tests {
    use super::*;

    struct Bytes<'a>(&'a [u8]);

    impl Load for Bytes<'_> {
        fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            self.0.get(offset as usize..)?.get(..N)?.try_into().ok()
        }

        fn words_be<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
            let mut words = [0; N];
            for (position, word) in words.iter_mut().enumerate() {
                *word = u32::from_ne_bytes(self.bytes(offset + 4 * position as u32)?);
            }
            Some(words)
        }
    }

    fn v4(protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[3] = 40;
        packet[9] = protocol;
        packet[16..20].copy_from_slice(&[192, 0, 2, 7]);
        packet[22..24].copy_from_slice(&443u16.to_be_bytes());
        packet[32] = 0x50;
        packet
    }

    fn v6(next: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((next.len() - 1) as u16).to_be_bytes());
        packet[6] = next[0];
        packet[24] = 0xfe;
        packet[25] = 0x80;
        packet[39] = 9;
        packet.extend_from_slice(&next[1..]);
        packet
    }

    fn end_of(bytes: &[u8], end: End) -> Result<String, Reason> {
        Packet::parse(&Bytes(bytes), 3, end).map(|packet| packet.destination.to_string())
    }

    fn parsed(bytes: &[u8]) -> Result<String, Reason> {
        end_of(bytes, End::Receiver)
    }

    #[test]
    fn reads_where_the_packet_goes() {
        assert_eq!(parsed(&v4(PROTOCOL_TCP)).unwrap(), "192.0.2.7:443/tcp");
        let udp = v6(&[PROTOCOL_UDP, 0, 0, 0, 53, 0, 8, 0, 0]);
        assert_eq!(parsed(&udp).unwrap(), "[fe80::9%3]:53/udp");
    }

    #[test]
    fn reads_where_the_packet_comes_from() {
        let mut tcp = v4(PROTOCOL_TCP);
        tcp[12..16].copy_from_slice(&[198, 51, 100, 9]);
        tcp[20..22].copy_from_slice(&8080u16.to_be_bytes());
        assert_eq!(end_of(&tcp, End::Sender).unwrap(), "listen:198.51.100.9:8080/tcp");
        let mut tcp = v6(&[PROTOCOL_TCP, 0x1f, 0x90, 0, 53, 0, 8, 0, 0]);
        tcp[8..24].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(end_of(&tcp, End::Sender).unwrap(), "listen:[2001:db8::7]:8080/tcp");
        let mut behind = v6(&[NEXT_DESTINATION_OPTIONS, 6, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0x90, 0, 53]);
        behind[8] = 0xfe;
        behind[9] = 0x80;
        assert_eq!(end_of(&behind, End::Sender).unwrap(), "listen:[fe80::%3]:8080/tcp");
        assert_eq!(parsed(&behind).unwrap(), "[fe80::9%3]:53/tcp");
    }

    #[test]
    fn refuses_source_routes() {
        let mut options = v4(PROTOCOL_TCP);
        options[0] = 0x46;
        assert_eq!(parsed(&options), Err(Reason::SourceRoute));
        assert_eq!(parsed(&v6(&[NEXT_ROUTING, 17, 0, 0, 0, 0, 0, 0, 0])), Err(Reason::SourceRoute));
        let behind = v6(&[NEXT_DESTINATION_OPTIONS, NEXT_ROUTING, 0, 0, 0, 0, 0, 0, 0, 6, 0]);
        assert_eq!(parsed(&behind), Err(Reason::SourceRoute));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert_eq!(parsed(&[]), Err(Reason::MalformedPacket));
        assert_eq!(parsed(&[0x15; 40]), Err(Reason::MalformedPacket));
        assert_eq!(parsed(&v4(PROTOCOL_TCP)[..20]), Err(Reason::MalformedPacket));
        assert_eq!(parsed(&v4(1)), Err(Reason::ProtocolNotAllowed));
        let mut fragment = v4(PROTOCOL_UDP);
        fragment[7] = 1;
        assert_eq!(parsed(&fragment), Err(Reason::MalformedPacket));
        let endless = v6(&[
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        assert_eq!(parsed(&endless), Err(Reason::ProtocolNotAllowed));
    }

    #[test]
    fn a_reset_with_data_is_not_bare() {
        let mut reset = v4(PROTOCOL_TCP);
        reset[33] = TCP_RESET;
        let packet = Packet::parse(&Bytes(&reset), 0, End::Receiver).unwrap();
        assert!(packet.is_bare_reset(&Bytes(&reset)));
        reset[3] = 41;
        reset.push(b'x');
        let packet = Packet::parse(&Bytes(&reset), 0, End::Receiver).unwrap();
        assert!(!packet.is_bare_reset(&Bytes(&reset)));
    }
}
