//! Addresses of this host at which an agent may be called, as people write them.
//!
//! In: text such as `127.0.0.1:8000-8100`. Out: [`ListenRange`]s, or what is wrong with the text and how
//! it is written right. TCP only: a datagram socket that answers whoever calls it sends to whomever
//! it likes, so its answers are calls like any other.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{PortRange, error::Problem, network, place::quote, tool_check::port_range};

/// Local addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenRange {
    /// The addresses.
    pub network: IpNet,
    /// The ports.
    pub ports: PortRange,
}

impl std::fmt::Display for ListenRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { network, ports } = self;
        let is_host = network.prefix_len() == network.max_prefix_len();
        let address = if is_host { network.addr().to_string() } else { network.to_string() };
        match network {
            IpNet::V4(_) => write!(f, "{address}:{ports}"),
            IpNet::V6(_) => write!(f, "[{address}]:{ports}"),
        }
    }
}

/// Parses one entry; `*` stands for every address of both families.
pub(super) fn parse(text: &str) -> Result<Vec<ListenRange>, Problem> {
    let bad = || Problem::BadListen(quote(text));
    let (address, ports) = text.rsplit_once(':').ok_or_else(bad)?;
    let ports = port_range(ports)?;
    let networks = if address == "*" {
        let v4 = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).map(IpNet::V4);
        let v6 = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0).map(IpNet::V6);
        vec![v4.map_err(|_| bad())?, v6.map_err(|_| bad())?]
    } else if let Some(bracketed) = address.strip_prefix('[') {
        let v6 = network::parse(bracketed.strip_suffix(']').ok_or_else(bad)?)?;
        vec![matches!(v6, IpNet::V6(_)).then_some(v6).ok_or_else(bad)?]
    } else {
        let v4 = network::parse(address)?;
        vec![matches!(v4, IpNet::V4(_)).then_some(v4).ok_or_else(bad)?]
    };
    Ok(networks.into_iter().map(|network| ListenRange { network, ports }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<Vec<String>, String> {
        let parsed = parse(text).map_err(|problem| problem.to_string())?;
        Ok(parsed.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in [
            "127.0.0.1:8080",
            "127.0.0.0/8:8000-8100",
            "0.0.0.0/0:1",
            "[::1]:65535",
            "[2001:db8::/64]:80",
        ] {
            assert_eq!(shown(text).unwrap(), [text]);
        }
        assert_eq!(shown("*:80").unwrap(), ["0.0.0.0/0:80", "[::/0]:80"]);
    }

    #[test]
    fn refuses_what_is_no_address_of_a_host_with_its_ports() {
        for text in
            ["", "8080", ":8080", "*", "::1:80", "[::1:80", "[127.0.0.1]:80", "localhost:80"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(shown("127.0.0.1:0").unwrap_err().contains("is not a port"));
        assert!(shown("127.0.0.1:9-8").unwrap_err().contains("reversed"));
        assert!(shown("127.0.0.1/8:80").unwrap_err().contains("host bits"));
        assert!(shown("0.0.0.0:80").unwrap_err().contains("never a destination"));
    }
}
