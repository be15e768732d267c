//! CIDRs as people write them, in one spelling only.
//!
//! In: text. Out: a network, or what is wrong with the text and how it is written right. One
//! spelling per network, so that a review sees at once what a line covers: no host bits, no hex or
//! octal octets, no IPv4 in IPv6 form. An address without a prefix length is that one host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{error::Problem, place::quote};

/// Bits of `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

/// Parses a CIDR or a single address.
pub(in crate::resolver) fn parse(text: &str) -> Result<IpNet, Problem> {
    let (address_text, length_text) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr =
        address_text.parse().map_err(|_not_an_address| Problem::BadCidr(quote(text)))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length_text {
        None => longest,
        Some(length) => decimal(length)
            .filter(|length| *length <= longest)
            .ok_or_else(|| Problem::BadPrefixLength { text: quote(text), longest })?,
    };
    refuse_mapped(text, address, length)?;
    if address.to_string() != address_text {
        let suffix = length_text.map(|length| format!("/{length}")).unwrap_or_default();
        let canonical = format!("{address}{suffix}");
        return Err(Problem::NotCanonical { text: quote(text), canonical });
    }
    if length == longest && address.is_unspecified() {
        let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
        return Err(Problem::Unspecified { text: quote(text), loopback });
    }
    let network = IpNet::new(address, length)
        .map_err(|_too_long| Problem::BadPrefixLength { text: quote(text), longest })?;
    if network.network() != address {
        let network = network.trunc().to_string();
        return Err(Problem::HostBits { text: quote(text), network });
    }
    Ok(network)
}

/// IPv4 has one form in policies, as it has one form in decisions.
fn refuse_mapped(text: &str, address: IpAddr, length: u8) -> Result<(), Problem> {
    let IpAddr::V6(v6) = address else { return Ok(()) };
    let Some((v4, v4_length)) = mapped(v6, length) else { return Ok(()) };
    let network = Ipv4Net::new(v4, v4_length).map(|network| network.trunc().to_string());
    Err(Problem::MappedCidr { text: quote(text), v4: network.unwrap_or_else(|_| v4.to_string()) })
}

fn mapped(address: Ipv6Addr, length: u8) -> Option<(Ipv4Addr, u8)> {
    Some((address.to_ipv4_mapped()?, length.checked_sub(MAPPED_BITS)?))
}

/// A decimal number as it is written: no sign, no leading zeros.
pub(super) fn decimal<N: std::str::FromStr + ToString>(text: &str) -> Option<N> {
    text.parse::<N>().ok().filter(|number| number.to_string() == text)
}
