//! Calls: those that wait, and those that somebody asks about.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{count, number, path, path_bytes, system_time, unix_ns};
use crate::{
    api::wire,
    control::{ControlError, ExplainQuestion, ExplainStep, Explanation, PendingView},
};

impl From<PendingView> for wire::PendingCall {
    fn from(call: PendingView) -> Self {
        let PendingView {
            request,
            agent,
            instance,
            pid,
            exe,
            destination,
            tool,
            reason,
            since,
            until,
            calls,
        } = call;
        Self {
            request,
            agent,
            instance,
            pid,
            exe: path_bytes(exe),
            destination,
            tool,
            reason,
            since_unix_ns: unix_ns(since),
            until_unix_ns: unix_ns(until),
            calls: number(calls),
        }
    }
}

impl From<wire::PendingCall> for PendingView {
    fn from(call: wire::PendingCall) -> Self {
        let wire::PendingCall {
            request,
            agent,
            instance,
            pid,
            exe,
            destination,
            tool,
            reason,
            since_unix_ns,
            until_unix_ns,
            calls,
        } = call;
        Self {
            request,
            agent,
            instance,
            pid,
            exe: path(exe),
            destination,
            tool,
            reason,
            since: system_time(since_unix_ns),
            until: system_time(until_unix_ns),
            calls: count(calls),
        }
    }
}

impl From<ExplainQuestion> for wire::ExplainRequest {
    fn from(question: ExplainQuestion) -> Self {
        let ExplainQuestion { pid, to, protocol } = question;
        let (address, scope) = match to {
            SocketAddr::V4(v4) => (v4.ip().octets().to_vec(), 0),
            SocketAddr::V6(v6) => (v6.ip().octets().to_vec(), v6.scope_id()),
        };
        Self { pid, address, port: to.port().into(), scope, protocol: protocol.into() }
    }
}

impl TryFrom<wire::ExplainRequest> for ExplainQuestion {
    type Error = ControlError;

    fn try_from(request: wire::ExplainRequest) -> Result<Self, ControlError> {
        let invalid = |what: &str| ControlError::Invalid(what.to_owned());
        let wire::ExplainRequest { pid, address, port, scope, protocol } = request;
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
        Ok(Self { pid, to, protocol })
    }
}

impl From<Explanation> for wire::ExplainResponse {
    fn from(explanation: Explanation) -> Self {
        let Explanation { outcome, reason, remedy, agent, instance, destination, steps } =
            explanation;
        let steps = steps.into_iter().map(Into::into).collect();
        Self { outcome, reason, remedy, agent, instance, destination, steps }
    }
}

impl From<wire::ExplainResponse> for Explanation {
    fn from(response: wire::ExplainResponse) -> Self {
        let wire::ExplainResponse { outcome, reason, remedy, agent, instance, destination, steps } =
            response;
        let steps = steps.into_iter().map(Into::into).collect();
        Self { outcome, reason, remedy, agent, instance, destination, steps }
    }
}

impl From<ExplainStep> for wire::ExplainStep {
    fn from(step: ExplainStep) -> Self {
        let ExplainStep { question, found, holds } = step;
        Self { question, found, holds }
    }
}

impl From<wire::ExplainStep> for ExplainStep {
    fn from(step: wire::ExplainStep) -> Self {
        let wire::ExplainStep { question, found, holds } = step;
        Self { question, found, holds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_port_and_scope() {
        for text in
            ["192.0.2.1:443", "[2001:db8::1]:53", "[fe80::1%3]:65535", "[::ffff:192.0.2.1]:0"]
        {
            let question = ExplainQuestion { pid: 1, to: text.parse().unwrap(), protocol: 17 };
            let back = ExplainQuestion::try_from(wire::ExplainRequest::from(question)).unwrap();
            assert_eq!((back.to.to_string().as_str(), back.protocol), (text, 17));
        }
    }

    #[test]
    fn refuses_what_is_no_address_port_or_protocol() {
        let good = || wire::ExplainRequest {
            pid: 1,
            address: vec![127, 0, 0, 1],
            port: 1,
            scope: 0,
            protocol: 6,
        };
        for bad in [
            wire::ExplainRequest { address: vec![1, 2, 3], ..good() },
            wire::ExplainRequest { address: Vec::new(), ..good() },
            wire::ExplainRequest { port: 65536, ..good() },
            wire::ExplainRequest { protocol: 256, ..good() },
        ] {
            assert!(matches!(ExplainQuestion::try_from(bad), Err(ControlError::Invalid(_))));
        }
        assert!(ExplainQuestion::try_from(good()).is_ok());
    }
}
