//! Locations: destinations as a token names them.
//!
//! In: `IP` or `CIDR`, then `:PORT` or `:PORT-PORT`, then `/tcp` or `/udp`, both optional; IPv6 in
//! brackets where a port follows. Out: a [`Location`], in the one spelling that the policy has for
//! networks. What is left out is whatever the tool of that location has.

use std::{fmt, str::FromStr};

use agent_enforcer_common::destination::Destination;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    resolver::policy::{
        PortRange, Problem, network_covers, parse_network, port_range, protocol, protocol_word,
    },
    strict_json,
};

/// Some destinations of one tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// Addresses.
    pub network: IpNet,
    /// Ports; `None` for those that the tool has.
    pub ports: Option<PortRange>,
    /// Protocol (`IPPROTO_*`); `None` for those that the tool has.
    pub protocol: Option<u8>,
}

/// Why a text is no location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Brackets without need, or none where they are needed.
    #[error(
        "{0:?} has brackets out of place; write `2001:db8::1`, or `[2001:db8::1]:443` with a port"
    )]
    Brackets(String),
    /// A part of it is wrong.
    #[error("{0}")]
    Part(String),
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let (rest, protocol) = split_protocol(text)?;
        let (network, ports) =
            split_ports(rest).ok_or_else(|| LocationError::Brackets(text.to_owned()))?;
        let network = parse_network(network).map_err(|problem| part(&problem))?;
        let ports = ports.map(port_range).transpose().map_err(|problem| part(&problem))?;
        // IPv4 has no brackets, and IPv6 has them for a port alone.
        if ports.is_some() && network.addr().is_ipv6() != rest.starts_with('[') {
            return Err(LocationError::Brackets(text.to_owned()));
        }
        Ok(Self { network, ports, protocol })
    }
}

impl Location {
    /// Whether a destination, or an address at which somebody is called, is one of these.
    pub fn contains(&self, destination: &Destination) -> bool {
        let Self { network, ports, protocol } = self;
        network_covers(*network, destination)
            && ports.is_none_or(|ports| ports.contains(destination.port()))
            && protocol.is_none_or(|protocol| protocol == destination.protocol())
    }

    /// Whether every destination of the other is one of this.
    pub fn covers(&self, other: &Self) -> bool {
        let Self { network, ports, protocol } = self;
        let within = |range: &PortRange| {
            other
                .ports
                .is_some_and(|other| range.contains(other.first) && range.contains(other.last))
        };
        network.contains(&other.network)
            && ports.as_ref().is_none_or(within)
            && protocol.is_none_or(|protocol| other.protocol == Some(protocol))
    }
}

/// The protocol is behind the last slash; a prefix length is a number.
fn split_protocol(text: &str) -> Result<(&str, Option<u8>), LocationError> {
    match text.rsplit_once('/') {
        Some((rest, word)) if word.starts_with(|c: char| c.is_alphabetic()) => {
            Ok((rest, Some(protocol(word).map_err(|problem| part(&problem))?)))
        }
        Some(_) | None => Ok((text, None)),
    }
}

fn split_ports(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (network, ports) = inner.split_once("]:")?;
        return Some((network, Some(ports)));
    }
    match text.split_once(':') {
        // Of IPv6 every colon is the address's.
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((network, ports)) => Some((network, Some(ports))),
        None => Some((text, None)),
    }
}

fn part(problem: &Problem) -> LocationError {
    LocationError::Part(problem.to_string())
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, ports, protocol } = self;
        let network = if network.prefix_len() == network.max_prefix_len() {
            network.addr().to_string()
        } else {
            network.to_string()
        };
        match ports {
            Some(ports) if network.contains(':') => write!(f, "[{network}]:{ports}")?,
            Some(ports) => write!(f, "{network}:{ports}")?,
            None => f.write_str(&network)?,
        }
        protocol.map_or(Ok(()), |protocol| write!(f, "/{}", protocol_word(protocol)))
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        strict_json::text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> Location {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_location_is_written_as_it_is_read() {
        for text in [
            "192.0.2.1",
            "192.0.2.1:443",
            "192.0.2.1:443/tcp",
            "192.0.2.1/udp",
            "192.0.2.0/24",
            "192.0.2.0/24:8000-8100/tcp",
            "192.0.2.0/24/udp",
            "2001:db8::1",
            "2001:db8::/32",
            "2001:db8::1/tcp",
            "[2001:db8::1]:443/tcp",
            "[2001:db8::/32]:1-65535/udp",
            "0.0.0.0/0",
            "::/0",
        ] {
            assert_eq!(location(text).to_string(), text);
        }
    }

    #[test]
    fn other_spellings_are_refused_with_what_to_write() {
        for (text, expected) in [
            ("", "is not an address or CIDR"),
            ("example.com:443", "is not an address or CIDR"),
            ("192.0.2.1:0", "is not a port or range"),
            ("192.0.2.1:65536", "is not a port or range"),
            ("192.0.2.1:0443", "is not a port or range"),
            ("192.0.2.1:", "is not a port or range"),
            ("192.0.2.1:2-1", "is a reversed range"),
            ("192.0.2.1/sctp", "is not a protocol"),
            ("192.0.2.1/TCP", "is not a protocol"),
            ("192.0.2.1/tcp/udp", "has no valid prefix length"),
            ("192.0.2.1:443/tcp:1", "is not a protocol"),
            ("192.0.2.1/33", "has no valid prefix length"),
            ("192.0.2.1/24", "has host bits set"),
            ("192.0.2.01", "is not an address or CIDR"),
            ("0xc0000201", "is not an address or CIDR"),
            ("::ffff:192.0.2.1", "is IPv4 in IPv6 form"),
            ("2001:DB8::1", "is not in canonical form"),
            ("2001:db8:0::1", "is not in canonical form"),
            ("0.0.0.0", "is never a destination"),
            ("[2001:db8::1]", "brackets out of place"),
            ("[192.0.2.1]:443", "brackets out of place"),
            ("[2001:db8::1]443", "brackets out of place"),
            ("2001:db8::1]:443", "is not an address or CIDR"),
            ("fe80::1%eth0", "is not an address or CIDR"),
            ("192.0.2.1 ", "is not an address or CIDR"),
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_location_covers_what_is_within_it_in_every_respect() {
        let covers = |wide: &str, narrow: &str| location(wide).covers(&location(narrow));
        for (wide, narrow) in [
            ("192.0.2.0/24", "192.0.2.7:443/tcp"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.0/24:1-100", "192.0.2.0/25:5-100/udp"),
            ("192.0.2.1/tcp", "192.0.2.1:443/tcp"),
            ("::/0", "[2001:db8::1]:443"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("192.0.2.0/25", "192.0.2.0/24"),
            ("192.0.2.0/24", "198.51.100.1"),
            ("192.0.2.0/24:1-100", "192.0.2.0/24:1-101"),
            ("192.0.2.0/24:1-100", "192.0.2.0/24"),
            ("192.0.2.1/tcp", "192.0.2.1/udp"),
            ("192.0.2.1/tcp", "192.0.2.1"),
            ("::/0", "192.0.2.1"),
            ("0.0.0.0/0", "2001:db8::1"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_a_location_or_refused(text in r"[0-9a-f.:/\[\]tcpud-]{0,30}") {
            if let Ok(found) = text.parse::<Location>() {
                proptest::prop_assert_eq!(found.to_string().parse(), Ok(found));
            }
        }
    }
}
