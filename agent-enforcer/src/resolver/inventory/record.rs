//! What is remembered of an agent and of an instance, in the form that it is stored in.
//!
//! In: agents of the policy, processes, decided calls. Out: records of bounded size, whatever an agent
//! executes, calls and is granted. Fields are only ever added, with a default.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::destination::Destination;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    decision::{CallDecision, Outcome, PeerName, Process, Sha256Digest},
    resolver::{
        manifest::KnownVersion,
        policy::{Agent, Principal},
    },
};

/// Images of one instance that are remembered: its first, and those that came last.
const IMAGES: usize = 8;
/// Longest path that is kept of an executable, bytes.
const PATH_LIMIT: usize = 1024;
/// Grants and principals of one agent or instance that are remembered by name.
const RECENT: usize = 16;

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRecord {
    /// Who answers for it, as last known.
    pub owner: Arc<str>,
    /// What it is for, as last known.
    pub purpose: Arc<str>,
    /// Its SPIFFE ID, as last known.
    pub agent_id: Option<Arc<str>>,
    /// Its manifest, as last known.
    pub manifest: Option<KnownVersion>,
    /// When a policy had it first.
    #[serde(with = "unix_ns")]
    pub first_seen: SystemTime,
    /// When a process of it was last seen to run or to act.
    #[serde(with = "optional_unix_ns")]
    pub last_seen: Option<SystemTime>,
    /// Instances that there ever were.
    pub instances: u64,
    /// Those of them of which no more is known than these totals.
    pub forgotten: u64,
    /// What it did.
    pub activity: Activity,
    /// Whether its owner was among the policy's principals.
    pub(super) owner_was_principal: bool,
    /// What was found wrong with it, by its word, and since when.
    #[serde(with = "ghost_times")]
    pub ghosts: BTreeMap<Arc<str>, SystemTime>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceRecord {
    /// Its agent.
    pub agent: Arc<str>,
    /// Process that was recognised first.
    pub pid: u32,
    /// Since when it runs.
    #[serde(with = "unix_ns")]
    pub started: SystemTime,
    /// When its last process ended, or that was noticed.
    #[serde(with = "optional_unix_ns")]
    pub ended: Option<SystemTime>,
    /// What it executed: its first image, then those that came last.
    pub images: Vec<ImageSeen>,
    /// How many more these were.
    pub more_images: u64,
    /// What it did.
    pub activity: Activity,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSeen {
    /// Path of the executable.
    pub exe: Box<str>,
    /// Digest of its content, where it was read.
    pub sha256: Option<Sha256Digest>,
}

/// What an agent or an instance did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activity {
    /// Calls by their outcome.
    pub calls: Tallies,
    /// The call that was seen last.
    pub last: Option<Action>,
    /// On whose behalf calls were allowed.
    pub principals: Recent<Box<str>>,
    /// Grants that calls were allowed under, by number.
    pub grants: Recent<u64>,
}

/// Numbers of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tallies {
    /// They went ahead.
    pub allowed: u64,
    /// They did not.
    pub denied: u64,
    /// They went ahead although they would have been denied.
    pub audited: u64,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// When it was seen.
    #[serde(with = "unix_ns")]
    pub at: SystemTime,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, a reason's word.
    pub reason: Cow<'static, str>,
    /// Where it went.
    pub destination: Place,
    /// The tool that this belongs to.
    pub tool: Option<Arc<str>>,
}

/// A destination: put into words only where somebody reads them.
#[derive(Clone, Debug)]
pub enum Place {
    /// As it was decided.
    Of(Destination, Option<Arc<PeerName>>),
    /// As it was stored.
    Told(Box<str>),
}

/// The values that came last, the newest at the end, and how many different ones there were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recent<T> {
    /// How many. One that was dropped from [`Self::latest`] and comes again counts again.
    pub count: u64,
    /// Those that came last.
    pub latest: Vec<T>,
}

impl AgentRecord {
    /// Of an agent that nothing is known of yet.
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            owner: "".into(),
            purpose: "".into(),
            agent_id: None,
            manifest: None,
            first_seen: now,
            last_seen: None,
            instances: 0,
            forgotten: 0,
            activity: Activity::default(),
            owner_was_principal: false,
            ghosts: BTreeMap::new(),
        }
    }

    /// Takes over what a policy says of it. Out: whether that is news.
    pub(super) fn describe(&mut self, agent: &Agent, principals: Option<&[Principal]>) -> bool {
        let manifest = agent.manifest.as_ref();
        let version = manifest.and_then(|manifest| {
            let version = manifest.document()?.version.get();
            Some(KnownVersion { version, digest: manifest.digest()? })
        });
        let same_owner = self.owner == agent.owner;
        let is_principal = principals
            .is_some_and(|principals| principals.iter().any(|known| known.name == agent.owner));
        let news = Self {
            owner: Arc::clone(&agent.owner),
            purpose: Arc::clone(&agent.purpose),
            agent_id: manifest.map(|manifest| manifest.agent_id().as_str().into()),
            // One that is demanded but not there leaves what was there last.
            manifest: if manifest.is_some() { version.or(self.manifest) } else { None },
            owner_was_principal: is_principal || (same_owner && self.owner_was_principal),
            ..self.clone()
        };
        let is_news = news != *self;
        *self = news;
        is_news
    }

    pub(super) fn see(&mut self, at: SystemTime) {
        self.last_seen = self.last_seen.max(Some(at));
    }
}

