//! Where a syslog receiver is, as the command line says it.
//!
//! In: `unix:PATH`, `udp:HOST:PORT`, `tcp:HOST:PORT`; facility names. Out: values, or an error
//! that says what to write instead. Nothing is resolved or opened here.

use std::{fmt, path::PathBuf, str::FromStr};

use syslog_fmt::Facility;

/// A syslog receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogTarget {
    /// `unix:/dev/log`: a datagram socket or, where the path is one, a stream socket.
    Unix(PathBuf),
    /// `udp:HOST:PORT`: one message per datagram (RFC 5426).
    Udp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `tcp:HOST:PORT`: with octet counting (RFC 6587).
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Why a receiver's name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyslogTargetError {
    /// It begins with nothing that is known.
    #[error(
        "syslog receiver `{0}` has no known transport; write `unix:PATH`, `udp:HOST:PORT` or `tcp:HOST:PORT`"
    )]
    Transport(String),
    /// The path is missing or relative.
    #[error("syslog receiver `{0}` needs an absolute path; write `unix:/dev/log`")]
    Path(String),
    /// The path does not fit a socket address.
    #[error("syslog receiver `{0}` has a path of more than 107 bytes; use a shorter one")]
    PathLength(String),
    /// The host is missing, or an IPv6 address without brackets.
    #[error(
        "syslog receiver `{0}` has no usable host; write `HOST:PORT`, an IPv6 address as `[::1]:PORT`"
    )]
    Host(String),
    /// The port is missing or none.
    #[error(
        "syslog receiver `{0}` has no usable port; write one of 1 to 65535 behind the host, as in `:514`"
    )]
    Port(String),
}

/// `sun_path` has 108 bytes, and one is for the end.
const PATH_BYTES: usize = 107;

impl FromStr for SyslogTarget {
    type Err = SyslogTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("unix", path)) => parse_path(text, path).map(Self::Unix),
            Some(("udp", rest)) => {
                parse_host_port(text, rest).map(|(host, port)| Self::Udp { host, port })
            }
            Some(("tcp", rest)) => {
                parse_host_port(text, rest).map(|(host, port)| Self::Tcp { host, port })
            }
            Some(_) | None => Err(SyslogTargetError::Transport(text.to_owned())),
        }
    }
}

impl fmt::Display for SyslogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, host, port) = match self {
            Self::Unix(path) => return write!(f, "unix:{}", path.display()),
            Self::Udp { host, port } => ("udp", host, port),
            Self::Tcp { host, port } => ("tcp", host, port),
        };
        if host.contains(':') {
            write!(f, "{transport}:[{host}]:{port}")
        } else {
            write!(f, "{transport}:{host}:{port}")
        }
    }
}

fn parse_path(text: &str, path: &str) -> Result<PathBuf, SyslogTargetError> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(SyslogTargetError::Path(text.to_owned()));
    }
    if path.len() > PATH_BYTES {
        return Err(SyslogTargetError::PathLength(text.to_owned()));
    }
    Ok(PathBuf::from(path))
}

fn parse_host_port(text: &str, rest: &str) -> Result<(String, u16), SyslogTargetError> {
    let host_error = || SyslogTargetError::Host(text.to_owned());
    let port_error = || SyslogTargetError::Port(text.to_owned());
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, behind) = bracketed.split_once(']').ok_or_else(host_error)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| host_error())?;
        (host, behind.strip_prefix(':').ok_or_else(port_error)?)
    } else {
        let (host, port) = rest.rsplit_once(':').ok_or_else(port_error)?;
        let is_unusable = |c: char| c == ':' || c.is_whitespace() || c.is_control();
        if host.is_empty() || host.contains(is_unusable) {
            return Err(host_error());
        }
        (host, port)
    };
    match port.parse() {
        Ok(0) | Err(_) => Err(port_error()),
        Ok(port) => Ok((host.to_owned(), port)),
    }
}

/// The facility of the messages. `authpriv` unless said otherwise: who may do what is nobody's
/// business but the security team's, and receivers keep that facility from other readers.
#[derive(Clone, Copy, Debug)]
pub struct SyslogFacility {
    name: &'static str,
    facility: Facility,
}

const FACILITIES: [(&str, Facility); 12] = [
    ("authpriv", Facility::Authpriv),
    ("auth", Facility::Auth),
    ("daemon", Facility::Daemon),
    ("user", Facility::User),
    ("local0", Facility::Local0),
    ("local1", Facility::Local1),
    ("local2", Facility::Local2),
    ("local3", Facility::Local3),
    ("local4", Facility::Local4),
    ("local5", Facility::Local5),
    ("local6", Facility::Local6),
    ("local7", Facility::Local7),
];

/// Why a facility is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "syslog facility `{0}` is not known; write `authpriv`, `auth`, `daemon`, `user` or `local0` to `local7`"
)]
pub struct SyslogFacilityError(String);

impl SyslogFacility {
    pub(super) const fn facility(self) -> Facility {
        self.facility
    }
}

impl Default for SyslogFacility {
    fn default() -> Self {
        Self { name: "authpriv", facility: Facility::Authpriv }
    }
}

impl FromStr for SyslogFacility {
    type Err = SyslogFacilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        FACILITIES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|&(name, facility)| Self { name, facility })
            .ok_or_else(|| SyslogFacilityError(text.to_owned()))
    }
}

impl fmt::Display for SyslogFacility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_read_as_they_are_written() {
        for text in [
            "unix:/dev/log",
            "udp:127.0.0.1:514",
            "tcp:siem.example.com:601",
            "tcp:[2001:db8::1]:6514",
        ] {
            assert_eq!(text.parse::<SyslogTarget>().unwrap().to_string(), text);
        }
        let target: SyslogTarget = "udp:[::1]:514".parse().unwrap();
        assert_eq!(target, SyslogTarget::Udp { host: "::1".to_owned(), port: 514 });
    }

    #[test]
    fn each_mistake_in_a_receiver_has_its_error() {
        use SyslogTargetError as E;
        type Case<'a> = (&'a str, fn(String) -> E);
        let long = format!("unix:/{}", "x".repeat(107));
        let cases: [Case; 18] = [
            ("", E::Transport),
            ("/dev/log", E::Transport),
            ("tls:host:6514", E::Transport),
            ("UDP:host:1", E::Transport),
            ("unix:", E::Path),
            ("unix:dev/log", E::Path),
            ("unix:/a\0b", E::Path),
            (&long, E::PathLength),
            ("udp:", E::Port),
            ("udp:host", E::Port),
            ("udp:host:", E::Port),
            ("tcp:host:0", E::Port),
            ("tcp:host:65536", E::Port),
            ("tcp:[::1]", E::Port),
            ("tcp::514", E::Host),
            ("tcp:::1:514", E::Host),
            ("tcp:[::1:514", E::Host),
            ("tcp:ho st:514", E::Host),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<SyslogTarget>().unwrap_err(), error(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn facilities_read_as_they_are_written() {
        for (name, _) in FACILITIES {
            assert_eq!(name.parse::<SyslogFacility>().unwrap().to_string(), name);
        }
        assert_eq!(SyslogFacility::default().to_string(), "authpriv");
        let error = "kern".parse::<SyslogFacility>().unwrap_err();
        assert!(error.to_string().starts_with("syslog facility `kern` is not known"));
    }
}
