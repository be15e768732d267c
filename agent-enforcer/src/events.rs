//! Decisions become events.
//!
//! In: [`Event`]s from the rest of the daemon, pushed into a bounded queue that never blocks.
//! Out: OCSF 1.8.0, one JSON line per event, to a file, to syslog, and to whoever follows.
//! Identical calls are folded with exact counts; whatever is lost on the way is counted and said
//! in an event of its own. Nothing here decides anything, and nothing here delays a verdict.

mod clock;
mod config;
mod counters;
mod feed;
mod fold;
mod json;
mod queue;
mod schema;
mod sink;
mod stage;
#[cfg(test)]
mod testing;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use agent_enforcer_common::{
    id::{Generation, GrantId, InstanceId},
    reason::Reason,
};

use crate::{
    decision::{Attempt, CallDecision, Outcome, Process},
    resolver::grant::token::TokenRefusal,
};

pub use clock::{Clock, SystemClock};
pub use config::{EventsConfig, EventsError};
pub(crate) use json::path_text;
pub use queue::EventQueue;
pub use sink::syslog::{SyslogFacility, SyslogFacilityError, SyslogTarget, SyslogTargetError};
pub use stage::{EventStage, start};

/// Something worth evidence.
#[derive(Debug)]
pub enum Event {
    /// A decided or stalled call.
    Call(Box<CallDecision>),
    /// What an agent tried and is denied to every agent.
    Attempt(Box<Attempt>),
    /// Everything else.
    Daemon(Box<DaemonEvent>),
}

impl From<DaemonEvent> for Event {
    fn from(event: DaemonEvent) -> Self {
        Self::Daemon(Box::new(event))
    }
}

/// What happened beside calls.
#[derive(Debug)]
pub enum DaemonEvent {
    /// The daemon enforces.
    Started {
        /// Version of the daemon.
        version: String,
        /// The generation in force.
        generation: Generation,
        /// `cgroup` or `cgroup+lsm`.
        plane: String,
    },
    /// The daemon ended as asked; enforcement stays.
    Stopped,
    /// Enforcement was ended.
    Detached {
        /// Why, as the operator put it.
        reason: String,
    },
    /// A policy came into force.
    PolicyLoaded {
        /// The generation in force.
        generation: Generation,
        /// Directory that it came from.
        directory: PathBuf,
        /// Agents in it.
        agents: usize,
        /// Tools in it.
        tools: usize,
    },
    /// A policy was refused; the one before stays in force.
    PolicyRejected {
        /// What is wrong with it.
        error: String,
    },
    /// A grant was issued.
    GrantIssued(GrantFacts),
    /// A token was refused.
    GrantRefused(Box<TokenRefused>),
    /// A grant was revoked; its `reason` is why.
    GrantRevoked(GrantFacts),
    /// A grant came to its end.
    GrantExpired(GrantFacts),
    /// A grant has no uses left.
    GrantUsedUp(GrantFacts),
    /// An agent's manifest counts from now on.
    ManifestAccepted(Box<ManifestFacts>),
    /// An agent's manifest does not count (any more): the agent may do nothing.
    ManifestRefused(Box<ManifestFacts>, Reason),
    /// An agent became a ghost.
    GhostFound(Box<GhostFacts>),
    /// It is none any more, for this cause.
    GhostGone(Box<GhostFacts>),
    /// A call waits for an approver's yes.
    ApprovalAsked(Box<ApprovalFacts>),
    /// An approver said yes.
    ApprovalGiven(Box<ApprovalFacts>),
    /// An approver said no.
    ApprovalRefused(Box<ApprovalFacts>),
    /// A question has no answer from the policy's webhook; it may have one from elsewhere.
    WebhookFailed(Box<WebhookFacts>),
    /// A process was recognised as an agent's.
    InstanceStarted(InstanceFacts),
    /// The last process of an instance exited.
    InstanceEnded(InstanceFacts),
    /// A process's identity did not hold; it may not act.
    IdentityRefused {
        /// Name of the agent that it would be of.
        agent: Arc<str>,
        /// The instance.
        instance: InstanceId,
        /// The process.
        process: Arc<Process>,
        /// Why.
        reason: Reason,
    },
    /// The kernel side had records that found no room in the ring. Adjacent ones add up.
    RecordsLost {
        /// What the records were about.
        kind: LostRecords,
        /// How many.
        count: u64,
    },
    /// This stage could not keep events.
    EventsLost {
        /// What the events were about.
        what: EventClass,
        /// How many; folded calls count one by one.
        count: u64,
        /// Where they were lost.
        why: LossCause,
    },
    /// A table of the kernel side is full.
    TableFull {
        /// Its name (`agent_enforcer_common::names`).
        table: &'static str,
    },
    /// The kernel side of a plane does not run any more: the daemon's own calls are not seen.
    PlaneSilent(Silence),
    /// It runs again.
    PlaneBack(Silence),
    /// Something that a person must look at.
    Alarm {
        /// What is wrong.
        what: String,
        /// What can be done about it.
        remedy: String,
    },
}

