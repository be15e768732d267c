//! The daemon's state and the agents.

use std::time::SystemTime;

use super::{count, each, number, optional, path, path_bytes, system_time, unix_ns};
use crate::{
    api::wire,
    control::{
        ActionView, ActivityView, AgentView, GhostView, ImageView, InstanceView, ManifestSeenView,
        RecentView, Status, TalliesView,
    },
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
    name, owner, purpose, mode, tools, standing, in_policy, agent_id, instances_ever,
    instances_forgotten;
    instances = instances (each, each),
    ghosts = ghosts (each, each),
    manifest = manifest (optional, optional),
    first_seen = first_seen_unix_ns (unix_ns, system_time),
    last_seen = last_seen_unix_ns (optional_unix_ns, optional_time),
    activity = activity (some, or_default),
    ended_instances = ended_instances (each, each)
});

both_ways!(InstanceView, wire::Instance {
    id, pid, sha256, script_sha256, unverified, container, spiffe_id, more_images;
    exe = exe (path_bytes, path),
    script = script (path_bytes, path),
    started = started_unix_ns (unix_ns, system_time),
    processes = processes (number, count),
    ended = ended_unix_ns (optional_unix_ns, optional_time),
    images = images (each, each),
    activity = activity (some, or_default)
});

both_ways!(GhostView, wire::Ghost { word; since = since_unix_ns (unix_ns, system_time) });

both_ways!(ManifestSeenView, wire::ManifestSeen { version, digest });

both_ways!(ActivityView, wire::Activity {;
    calls = calls (some, or_default),
    last_action = last_action (optional, optional),
    principals = principals (some, or_default),
    grants = grants (some, or_default)
});

both_ways!(TalliesView, wire::Tallies { allowed, denied, audited });

both_ways!(ActionView, wire::Action {
    outcome, reason, destination, tool;
    at = at_unix_ns (unix_ns, system_time)
});

both_ways!(RecentView, wire::Recent { count, latest });

both_ways!(ImageView, wire::Image { exe, sha256 });

fn optional_unix_ns(time: Option<SystemTime>) -> Option<i64> {
    time.map(unix_ns)
}

fn optional_time(unix_ns: Option<i64>) -> Option<SystemTime> {
    unix_ns.map(system_time)
}

#[expect(clippy::unnecessary_wraps, reason = "messages within messages are optional")]
fn some<T: Into<U>, U>(one: T) -> Option<U> {
    Some(one.into())
}

/// What a daemon of an earlier version does not tell.
fn or_default<T: Into<U>, U: Default>(one: Option<T>) -> U {
    one.map(Into::into).unwrap_or_default()
}
