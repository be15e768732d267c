//! The parts of a call's event that only calls have, and its extension.
//!
//! In: what `call` puts into them. Out: objects under OCSF's names.

use serde::Serialize;

use super::super::objects::{Policy, ProcessObject, Software, User};
use crate::decision::Outcome;

#[derive(Serialize)]
pub(in crate::events::schema) struct CallBody<'a> {
    pub(super) action_id: u8,
    pub(super) action: &'static str,
    pub(super) disposition_id: u8,
    pub(super) disposition: &'static str,
    pub(super) is_alert: bool,
    pub(super) actor: Actor<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) src_endpoint: Option<Source<'a>>,
    /// None where a socket was refused before it had a peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dst_endpoint: Option<Target>,
    pub(super) is_src_dst_assignment_known: bool,
    pub(super) observation_point_id: u8,
    pub(super) connection_info: Connection,
    pub(super) policy: Policy<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) firewall_rule: Option<Rule<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) authorizations: Vec<Authorization<'a>>,
}

#[derive(Serialize)]
pub(super) struct Actor<'a> {
    pub(super) app_name: &'a str,
    pub(super) app_uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<User<'a>>,
    pub(super) process: ProcessObject<'a>,
}

#[derive(Serialize)]
pub(super) struct Source<'a> {
    pub(super) hostname: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Target {
    Address {
        ip: String,
        port: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        interface_uid: Option<String>,
    },
    /// Of a family without IP addresses.
    Named {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
        type_id: u8,
        #[serde(rename = "type")]
        kind: &'static str,
    },
}

#[derive(Serialize)]
pub(super) struct Connection {
    pub(super) direction_id: u8,
    pub(super) direction: &'static str,
    pub(super) protocol_num: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol_name: Option<&'static str>,
    pub(super) protocol_ver_id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Rule<'a> {
    pub(super) name: &'a str,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
}

#[derive(Serialize)]
pub(super) struct Authorization<'a> {
    pub(super) decision: &'static str,
    pub(super) policy: Policy<'a>,
}

#[derive(Serialize)]
pub(in crate::events::schema) struct CallExtension<'a> {
    pub(super) agent: &'a str,
    pub(super) owner: &'a str,
    pub(super) instance: String,
    pub(super) exec: u64,
    pub(super) principal: Option<&'a str>,
    pub(super) grant: Option<String>,
    pub(super) task: Option<&'a str>,
    /// Of a signed grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jti: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) txn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approval: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approver: Option<&'a str>,
    pub(super) tool: Option<&'a str>,
    pub(super) destination: String,
    pub(super) outcome: Outcome,
    pub(super) reason: &'static str,
    pub(super) audited_reason: Option<&'static str>,
    pub(super) miss_reason: Option<&'static str>,
    pub(super) remedy: &'static str,
    pub(super) generation: u64,
    pub(super) hook: &'static str,
    pub(super) stalled_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) socket_cookie: Option<u64>,
    pub(super) netns_cookie: u64,
    pub(super) unit: Option<&'a str>,
    pub(super) cgroup: &'a str,
    #[serde(flatten)]
    pub(super) software: Software<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_id: Option<&'a str>,
    /// Of a folded event: the processes in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pids: Option<&'a [u32]>,
    /// There were more than `pids` names.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) more_pids: bool,
    /// Paths in the event that are written as `%XX`, as they are not UTF-8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) percent_encoded: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
