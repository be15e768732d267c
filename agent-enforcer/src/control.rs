//! What operators can ask of the running daemon, in domain words.
//!
//! In: commands of the control API. Out: views of the state. The API layer converts these to and
//! from the wire; the engine implements [`Control`]. Nothing here knows about gRPC or the kernel.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use tokio::sync::{broadcast, watch};

use crate::resolver::{approval::Verdict, policy::Endpoint};

/// A boxed future of a control call.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlError>> + Send + 'a>>;

/// Why a command was refused. The message names the remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// The command names something that is not there.
    #[error("{0}")]
    NotFound(String),
    /// The command makes no sense as given.
    #[error("{0}")]
    Invalid(String),
    /// The daemon can't do it now.
    #[error("{0}")]
    Unavailable(String),
    /// The daemon failed.
    #[error("{0}")]
    Internal(String),
}

/// Every control command.
pub trait Control: Send + Sync + 'static {
    /// State of the daemon and the kernel side.
    fn status(&self) -> Reply<'_, Status>;
    /// Agents of the policy and their live instances.
    fn agents(&self) -> Reply<'_, Vec<AgentView>>;
    /// The policy in force, as YAML.
    fn policy_show(&self) -> Reply<'_, PolicyView>;
    /// Read the policy directory again and put it in force; on error nothing changes.
    fn policy_reload(&self) -> Reply<'_, PolicyView>;
    /// Issue a grant; durable and in force when this returns.
    fn grant_issue(&self, spec: GrantSpec) -> Reply<'_, GrantView>;
    /// Present a signed grant, a token; durable and in force when this returns.
    fn grant_present(&self, token: String) -> Reply<'_, GrantView>;
    /// All grants; ended ones until 24 hours after their expiry.
    fn grant_list(&self) -> Reply<'_, Vec<GrantView>>;
    /// Revoke a grant (`g-42`); durable and in force when this returns.
    fn grant_revoke(&self, grant: String, reason: String) -> Reply<'_, GrantView>;
    /// Calls that wait for a decision, for root and approvers.
    fn pending(&self, authority: Authority) -> Reply<'_, Vec<PendingView>>;
    /// Whether the policy in force names a user as an approver.
    fn may_approve(&self, uid: u32) -> bool;
    /// Changes with what [`Self::pending`] answers.
    fn pending_changes(&self) -> watch::Receiver<u64>;
    /// Answers a question of a call that needs approval; durable and in force when this returns.
    fn answer(&self, spec: AnswerSpec, authority: Authority) -> Reply<'_, AnswerView>;
    /// What would be decided for a process and a destination, and why.
    fn explain(&self, question: ExplainQuestion) -> Reply<'_, Explanation>;
    /// The newest events, and those to come: one JSON line each, as in the events file.
    fn events(&self) -> Reply<'_, EventFeed>;
    /// End enforcement: detach every program, remove every pin, stop the daemon.
    fn detach(&self, reason: String) -> Reply<'_, ()>;
}

/// See [`Control::status`].
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Since when it runs.
    #[serde(serialize_with = "serialize_time")]
    pub started: SystemTime,
    /// `cgroup` or `cgroup+lsm`.
    pub plane: String,
    /// Kernel release.
    pub kernel: String,
    /// The generation in force.
    pub generation: u64,
    /// Agents in the policy.
    pub agents: usize,
    /// Live instances.
    pub instances: usize,
    /// Live processes of agents.
    pub processes: usize,
    /// Calls that wait for a decision.
    pub pending: usize,
    /// Grants in force.
    pub grants: usize,
    /// Kernel counter of each reason that is not 0, by its word.
    pub reasons: BTreeMap<String, u64>,
    /// Further kernel and daemon counters by name, 0 included.
    pub counters: BTreeMap<String, u64>,
    /// Programs attached, by name.
    pub programs: Vec<String>,
    /// What is not as it should be; empty when all is well.
    pub problems: Vec<String>,
}

/// See [`Control::agents`].
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
}

