//! Calls: OCSF Network Activity (4001) with the profiles `host` and `security_control`.
//!
//! In: a [`Folded`] call. Out: head, body and extension of its event. Every call names agent,
//! instance, principal, grant, tool, destination, process, reason and generation; what there is
//! none of is `null`, not missing.

use std::sync::Arc;

use agent_enforcer_common::{
    destination::{PROTOCOL_TCP, PROTOCOL_UDP},
    reason::Reason,
    record::Hook,
};
use serde::Serialize;

use super::{
    Head, Kind, Severity, Status,
    objects::{self, Policy, ProcessObject, USER_UNKNOWN, User},
};
use crate::{
    decision::{CallDecision, GrantRef, Outcome, grant_name, instance_name},
    events::{EventClass, clock::Moment, fold::Folded},
};

#[derive(Serialize)]
pub(super) struct CallBody<'a> {
    action_id: u8,
    action: &'static str,
    disposition_id: u8,
    disposition: &'static str,
    is_alert: bool,
    actor: Actor<'a>,
    src_endpoint: Source<'a>,
    /// None where a socket was refused before it had a peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_endpoint: Option<Target>,
    is_src_dst_assignment_known: bool,
    observation_point_id: u8,
    connection_info: Connection,
    policy: Policy<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    firewall_rule: Option<Rule<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorizations: Vec<Authorization<'a>>,
}

#[derive(Serialize)]
struct Actor<'a> {
    app_name: &'a str,
    app_uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    process: ProcessObject<'a>,
}

#[derive(Serialize)]
struct Source<'a> {
    hostname: &'a str,
}

#[derive(Serialize)]
struct Target {
    ip: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface_uid: Option<String>,
}

#[derive(Serialize)]
struct Connection {
    direction_id: u8,
    direction: &'static str,
    protocol_num: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol_name: Option<&'static str>,
    protocol_ver_id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
}

#[derive(Serialize)]
struct Rule<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Authorization<'a> {
    decision: &'static str,
    policy: Policy<'a>,
}

#[derive(Serialize)]
pub(super) struct CallExtension<'a> {
    agent: &'a str,
    owner: &'a str,
    instance: String,
    exec: u64,
    principal: Option<&'a str>,
    grant: Option<String>,
    task: Option<&'a str>,
    tool: Option<&'a str>,
    destination: String,
    outcome: Outcome,
    reason: &'static str,
    audited_reason: Option<&'static str>,
    remedy: &'static str,
    generation: u64,
    hook: &'static str,
    stalled_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_cookie: Option<u64>,
    netns_cookie: u64,
    unit: Option<&'a str>,
    cgroup: &'a str,
    /// Of a folded event: the processes in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<&'a [u32]>,
    /// There were more than `pids` names.
    #[serde(skip_serializing_if = "is_false")]
    more_pids: bool,
    /// Paths in the event that are written as `%XX`, as they are not UTF-8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percent_encoded: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

const NETWORK_OPEN: Kind =
    Kind { class_uid: 4001, class_name: "Network Activity", activity_id: 1, activity_name: "Open" };
const NETWORK_REFUSE: Kind = Kind { activity_id: 5, activity_name: "Refuse", ..NETWORK_OPEN };

