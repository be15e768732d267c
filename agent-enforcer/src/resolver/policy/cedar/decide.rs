//! One call, asked of Cedar's authorizer.
//!
//! In: the attested facts of a call ([`Facts`]), and a live grant or none. Out: an [`Answer`] with the
//! policies that determined it. Cedar leaves out a policy that it can't evaluate; here that is no answer at
//! all, as the one left out may be a forbid.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{
    destination::{Destination, PeerFamily},
    id::InstanceId,
};
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, PolicyId, Request, RestrictedExpression,
};

use super::{
    PolicyName,
    access::{Slice, sorted},
};
use crate::{
    decision::{Process, grant_name, instance_name},
    resolver::grant::{Grant, token::Action},
};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// What is known about a call, but for its grant.
#[derive(Clone, Copy)]
pub(in crate::resolver::policy) struct Facts<'a> {
    /// Name of the agent.
    pub(in crate::resolver::policy) agent: &'a str,
    /// The instance.
    pub(in crate::resolver::policy) instance: InstanceId,
    /// The program; `None` where it could not be read.
    pub(in crate::resolver::policy) process: Option<&'a Process>,
    /// 1: known, but none of the agent's own software; 2: as the policy's selectors say; 3: as the
    /// agent's signed manifest says.
    pub(in crate::resolver::policy) attestation: u8,
    /// Name of the tool.
    pub(in crate::resolver::policy) tool: &'a str,
    /// Where it goes, or where it is called.
    pub(in crate::resolver::policy) destination: &'a Destination,
    /// When.
    pub(in crate::resolver::policy) wall: SystemTime,
}

/// What Cedar says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::resolver::policy) enum Answer {
    /// It may go ahead.
    Allow {
        /// The permits.
        policies: Vec<PolicyName>,
        /// Each of them asks for an approver's yes.
        approval: bool,
    },
    /// Forbidden.
    Forbid {
        /// The forbids.
        policies: Vec<PolicyName>,
        /// One of them at least holds whatever is granted.
        whatever_granted: bool,
    },
    /// No policy permits it.
    Nothing,
    /// Policies that can't be evaluated.
    Failed(Vec<PolicyName>),
}

type Attributes = HashMap<String, RestrictedExpression>;

impl Slice {
    /// The parties of a call; `None` where Cedar refuses them.
    pub(in crate::resolver::policy) fn parties(&self, facts: &Facts<'_>) -> Option<Parties> {
        let uid = |kind: &EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
        };
        let words = &self.words;
        let principal = uid(&words.instance, &instance_name(facts.instance));
        let resource = uid(&words.destination, &facts.destination.to_string());
        let own = facts.process.map(program).unwrap_or_default();
        let instance =
            Entity::new(principal.clone(), own, [uid(&words.agent, facts.agent)].into()).ok()?;
        let parents = [uid(&words.tool, facts.tool)].into();
        let destination = Entity::new(resource.clone(), place(facts.destination), parents).ok()?;
        let entities = Entities::from_entities([instance, destination], None).ok()?;
        let action = words.action(Action::on(facts.destination)).clone();
        Some(Parties { principal, action, resource, entities })
    }

    /// Asks about a call with a live grant, or without one.
    pub(in crate::resolver::policy) fn ask(
        &self,
        parties: Option<&Parties>,
        facts: &Facts<'_>,
        grant: Option<&Grant>,
    ) -> Answer {
        let request = parties.and_then(|parties| self.request(parties, facts, grant));
        let (Some(parties), Some(request)) = (parties, request) else {
            return Answer::Failed(Vec::new());
        };
        let response = Authorizer::new().is_authorized(&request, &self.set, &parties.entities);
        let diagnostics = response.diagnostics();
        let failed: Vec<_> = diagnostics.errors().map(id_of).collect();
        if !failed.is_empty() {
            return Answer::Failed(sorted(failed.into_iter()));
        }
        let policies = sorted(diagnostics.reason());
        let note = |name: &PolicyName| self.notes.get(name);
        match response.decision() {
            Decision::Allow => {
                let asks = |name| note(name).is_some_and(|note| note.approval);
                Answer::Allow { approval: policies.iter().all(asks), policies }
            }
            Decision::Deny if policies.is_empty() => Answer::Nothing,
            Decision::Deny => {
                let holds = |name| note(name).is_some_and(|note| !note.reads_grant);
                Answer::Forbid { whatever_granted: policies.iter().any(holds), policies }
            }
        }
    }

    fn request(
        &self,
        parties: &Parties,
        facts: &Facts<'_>,
        grant: Option<&Grant>,
    ) -> Option<Request> {
        let mut context = vec![(
            "attestation".to_owned(),
            RestrictedExpression::new_long(facts.attestation.into()),
        )];
        if let Some(grant) = grant {
            context.push(("grant".to_owned(), granted(grant)?));
        }
        if self.reads_time {
            context.push(("time".to_owned(), time(facts.wall)?));
        }
        let context = Context::from_pairs(context).ok()?;
        let Parties { principal, action, resource, entities: _ } = parties;
        Request::new(principal.clone(), action.clone(), resource.clone(), context, None).ok()
    }
}

