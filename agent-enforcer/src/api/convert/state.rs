//! The daemon's state and the agents.

use super::{count, each, number, path, path_bytes, system_time, unix_ns};
use crate::{
    api::wire,
    control::{AgentView, InstanceView, Status},
};

both_ways!(Status, wire::StatusResponse {
    version, pid, plane, kernel, generation, programs, problems, spiffe_broker;
    started = started_unix_ns (unix_ns, system_time),
    agents = agents (number, count),
    instances = instances (number, count),
    processes = processes (number, count),
    pending = pending (number, count),
    grants = grants (number, count),
    reasons = reasons (each, each),
    counters = counters (each, each)
});

both_ways!(AgentView, wire::Agent {
    name, owner, purpose, mode, tools, standing;
    instances = instances (each, each)
});

both_ways!(InstanceView, wire::Instance {
    id, pid, sha256, script_sha256, unverified, container, spiffe_id;
    exe = exe (path_bytes, path),
    script = script (path_bytes, path),
    started = started_unix_ns (unix_ns, system_time),
    processes = processes (number, count)
});
