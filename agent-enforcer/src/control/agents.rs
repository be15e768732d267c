//! What operators see of agents and their instances.

use std::{path::PathBuf, time::SystemTime};

use serde::Serialize;

use super::{serialize_optional_time, serialize_path, serialize_time};

/// See [`Control::agents`](super::Control::agents).
#[derive(Debug, Clone, Serialize)]
pub struct AgentView {
    /// Name.
    pub name: String,
    /// Owner.
    pub owner: String,
    /// Purpose.
    pub purpose: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Approved tools.
    pub tools: Vec<String>,
    /// Those usable without a grant.
    pub standing: Vec<String>,
    /// Live instances.
    pub instances: Vec<InstanceView>,
    /// Whether the policy in force has it; if not, `mode` is `none`, and owner and purpose are the last known.
    pub in_policy: bool,
    /// What is wrong with it; empty where it is no ghost.
    pub ghosts: Vec<GhostView>,
    /// Its SPIFFE ID.
    pub agent_id: Option<String>,
    /// Its manifest, as last known.
    pub manifest: Option<ManifestSeenView>,
    /// When a policy had it first.
    #[serde(serialize_with = "serialize_time")]
    pub first_seen: SystemTime,
    /// When a process of it was last seen to run or to act.
    #[serde(serialize_with = "serialize_optional_time")]
    pub last_seen: Option<SystemTime>,
    /// Instances that there ever were.
    pub instances_ever: u64,
    /// Those of them that are in no list any more.
    pub instances_forgotten: u64,
    /// What all of them did.
    #[serde(flatten)]
    pub activity: ActivityView,
    /// Instances that have ended, the oldest first.
    pub ended_instances: Vec<InstanceView>,
}

/// Why an agent is a ghost.
#[derive(Debug, Clone, Serialize)]
pub struct GhostView {
    /// `not_in_policy`, `owner_gone`, `unused`, or why its manifest does not count.
    pub word: String,
    /// Since when that is known.
    #[serde(serialize_with = "serialize_time")]
    pub since: SystemTime,
}

/// A manifest in short.
#[derive(Debug, Clone, Serialize)]
pub struct ManifestSeenView {
    /// Its version.
    pub version: u64,
    /// Its digest, hex.
    pub digest: String,
}

/// What an agent or an instance did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ActivityView {
    /// Calls by their outcome.
    pub calls: TalliesView,
    /// The call that was seen last.
    pub last_action: Option<ActionView>,
    /// On whose behalf calls were allowed.
    pub principals: RecentView,
    /// Grants that calls were allowed under, `g-42`.
    pub grants: RecentView,
}

/// Numbers of calls.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TalliesView {
    /// They went ahead.
    pub allowed: u64,
    /// They did not.
    pub denied: u64,
    /// They went ahead although they would have been denied (`mode: audit`).
    pub audited: u64,
}

/// A call that was decided.
#[derive(Debug, Clone, Serialize)]
pub struct ActionView {
    /// When it was seen.
    #[serde(serialize_with = "serialize_time")]
    pub at: SystemTime,
    /// `allowed`, `denied` or `audited`.
    pub outcome: String,
    /// A reason's word.
    pub reason: String,
    /// Where it went.
    pub destination: String,
    /// The tool that this belongs to.
    pub tool: Option<String>,
}

/// The values that came last, and how many different ones there were.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RecentView {
    /// How many.
    pub count: u64,
    /// At most 16, the newest first.
    pub latest: Vec<String>,
}

/// A program that an instance executed.
#[derive(Debug, Clone, Serialize)]
pub struct ImageView {
    /// Path of the executable.
    pub exe: String,
    /// Digest of its content, hex.
    pub sha256: Option<String>,
}

/// An instance.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceView {
    /// `i-1a2b`.
    pub id: String,
    /// Process that was recognised first.
    pub pid: u32,
    /// Its executable.
    #[serde(serialize_with = "serialize_path")]
    pub exe: PathBuf,
    /// Digest of its executable, hex; empty where unknown.
    pub sha256: String,
    /// The script that it runs; empty where it runs none that is known.
    #[serde(serialize_with = "serialize_path")]
    pub script: PathBuf,
    /// Digest of the script, hex; empty where it runs none that is known.
    pub script_sha256: String,
    /// Why nobody can vouch for its code; empty where somebody can.
    pub unverified: String,
    /// The container that it is in, by its id; empty where it is in none.
    pub container: String,
    /// Whom a SPIFFE broker says it is, where one was asked.
    pub spiffe_id: Option<String>,
    /// Since when.
    #[serde(serialize_with = "serialize_time")]
    pub started: SystemTime,
    /// Live processes.
    pub processes: usize,
    /// When its last process ended, or that was noticed.
    #[serde(serialize_with = "serialize_optional_time")]
    pub ended: Option<SystemTime>,
    /// What it executed: its first image, then the last ones.
    pub images: Vec<ImageView>,
    /// How many more these were.
    pub more_images: u64,
    /// What it did.
    #[serde(flatten)]
    pub activity: ActivityView,
}