fn id_of(error: &AuthorizationError) -> &PolicyId {
    let AuthorizationError::PolicyEvaluationError(error) = error;
    error.policy_id()
}

/// Who calls, what is done, and where.
pub(in crate::resolver::policy) struct Parties {
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    entities: Entities,
}

fn text(text: impl Into<String>) -> RestrictedExpression {
    RestrictedExpression::new_string(text.into())
}

fn program(process: &Process) -> Attributes {
    let Process { exe, sha256, uid, unit, cgroup, .. } = process;
    let mut attributes = Attributes::new();
    let mut add = |name: &str, value| attributes.insert(name.to_owned(), value);
    add("uid", RestrictedExpression::new_long((*uid).into()));
    add("cgroup", text(cgroup));
    // A path that is no text equals none.
    if let Some(exe) = exe.as_ref().and_then(|exe| exe.to_str()) {
        add("executable", text(exe));
    }
    if let Some(sha256) = sha256 {
        add("sha256", text(sha256.to_string()));
    }
    if let Some(unit) = unit {
        add("unit", text(unit));
    }
    attributes
}

fn place(destination: &Destination) -> Attributes {
    let mut attributes = Attributes::new();
    let mut add = |name: &str, value| attributes.insert(name.to_owned(), value);
    let family = PeerFamily::from_raw(destination.family());
    match family {
        Some(PeerFamily::Ip | PeerFamily::Listen) => {
            add("address", RestrictedExpression::new_ip(destination.ip().to_string()));
            add("port", RestrictedExpression::new_long(destination.port().into()));
            let protocol = super::super::protocol_word(destination.protocol());
            add("protocol", text(protocol));
        }
        Some(PeerFamily::Unix | PeerFamily::Vsock | PeerFamily::Netlink | PeerFamily::Socket)
        | None => {}
    }
    let word = match family {
        Some(PeerFamily::Ip | PeerFamily::Listen) => "ip",
        Some(PeerFamily::Unix) => "unix",
        Some(PeerFamily::Vsock) => "vsock",
        Some(PeerFamily::Netlink) => "netlink",
        Some(PeerFamily::Socket) | None => "socket",
    };
    add("family", text(word));
    attributes
}

fn granted(grant: &Grant) -> Option<RestrictedExpression> {
    let mut fields = vec![
        ("id".to_owned(), text(grant_name(grant.id))),
        ("principal".to_owned(), text(&*grant.principal)),
        ("task".to_owned(), text(&*grant.task)),
    ];
    if let Some(origin) = &grant.origin {
        fields.push(("issuer".to_owned(), text(&*origin.issuer)));
    }
    RestrictedExpression::new_record(fields).ok()
}

/// The whole minute of a moment.
fn time(wall: SystemTime) -> Option<RestrictedExpression> {
    let seconds = seconds(wall);
    let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % MINUTE);
    let long = |number: u64| i64::try_from(number).ok().map(RestrictedExpression::new_long);
    let written = humantime::format_rfc3339_seconds(minute).to_string();
    let fields = [
        ("minute".to_owned(), RestrictedExpression::new_datetime(written)),
        ("hour".to_owned(), long(seconds % DAY / HOUR)?),
        // The first day was a Thursday.
        ("weekday".to_owned(), long((seconds / DAY + 3) % 7 + 1)?),
    ];
    RestrictedExpression::new_record(fields).ok()
}

/// How long a moment's minute lasts yet, ns.
pub fn minute_left_ns(wall: SystemTime) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let into = Duration::from_secs(since.as_secs() % MINUTE)
        + Duration::from_nanos(since.subsec_nanos().into());
    u64::try_from(Duration::from_secs(MINUTE).saturating_sub(into).as_nanos()).unwrap_or_default()
}

fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