impl DaemonEvent {
    /// The word of the event: its `metadata.event_code` and its syslog MSGID.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Stopped => "stopped",
            Self::Detached { .. } => "detached",
            Self::PolicyLoaded { .. } => "policy_loaded",
            Self::PolicyRejected { .. } => "policy_rejected",
            Self::GrantIssued(_) => "grant_issued",
            Self::GrantRefused(_) => "grant_refused",
            Self::GrantRevoked(_) => "grant_revoked",
            Self::GrantExpired(_) => "grant_expired",
            Self::GrantUsedUp(_) => "grant_used_up",
            Self::ManifestAccepted(_) => "manifest_accepted",
            Self::ManifestRefused(..) => "manifest_refused",
            Self::GhostFound(_) => "ghost_found",
            Self::GhostGone(_) => "ghost_gone",
            Self::ApprovalAsked(_) => "approval_asked",
            Self::ApprovalGiven(_) => "approval_given",
            Self::ApprovalRefused(_) => "approval_refused",
            Self::WebhookFailed(_) => "webhook_failed",
            Self::InstanceStarted(_) => "instance_started",
            Self::InstanceEnded(_) => "instance_ended",
            Self::IdentityRefused { .. } => "identity_refused",
            Self::RecordsLost { .. } => "records_lost",
            Self::EventsLost { .. } => "events_lost",
            Self::TableFull { .. } => "table_full",
            Self::PlaneSilent(_) => "plane_silent",
            Self::PlaneBack(_) => "plane_back",
            Self::Alarm { .. } => "alarm",
        }
    }
}

/// A plane that was found silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// `cgroup` or `lsm`.
    pub plane: &'static str,
    /// Since when, ns of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// What can be done about it.
    pub remedy: &'static str,
}

/// A grant, as its events tell it.
#[derive(Clone, Debug)]
pub struct GrantFacts {
    /// Its id.
    pub grant: GrantId,
    /// Name of the agent.
    pub agent: Arc<str>,
    /// The instance, where it is for one only.
    pub instance: Option<InstanceId>,
    /// Whole tools, by name.
    pub tools: Vec<String>,
    /// Parts of tools.
    pub locations: Vec<String>,
    /// On whose behalf.
    pub principal: String,
    /// For which task.
    pub task: String,
    /// The token that it came of.
    pub token: Option<TokenFacts>,
    /// Why it was granted, or revoked.
    pub reason: String,
    /// From when.
    pub not_before: SystemTime,
    /// Until when.
    pub expires: SystemTime,
}

/// Where a signed grant comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// Who issued the token.
    pub issuer: String,
    /// Its id.
    pub jti: String,
    /// The transaction that it belongs to.
    pub txn: Option<String>,
    /// The grant that it was derived from.
    pub parent: Option<GrantId>,
}

/// Why a token was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRefused {
    /// The word of the cause, see docs/tokens.md.
    pub word: &'static str,
    /// What is wrong with it.
    pub error: String,
    /// What a person can do about it.
    pub remedy: &'static str,
}

impl From<&TokenRefusal> for TokenRefused {
    fn from(refusal: &TokenRefusal) -> Self {
        let (word, error, remedy) = (refusal.word(), refusal.to_string(), refusal.remedy());
        Self { word, error, remedy }
    }
}

impl std::fmt::Display for TokenRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { word, error, remedy } = self;
        write!(f, "{word}: {error}; {remedy}")
    }
}

/// An agent's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFacts {
    /// Name of the agent.
    pub agent: Arc<str>,
    /// Who answers for it.
    pub owner: Arc<str>,
    /// Its SPIFFE ID.
    pub agent_id: String,
    /// The version; `None` where no file has it.
    pub version: Option<u64>,
    /// SHA-256 of what is signed, hex.
    pub digest: Option<String>,
    /// The trusted keys that signed it.
    pub signers: Vec<String>,
}