/// A live instance.
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
    /// Since when.
    #[serde(serialize_with = "serialize_time")]
    pub started: SystemTime,
    /// Live processes.
    pub processes: usize,
}

/// See [`Control::policy_show`].
#[derive(Debug, Clone, Serialize)]
pub struct PolicyView {
    /// The generation in force.
    pub generation: u64,
    /// Directory that it came from.
    #[serde(serialize_with = "serialize_path")]
    pub directory: PathBuf,
    /// The policy in its normal form, one document.
    pub yaml: String,
}

/// See [`Control::grant_issue`].
#[derive(Debug, Clone)]
pub struct GrantSpec {
    /// Agent, by name; exactly one of `agent` and `instance` is set.
    pub agent: Option<String>,
    /// Instance, `i-1a2b`.
    pub instance: Option<String>,
    /// Tools, by name; at least one.
    pub tools: Vec<String>,
    /// On whose behalf the agent acts.
    pub principal: String,
    /// For which task.
    pub task: String,
    /// Why it is granted.
    pub reason: String,
    /// From when; `None` is now.
    pub not_before: Option<SystemTime>,
    /// How long from its beginning.
    pub lifetime: Duration,
    /// How many calls it admits; `None` is any number.
    pub max_uses: Option<u32>,
}

/// A grant as it stands.
#[derive(Debug, Clone, Serialize)]
pub struct GrantView {
    /// `g-42`.
    pub id: String,
    /// Agent, by name.
    pub agent: String,
    /// Instance, where the grant is for one only.
    pub instance: Option<String>,
    /// Whole tools, by name.
    pub tools: Vec<String>,
    /// Parts of tools, like `192.0.2.1:443/tcp`.
    pub locations: Vec<String>,
    /// On whose behalf.
    pub principal: String,
    /// For which task.
    pub task: String,
    /// Why.
    pub reason: String,
    /// When it was issued.
    #[serde(serialize_with = "serialize_time")]
    pub issued: SystemTime,
    /// From when.
    #[serde(serialize_with = "serialize_time")]
    pub not_before: SystemTime,
    /// Until when.
    #[serde(serialize_with = "serialize_time")]
    pub expires: SystemTime,
    /// How many calls it admits.
    pub max_uses: Option<u32>,
    /// How many it has admitted (counted only where `max_uses` is set).
    pub uses: u32,
    /// `live`, or why it admits no call (docs/reasons.md).
    pub state: String,
    /// Who issued the token that it came of; `None`: root of this host issued it.
    pub issuer: Option<String>,
    /// The id of that token.
    pub jti: Option<String>,
    /// The grant that it was derived from, `g-41`.
    pub parent: Option<String>,
}

/// See [`Control::pending`].
#[derive(Debug, Clone, Serialize)]
pub struct PendingView {
    /// Number of the oldest question.
    pub request: u64,
    /// Agent, by name.
    pub agent: String,
    /// `i-1a2b`.
    pub instance: String,
    /// Process.
    pub pid: u32,
    /// Its executable.
    #[serde(serialize_with = "serialize_path")]
    pub exe: PathBuf,
    /// `192.0.2.1:443/tcp`, `unix:/run/docker.sock (inode 7 on 0:25)`.
    pub destination: String,
    /// Tool, by name.
    pub tool: Option<String>,
    /// What it waits for, a reason's word.
    pub reason: String,
    /// Since when.
    #[serde(serialize_with = "serialize_time")]
    pub since: SystemTime,
    /// When it will be denied.
    #[serde(serialize_with = "serialize_time")]
    pub until: SystemTime,
    /// Calls that this one answer is for.
    pub calls: usize,
    /// What approvers are asked, where it waits for one.
    pub approval: Option<ApprovalView>,
}

/// Who asks for or answers something, by what the kernel says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    /// User, in the daemon's user namespace.
    pub uid: u32,
    /// Process; 0 where it is not visible to the daemon.
    pub pid: u32,
}

/// The users that the policy in force names as approvers.
#[derive(Debug, Default)]
pub struct ApproverUsers(RwLock<Vec<u32>>);

