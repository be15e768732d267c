//! Grants, and the wish for one.

use std::time::Duration;

use super::{system_time, unix_ns};
use crate::{
    api::wire::{self, grant_issue_request::Holder},
    control::{ControlError, GrantSpec, GrantView},
};

impl TryFrom<GrantSpec> for wire::GrantIssueRequest {
    type Error = ControlError;

    fn try_from(spec: GrantSpec) -> Result<Self, ControlError> {
        let GrantSpec {
            agent,
            instance,
            tools,
            principal,
            task,
            reason,
            not_before,
            lifetime,
            max_uses,
        } = spec;
        let holder = match (agent, instance) {
            (Some(agent), None) => Holder::Agent(agent),
            (None, Some(instance)) => Holder::Instance(instance),
            (None, None) | (Some(_), Some(_)) => {
                return Err(ControlError::Invalid(
                    "a grant is for an agent or for an instance: name exactly one of them"
                        .to_owned(),
                ));
            }
        };
        Ok(Self {
            holder: Some(holder),
            tools,
            principal,
            task,
            reason,
            not_before_unix_ns: not_before.map(unix_ns),
            lifetime_ns: u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX),
            max_uses,
        })
    }
}

impl TryFrom<wire::GrantIssueRequest> for GrantSpec {
    type Error = ControlError;

    fn try_from(request: wire::GrantIssueRequest) -> Result<Self, ControlError> {
        let wire::GrantIssueRequest {
            holder,
            tools,
            principal,
            task,
            reason,
            not_before_unix_ns,
            lifetime_ns,
            max_uses,
        } = request;
        let (agent, instance) = match holder {
            Some(Holder::Agent(agent)) => (Some(agent), None),
            Some(Holder::Instance(instance)) => (None, Some(instance)),
            None => {
                return Err(ControlError::Invalid(
                    "the grant is for nobody: name an agent or an instance".to_owned(),
                ));
            }
        };
        Ok(Self {
            agent,
            instance,
            tools,
            principal,
            task,
            reason,
            not_before: not_before_unix_ns.map(system_time),
            lifetime: Duration::from_nanos(lifetime_ns),
            max_uses,
        })
    }
}

both_ways!(GrantView, wire::Grant {
    id, agent, instance, tools, locations, principal, task, reason, max_uses, uses, state, issuer,
    jti, parent;
    issued = issued_unix_ns (unix_ns, system_time),
    not_before = not_before_unix_ns (unix_ns, system_time),
    expires = expires_unix_ns (unix_ns, system_time)
});

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> GrantSpec {
        GrantSpec {
            agent: Some("coder".to_owned()),
            instance: None,
            tools: vec!["git".to_owned()],
            principal: "ada".to_owned(),
            task: "T-1".to_owned(),
            reason: String::new(),
            not_before: None,
            lifetime: Duration::from_mins(15),
            max_uses: None,
        }
    }

    #[test]
    fn refuses_grant_for_nobody_and_for_two() {
        let nobody = wire::GrantIssueRequest { holder: None, ..spec().try_into().unwrap() };
        assert!(matches!(GrantSpec::try_from(nobody), Err(ControlError::Invalid(_))));
        let two = GrantSpec { instance: Some("i-1".to_owned()), ..spec() };
        assert!(wire::GrantIssueRequest::try_from(two).is_err());
    }

    #[test]
    fn absent_is_not_zero() {
        let request = wire::GrantIssueRequest::try_from(spec()).unwrap();
        assert_eq!((request.not_before_unix_ns, request.max_uses), (None, None));
        let zero = GrantSpec { max_uses: Some(0), ..spec() };
        let back = GrantSpec::try_from(wire::GrantIssueRequest::try_from(zero).unwrap()).unwrap();
        assert_eq!(back.max_uses, Some(0));
    }
}
