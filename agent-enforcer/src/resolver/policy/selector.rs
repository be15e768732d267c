//! What recognises an agent's processes: SPIRE-style strings, joined to terms.
//!
//! In: selector strings. Out: [`Term`]s whose parts the kernel side can look up. A term holds at
//! most one selector of each kind, and at least one that the kernel sees at exec: a digest can't be
//! computed there, so it is a demand on the processes that the rest of the term matches.

use std::sync::Arc;

use agent_enforcer_common::{
    glob,
    process::{PATTERN_BYTES, PatternScope},
};

use super::{error::Problem, network::decimal, place::quote};
use crate::decision::{NotADigest, Sha256Digest};

/// Longest path or glob over paths, bytes (`PATH_MAX`).
pub(super) const PATH_LIMIT: usize = 4096;

/// Selectors that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// The cgroup of the process, or an ancestor of it.
    pub cgroup: Option<CgroupSelector>,
    /// Its real user id.
    pub uid: Option<u32>,
    /// Glob of its executable.
    pub executable: Option<Arc<str>>,
    /// Demanded of the executable's content; a mismatch denies.
    pub sha256: Option<Sha256Digest>,
}

/// A glob over cgroups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CgroupSelector {
    /// `systemd:id:`, a unit of the system's manager.
    Unit(Arc<str>),
    /// `cgroup:path:`, the whole path from the root of the hierarchy.
    Path(Arc<str>),
}

/// One selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selector {
    /// `systemd:id:` or `cgroup:path:`.
    Cgroup(CgroupSelector),
    /// `unix:uid:`.
    User(u32),
    /// `unix:path:`.
    Executable(Arc<str>),
    /// `unix:sha256:`.
    Digest(Sha256Digest),
}

impl Selector {
    /// Parses one selector string.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let (kind, value) = split(text).ok_or_else(|| Problem::BadSelector(quote(text)))?;
        match kind {
            "systemd:id" => unit(value).map(Self::Cgroup),
            "cgroup:path" => cgroup_path(value).map(Self::Cgroup),
            "unix:uid" => decimal(value)
                .filter(|uid| *uid != u32::MAX)
                .map(Self::User)
                .ok_or_else(|| Problem::BadUser(quote(value))),
            "unix:path" => executable(value).map(Self::Executable),
            "unix:sha256" => value
                .parse()
                .map(Self::Digest)
                .map_err(|NotADigest| Problem::BadDigest(quote(value))),
            _ => Err(Problem::BadSelector(quote(text))),
        }
    }
}

impl Term {
    /// Adds a selector; refuses a second one of its kind.
    pub(super) fn add(&mut self, selector: Selector) -> Result<(), Problem> {
        let taken = match selector {
            Selector::Cgroup(cgroup) => {
                self.cgroup.replace(cgroup).map(|_| "cgroups (systemd:id:, cgroup:path:)")
            }
            Selector::User(uid) => self.uid.replace(uid).map(|_| "users (unix:uid:)"),
            Selector::Executable(glob) => {
                self.executable.replace(glob).map(|_| "executables (unix:path:)")
            }
            Selector::Digest(digest) => {
                self.sha256.replace(digest).map(|_| "digests (unix:sha256:)")
            }
        };
        taken.map_or(Ok(()), |kind| Err(Problem::TwoOfOneKind(kind)))
    }

    /// Whether the kernel side can match it.
    pub(super) const fn is_matchable(&self) -> bool {
        self.cgroup.is_some() || self.uid.is_some() || self.executable.is_some()
    }

    /// The term without its digest: what the kernel side matches.
    pub(super) fn matched_part(&self) -> Self {
        Self { sha256: None, ..self.clone() }
    }

    /// How many selectors it has.
    pub(super) fn selectors(&self) -> usize {
        let Self { cgroup, uid, executable, sha256 } = self;
        [cgroup.is_some(), uid.is_some(), executable.is_some(), sha256.is_some()]
            .into_iter()
            .filter(|present| *present)
            .count()
    }

    /// The selector strings, in the order of the kinds.
    pub(super) fn strings(&self) -> Vec<String> {
        let Self { cgroup, uid, executable, sha256 } = self;
        let cgroup = cgroup.as_ref().map(|cgroup| match cgroup {
            CgroupSelector::Unit(glob) => format!("systemd:id:{glob}"),
            CgroupSelector::Path(glob) => format!("cgroup:path:{glob}"),
        });
        let uid = uid.map(|uid| format!("unix:uid:{uid}"));
        let executable = executable.as_ref().map(|glob| format!("unix:path:{glob}"));
        let sha256 = sha256.map(|digest| format!("unix:sha256:{digest}"));
        [cgroup, uid, executable, sha256].into_iter().flatten().collect()
    }
}

impl CgroupSelector {
    /// What it is compared with.
    pub const fn scope(&self) -> PatternScope {
        match self {
            Self::Unit(_) => PatternScope::SystemUnit,
            Self::Path(_) => PatternScope::Path,
        }
    }

    /// Its glob.
    pub const fn glob(&self) -> &Arc<str> {
        match self {
            Self::Unit(glob) | Self::Path(glob) => glob,
        }
    }
}

/// `kind:name:value` to (`kind:name`, `value`).
fn split(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once(':')?;
    let (_, value) = rest.split_once(':')?;
    let kind = text.strip_suffix(value)?.strip_suffix(':')?;
    (!value.is_empty()).then_some((kind, value))
}

/// A unit has its type in its name: systemd shows and accepts it without, cgroups don't.
fn unit(value: &str) -> Result<CgroupSelector, Problem> {
    let known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?".contains(c);
    if !value.chars().all(known) || !value.contains(['.', '*']) {
        return Err(Problem::BadUnit(quote(value)));
    }
    if value.rsplit('.').next() == Some("slice") {
        return Err(Problem::SliceIsNoUnit(quote(value)));
    }
    if value.chars().all(|c| "*?".contains(c)) {
        return Err(Problem::MatchesAll(quote(value)));
    }
    fits(value, PATTERN_BYTES).map(CgroupSelector::Unit)
}

fn cgroup_path(value: &str) -> Result<CgroupSelector, Problem> {
    // A process is below the root cgroup wherever it is.
    if glob::matches(value.as_bytes(), b"/") {
        return Err(Problem::MatchesAll(quote(value)));
    }
    normal_path(value)?;
    fits(value, PATTERN_BYTES).map(CgroupSelector::Path)
}

pub(super) fn executable(value: &str) -> Result<Arc<str>, Problem> {
    if value.starts_with("/**") && value.chars().skip(1).all(|c| c == '*') {
        return Err(Problem::MatchesAll(quote(value)));
    }
    normal_path(value)?;
    fits(value, PATH_LIMIT)
}

/// Refuses globs that no path of the kernel can match.
pub(super) fn normal_path(value: &str) -> Result<(), Problem> {
    let steps = value.strip_prefix('/').unwrap_or_default();
    let odd = |step: &str| matches!(step, "" | "." | "..");
    if steps.is_empty() || steps.split('/').any(odd) || value.chars().any(char::is_control) {
        return Err(Problem::BadPath(quote(value)));
    }
    Ok(())
}

fn fits(value: &str, limit: usize) -> Result<Arc<str>, Problem> {
    if value.len() > limit {
        return Err(Problem::GlobTooLong { length: value.len(), limit });
    }
    Ok(value.into())
}
