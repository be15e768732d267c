//! The demo's world: addresses from documentation ranges, tools that live there, one agent.

/// The agents' side of the cable.
pub(super) const AGENT_SIDE: &[&str] = &["192.0.2.1/24", "2001:db8::1/64"];
/// The tools' side of the cable.
pub(super) const TOOL_SIDE: &[&str] =
    &["192.0.2.10/24", "192.0.2.20/24", "192.0.2.30/24", "192.0.2.99/24", "2001:db8::10/64"];

/// HTTP.
pub(super) const TICKETS: &str = "192.0.2.10:8080";
/// The same peer in another spelling.
pub(super) const TICKETS_MAPPED: &str = "[::ffff:192.0.2.10]:8080";
/// HTTP.
pub(super) const CALENDAR: &str = "192.0.2.20:8080";
/// Datagrams.
pub(super) const METRICS: &str = "192.0.2.30:8125";
/// HTTP over IPv6.
pub(super) const ARCHIVE: &str = "[2001:db8::10]:8080";
/// Datagrams over IPv6.
pub(super) const METRICS_V6: &str = "[2001:db8::10]:8125";
/// Served, but no tool of the policy.
pub(super) const STRANGER: &str = "192.0.2.99:8080";

/// Everything served over TCP.
pub(super) const TCP: &[&str] = &[TICKETS, CALENDAR, ARCHIVE, STRANGER];
/// Everything served over UDP.
pub(super) const UDP: &[&str] = &[METRICS, METRICS_V6];

/// The agent's name.
pub(super) const AGENT: &str = "demo-worker";
/// How long the agent's calls may wait, seconds.
pub(super) const STALL_LIMIT_SECONDS: u64 = 3;

/// The policy; the agent is whatever runs in the cgroup.
pub(super) fn yaml(agent_cgroup: &str) -> String {
    format!(
        "apiVersion: agent-enforcer/v1
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
    tools: [tickets, calendar, metrics, archive]
    standing: []
    on_miss: stall
    stall_limit: {STALL_LIMIT_SECONDS}s
    mode: enforce
"
    )
}
