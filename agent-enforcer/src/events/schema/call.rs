//! Calls: OCSF Network Activity (4001) with the profiles `host` and `security_control`.
//!
//! In: a [`Folded`] call. Out: head, body and extension of its event. Every call names agent,
//! instance, principal, grant, tool, destination, process, reason and generation; what there is
//! none of is `null`, not missing.

mod body;
mod wording;

use std::sync::Arc;

use agent_enforcer_common::{
    destination::{Destination, PeerFamily},
    reason::Reason,
    record::Hook,
};

use super::{
    Head, Severity,
    objects::{self, Policy, ProcessObject, USER_UNKNOWN, User},
};
use crate::{
    decision::{CallDecision, GrantRef, Outcome, PeerName, grant_name, instance_name},
    events::{EventClass, clock::Moment, fold::Folded},
    resolver::spiffe::SpiffeId,
};
use body::{Actor, Authorization, CallBody, CallExtension, Connection, Rule, Source, Target};
use wording::{Wording, hook_word, peer_kind, protocol_name, severity, wording};

pub(super) use wording::severity_of_refusal;

/// `connection_info.protocol_num` where IANA has no number.
const NO_IP_PROTOCOL: i16 = -1;
/// `dst_endpoint.type_id`: none of OCSF's kinds of devices.
const OTHER_ENDPOINT: u8 = 99;

pub(super) fn parts<'a>(
    folded: &'a Folded,
    moment: &Moment,
    host: &'a str,
) -> (Head, CallBody<'a>, CallExtension<'a>) {
    let (process, percent_encoded) = objects::process(&folded.call.process, moment);
    let head = head(folded, moment);
    let body = body(folded, process, head.severity, host);
    (head, body, extension(folded, percent_encoded))
}

fn head(folded: &Folded, moment: &Moment) -> Head {
    let Folded { call, count, first_ns, last_ns, .. } = folded;
    let Wording { kind, status, .. } = wording(call.outcome);
    let span = if *count == 1 {
        (call.stalled_ns != 0).then(|| (*first_ns, first_ns.saturating_add(call.stalled_ns)))
    } else {
        Some((*first_ns, *last_ns))
    };
    Head {
        kind,
        severity: severity(call.outcome, call.telling_reason()),
        status,
        word: call.reason.word(),
        detail: Some(call.telling_reason().remedy().to_owned()),
        message: message(folded),
        class: EventClass::from(call.outcome),
        agent: Some(Arc::clone(&call.agent)),
        count: *count,
        time_ms: moment.epoch_ms(*last_ns),
        span: span.map(|(start, end)| (moment.epoch_ms(start), moment.epoch_ms(end))),
        profiles: &["host", "security_control"],
    }
}

fn body<'a>(
    folded: &'a Folded,
    process: ProcessObject<'a>,
    severity: Severity,
    host: &'a str,
) -> CallBody<'a> {
    let call = &*folded.call;
    let Wording { action, disposition, .. } = wording(call.outcome);
    let grant = call.grant.as_deref();
    let inbound = call.destination.family() == PeerFamily::Listen as u8;
    let is_ip = inbound || call.destination.family() == PeerFamily::Ip as u8;
    // A socket that was refused has no peer yet, but of other families its kind is what was judged.
    let peer = (call.hook != Hook::SocketCreate && is_ip).then_some(&call.destination);
    CallBody {
        action_id: action.0,
        action: action.1,
        disposition_id: disposition.0,
        disposition: disposition.1,
        is_alert: severity >= Severity::High,
        actor: Actor {
            app_name: &call.agent,
            app_uid: instance_name(call.instance),
            user: grant.map(|grant| User::named(&grant.principal, USER_UNKNOWN)),
            process,
        },
        // Who calls an agent is not known before the connection stands.
        src_endpoint: (!inbound).then_some(Source { hostname: host }),
        dst_endpoint: peer
            .map(target)
            .or_else(|| call.peer.as_deref().map(|peer| named(call, peer))),
        is_src_dst_assignment_known: true,
        observation_point_id: 1,
        connection_info: Connection {
            direction_id: if inbound { 1 } else { 2 },
            direction: if inbound { "Inbound" } else { "Outbound" },
            protocol_num: if is_ip { call.destination.protocol().into() } else { NO_IP_PROTOCOL },
            protocol_name: protocol_name(&call.destination),
            protocol_ver_id: peer.map_or(0, |peer| if peer.ip().is_ipv4() { 4 } else { 6 }),
            uid: socket_cookie(folded).map(|cookie| cookie.to_string()),
        },
        policy: Policy {
            name: "agent-enforcer",
            kind: "policy and grants",
            uid: Some(call.generation.get().to_string()),
            version: Some(call.generation.get().to_string()),
            is_applied: Some(call.outcome != Outcome::Audited),
        },
        firewall_rule: call.tool.as_deref().map(|name| Rule { name, kind: "tool" }),
        authorizations: grant.map(|grant| authorization(grant, call.outcome)).into_iter().collect(),
    }
}

