//! The policy in force: which agents there are, what recognises them, which tools they may use.
//!
//! In: a directory of YAML files, once, through [`Policy::load`]. Out: a validated [`Policy`] and
//! what is derived from it: selector tables ([`SelectorPlan`]), one call's [`rule`], and the
//! prefix tables of the kernel side ([`compile`]). All of it is pure and synchronous: nothing
//! here reads a clock, resolves a name or talks to the kernel.

mod access_check;
mod agent_check;
mod compile;
mod coverage;
mod directory;
mod document;
mod endpoint;
mod error;
mod listen;
mod manifests;
mod network;
mod normal;
mod place;
mod plan;
mod rule;
mod schema;
mod selector;
mod selector_check;
mod tool_check;
mod trust;
mod via;
mod webhook_check;

#[cfg(test)]
mod compile_tests;
#[cfg(test)]
mod files_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
pub(in crate::resolver) mod testing;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP, PeerFamily},
    id::ToolId,
    reason::Reason,
};
use ipnet::IpNet;

use reqwest::Url;

use super::grant::token::Location;
use crate::signing::KeyId;
use access_check::CheckedAccess;
use agent_check::CheckedAgents;
pub use compile::{Compiled, ScopedPrefix, compile};
use coverage::{AddressIndex, EndpointIndex, Prefix};
pub use endpoint::{Endpoint, EndpointProblem, family_word};
pub use error::{Overlap, PolicyError, PolicyErrors, Problem};
pub use listen::ListenRange;
pub use manifests::AgentManifest;
pub use place::Place;
pub use plan::{PlannedTerm, SelectorPlan};
pub use rule::{ImageOperand, Question, Ruling, explain_rule, rule};
pub use schema::json_schema;
pub use selector::{CgroupSelector, Term};
pub use trust::{Signer, Trust};
pub use via::Via;

pub(in crate::resolver) use coverage::network_covers;
pub(in crate::resolver) use network::parse as parse_network;
pub(in crate::resolver) use tool_check::{is_name, port_range, protocol, protocol_word};

/// A validated policy. Equal policies have equal tools and agents in equal order.
#[derive(Clone, Debug)]
pub struct Policy {
    tools: Vec<Tool>,
    agents: Vec<Agent>,
    tool_names: HashMap<Arc<str>, usize>,
    agent_names: HashMap<Arc<str>, usize>,
    principals: Option<Vec<Principal>>,
    approvals: Approvals,
    trust: Trust,
    addresses: AddressIndex,
    listeners: AddressIndex,
    endpoints: EndpointIndex,
}

/// A named set of destinations. No destination belongs to two tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Position in the policy plus one; its meaning is bound to this policy.
    pub id: ToolId,
    /// Unique name.
    pub name: Arc<str>,
    /// Addresses, as written.
    pub networks: Vec<IpNet>,
    /// Host names, as written. Not resolved yet: only `networks` decides.
    pub hosts: Vec<Arc<str>>,
    /// Destinations that are no IP addresses, as written.
    pub endpoints: Vec<Endpoint>,
    /// Ports of `networks`, sorted, not touching each other.
    pub ports: Vec<PortRange>,
    /// Transport protocols (`IPPROTO_*`) of `networks`, sorted.
    pub protocols: Vec<u8>,
    /// Addresses of this host at which agents may be called over TCP, sorted.
    pub listen: Vec<ListenRange>,
    /// The only executables that may use it; empty for any.
    pub via: Vec<Via>,
    /// Whether each use needs an approver's yes.
    pub approval: Approval,
}

/// Whether a tool's use needs an approver's yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// It does not.
    None,
    /// It does.
    Required,
}

/// Somebody on whose behalf agents may act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// As grants name it.
    pub name: Arc<str>,
    /// The tools that agents may use for it at most; sorted.
    pub tools: Vec<ToolId>,
}

/// Who may approve, and how that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// Who may.
    pub approvers: Vec<Approver>,
    /// How long a call waits for its approval.
    pub wait: Duration,
    /// Whether anybody is asked.
    pub attendance: Attendance,
    /// Who is asked over HTTPS besides.
    pub webhook: Option<Arc<Webhook>>,
}