impl InstanceRecord {
    pub(super) const fn new(agent: Arc<str>, pid: u32, started: SystemTime) -> Self {
        Self {
            agent,
            pid,
            started,
            ended: None,
            images: Vec::new(),
            more_images: 0,
            activity: Activity::EMPTY,
        }
    }

    /// Out: whether that is news.
    pub(super) fn note_image(&mut self, process: &Process) -> bool {
        let Some(path) = &process.exe else { return false };
        let text = path.to_string_lossy();
        let exe = text.get(..text.floor_char_boundary(PATH_LIMIT)).unwrap_or_default();
        let sha256 = process.sha256;
        let same = |seen: &&mut ImageSeen| {
            *seen.exe == *exe
                && (seen.sha256 == sha256 || seen.sha256.is_none() || sha256.is_none())
        };
        if let Some(seen) = self.images.iter_mut().find(same) {
            let news = seen.sha256.or(sha256);
            return std::mem::replace(&mut seen.sha256, news) != news;
        }
        if self.images.len() == IMAGES {
            self.images.remove(1);
            self.more_images += 1;
        }
        self.images.push(ImageSeen { exe: exe.into(), sha256 });
        true
    }
}

impl Activity {
    const EMPTY: Self = Self {
        calls: Tallies { allowed: 0, denied: 0, audited: 0 },
        last: None,
        principals: Recent { count: 0, latest: Vec::new() },
        grants: Recent { count: 0, latest: Vec::new() },
    };

    pub(super) fn note(&mut self, call: &CallDecision, at: SystemTime) {
        let Tallies { allowed, denied, audited } = &mut self.calls;
        match call.outcome {
            Outcome::Allowed => *allowed += call.count,
            Outcome::Denied => *denied += call.count,
            Outcome::Audited => *audited += call.count,
            Outcome::Stalled => return,
        }
        // Calls that are counted in the kernel are told later than others.
        if self.last.as_ref().is_none_or(|last| last.at <= at) {
            self.last = Some(Action {
                at,
                outcome: call.outcome,
                reason: Cow::Borrowed(call.telling_reason().word()),
                destination: Place::Of(call.destination, call.peer.clone()),
                tool: call.tool.clone(),
            });
        }
        if let (Outcome::Allowed, Some(grant)) = (call.outcome, &call.grant) {
            let id = grant.id.get();
            self.grants.note(|known| *known == id, || id);
            let principal = &grant.principal;
            self.principals.note(|known| **known == **principal, || principal.as_str().into());
        }
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { count: 0, latest: Vec::new() }
    }
}

impl<T> Recent<T> {
    fn note(&mut self, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) {
        if let Some(at) = self.latest.iter().rposition(is) {
            let known = self.latest.remove(at);
            self.latest.push(known);
            return;
        }
        self.count += 1;
        if self.latest.len() == RECENT {
            self.latest.remove(0);
        }
        self.latest.push(make());
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(_, Some(peer)) => peer.fmt(f),
            Self::Of(destination, None) => destination.fmt(f),
            Self::Told(text) => f.write_str(text),
        }
    }
}

/// By what is read.
impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Place {}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::Told(Box::deserialize(deserializer)?))
    }
}

fn to_unix_ns(time: &SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn from_unix_ns(unix_ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

mod unix_ns {
    use super::{
        Deserialize, Deserializer, Serialize, Serializer, SystemTime, from_unix_ns, to_unix_ns,
    };

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to_unix_ns(time).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        Ok(from_unix_ns(u64::deserialize(from)?))
    }
}

mod optional_unix_ns {
    use super::{
        Deserialize, Deserializer, Serialize, Serializer, SystemTime, from_unix_ns, to_unix_ns,
    };

    #[expect(clippy::ref_option, reason = "as serde calls it")]
    pub(super) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.as_ref().map(to_unix_ns).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::deserialize(from)?.map(from_unix_ns))
    }
}

mod ghost_times {
    use super::{
        Arc, BTreeMap, Deserialize, Deserializer, Serializer, SystemTime, from_unix_ns, to_unix_ns,
    };

    pub(super) fn serialize<S: Serializer>(
        times: &BTreeMap<Arc<str>, SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(times.iter().map(|(word, since)| (word, to_unix_ns(since))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<Arc<str>, SystemTime>, D::Error> {
        let times: BTreeMap<Arc<str>, u64> = BTreeMap::deserialize(from)?;
        Ok(times.into_iter().map(|(word, since)| (word, from_unix_ns(since))).collect())
    }
}