fn extension(folded: &Folded, percent_encoded: Vec<String>) -> CallExtension<'_> {
    let Folded { call, count, first_ns: _, last_ns: _, stalled_ns, pids, more_pids } = folded;
    let mut percent_encoded = percent_encoded;
    let CallDecision {
        outcome,
        reason,
        audited_reason,
        miss_reason,
        count: _,
        time_ns: _,
        last_ns: _,
        stalled_ns: _,
        agent,
        owner,
        instance,
        process,
        last_pid: _,
        destination: _,
        peer,
        tool,
        grant,
        approval,
        hook,
        socket_cookie: _,
        netns_cookie,
        generation,
    } = &**call;
    if peer.as_ref().is_some_and(|peer| peer.percent_encoded) {
        percent_encoded.push("dst_endpoint.name".to_owned());
    }
    let is_one = *count == 1;
    let grant = grant.as_deref();
    CallExtension {
        agent,
        owner,
        instance: instance_name(*instance),
        exec: process.exec.get(),
        principal: grant.map(|grant| grant.principal.as_str()),
        grant: grant.map(|grant| grant_name(grant.id)),
        task: grant.map(|grant| grant.task.as_str()),
        issuer: grant.and_then(|grant| grant.issuer.as_deref()),
        jti: grant.and_then(|grant| grant.jti.as_deref()),
        txn: grant.and_then(|grant| grant.txn.as_deref()),
        approval: approval.as_ref().map(|approval| approval.question.as_str()),
        approver: approval.as_ref().map(|approval| approval.approver.as_str()),
        tool: tool.as_deref(),
        destination: call.destination_text(),
        outcome: *outcome,
        reason: reason.word(),
        audited_reason: audited_reason.map(Reason::word),
        miss_reason: miss_reason.map(Reason::word),
        remedy: call.telling_reason().remedy(),
        generation: generation.get(),
        hook: hook_word(*hook),
        stalled_ns: *stalled_ns,
        socket_cookie: socket_cookie(folded),
        netns_cookie: *netns_cookie,
        unit: process.unit.as_deref(),
        cgroup: &process.cgroup,
        software: objects::software(process),
        spiffe_id: process.spiffe_id.as_ref().map(SpiffeId::as_str),
        pids: (!is_one).then_some(pids),
        more_pids: *more_pids,
        percent_encoded,
    }
}

/// Folded calls come from more than one socket.
fn socket_cookie(folded: &Folded) -> Option<u64> {
    let cookie = folded.call.socket_cookie;
    (folded.count == 1 && cookie != 0).then_some(cookie)
}

fn target(peer: &Destination) -> Target {
    Target::Address {
        ip: peer.ip().to_string(),
        port: peer.port(),
        interface_uid: (peer.scope() != 0).then(|| peer.scope().to_string()),
    }
}

fn named(call: &CallDecision, peer: &PeerName) -> Target {
    let PeerName { name, detail, percent_encoded: _ } = peer;
    Target::Named {
        name: name.clone(),
        uid: detail.clone(),
        type_id: OTHER_ENDPOINT,
        kind: peer_kind(&call.destination),
    }
}

fn message(folded: &Folded) -> String {
    let Folded { call, count, .. } = folded;
    let outcome = EventClass::from(call.outcome).word();
    let instance = instance_name(call.instance);
    let reason = call.audited_reason.unwrap_or(call.reason).word();
    let missing = call.miss_reason.map_or_else(String::new, |miss| format!(" ({})", miss.word()));
    let times = if *count == 1 { String::new() } else { format!(" {count} times") };
    format!(
        "{outcome}{times}: agent {} ({instance}, pid {}) to {}: {reason}{missing}",
        call.agent,
        call.process.pid,
        call.destination_text(),
    )
}

fn authorization(grant: &GrantRef, outcome: Outcome) -> Authorization<'_> {
    let GrantRef { id, principal: _, task, issuer: _, jti: _, txn: _ } = grant;
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
