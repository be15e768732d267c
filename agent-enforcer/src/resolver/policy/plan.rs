//! Selectors in the form that the kernel side looks up: numbered terms, one bit each.
//!
//! In: a policy. Out: for each cgroup glob, user and executable glob the set of terms that it
//! satisfies, and for terms without such a selector a set that anything satisfies. A process is
//! the agent's whose lowest term is in all three sets; the union over its cgroup and all ancestors
//! is the cgroup set. [`SelectorPlan::classify`] gives the kernel's answer from the same tables.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use agent_enforcer_common::{
    glob,
    process::{CgroupPattern, PATTERN_BYTES, PatternScope, SelectorDefaults, TERM_LIMIT, TermSet},
};

use super::{CgroupSelector, Policy, Term};
use crate::decision::Sha256Digest;

/// Below it users name units as they like, so no unit selector holds there.
const USER_SLICE: &str = "/user.slice";

/// The selector tables of a policy.
#[derive(Clone, Debug)]
pub struct SelectorPlan {
    terms: Vec<PlannedTerm>,
    patterns: Vec<CgroupPattern>,
    users: Vec<(u32, TermSet)>,
    executables: Vec<(String, TermSet)>,
    defaults: SelectorDefaults,
}

/// A numbered term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTerm {
    /// Name of the agent whose processes it matches.
    pub agent: Arc<str>,
    /// The cgroup of the process, or an ancestor of it.
    pub cgroup: Option<CgroupSelector>,
    /// Its real user id.
    pub uid: Option<u32>,
    /// Glob of its executable.
    pub executable: Option<Arc<str>>,
    /// Demanded of the executable's content: one of these; empty demands nothing.
    pub digests: Vec<Sha256Digest>,
}

impl SelectorPlan {
    /// Numbers the terms, most specific first, and builds the tables.
    pub fn build(policy: &Policy) -> Self {
        let terms = planned_terms(policy);
        let mut patterns: BTreeMap<&CgroupSelector, TermSet> = BTreeMap::new();
        let mut users = BTreeMap::new();
        let mut executables = BTreeMap::new();
        let mut defaults = SelectorDefaults {
            any_cgroup: TermSet::EMPTY,
            any_user: TermSet::EMPTY,
            any_executable: TermSet::EMPTY,
            patterns: 0,
            terms: 0,
        };
        for (number, term) in terms.iter().enumerate() {
            let cgroups = match &term.cgroup {
                Some(cgroup) => patterns.entry(cgroup).or_insert(TermSet::EMPTY),
                None => &mut defaults.any_cgroup,
            };
            insert(cgroups, number);
            let uids = match term.uid {
                Some(uid) => users.entry(uid).or_insert(TermSet::EMPTY),
                None => &mut defaults.any_user,
            };
            insert(uids, number);
            let globs = match &term.executable {
                Some(glob) => executables.entry(glob.to_string()).or_insert(TermSet::EMPTY),
                None => &mut defaults.any_executable,
            };
            insert(globs, number);
        }
        let patterns: Vec<_> =
            patterns.into_iter().map(|(cgroup, terms)| pattern(cgroup, terms)).collect();
        defaults.patterns = u32::try_from(patterns.len()).unwrap_or(u32::MAX);
        defaults.terms = u32::try_from(terms.len()).unwrap_or(u32::MAX);
        let users = users.into_iter().collect();
        let executables = executables.into_iter().collect();
        Self { terms, patterns, users, executables, defaults }
    }

    /// The terms in the order of their numbers, below `TERM_LIMIT`.
    pub fn terms(&self) -> &[PlannedTerm] {
        &self.terms
    }

    /// The term of a number.
    pub fn term(&self, number: usize) -> Option<&PlannedTerm> {
        self.terms.get(number)
    }

    /// Cgroup globs, each with the terms it satisfies; at most `PATTERN_LIMIT`.
    pub fn patterns(&self) -> &[CgroupPattern] {
        &self.patterns
    }

    /// Real user ids, each with the terms it satisfies.
    pub fn users(&self) -> &[(u32, TermSet)] {
        &self.users
    }

    /// Executable globs, each with the terms it satisfies.
    pub fn executables(&self) -> &[(String, TermSet)] {
        &self.executables
    }

    /// The terms that any cgroup, user or executable satisfies, and the sizes of the tables.
    pub const fn defaults(&self) -> &SelectorDefaults {
        &self.defaults
    }

