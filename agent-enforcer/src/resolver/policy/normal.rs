//! A policy in its normal form: one YAML document that loads as the same policy.
//!
//! In: a [`Policy`]. Out: text with every default written out, for `policy show` and for
//! comparing what is in force with what was meant.

use serde::Serialize;

use super::{
    Agent, Policy, Tool, document::API_VERSION, selector::Term, tool_check::protocol_word,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NormalDocument<'a> {
    api_version: &'static str,
    tools: Vec<NormalTool<'a>>,
    agents: Vec<NormalAgent<'a>>,
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
}

#[derive(Serialize)]
struct NormalAgent<'a> {
    name: &'a str,
    owner: &'a str,
    purpose: &'a str,
    selectors: Vec<Vec<String>>,
    tools: Vec<&'a str>,
    standing: Vec<&'a str>,
    on_miss: &'static str,
    stall_limit: String,
    stall: NormalStall,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_mark: Option<String>,
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
    };
    // Strings and lists always serialise; were it ever otherwise, saying so beats silence.
    serde_saphyr::to_string(&document)
        .unwrap_or_else(|error| format!("# the policy can't be shown: {error}\n"))
}

fn tool(tool: &Tool) -> NormalTool<'_> {
    let Tool { id: _, name, networks, hosts, endpoints, ports, protocols } = tool;
    NormalTool {
        name,
        cidrs: networks.iter().map(ToString::to_string).collect(),
        hosts: hosts.iter().map(|host| &**host).collect(),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        ports: ports.iter().map(ToString::to_string).collect(),
        protocol: protocols.iter().map(|protocol| protocol_word(*protocol)).collect(),
    }
}

fn agent<'a>(policy: &'a Policy, agent: &'a Agent) -> NormalAgent<'a> {
    let Agent {
        name,
        owner,
        purpose,
        selectors,
        tools,
        standing,
        on_miss,
        stall_limit,
        stall_tcp,
        mode,
        socket_mark,
    } = agent;
    let names =
        |ids: &[_]| ids.iter().filter_map(|id| policy.tool(*id)).map(|tool| &*tool.name).collect();
    NormalAgent {
        name,
        owner,
        purpose,
        selectors: selectors.iter().map(Term::strings).collect(),
        tools: names(tools),
        standing: names(standing),
        on_miss: on_miss.word(),
        stall_limit: humantime::format_duration(*stall_limit).to_string(),
        stall: NormalStall { tcp: stall_tcp.word() },
        mode: mode.word(),
        socket_mark: socket_mark.map(|mark| format!("{mark:#x}")),
    }
}