/// How OCSF says an outcome: activity, action, disposition, status.
struct Wording {
    kind: Kind,
    action: (u8, &'static str),
    disposition: (u8, &'static str),
    status: Status,
}

const fn wording(outcome: Outcome) -> Wording {
    match outcome {
        Outcome::Allowed => Wording {
            kind: NETWORK_OPEN,
            action: (1, "Allowed"),
            disposition: (1, "Allowed"),
            status: Status::Success,
        },
        Outcome::Denied => Wording {
            kind: NETWORK_REFUSE,
            action: (2, "Denied"),
            disposition: (2, "Blocked"),
            status: Status::Failure,
        },
        Outcome::Audited => Wording {
            kind: NETWORK_OPEN,
            action: (3, "Observed"),
            disposition: (17, "Logged"),
            status: Status::Success,
        },
        // Neither allowed nor denied yet: the call was made to wait.
        Outcome::Stalled => Wording {
            kind: NETWORK_OPEN,
            action: (4, "Modified"),
            disposition: (14, "Delayed"),
            status: Status::Other("Stalled"),
        },
    }
}

pub(super) fn parts<'a>(
    folded: &'a Folded,
    moment: &Moment,
    host: &'a str,
) -> (Head, CallBody<'a>, CallExtension<'a>) {
    let Folded { call, count, first_ns, last_ns, stalled_ns, pids, more_pids } = folded;
    let CallDecision {
        outcome,
        reason,
        audited_reason,
        time_ns: _,
        stalled_ns: own_stall_ns,
        agent,
        owner,
        instance,
        process,
        destination,
        tool,
        grant,
        hook,
        socket_cookie,
        netns_cookie,
        generation,
    } = &**call;
    let Wording { kind, action, disposition, status } = wording(*outcome);
    let severity = severity(*outcome, *reason, *audited_reason);
    let (process_object, percent_encoded) = objects::process(process, moment);
    let instance = instance_name(*instance);
    let is_one = *count == 1;
    let has_peer = *hook != Hook::SocketCreate;

    let span = if is_one {
        (*own_stall_ns != 0).then(|| (*first_ns, first_ns.saturating_add(*own_stall_ns)))
    } else {
        Some((*first_ns, *last_ns))
    };
    let head = Head {
        kind,
        severity,
        status,
        word: reason.word(),
        detail: Some(audited_reason.unwrap_or(*reason).remedy().to_owned()),
        message: message(folded, &instance),
        class: EventClass::from(*outcome),
        agent: Some(Arc::clone(agent)),
        count: *count,
        time_ms: moment.epoch_ms(*last_ns),
        span: span.map(|(start, end)| (moment.epoch_ms(start), moment.epoch_ms(end))),
        profiles: &["host", "security_control"],
    };
    let grant_ref = grant.as_deref();
    let body = CallBody {
        action_id: action.0,
        action: action.1,
        disposition_id: disposition.0,
        disposition: disposition.1,
        is_alert: severity >= Severity::High,
        actor: Actor {
            app_name: agent,
            app_uid: instance.clone(),
            user: grant_ref.map(|grant| User::named(&grant.principal, USER_UNKNOWN)),
            process: process_object,
        },
        src_endpoint: Source { hostname: host },
        dst_endpoint: has_peer.then(|| Target {
            ip: destination.ip().to_string(),
            port: destination.port(),
            interface_uid: (destination.scope() != 0).then(|| destination.scope().to_string()),
        }),
        is_src_dst_assignment_known: true,
        observation_point_id: 1,
        connection_info: Connection {
            direction_id: 2,
            direction: "Outbound",
            protocol_num: destination.protocol(),
            protocol_name: protocol_name(destination.protocol()),
            protocol_ver_id: match (has_peer, destination.ip().is_ipv4()) {
                (false, _) => 0,
                (true, true) => 4,
                (true, false) => 6,
            },
            uid: (is_one && *socket_cookie != 0).then(|| socket_cookie.to_string()),
        },
        policy: Policy {
            name: "agent-enforcer",
            kind: "policy and grants",
            uid: Some(generation.get().to_string()),
            version: Some(generation.get().to_string()),
            is_applied: Some(*outcome != Outcome::Audited),
        },
        firewall_rule: tool.as_deref().map(|name| Rule { name, kind: "tool" }),
        authorizations: grant_ref.map(|grant| authorization(grant, *outcome)).into_iter().collect(),
    };
    let extension = CallExtension {
        agent,
        owner,
        instance,
        exec: process.exec.get(),
        principal: grant_ref.map(|grant| grant.principal.as_str()),
        grant: grant_ref.map(|grant| grant_name(grant.id)),
        task: grant_ref.map(|grant| grant.task.as_str()),
        tool: tool.as_deref(),
        destination: destination.to_string(),
        outcome: *outcome,
        reason: reason.word(),
        audited_reason: audited_reason.map(Reason::word),
        remedy: audited_reason.unwrap_or(*reason).remedy(),
        generation: generation.get(),
        hook: hook_word(*hook),
        stalled_ns: *stalled_ns,
        socket_cookie: is_one.then_some(*socket_cookie),
        netns_cookie: *netns_cookie,
        unit: process.unit.as_deref(),
        cgroup: &process.cgroup,
        pids: (!is_one).then_some(pids),
        more_pids: *more_pids,
        percent_encoded,
    };
    (head, body, extension)
}

fn message(folded: &Folded, instance: &str) -> String {
    let Folded { call, count, .. } = folded;
    let outcome = EventClass::from(call.outcome).word();
    let reason = call.audited_reason.unwrap_or(call.reason).word();
    let times = if *count == 1 { String::new() } else { format!(" {count} times") };
    format!(
        "{outcome}{times}: agent {} ({instance}, pid {}) to {}: {reason}",
        call.agent, call.process.pid, call.destination,
    )
}

fn authorization(grant: &GrantRef, outcome: Outcome) -> Authorization<'_> {
    let GrantRef { id, principal: _, task } = grant;
    Authorization {
        decision: EventClass::from(outcome).word(),
        policy: Policy {
            name: task,
            kind: "grant",
            uid: Some(grant_name(*id)),
            version: None,
            is_applied: None,
        },
    }
}

