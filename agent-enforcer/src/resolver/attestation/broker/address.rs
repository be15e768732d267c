//! Where the SPIFFE broker is, as the command line says it.
//!
//! In: `unix:PATH` or `tcp:HOST:PORT`. Out: a [`BrokerAddress`], or what to write instead. Nothing
//! is resolved or opened here.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where the broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerAddress {
    /// `unix:/run/spire/broker.sock`.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`.
    Tcp(String),
}

/// Not an address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a SPIFFE broker; write `unix:/PATH` or `tcp:HOST:PORT`")]
pub struct BrokerAddressError(String);

impl FromStr for BrokerAddress {
    type Err = BrokerAddressError;

    fn from_str(text: &str) -> Result<Self, BrokerAddressError> {
        let refused = || BrokerAddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(refused()) };
        }
        let target = text.strip_prefix("tcp:").ok_or_else(refused)?;
        let (host, port) = target.rsplit_once(':').ok_or_else(refused)?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
        if is_port && !host.is_empty() { Ok(Self::Tcp(target.to_owned())) } else { Err(refused()) }
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(target) => write!(f, "tcp:{target}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_absolute_paths_and_ports_of_hosts() {
        for sound in ["unix:/run/broker.sock", "tcp:broker.example.org:8443", "tcp:[::1]:1"] {
            assert_eq!(sound.parse::<BrokerAddress>().unwrap().to_string(), sound);
        }
        for bad in ["", "/run/broker.sock", "unix:run", "unix:", "tcp:host", "tcp::1", "tcp:h:0"] {
            assert_eq!(bad.parse::<BrokerAddress>(), Err(BrokerAddressError(bad.to_owned())));
        }
    }
}
