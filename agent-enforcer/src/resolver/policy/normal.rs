//! A policy in its normal form: one YAML document that loads as the same policy.
//!
//! In: a [`Policy`]. Out: text with every default written out, for `policy show` and for
//! comparing what is in force with what was meant.

use std::{path::Path, sync::Arc, time::Duration};

use agent_enforcer_common::id::ToolId;
use serde::Serialize;

use super::{
    Agent, AgentManifest, Approvals, Approver, Policy, Principal, Signer, Tool, Webhook,
    document::API_VERSION, selector::Term, tool_check::protocol_word,
};
use crate::{
    resolver::{grant::token::Issuer, spiffe::SpiffeId},
    signing::{KeyId, PublicKey},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NormalDocument<'a> {
    api_version: &'static str,
    tools: Vec<NormalTool<'a>>,
    agents: Vec<NormalAgent<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principals: Option<Vec<NormalPrincipal<'a>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<&'a PublicKey>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signers: Vec<NormalSigner<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    issuers: Vec<NormalIssuer<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    approvers: Vec<NormalApprover<'a>>,
    approvals: NormalApprovals<'a>,
}

#[derive(Serialize)]
struct NormalSigner<'a> {
    key: &'a KeyId,
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<Vec<&'a str>>,
}

#[derive(Serialize)]
struct NormalIssuer<'a> {
    name: &'a str,
    keys: Vec<&'a PublicKey>,
    agents: Vec<&'a str>,
    tools: Vec<&'a str>,
    must_attenuate: bool,
}

#[derive(Serialize)]
struct NormalPrincipal<'a> {
    name: &'a str,
    tools: Vec<&'a str>,
}

#[derive(Serialize)]
struct NormalApprover<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a KeyId>,
}

#[derive(Serialize)]
struct NormalApprovals<'a> {
    wait: String,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<NormalWebhook<'a>>,
}

#[derive(Serialize)]
struct NormalWebhook<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<&'a Path>,
    timeout: String,
    retries: u32,
}

#[derive(Serialize)]
struct NormalTool<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cidrs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    protocol: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    via: Vec<String>,
    approval: &'static str,
}

#[derive(Serialize)]
struct NormalAgent<'a> {
    name: &'a str,
    owner: &'a str,
    purpose: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a SpiffeId>,
    attestation: &'static str,
    selectors: Vec<Vec<String>>,
    tools: Vec<&'a str>,
    standing: Vec<&'a str>,
    on_miss: &'static str,
    stall_limit: String,
    stall: NormalStall,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_mark: Option<String>,
    grants: NormalGrants,
}

#[derive(Serialize)]
struct NormalGrants {
    local: &'static str,
    max_lifetime: String,
}

#[derive(Serialize)]
struct NormalStall {
    tcp: &'static str,
}

/// The YAML text of a policy.
pub(super) fn render(policy: &Policy) -> String {
    let document = NormalDocument {
        api_version: API_VERSION,
        tools: policy.tools().iter().map(tool).collect(),
        agents: policy.agents().iter().map(|one| agent(policy, one)).collect(),
        principals: policy.principals().map(|principals| {
            principals.iter().map(|principal| self::principal(policy, principal)).collect()
        }),
        keys: policy.trust().keys().iter().collect(),
        signers: policy.trust().signers().iter().map(signer).collect(),
        issuers: policy.trust().issuers().iter().map(issuer).collect(),
        approvers: policy.approvals().approvers.iter().map(approver).collect(),
        approvals: approvals(policy.approvals()),
    };
    text(&document)
}

/// The YAML text of an agent.
pub(super) fn agent_text(policy: &Policy, one: &Agent) -> String {
    text(&agent(policy, one))
}

/// The YAML text of a tool.
pub(super) fn tool_text(one: &Tool) -> String {
    text(&tool(one))
}

/// Strings and lists always serialise; were it ever otherwise, saying so beats silence.
fn text(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value)
        .unwrap_or_else(|error| format!("# the policy can't be shown: {error}\n"))
}

fn tool(tool: &Tool) -> NormalTool<'_> {
    let Tool { id: _, name, networks, hosts, endpoints, ports, protocols, listen, via, approval } =
        tool;
    NormalTool {
        name,
        cidrs: networks.iter().map(ToString::to_string).collect(),
        hosts: hosts.iter().map(|host| &**host).collect(),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        ports: ports.iter().map(ToString::to_string).collect(),
        protocol: protocols.iter().map(|protocol| protocol_word(*protocol)).collect(),
        listen: listen.iter().map(ToString::to_string).collect(),
        via: via.iter().map(ToString::to_string).collect(),
        approval: approval.word(),
    }
}

fn principal<'a>(policy: &'a Policy, principal: &'a Principal) -> NormalPrincipal<'a> {
    let Principal { name, tools } = principal;
    NormalPrincipal { name, tools: names(policy, tools) }
}

fn signer(signer: &Signer) -> NormalSigner<'_> {
    let Signer { key, agents } = signer;
    NormalSigner { key, agents: agents.as_deref().map(texts) }
}

fn issuer(issuer: &Issuer) -> NormalIssuer<'_> {
    let Issuer { name, keys, agents, tools, must_attenuate } = issuer;
    NormalIssuer {
        name,
        keys: keys.iter().collect(),
        agents: texts(agents),
        tools: texts(tools),
        must_attenuate: *must_attenuate,
    }
}

fn texts(texts: &[Arc<str>]) -> Vec<&str> {
    texts.iter().map(AsRef::as_ref).collect()
}

fn approver(approver: &Approver) -> NormalApprover<'_> {
    let Approver { name, uid, key } = approver;
    NormalApprover { name, uid: *uid, key: key.as_ref() }
}

fn approvals(approvals: &Approvals) -> NormalApprovals<'_> {
    let Approvals { approvers: _, wait, attendance, webhook } = approvals;
    let webhook = webhook.as_deref().map(webhook_of);
    NormalApprovals { wait: duration(*wait), mode: attendance.word(), webhook }
}

fn webhook_of(webhook: &Webhook) -> NormalWebhook<'_> {
    let Webhook { url, ca, timeout, retries } = webhook;
    let timeout = duration(*timeout);
    NormalWebhook { url: url.as_str(), ca: ca.as_deref(), timeout, retries: *retries }
}

fn names<'a>(policy: &'a Policy, ids: &[ToolId]) -> Vec<&'a str> {
    ids.iter().filter_map(|id| policy.tool(*id)).map(|tool| &*tool.name).collect()
}

fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn agent<'a>(policy: &'a Policy, agent: &'a Agent) -> NormalAgent<'a> {
    let Agent {
        name,
        owner,
        purpose,
        manifest,
        attestation,
        selectors,
        tools,
        standing,
        on_miss,
        stall_limit,
        stall_tcp,
        mode,
        socket_mark,
        local_grants,
        max_grant_lifetime,
    } = agent;
    NormalAgent {
        name,
        owner,
        purpose,
        agent_id: manifest.as_ref().map(AgentManifest::agent_id),
        attestation: attestation.word(),
        selectors: selectors.iter().map(Term::strings).collect(),
        tools: names(policy, tools),
        standing: names(policy, standing),
        on_miss: on_miss.word(),
        stall_limit: duration(*stall_limit),
        stall: NormalStall { tcp: stall_tcp.word() },
        mode: mode.word(),
        socket_mark: socket_mark.map(|mark| format!("{mark:#x}")),
        grants: NormalGrants {
            local: local_grants.word(),
            max_lifetime: duration(*max_grant_lifetime),
        },
    }
}
