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
    unit::unit_of,
};

use super::{CgroupSelector, Policy, Term};
use crate::decision::Sha256Digest;

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

    /// Whether a process of this cgroup and user would be an agent's with some executable.
    pub fn some_executable_is_claimed(&self, cgroup_path: &str, uid: u32) -> bool {
        let all =
            self.executables.iter().fold(TermSet::EMPTY, |all, (_, terms)| union(all, *terms));
        self.classify(cgroup_path, uid, all).is_some()
    }

    /// The term that claims a process, as the kernel side finds it. `named`: the terms that its
    /// executable satisfies. Take them by the file itself: a path is as its process sees it.
    pub fn classify(&self, cgroup_path: &str, uid: u32, named: TermSet) -> Option<&PlannedTerm> {
        let cgroups = levels(cgroup_path)
            .fold(self.defaults.any_cgroup, |all, level| union(all, self.cgroup_terms(level)));
        let of_user = self.users.iter().find(|(user, _)| *user == uid);
        let users = of_user.map_or(TermSet::EMPTY, |(_, terms)| *terms);
        let users = union(users, self.defaults.any_user);
        let executables = union(named, self.defaults.any_executable);
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
    unit_of(path)
        .is_some_and(|(unit, below)| below.is_empty() && glob::matches(glob, unit.as_bytes()))
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

#[cfg(test)]
mod tests {
    use agent_enforcer_common::process::PATTERN_LIMIT;

    use super::*;
    use crate::resolver::policy::testing::{load_text, policy};

    fn agents(list: &[(&str, &str)]) -> String {
        let agent = |(name, selectors): &(&str, &str)| {
            format!(
                "  - {{name: {name}, owner: o, purpose: p, selectors: {selectors}, tools: []}}\n"
            )
        };
        format!("agents:\n{}", list.iter().map(agent).collect::<String>())
    }

    fn plan(list: &[(&str, &str)]) -> SelectorPlan {
        SelectorPlan::build(&policy(&agents(list)))
    }

    fn claims(plan: &SelectorPlan, cgroup: &str, uid: u32, exe: &str) -> Option<String> {
        plan.classify(cgroup, uid, plan.executable_terms(Path::new(exe)))
            .map(|term| term.agent.to_string())
    }

    #[test]
    fn numbers_the_most_specific_term_lowest_then_by_agent() {
        let plan = plan(&[
            ("c", "[[\"unix:uid:1\"], [\"unix:uid:2\", \"unix:path:/x\"]]"),
            ("b", "[[\"unix:uid:3\"]]"),
            ("a", "[[\"unix:uid:4\", \"unix:path:/y\", \"cgroup:path:/z\"]]"),
        ]);
        let order: Vec<_> = plan.terms().iter().map(|t| (&*t.agent, t.uid.unwrap())).collect();
        assert_eq!(order, [("a", 4), ("c", 2), ("b", 3), ("c", 1)]);
        assert_eq!(plan.defaults().terms, 4);
    }

    #[test]
    fn all_selectors_of_a_term_must_hold() {
        let plan =
            plan(&[("bot", "[[\"unix:uid:7\", \"unix:path:/opt/*\", systemd:id:b@*.service]]")]);
        let unit = "/system.slice/b@1.service";
        assert_eq!(claims(&plan, unit, 7, "/opt/bot").as_deref(), Some("bot"));
        assert_eq!(claims(&plan, unit, 8, "/opt/bot"), None);
        assert_eq!(claims(&plan, unit, 7, "/opt/bot/x"), None);
        assert_eq!(claims(&plan, "/system.slice/c.service", 7, "/opt/bot"), None);
    }

    #[test]
    fn a_process_is_in_its_cgroup_and_in_all_ancestors_of_it() {
        let plan = plan(&[("bot", "[[cgroup:path:/a/b*], [systemd:id:x.service]]")]);
        for (cgroup, expected) in [
            ("/a/b1", true),
            ("/a/b1/c/d", true),
            ("/a", false),
            ("/", false),
            ("/z/a/b1", false),
            ("/system.slice/x.service", true),
            ("/system.slice/x.service/worker", true),
            ("/system.slice/x.serviceX", false),
        ] {
            assert_eq!(claims(&plan, cgroup, 0, "/e").is_some(), expected, "{cgroup}");
        }
    }

    #[test]
    fn whoever_a_unit_is_delegated_to_names_no_units_but_its_cgroups_have_paths() {
        let plan = plan(&[
            ("unit", "[[systemd:id:x.service], [systemd:id:session-3.scope]]"),
            ("path", "[[\"cgroup:path:/user.slice/**/y.service\"]]"),
        ]);
        let user = "/user.slice/user-7.slice";
        for (cgroup, agent) in [
            (format!("{user}/user@7.service/x.service"), None),
            (format!("{user}/user@7.service/app.slice/x.service"), None),
            (format!("{user}/user@7.service/app.slice/y.service"), Some("path")),
            (format!("{user}/session-3.scope"), Some("unit")),
            ("/system.slice/build.service/x.service".to_owned(), None),
            ("/build/x.service".to_owned(), None),
            ("/team.slice/team-a.slice/x.service/worker".to_owned(), Some("unit")),
        ] {
            assert_eq!(claims(&plan, &cgroup, 7, "/e").as_deref(), agent, "{cgroup}");
        }
    }

    #[test]
    fn the_lowest_term_over_all_levels_wins() {
        let plan = plan(&[
            ("wide", "[[cgroup:path:/a, \"unix:uid:7\"]]"),
            ("near", "[[cgroup:path:/a/b]]"),
        ]);
        // The deeper cgroup is less specific here: two selectors beat one.
        assert_eq!(claims(&plan, "/a/b", 7, "/e").as_deref(), Some("wide"));
        assert_eq!(claims(&plan, "/a/b", 8, "/e").as_deref(), Some("near"));
    }

    #[test]
    fn an_unknown_executable_matters_only_where_one_would_be_claimed() {
        let plan = plan(&[("bot", "[[\"unix:uid:7\", \"unix:path:/opt/*\"], [\"unix:uid:9\"]]")]);
        assert!(plan.some_executable_is_claimed("/", 7));
        assert!(!plan.some_executable_is_claimed("/", 8));
        assert_eq!(claims(&plan, "/", 7, "/bin/sh"), None);
    }

    #[test]
    fn digests_are_demanded_of_what_the_rest_of_the_term_matches() {
        let term = |digit| format!("[\"unix:path:/x\", \"unix:sha256:{}\"]", digit_text(digit));
        let plan = plan(&[("bot", &format!("[{}, {}]", term('0'), term('1')))]);
        assert_eq!(plan.terms().len(), 1);
        let found = plan.classify("/", 0, plan.executable_terms(Path::new("/x"))).unwrap();
        assert_eq!(found.digests, [Sha256Digest([0; 32]), Sha256Digest([0x11; 32])]);
    }

    fn digit_text(digit: char) -> String {
        std::iter::repeat_n(digit, 64).collect()
    }

    #[test]
    fn terms_share_tables_and_defaults_hold_numbered_bits_only() {
        let plan = plan(&[
            ("a", "[[systemd:id:x.service, \"unix:uid:1\"]]"),
            ("b", "[[systemd:id:x.service, \"unix:uid:2\"]]"),
            ("c", "[[\"unix:path:/x\"]]"),
        ]);
        assert_eq!(
            (plan.patterns().len(), plan.users().len(), plan.executables().len()),
            (1, 2, 1)
        );
        let pattern = plan.patterns().first().unwrap();
        assert_eq!((pattern.scope, pattern.length), (PatternScope::SystemUnit as u32, 9));
        assert_eq!(pattern.terms.words[0], 0b011);
        let defaults = plan.defaults();
        assert_eq!((defaults.patterns, defaults.terms), (1, 3));
        assert_eq!(defaults.any_cgroup.words[0], 0b100);
        assert_eq!(defaults.any_user.words[0], 0b100);
        assert_eq!(defaults.any_executable.words[0], 0b011);
        assert!(defaults.any_cgroup.words.iter().skip(1).all(|word| *word == 0));
    }

    #[test]
    fn refuses_more_terms_or_globs_than_the_tables_hold() {
        let errors = |count: usize, selector: &dyn Fn(usize) -> String| {
            let terms: Vec<_> = (1..=count).map(|n| format!("[\"{}\"]", selector(n))).collect();
            let yaml = agents(&[("bot", &format!("[{}]", terms.join(", ")))]);
            load_text(&format!("apiVersion: agent-enforcer/v1\n{yaml}"))
        };
        let user = |n| format!("unix:uid:{n}");
        let full = errors(TERM_LIMIT, &user).unwrap();
        assert_eq!(SelectorPlan::build(&full).terms().len(), TERM_LIMIT);
        let over = errors(TERM_LIMIT + 1, &user).unwrap_err().to_string();
        assert!(over.ends_with("more than 1024 different selector terms; merge some with globs"));
        let cgroup = |n| format!("cgroup:path:/c{n}");
        let limit = usize::try_from(PATTERN_LIMIT).unwrap();
        assert_eq!(SelectorPlan::build(&errors(limit, &cgroup).unwrap()).patterns().len(), limit);
        let over = errors(limit + 1, &cgroup).unwrap_err().to_string();
        assert!(over.ends_with("more than 256 different cgroup globs; merge some with `*`"));
    }
}