fn severity(outcome: Outcome, reason: Reason, audited_reason: Option<Reason>) -> Severity {
    match outcome {
        Outcome::Allowed | Outcome::Stalled => Severity::Informational,
        Outcome::Denied => severity_of_denial(reason),
        Outcome::Audited => audited_reason.map_or(Severity::Low, severity_of_denial),
    }
}

/// High: the agent tries to get round the enforcement, or the enforcement has a fault.
const fn severity_of_denial(reason: Reason) -> Severity {
    match reason {
        Reason::None
        | Reason::AllowedStanding
        | Reason::AllowedGrant
        | Reason::Audited
        | Reason::Stalled => Severity::Informational,
        Reason::NoGrant
        | Reason::GrantNotYetValid
        | Reason::GrantExpired
        | Reason::GrantUsedUp
        | Reason::StallTimeout => Severity::Low,
        Reason::NoTool
        | Reason::ToolNotApproved
        | Reason::GrantRevoked
        | Reason::AgentUnknown
        | Reason::PendingLimit
        | Reason::RateLimited
        | Reason::ProtocolNotAllowed
        | Reason::MalformedPacket => Severity::Medium,
        Reason::IdentityUnverified
        | Reason::DigestMismatch
        | Reason::DaemonDown
        | Reason::RingFull
        | Reason::ProcessTableFull
        | Reason::TagFailed
        | Reason::Internal
        | Reason::SourceRoute => Severity::High,
        Reason::ExecutableMismatch => Severity::Critical,
    }
}

/// Severity of a process whose identity was refused.
pub(super) fn severity_of_refusal(reason: Reason) -> Severity {
    severity_of_denial(reason).max(Severity::High)
}

const fn protocol_name(protocol: u8) -> Option<&'static str> {
    match protocol {
        PROTOCOL_TCP => Some("tcp"),
        PROTOCOL_UDP => Some("udp"),
        _ => None,
    }
}

const fn hook_word(hook: Hook) -> &'static str {
    match hook {
        Hook::Connect => "connect",
        Hook::Sendmsg => "sendmsg",
        Hook::SocketCreate => "socket_create",
        Hook::Egress => "egress",
    }
}