    /// The terms whose cgroup selector matches this cgroup itself, ancestors aside.
    pub fn cgroup_terms(&self, path: &str) -> TermSet {
        let matching = self.patterns.iter().filter(|pattern| pattern_matches(pattern, path));
        matching.fold(TermSet::EMPTY, |all, pattern| union(all, pattern.terms))
    }

    /// The terms whose executable selector matches this path.
    pub fn executable_terms(&self, exe: &Path) -> TermSet {
        let path = exe.as_os_str().as_encoded_bytes();
        let matching =
            self.executables.iter().filter(|(pattern, _)| glob::matches(pattern.as_bytes(), path));
        matching.fold(TermSet::EMPTY, |all, (_, terms)| union(all, *terms))
    }

    /// The term that claims a process, as the kernel side finds it.
    pub fn classify(&self, cgroup_path: &str, uid: u32, exe: &Path) -> Option<&PlannedTerm> {
        let cgroups = levels(cgroup_path)
            .fold(self.defaults.any_cgroup, |all, level| union(all, self.cgroup_terms(level)));
        let of_user = self.users.iter().find(|(user, _)| *user == uid);
        let users = of_user.map_or(TermSet::EMPTY, |(_, terms)| *terms);
        let users = union(users, self.defaults.any_user);
        let executables = union(self.executable_terms(exe), self.defaults.any_executable);
        let claims = intersection(intersection(cgroups, users), executables);
        self.term(lowest(claims)?)
    }
}

/// Terms of all agents, most selectors first, then by agent and content; terms that differ in
/// their digest only are one, which any of the digests satisfies.
fn planned_terms(policy: &Policy) -> Vec<PlannedTerm> {
    let mut merged: BTreeMap<(std::cmp::Reverse<usize>, &str, Term), PlannedTerm> = BTreeMap::new();
    for agent in policy.agents() {
        for term in &agent.selectors {
            let rank = std::cmp::Reverse(term.selectors());
            let planned =
                merged.entry((rank, &*agent.name, term.matched_part())).or_insert_with(|| {
                    PlannedTerm {
                        agent: Arc::clone(&agent.name),
                        cgroup: term.cgroup.clone(),
                        uid: term.uid,
                        executable: term.executable.clone(),
                        digests: Vec::new(),
                    }
                });
            planned.digests.extend(term.sha256);
        }
    }
    // The policy was refused if it had more; a bit that does not exist must never be set.
    merged.into_values().take(TERM_LIMIT).collect()
}

fn pattern(cgroup: &CgroupSelector, terms: TermSet) -> CgroupPattern {
    let text = cgroup.glob().as_bytes();
    let mut glob = [0; PATTERN_BYTES];
    for (to, from) in glob.iter_mut().zip(text) {
        *to = *from;
    }
    let length = u32::try_from(text.len().min(PATTERN_BYTES)).unwrap_or_default();
    CgroupPattern { terms, scope: cgroup.scope() as u32, length, glob }
}

fn pattern_matches(pattern: &CgroupPattern, path: &str) -> bool {
    let length = usize::try_from(pattern.length).unwrap_or_default();
    let glob = pattern.glob.get(..length).unwrap_or_default();
    if pattern.scope == PatternScope::Path as u32 {
        return glob::matches(glob, path.as_bytes());
    }
    let below = path.strip_prefix(USER_SLICE);
    if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return false;
    }
    let unit = path.rsplit('/').next().unwrap_or_default();
    !unit.is_empty() && glob::matches(glob, unit.as_bytes())
}

/// A cgroup and its ancestors: `/a/b`, `/a`, `/`.
fn levels(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |level| match level.rsplit_once('/') {
        Some(("", "")) | None => None,
        Some(("", _)) => Some("/"),
        Some((parent, _)) => Some(parent),
    })
}

fn insert(set: &mut TermSet, number: usize) {
    if let Some(word) = set.words.get_mut(number / 64) {
        *word |= 1 << (number % 64);
    }
}

fn union(mut a: TermSet, b: TermSet) -> TermSet {
    a.words.iter_mut().zip(b.words).for_each(|(word, other)| *word |= other);
    a
}

fn intersection(mut a: TermSet, b: TermSet) -> TermSet {
    a.words.iter_mut().zip(b.words).for_each(|(word, other)| *word &= other);
    a
}

fn lowest(set: TermSet) -> Option<usize> {
    let (at, word) = set.words.iter().enumerate().find(|(_, word)| **word != 0)?;
    Some(at * 64 + usize::try_from(word.trailing_zeros()).ok()?)
}
