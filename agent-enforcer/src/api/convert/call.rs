//! Calls: those that wait, and those that somebody asks about.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use super::{count, each, number, optional, path, path_bytes, system_time, unix_ns};
use crate::{
    api::wire,
    control::{
        AnswerSpec, AnswerView, ApprovalView, ControlError, ExplainQuestion, ExplainStep,
        ExplainTarget, Explanation, PendingView,
    },
    resolver::{approval::Verdict, policy::Endpoint},
};

both_ways!(PendingView, wire::PendingCall {
    request, agent, instance, pid, destination, tool, reason;
    exe = exe (path_bytes, path),
    since = since_unix_ns (unix_ns, system_time),
    until = until_unix_ns (unix_ns, system_time),
    calls = calls (number, count),
    approval = approval (optional, optional)
});

both_ways!(
    ApprovalView,
    wire::ApprovalQuestion { id, digest, sha256, script, manifest, uid, grant, principal, task }
);

both_ways!(AnswerView, wire::AnswerResponse {
    id, verdict, approver, whole_tool;
    until = until_unix_ns (unix_ns, system_time)
});

impl From<AnswerSpec> for wire::AnswerRequest {
    fn from(spec: AnswerSpec) -> Self {
        let AnswerSpec { id, digest, verdict, whole_tool, lifetime } = spec;
        let approve = match verdict {
            Verdict::Approved => true,
            Verdict::Denied => false,
        };
        let lifetime_ns = u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX);
        Self { id, digest, approve, whole_tool, lifetime_ns }
    }
}

impl From<wire::AnswerRequest> for AnswerSpec {
    fn from(request: wire::AnswerRequest) -> Self {
        let wire::AnswerRequest { id, digest, approve, whole_tool, lifetime_ns } = request;
        let verdict = if approve { Verdict::Approved } else { Verdict::Denied };
        Self { id, digest, verdict, whole_tool, lifetime: Duration::from_nanos(lifetime_ns) }
    }
}

impl From<ExplainQuestion> for wire::ExplainRequest {
    fn from(question: ExplainQuestion) -> Self {
        let ExplainQuestion { pid, to } = question;
        let (to, protocol) = match to {
            ExplainTarget::Address { to, protocol } => (to, protocol),
            ExplainTarget::Endpoint(endpoint) => {
                return Self { pid, endpoint: endpoint.to_string(), ..Self::default() };
            }
        };
        let (address, scope) = match to {
            SocketAddr::V4(v4) => (v4.ip().octets().to_vec(), 0),
            SocketAddr::V6(v6) => (v6.ip().octets().to_vec(), v6.scope_id()),
        };
        let (port, protocol) = (to.port().into(), protocol.into());
        Self { pid, address, port, scope, protocol, endpoint: String::new() }
    }
}

impl TryFrom<wire::ExplainRequest> for ExplainQuestion {
    type Error = ControlError;

    fn try_from(request: wire::ExplainRequest) -> Result<Self, ControlError> {
        let invalid = |what: &str| ControlError::Invalid(what.to_owned());
        let wire::ExplainRequest { pid, address, port, scope, protocol, endpoint } = request;
        if !endpoint.is_empty() {
            if !address.is_empty() {
                return Err(invalid("a destination is an address or an endpoint, not both"));
            }
            let endpoint = Endpoint::parse(&endpoint)
                .map_err(|problem| ControlError::Invalid(problem.to_string()))?;
            return Ok(Self { pid, to: ExplainTarget::Endpoint(endpoint) });
        }
        let port = u16::try_from(port).map_err(|_| invalid("a port is at most 65535"))?;
        let protocol = u8::try_from(protocol).map_err(|_| invalid("a protocol is at most 255"))?;
        let ip = <[u8; 4]>::try_from(address.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(address.as_slice()).map(IpAddr::from))
            .map_err(|_| invalid("an address is 4 or 16 bytes long"))?;
        let to = match ip {
            IpAddr::V4(v4) => SocketAddrV4::new(v4, port).into(),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
        };
        Ok(Self { pid, to: ExplainTarget::Address { to, protocol } })
    }
}

both_ways!(Explanation, wire::ExplainResponse {
    outcome, reason, remedy, agent, instance, destination;
    steps = steps (each, each)
});

both_ways!(ExplainStep, wire::ExplainStep { question, found, holds });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_port_and_scope() {
        for text in
            ["192.0.2.1:443", "[2001:db8::1]:53", "[fe80::1%3]:65535", "[::ffff:192.0.2.1]:0"]
        {
            let to = ExplainTarget::Address { to: text.parse().unwrap(), protocol: 17 };
            assert_eq!(there_and_back(to.clone()), to);
        }
    }

    #[test]
    fn endpoints_stay_what_they_are() {
        for text in ["unix:/run/docker.sock", "unix:@a b", "vsock:2:1024", "netlink:audit"] {
            let to = ExplainTarget::Endpoint(Endpoint::parse(text).unwrap());
            assert_eq!(there_and_back(to.clone()), to);
        }
    }

    fn there_and_back(to: ExplainTarget) -> ExplainTarget {
        let request = wire::ExplainRequest::from(ExplainQuestion { pid: 1, to });
        ExplainQuestion::try_from(request).unwrap().to
    }

    #[test]
    fn refuses_what_is_no_address_port_or_protocol() {
        let good = || wire::ExplainRequest {
            pid: 1,
            address: vec![127, 0, 0, 1],
            port: 1,
            scope: 0,
            protocol: 6,
            endpoint: String::new(),
        };
        for bad in [
            wire::ExplainRequest { address: vec![1, 2, 3], ..good() },
            wire::ExplainRequest { address: Vec::new(), ..good() },
            wire::ExplainRequest { port: 65536, ..good() },
            wire::ExplainRequest { protocol: 256, ..good() },
            wire::ExplainRequest { endpoint: "unix:/run/x".to_owned(), ..good() },
            wire::ExplainRequest {
                address: Vec::new(),
                endpoint: "unix:run/x".to_owned(),
                ..good()
            },
        ] {
            assert!(matches!(ExplainQuestion::try_from(bad), Err(ControlError::Invalid(_))));
        }
        assert!(ExplainQuestion::try_from(good()).is_ok());
    }
}
