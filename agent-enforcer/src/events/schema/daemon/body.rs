//! The parts of a daemon event that differ by class, and its extension.
//!
//! In: what `daemon` puts into them. Out: objects under OCSF's names.

use std::borrow::Cow;

use serde::Serialize;

use super::super::objects::{ProcessEntity, ProcessObject, Product, Software, User};

/// What differs by class.
#[derive(Serialize)]
#[serde(untagged)]
pub(in crate::events::schema) enum DaemonBody<'a> {
    /// Application Error.
    Error {},
    /// Application Lifecycle.
    Application { app: Product<'a> },
    /// Entity Management.
    Entity { entity: Entity },
    /// User Access Management.
    Access { actor: GrantActor<'a>, user: User<'a>, privileges: &'a [String] },
    /// User Access Management, asked of or answered by an approver.
    Approval { actor: GrantActor<'a>, user: User<'a>, privileges: [&'a str; 1] },
    /// Process Activity.
    Process { actor: ProcessActor<'a>, process: Box<ProcessObject<'a>> },
    /// Detection Finding about the host.
    Alarm { is_alert: bool, finding_info: Finding<'a>, remediation: Remediation<'a> },
    /// Detection Finding about a process.
    Refusal {
        is_alert: bool,
        action_id: u8,
        action: &'static str,
        disposition_id: u8,
        disposition: &'static str,
        finding_info: Finding<'a>,
        evidences: [Box<Evidence<'a>>; 1],
        remediation: Remediation<'a>,
    },
}

#[derive(Serialize)]
pub(in crate::events::schema) struct Entity {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) type_id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
}

#[derive(Serialize)]
pub(in crate::events::schema) struct GrantActor<'a> {
    pub(super) app_name: &'static str,
    pub(super) user: User<'a>,
}

#[derive(Serialize)]
pub(in crate::events::schema) struct ProcessActor<'a> {
    pub(super) app_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<ProcessEntity<'a>>,
}

#[derive(Serialize)]
pub(in crate::events::schema) struct Finding<'a> {
    pub(super) uid: Cow<'a, str>,
    pub(super) title: &'a str,
    pub(super) types: [&'static str; 1],
}

#[derive(Serialize)]
pub(in crate::events::schema) struct Evidence<'a> {
    pub(super) name: &'static str,
    pub(super) process: ProcessObject<'a>,
}

#[derive(Serialize)]
pub(in crate::events::schema) struct Remediation<'a> {
    pub(super) desc: &'a str,
}

/// `unmapped.agent_enforcer`: what the event has, and nothing else.
#[derive(Default, Serialize)]
pub(in crate::events::schema) struct DaemonExtension<'a> {
    pub(super) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exec: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) grant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tools: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) locations: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jti: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) txn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) manifest_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) manifest_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signers: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approval: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approval_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approver: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) whole_tool: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plane: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agents: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy_tools: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) table: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guard: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) argument: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<&'a str>,
    #[serde(flatten)]
    pub(super) software: Option<Software<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) percent_encoded: Vec<String>,
}
