//! The demo's world: addresses from documentation ranges, tools that live there, two agents.

/// The agents' side of the cable.
pub(super) const AGENT_SIDE: &[&str] = &["192.0.2.1/24", "2001:db8::1/64"];
/// The tools' side of the cable.
pub(super) const TOOL_SIDE: &[&str] = &[
    "192.0.2.10/24",
    "192.0.2.20/24",
    "192.0.2.30/24",
    "192.0.2.40/24",
    "192.0.2.99/24",
    "2001:db8::10/64",
];

/// HTTP.
pub(super) const TICKETS: &str = "192.0.2.10:8080";
/// The same peer in another spelling.
pub(super) const TICKETS_MAPPED: &str = "[::ffff:192.0.2.10]:8080";
/// HTTP.
pub(super) const CALENDAR: &str = "192.0.2.20:8080";
/// Datagrams.
pub(super) const METRICS: &str = "192.0.2.30:8125";
/// HTTP; each use needs an approver's yes.
pub(super) const PRODUCTION: &str = "192.0.2.40:8080";
/// HTTP over IPv6.
pub(super) const ARCHIVE: &str = "[2001:db8::10]:8080";
/// Datagrams over IPv6.
pub(super) const METRICS_V6: &str = "[2001:db8::10]:8125";
/// Served, but no tool of the policy.
pub(super) const STRANGER: &str = "192.0.2.99:8080";

/// Everything served over TCP.
pub(super) const TCP: &[&str] = &[TICKETS, CALENDAR, PRODUCTION, ARCHIVE, STRANGER];
/// Everything served over UDP.
pub(super) const UDP: &[&str] = &[METRICS, METRICS_V6];

/// The agent's name.
pub(super) const AGENT: &str = "demo-worker";
/// The agent that needs a signed manifest and signed grants.
pub(super) const SIGNED_AGENT: &str = "demo-signed";
/// Its SPIFFE ID.
pub(super) const SIGNED_ID: &str = "spiffe://example.com/agent/demo-signed";
/// Who issues its grants.
pub(super) const ISSUER: &str = "https://broker.example.com";
/// What this host is called by those who issue grants.
pub(super) const AUDIENCE: &str = "demo-host";
/// How long the agent's calls may wait, seconds.
pub(super) const STALL_LIMIT_SECONDS: u64 = 3;

/// What the policy is made for.
pub(super) struct World<'a> {
    /// Whatever runs in it is the agent.
    pub(super) agent_cgroup: &'a str,
    /// Whatever runs in it is the agent that needs signatures.
    pub(super) signed_cgroup: &'a str,
    /// The key that signs manifests, a JSON Web Key.
    pub(super) owner: &'a str,
    /// The key that signs grants, a JSON Web Key.
    pub(super) broker: &'a str,
}

/// The policy.
pub(super) fn yaml(world: &World<'_>) -> String {
    let World { agent_cgroup, signed_cgroup, owner, broker } = world;
    format!(
        "apiVersion: agent-enforcer/v1
keys:
  - {owner}
  - {broker}
signers:
  - key: owner
    agents: [{SIGNED_AGENT}]
issuers:
  - name: {ISSUER}
    keys: [broker]
    agents: [{SIGNED_AGENT}]
    tools: [tickets, archive]
tools:
  - name: tickets
    cidrs: [192.0.2.10/32]
    ports: [8080]
    protocol: tcp
  - name: calendar
    cidrs: [192.0.2.20/32]
    ports: [8080]
    protocol: tcp
  - name: metrics
    cidrs: [192.0.2.30/32, \"2001:db8::10/128\"]
    ports: [8125]
    protocol: udp
  - name: production
    cidrs: [192.0.2.40/32]
    ports: [8080]
    protocol: tcp
    approval: required
  - name: archive
    cidrs: [\"2001:db8::10/128\"]
    ports: [8080]
    protocol: tcp
agents:
  - name: {AGENT}
    owner: demo@example.com
    purpose: shows what enforcement does
    selectors:
      - [\"cgroup:path:{agent_cgroup}\"]
    tools: [tickets, calendar, metrics, archive, production]
    standing: [production]
    on_miss: stall
    stall_limit: {STALL_LIMIT_SECONDS}s
    mode: enforce
  - name: {SIGNED_AGENT}
    owner: demo@example.com
    purpose: shows whose word counts
    agent_id: {SIGNED_ID}
    selectors:
      - [\"cgroup:path:{signed_cgroup}\"]
    tools: [tickets, calendar, archive]
    standing: [calendar]
    on_miss: deny
    grants:
      local: deny
"
    )
}