/// A web service that brings questions to approvers, and their signed answers back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where each question is posted to; `https` only.
    pub url: Url,
    /// PEM file of the only authorities that may vouch for it; `None`: those of the host.
    pub ca: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// How often a request that failed is made again.
    pub retries: u32,
}

/// Somebody who may approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// As events name it.
    pub name: Arc<str>,
    /// The user id that it approves under, on this host.
    pub uid: Option<u32>,
    /// The key that signs its answers through the webhook.
    pub key: Option<KeyId>,
}

/// Whether somebody is there to approve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attendance {
    /// Somebody is asked.
    Attended,
    /// Nobody is: what needs approval is denied at once.
    Unattended,
}

/// Ports from `first` to `last`, both included, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port, at least 1.
    pub first: u16,
    /// Last port, not below `first`.
    pub last: u16,
}

/// A class of workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Unique name.
    pub name: Arc<str>,
    /// Who answers for it.
    pub owner: Arc<str>,
    /// What it is for.
    pub purpose: Arc<str>,
    /// The signed manifest that it must have; `None` where the policy demands none.
    pub manifest: Option<AgentManifest>,
    /// Who says that a process is this agent.
    pub attestation: Attestation,
    /// What recognises its processes: any one of the terms.
    pub selectors: Vec<Term>,
    /// The approved set, the ceiling of every grant; sorted.
    pub tools: Vec<ToolId>,
    /// Those usable without a grant; a subset of `tools`, sorted.
    pub standing: Vec<ToolId>,
    /// What becomes of a call that nothing covers.
    pub on_miss: OnMiss,
    /// How long a call may wait for its decision.
    pub stall_limit: Duration,
    /// How a TCP call waits.
    pub stall_tcp: TcpStall,
    /// Whether denials are enforced.
    pub mode: Mode,
    /// `SO_MARK` of its sockets; `None` leaves the mark alone.
    pub socket_mark: Option<NonZeroU32>,
    /// Whether it may have grants that nobody has signed.
    pub local_grants: LocalGrants,
    /// How long a signed grant of it may last.
    pub max_grant_lifetime: Duration,
}

/// Who says that a process is an agent, beside the selectors that recognise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attestation {
    /// This host alone.
    Local,
    /// A SPIFFE broker as well: the process must have the agent's `agent_id` there.
    Spiffe,
}

/// Whether root of this host may issue grants that nobody has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalGrants {
    /// It may.
    Allow,
    /// Only signed ones count.
    Deny,
}

/// What becomes of a call that no grant covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMiss {
    /// It waits for a grant, up to the stall limit.
    Stall,
    /// It is denied at once.
    Deny,
}

impl OnMiss {
    /// The reason of a denial, by what is missing: as the kernel side gives it, which denies on a
    /// miss without knowing more.
    pub const fn denial(self, missing: Reason) -> Reason {
        match self {
            Self::Stall => missing,
            Self::Deny => Reason::DeniedOnMiss,
        }
    }
}

/// How a TCP call of an agent waits for its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpStall {
    /// Its packets are kept back.
    Hold,
    /// The calling process is stopped, where LSM programs are in force.
    Park,
}

/// Whether denials are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A denied call fails.
    Enforce,
    /// A denied call goes through and is recorded.
    Audit,
}

impl Policy {
    /// Reads, checks and merges every `*.yaml` and `*.yml` of a directory, and every manifest (`*.json`).
    /// On error: everything that is wrong in all of the files, not just the first of it. No manifest
    /// counts yet, see [`Self::admit_manifests`].
    pub fn load(dir: &Path) -> Result<Self, PolicyErrors> {
        let (sources, mut errors) = directory::read(dir)?;
        let tools = tool_check::check(&sources.policies, &mut errors);
        let CheckedAgents { agents, names } = agent_check::check(&sources, &tools, &mut errors);
        let trust = trust::check(&sources.policies, &tools, &names, &mut errors);
        let access = access_check::check(&sources.policies, &tools, trust.keys(), &mut errors);
        access_check::refuse_unapprovable(&tools, &access.approvals, &mut errors);
        if errors.is_empty() && tools.names.is_empty() && agents.is_empty() {
            errors.push(PolicyError::new(Place::whole(dir), Problem::NothingNamed));
        }
        if !errors.is_empty() {
            return Err(PolicyErrors::new(errors));
        }
        Ok(Self::assemble(tools.tools, agents, access, trust))
    }