impl ApproverUsers {
    /// A policy came into force.
    pub fn set(&self, users: Vec<u32>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = users;
    }

    /// Whether a user is among them.
    pub fn contains(&self, uid: u32) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&uid)
    }
}

/// What approvers are shown of a call that needs their yes.
#[derive(Debug, Clone, Serialize)]
pub struct ApprovalView {
    /// The question, `a-0123456789abcdef`.
    pub id: String,
    /// Digest over all that it is about, hex.
    pub digest: String,
    /// Digest of the executable, hex; empty where unknown.
    pub sha256: String,
    /// User id of the process.
    pub uid: u32,
    /// The grant that allows the call, `g-42`; `None` for a standing tool.
    pub grant: Option<String>,
    /// On whose behalf.
    pub principal: Option<String>,
    /// For which task.
    pub task: Option<String>,
}

/// See [`Control::answer`].
#[derive(Debug, Clone)]
pub struct AnswerSpec {
    /// The question, `a-0123456789abcdef`.
    pub id: String,
    /// [`ApprovalView::digest`] as it was shown; `None` answers whatever it is about now.
    pub digest: Option<String>,
    /// Yes or no.
    pub verdict: Verdict,
    /// For every destination of the tool, not only the one that was asked for.
    pub whole_tool: bool,
    /// How long it holds.
    pub lifetime: Duration,
}

/// An answer that is in force.
#[derive(Debug, Clone, Serialize)]
pub struct AnswerView {
    /// The question.
    pub id: String,
    /// `approved` or `denied`.
    pub verdict: String,
    /// Who answered.
    pub approver: String,
    /// Until when it holds.
    #[serde(serialize_with = "serialize_time")]
    pub until: SystemTime,
    /// Whether it is for every destination of the tool.
    pub whole_tool: bool,
}

/// See [`Control::explain`].
#[derive(Debug, Clone)]
pub struct ExplainQuestion {
    /// The process.
    pub pid: u32,
    /// The destination.
    pub to: ExplainTarget,
}

/// What [`Control::explain`] is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExplainTarget {
    /// An IP address.
    Address {
        /// Address and port.
        to: SocketAddr,
        /// `IPPROTO_*`.
        protocol: u8,
    },
    /// Something else.
    Endpoint(Endpoint),
}

/// The answer of [`Control::explain`].
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// `allowed`, `denied`, `stalled`, or `not_an_agent`.
    pub outcome: String,
    /// A reason's word.
    pub reason: String,
    /// What can be done about it.
    pub remedy: String,
    /// Agent, by name.
    pub agent: Option<String>,
    /// Instance.
    pub instance: Option<String>,
    /// Destination in its canonical form.
    pub destination: String,
    /// Each step of the decision: what was asked, what was found, whether it holds.
    pub steps: Vec<ExplainStep>,
}

/// One step of an [`Explanation`].
#[derive(Debug, Clone, Serialize)]
pub struct ExplainStep {
    /// What was asked: `agent`, `identity`, `tool`, `approved`, `grant`, `kernel`.
    pub question: String,
    /// What was found.
    pub found: String,
    /// Whether it speaks for the call.
    pub holds: bool,
}

/// See [`Control::events`].
pub struct EventFeed {
    /// The newest events, oldest first; one JSON line each, without the newline.
    pub recent: Vec<String>,
    /// Those to come.
    pub live: broadcast::Receiver<String>,
}

/// A moment as RFC 3339 in UTC with milliseconds; what its four-digit years can't say becomes the
/// nearest that they can.
pub fn rfc3339(time: SystemTime) -> String {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time = time.clamp(SystemTime::UNIX_EPOCH, last);
    humantime::format_rfc3339_millis(time).to_string()
}

fn serialize_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

/// Serde refuses paths that are not UTF-8, and an agent can choose such a path.
fn serialize_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_beyond_the_calendar_are_clamped() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00.000Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60);
        assert_eq!(rfc3339(far), "9999-12-31T23:59:59.000Z");
    }
}
