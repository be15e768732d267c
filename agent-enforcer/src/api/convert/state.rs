//! The daemon's state and the agents.

use super::{count, number, path, path_bytes, system_time, unix_ns};
use crate::{
    api::wire,
    control::{AgentView, InstanceView, Status},
};

impl From<Status> for wire::StatusResponse {
    fn from(status: Status) -> Self {
        let Status {
            version,
            pid,
            started,
            plane,
            kernel,
            generation,
            agents,
            instances,
            processes,
            pending,
            grants,
            reasons,
            counters,
            programs,
            problems,
        } = status;
        Self {
            version,
            pid,
            started_unix_ns: unix_ns(started),
            plane,
            kernel,
            generation,
            agents: number(agents),
            instances: number(instances),
            processes: number(processes),
            pending: number(pending),
            grants: number(grants),
            reasons: reasons.into_iter().collect(),
            counters: counters.into_iter().collect(),
            programs,
            problems,
        }
    }
}

impl From<wire::StatusResponse> for Status {
    fn from(status: wire::StatusResponse) -> Self {
        let wire::StatusResponse {
            version,
            pid,
            started_unix_ns,
            plane,
            kernel,
            generation,
            agents,
            instances,
            processes,
            pending,
            grants,
            reasons,
            counters,
            programs,
            problems,
        } = status;
        Self {
            version,
            pid,
            started: system_time(started_unix_ns),
            plane,
            kernel,
            generation,
            agents: count(agents),
            instances: count(instances),
            processes: count(processes),
            pending: count(pending),
            grants: count(grants),
            reasons: reasons.into_iter().collect(),
            counters: counters.into_iter().collect(),
            programs,
            problems,
        }
    }
}

impl From<AgentView> for wire::Agent {
    fn from(agent: AgentView) -> Self {
        let AgentView { name, owner, purpose, mode, tools, standing, instances } = agent;
        let instances = instances.into_iter().map(Into::into).collect();
        Self { name, owner, purpose, mode, tools, standing, instances }
    }
}

impl From<wire::Agent> for AgentView {
    fn from(agent: wire::Agent) -> Self {
        let wire::Agent { name, owner, purpose, mode, tools, standing, instances } = agent;
        let instances = instances.into_iter().map(Into::into).collect();
        Self { name, owner, purpose, mode, tools, standing, instances }
    }
}

impl From<InstanceView> for wire::Instance {
    fn from(instance: InstanceView) -> Self {
        let InstanceView { id, pid, exe, sha256, started, processes } = instance;
        Self {
            id,
            pid,
            exe: path_bytes(exe),
            sha256,
            started_unix_ns: unix_ns(started),
            processes: number(processes),
        }
    }
}

impl From<wire::Instance> for InstanceView {
    fn from(instance: wire::Instance) -> Self {
        let wire::Instance { id, pid, exe, sha256, started_unix_ns, processes } = instance;
        Self {
            id,
            pid,
            exe: path(exe),
            sha256,
            started: system_time(started_unix_ns),
            processes: count(processes),
        }
    }
}