    /// Indexes checked tools and agents. The ids of `tools` are their positions plus one.
    fn assemble(tools: Vec<Tool>, agents: Vec<Agent>, access: CheckedAccess, trust: Trust) -> Self {
        let positions = |names: Vec<&Arc<str>>| -> HashMap<Arc<str>, usize> {
            names.into_iter().enumerate().map(|(at, name)| (Arc::clone(name), at)).collect()
        };
        let tool_names = positions(tools.iter().map(|tool| &tool.name).collect());
        let agent_names = positions(agents.iter().map(|agent| &agent.name).collect());
        let addresses = AddressIndex::of_destinations(&tools);
        let listeners = AddressIndex::of_listeners(&tools);
        let endpoints = EndpointIndex::new(&tools);
        let CheckedAccess { principals, approvals } = access;
        Self {
            tools,
            agents,
            tool_names,
            agent_names,
            principals,
            approvals,
            trust,
            addresses,
            listeners,
            endpoints,
        }
    }

    /// Every tool, in the order of its id.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// Every agent, in the order of the files.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// The agent of a name.
    pub fn agent(&self, name: &str) -> Option<&Agent> {
        self.agents.get(*self.agent_names.get(name)?)
    }

    /// The tool of an id of this policy.
    pub fn tool(&self, id: ToolId) -> Option<&Tool> {
        self.tools.get(usize::try_from(id.get().checked_sub(1)?).ok()?)
    }

    /// The tool of a name.
    pub fn tool_named(&self, name: &str) -> Option<&Tool> {
        self.tools.get(*self.tool_names.get(name)?)
    }

    /// The one tool that a destination belongs to. None for a unix socket, whose number says nothing:
    /// see [`Self::tool_with`].
    pub fn tool_at(&self, destination: &Destination) -> Option<&Tool> {
        if destination.family() == PeerFamily::Listen as u8 {
            return self.tool_called_at(destination);
        }
        if destination.family() != PeerFamily::Ip as u8 {
            return self.endpoints.at(destination).and_then(|id| self.tool(id));
        }
        self.addresses
            .at(destination.octets())
            .filter_map(|id| self.tool(id))
            .find(|tool| tool.speaks(destination.protocol(), destination.port()))
    }

    /// The one tool that lets agents be called at an address of this host.
    fn tool_called_at(&self, own: &Destination) -> Option<&Tool> {
        let covering = self.listeners.covering(Prefix::host(own.octets()));
        covering
            .filter_map(|(prefix, id)| Some((prefix, self.tool(id)?)))
            .find(|(prefix, tool)| {
                own.protocol() == PROTOCOL_TCP && tool.answers(*prefix, own.port())
            })
            .map(|(_, tool)| tool)
    }

    /// What an agent may do for a principal at most; `None` where nothing bounds that.
    pub fn ceiling_of(&self, principal: &str) -> Option<&[ToolId]> {
        let principals = self.principals.as_ref()?;
        let named = principals.iter().find(|known| &*known.name == principal);
        Some(named.map_or(&[], |known| &known.tools))
    }

    /// On whose behalf agents may act; `None`: anybody's.
    pub fn principals(&self) -> Option<&[Principal]> {
        self.principals.as_deref()
    }

    /// Who may approve, and how that is asked for.
    pub const fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// Whose signatures count.
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether an agent has tools about which more than agent, destination and grants decides.
    pub fn must_ask_for_some(&self, agent: &Agent) -> bool {
        let mut tools = agent.tools.iter().filter_map(|id| self.tool(*id));
        tools.any(Tool::must_be_asked_for)
    }

    /// The tool that names an endpoint.
    pub fn tool_with(&self, endpoint: &Endpoint) -> Option<&Tool> {
        self.tool(self.endpoints.named(endpoint)?)
    }