/// An agent that nobody answers for, or that nobody uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GhostFacts {
    /// Name of the agent.
    pub agent: Arc<str>,
    /// Who answers for it, as last known.
    pub owner: Arc<str>,
    /// The word of what is wrong.
    pub word: Arc<str>,
    /// Since when that is known.
    pub since: SystemTime,
    /// What a person can do about it.
    pub remedy: &'static str,
}

/// A question to approvers, as its events tell it.
#[derive(Clone, Debug)]
pub struct ApprovalFacts {
    /// The question, `a-0123456789abcdef`.
    pub question: String,
    /// Digest over what it is about, hex.
    pub digest: String,
    /// Name of the agent.
    pub agent: Arc<str>,
    /// Owner of the agent.
    pub owner: Arc<str>,
    /// The instance.
    pub instance: InstanceId,
    /// The process that asked.
    pub process: Arc<Process>,
    /// The tool, by name.
    pub tool: Arc<str>,
    /// Where the call goes.
    pub destination: String,
    /// The grant, `g-42`.
    pub grant: Option<String>,
    /// On whose behalf.
    pub principal: Option<String>,
    /// For which task.
    pub task: Option<String>,
    /// Who answered.
    pub approver: Option<String>,
    /// Until when the answer holds.
    pub until: Option<SystemTime>,
    /// Whether the answer is for the whole tool.
    pub whole_tool: bool,
}

/// Why a webhook brought no answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookFacts {
    /// The question, `a-0123456789abcdef`.
    pub question: String,
    /// Where it was posted to.
    pub url: String,
    /// What went wrong, and what to do about it.
    pub error: String,
}

/// An instance, as its events tell it.
#[derive(Clone, Debug)]
pub struct InstanceFacts {
    /// Name of the agent.
    pub agent: Arc<str>,
    /// Owner of the agent.
    pub owner: Arc<str>,
    /// The instance.
    pub instance: InstanceId,
    /// Its first process at the start, its last at the end.
    pub process: Arc<Process>,
}

/// Kinds of kernel records that can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LostRecords {
    /// Denied calls.
    Denied,
    /// Allowed calls.
    Allowed,
    /// Audited calls.
    Audited,
    /// Processes (recognised, executed, ended).
    Process,
    /// Wishes to reset a denied flow; the denial itself is told by another record.
    FlowDenied,
    /// Attempts that are denied to every agent.
    Guarded,
}

impl LostRecords {
    /// The word in the event.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Allowed => "allowed",
            Self::Audited => "audited",
            Self::Process => "process",
            Self::FlowDenied => "flow_denied",
            Self::Guarded => "guarded",
        }
    }
}

/// What a lost event was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EventClass {
    /// An allowed call.
    Allowed = 0,
    /// A denied call.
    Denied = 1,
    /// An audited call.
    Audited = 2,
    /// A stalled call.
    Stalled = 3,
    /// A [`DaemonEvent`].
    Daemon = 4,
    /// Too little is left of it to tell.
    Unknown = 5,
    /// An attempt that is denied to every agent.
    Guarded = 6,
}

impl EventClass {
    /// Every class, in the order of its number.
    pub const ALL: [Self; 7] = [
        Self::Allowed,
        Self::Denied,
        Self::Audited,
        Self::Stalled,
        Self::Daemon,
        Self::Unknown,
        Self::Guarded,
    ];

    /// The word in the event.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Audited => "audited",
            Self::Stalled => "stalled",
            Self::Daemon => "daemon",
            Self::Unknown => "unknown",
            Self::Guarded => "guarded",
        }
    }
}

impl From<Outcome> for EventClass {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allowed => Self::Allowed,
            Outcome::Denied => Self::Denied,
            Outcome::Audited => Self::Audited,
            Outcome::Stalled => Self::Stalled,
        }
    }
}

/// Where this stage lost events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossCause {
    /// The queue into this stage was full.
    Queue,
    /// The events file could not be written for longer than the backlog lasts.
    Disk,
    /// The last line of the file was torn when the daemon started.
    TornLine,
    /// A syslog receiver could not be reached for longer than its queue lasts.
    Syslog,
}

impl LossCause {
    /// The word in the event.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queue => "queue_full",
            Self::Disk => "disk",
            Self::TornLine => "torn_line",
            Self::Syslog => "syslog",
        }
    }

    /// What a person can do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Queue => "find out which agent floods; see the denied events before this one",
            Self::Disk => "make room on the file system of the events file",
            Self::TornLine => "nothing to do; the daemon was killed while it wrote",
            Self::Syslog => "see that the syslog receiver runs and is reachable",
        }
    }
}
