//! From selectors as written to terms that can recognise.
//!
//! In: the selectors of an agent, in the policy and in its manifest. Out: its [`Term`]s and every
//! problem found. Questions, in order: does each term say something that no other agent claims, and do
//! all terms fit the kernel side's tables?

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use agent_enforcer_common::process::{PATTERN_LIMIT, TERM_LIMIT};
use serde_saphyr::{Location, Spanned};

use super::{
    CgroupSelector, Term,
    directory::ManifestFile,
    document::AgentEntry,
    error::{PolicyError, Problem},
    manifests::in_manifest,
    place::{Place, quote},
    selector::Selector,
    tool_check::Report,
};

/// Who claims what a term matches, and where that is.
struct Claim {
    agent: Arc<str>,
    demands_digest: bool,
    digests: HashSet<Term>,
    place: Place,
}

/// The terms of all agents so far.
#[derive(Default)]
pub(super) struct SelectorCheck {
    /// By the part of a term that the kernel side matches.
    claims: HashMap<Term, Claim>,
    limits: LimitCheck,
}

impl SelectorCheck {
    /// The terms that the policy has for an agent.
    pub(super) fn terms(&mut self, entry: &AgentEntry, report: &mut Report<'_>) -> Vec<Term> {
        if entry.selectors.value.is_empty() {
            let problem = Problem::EmptyList("selectors", "name what recognises the agent");
            report.add(entry.selectors.referenced, problem);
        }
        let mut terms = Vec::new();
        for written in &entry.selectors.value {
            let at = written.referenced;
            let Some(term) = term(written, report) else { continue };
            match self.admit(&entry.name.value, &term, report.place(at)) {
                Ok(()) => terms.push(term),
                Err(problem) => report.add(at, problem),
            }
        }
        terms
    }

    /// The terms that an agent's manifest adds. What the policy has already is no second claim.
    pub(super) fn terms_of_manifest(
        &mut self,
        file: &ManifestFile,
        agent: &str,
        errors: &mut Vec<PolicyError>,
    ) -> Vec<Term> {
        let mut terms = Vec::new();
        for (number, written) in file.manifest.document().selectors.iter().enumerate() {
            let at = |problem| in_manifest(&file.place, format!("$.selectors[{number}]"), problem);
            let mut term = Term::default();
            let parsed = written
                .iter()
                .try_for_each(|text| term.add(Selector::parse(text)?))
                .and_then(|()| if term.is_matchable() { Ok(()) } else { Err(Problem::DigestAlone) })
                .and_then(|()| self.admit(agent, &term, file.place.clone()));
            match parsed {
                Ok(()) => terms.push(term),
                Err(Problem::DuplicateTerm(_)) => {}
                Err(problem) => errors.push(at(problem)),
            }
        }
        terms
    }

    fn admit(&mut self, agent: &str, term: &Term, place: Place) -> Result<(), Problem> {
        self.claim(agent, term, place)?;
        self.limits.admit(term)
    }

    /// Enters what a term matches under its agent's name.
    fn claim(&mut self, agent: &str, term: &Term, place: Place) -> Result<(), Problem> {
        let demands_digest = term.sha256.is_some();
        let Some(claim) = self.claims.get_mut(&term.matched_part()) else {
            let digests = HashSet::from([term.clone()]);
            let claim = Claim { agent: agent.into(), demands_digest, digests, place };
            self.claims.insert(term.matched_part(), claim);
            return Ok(());
        };
        if &*claim.agent != agent {
            let (agent, other) = (quote(agent), quote(&claim.agent));
            return Err(Problem::TermClaimed { agent, other, first: claim.place.clone() });
        }
        if claim.demands_digest != demands_digest {
            return Err(Problem::DigestContradiction(claim.place.clone()));
        }
        if !claim.digests.insert(term.clone()) {
            return Err(Problem::DuplicateTerm(claim.place.clone()));
        }
        Ok(())
    }
}

/// Parses one term; `None` where something is wrong with it.
fn term(written: &Spanned<Vec<Spanned<String>>>, report: &mut Report<'_>) -> Option<Term> {
    if written.value.is_empty() {
        let problem = Problem::EmptyList("selectors", "a term needs at least one selector");
        report.add(written.referenced, problem);
        return None;
    }
    let mut term = Term::default();
    let mut sound = true;
    for item in &written.value {
        let added = Selector::parse(&item.value).and_then(|selector| term.add(selector));
        if let Err(problem) = added {
            report.add(item.referenced, problem);
            sound = false;
        }
    }
    if sound && !term.is_matchable() {
        report.add(first_item(written), Problem::DigestAlone);
        sound = false;
    }
    sound.then_some(term)
}

fn first_item(written: &Spanned<Vec<Spanned<String>>>) -> Location {
    written.value.first().map_or(written.referenced, |item| item.referenced)
}

/// Counts what the kernel side's tables must hold; complains once for each.
#[derive(Default)]
struct LimitCheck {
    terms: HashSet<Term>,
    patterns: HashSet<CgroupSelector>,
}

impl LimitCheck {
    fn admit(&mut self, term: &Term) -> Result<(), Problem> {
        if self.terms.insert(term.matched_part()) && self.terms.len() == TERM_LIMIT + 1 {
            return Err(Problem::TooManyTerms(TERM_LIMIT));
        }
        let Some(cgroup) = &term.cgroup else { return Ok(()) };
        let fits = usize::try_from(PATTERN_LIMIT).unwrap_or(usize::MAX);
        if self.patterns.insert(cgroup.clone()) && self.patterns.len() == fits + 1 {
            return Err(Problem::TooManyPatterns(PATTERN_LIMIT));
        }
        Ok(())
    }
}
