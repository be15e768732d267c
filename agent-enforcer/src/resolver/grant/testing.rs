//! Grants and moments for tests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::id::{GrantId, InstanceId};

use super::{BootId, Grant, GrantSubject, Moment, NewGrant, check_spec, token::Scope};
use crate::{control::GrantSpec, resolver::policy::testing::policy};

/// A moment `seconds` after the boot `first`, and after a fixed wall time.
pub(in crate::resolver) fn moment(seconds: u64) -> Moment {
    Moment { wall: wall(seconds), boot_ns: seconds * 1_000_000_000, boot: BootId::new("first") }
}

pub(in crate::resolver) fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

/// A request for half an hour.
pub(in crate::resolver) fn spec(agent: &str, tools: &[&str]) -> GrantSpec {
    GrantSpec {
        agent: Some(agent.to_owned()),
        instance: None,
        tools: tools.iter().map(ToString::to_string).collect(),
        principal: "alice@example.com".to_owned(),
        task: "TICKET-1".to_owned(),
        reason: "approved by bob".to_owned(),
        not_before: None,
        lifetime: Duration::from_mins(30),
        max_uses: None,
    }
}

/// A checked request for half an hour from `now` on.
pub(in crate::resolver) fn new_grant(now: &Moment) -> NewGrant {
    let policy = policy(
        "tools:
  - {name: mail, cidrs: [192.0.2.1], ports: [25]}
agents:
  - {name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [mail]}
",
    );
    check_spec(&spec("bot", &["mail"]), &policy, |_| None, now).unwrap()
}

/// A grant for an agent from `not_before_ns` to `expires_ns`.
pub(in crate::resolver) fn grant(
    id: u64,
    agent: &str,
    tools: &[&str],
    not_before_ns: u64,
    expires_ns: u64,
) -> Grant {
    Grant {
        id: GrantId::new(id),
        subject: GrantSubject { agent: agent.into(), instance: None },
        scope: Scope::of_tools(tools.iter().map(|tool| Arc::from(*tool))),
        principal: "alice@example.com".into(),
        task: "TICKET-1".into(),
        reason: "approved by bob".into(),
        issued: wall(0),
        not_before: wall(0),
        expires: wall(0),
        not_before_ns,
        expires_ns,
        max_uses: None,
        uses: 0,
        revoked: None,
        origin: None,
    }
}

/// The same for one instance.
pub(in crate::resolver) fn for_instance(mut grant: Grant, instance: u64) -> Grant {
    grant.subject.instance = Some(InstanceId::new(instance));
    grant
}

/// The same for a number of calls.
pub(in crate::resolver) fn counted(mut grant: Grant, max_uses: u32, uses: u32) -> Grant {
    (grant.max_uses, grant.uses) = (Some(max_uses), uses);
    grant
}