    /// The paths of unix sockets that tools name, in the order of the tools.
    pub fn socket_paths(&self) -> impl Iterator<Item = (&Arc<str>, &Tool)> {
        self.tools.iter().flat_map(|tool| {
            tool.endpoints.iter().filter_map(move |endpoint| match endpoint {
                Endpoint::UnixPath(path) => Some((path, tool)),
                Endpoint::UnixAbstract(_)
                | Endpoint::Vsock { .. }
                | Endpoint::Netlink(_)
                | Endpoint::Family(_) => None,
            })
        })
    }

    /// An agent in its normal form.
    pub fn agent_text(&self, agent: &Agent) -> String {
        normal::agent_text(self, agent)
    }

    /// A tool in its normal form.
    pub fn tool_text(&self, tool: &Tool) -> String {
        normal::tool_text(tool)
    }

    /// The policy in its normal form: one document that loads as this same policy.
    pub fn to_yaml(&self) -> String {
        normal::render(self)
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.tools == other.tools
            && self.agents == other.agents
            && self.principals == other.principals
            && self.approvals == other.approvals
            && self.trust == other.trust
    }
}

impl Eq for Policy {}

impl Tool {
    /// Whether a protocol and port are among the tool's, whatever the address.
    fn speaks(&self, protocol: u8, port: u16) -> bool {
        self.protocols.contains(&protocol) && self.ports.iter().any(|range| range.contains(port))
    }
}

impl Tool {
    /// Whether more than agent, destination and grants decides about it.
    pub const fn must_be_asked_for(&self) -> bool {
        !self.via.is_empty() || matches!(self.approval, Approval::Required)
    }

    /// Whether every destination of a location is its, or every address of it one at which agents are
    /// called. What the location leaves open is what the tool has.
    pub(in crate::resolver) fn holds(&self, location: &Location) -> bool {
        let Location { network, ports, protocol } = *location;
        let within = |range: &PortRange| {
            ports.is_none_or(|ports| range.contains(ports.first) && range.contains(ports.last))
        };
        let wanted = Prefix::of(network);
        let sent = protocol.is_none_or(|protocol| self.protocols.contains(&protocol))
            && self.ports.iter().any(within)
            && self.networks.iter().any(|own| Prefix::of(*own).covers(wanted));
        let called = protocol.is_none_or(|protocol| protocol == PROTOCOL_TCP)
            && self
                .listen
                .iter()
                .any(|own| within(&own.ports) && Prefix::of(own.network).covers(wanted));
        sent || called
    }

    /// Whether one of its own addresses with this prefix has the port.
    fn answers(&self, prefix: Prefix, port: u16) -> bool {
        let at = |range: &&ListenRange| Prefix::of(range.network) == prefix;
        self.listen.iter().filter(at).any(|range| range.ports.contains(port))
    }
}

impl PortRange {
    /// Whether `port` is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether both ranges have a port in common.
    const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Agent {
    /// Whether the tool is in the approved set.
    pub fn approves(&self, tool: ToolId) -> bool {
        self.tools.binary_search(&tool).is_ok()
    }

    /// Why it may not use an approved tool whatever else is so: its manifest does not count, or does
    /// not name the tool.
    pub fn check_manifest(&self, tool: ToolId) -> Result<(), Reason> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        manifest.standing()?;
        if manifest.names(tool) { Ok(()) } else { Err(Reason::ToolNotInManifest) }
    }

    /// Whether the tool is usable without a grant.
    pub fn stands(&self, tool: ToolId) -> bool {
        self.standing.binary_search(&tool).is_ok()
    }
}

impl OnMiss {
    /// The word in policy files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Deny => "deny",
        }
    }
}

impl TcpStall {
    /// The word in policy files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Park => "park",
        }
    }
}

impl Approval {
    /// The word in policy files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Required => "required",
        }
    }
}

impl Attendance {
    /// The word in policy files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Attended => "attended",
            Self::Unattended => "unattended",
        }
    }
}

impl Attestation {
    /// The word in policy files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Spiffe => "spiffe",
        }
    }
}

impl LocalGrants {
    /// The word in policy files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Mode {
    /// The word in policy files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}
