//! From the text of a file to policies that can be asked.
//!
//! In: a file and Cedar's schema. Out: its [`Rule`]s and every problem found. Questions, in order: is
//! it Cedar without templates, is each policy described by annotations that are known, is it right by
//! the schema (strictly: what can't hold is refused too), and does it name agents and tools that exist?

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint,
    ResourceConstraint, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;
use serde_json::Value;

use super::{
    super::{
        Agent, Tool,
        directory::{CedarFile, position},
        error::{PolicyError, Problem},
        place::{Place, quote},
    },
    PolicyName, RENDERED_PREFIX,
    facts::{Reads, entities},
    size,
};
use crate::resolver::grant::token::Action;

/// Longest `@id` and `@reason`, bytes.
const ID_LIMIT: usize = 200;
const REASON_LIMIT: usize = 500;

/// Whose policies they are.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// Rendered from the YAML.
    Yaml,
    /// Of a file, which may name these.
    File { tools: &'a [Tool], agents: &'a [Agent] },
}

/// A checked policy.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) id: PolicyName,
    pub(super) place: Place,
    /// Under its own id.
    pub(super) policy: Policy,
    pub(super) scope: Scope,
    pub(super) reads: Reads,
    /// A permit that needs an approver's yes.
    pub(super) approval: bool,
}

/// For whom, what and where a policy can have a say; `None`: for all.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) agent: Option<String>,
    pub(super) tool: Option<String>,
    pub(super) connect: bool,
    pub(super) listen: bool,
}

/// Checks the policies of one file.
pub(super) fn check(
    file: &CedarFile,
    origin: Origin<'_>,
    schema: &Schema,
    errors: &mut Vec<PolicyError>,
) -> Vec<Rule> {
    let CedarFile { file: name, text } = file;
    let at = |offset: usize| {
        let (line, column) = position(text.as_bytes().get(..offset).unwrap_or_default());
        Place::at(name, line, column)
    };
    if let (Origin::File { .. }, Err((offset, problem))) = (origin, size::check(text)) {
        errors.push(PolicyError::new(at(offset), problem));
        return Vec::new();
    }
    let set: PolicySet = match text.parse() {
        Ok(set) => set,
        Err(error) => {
            let error: cedar_policy::ParseErrors = error;
            for one in error.iter() {
                let problem = Problem::CedarSyntax(told(one));
                errors.push(PolicyError::new(at(offset(one).unwrap_or(0)), problem));
            }
            return Vec::new();
        }
    };
    if set.templates().next().is_some() {
        let slot = text.find(['?']).unwrap_or_default();
        errors.push(PolicyError::new(at(slot), Problem::CedarTemplate));
        return Vec::new();
    }
    let before = errors.len();
    let policies = in_order(&set, text);
    for (policy, begin) in &policies {
        let mut report = |problem| errors.push(PolicyError::new(at(*begin), problem));
        check_annotations(policy, origin, &mut report);
    }
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    let begin_of = |id: &PolicyId| {
        policies.iter().find(|(policy, _)| policy.id() == id).map_or(0, |(_, begin)| *begin)
    };
    let found = |problem: &dyn Diagnostic, id: &PolicyId| {
        (offset(problem).unwrap_or_else(|| begin_of(id)), told_of(problem, id))
    };
    let mut wrong: Vec<(usize, String)> =
        result.validation_errors().map(|error| found(error, error.policy_id())).collect();
    // What is wrong may be why it can't hold.
    if wrong.is_empty() {
        let warnings = result.validation_warnings();
        wrong.extend(warnings.map(|warning| found(warning, warning.policy_id())));
    }
    // Cedar tells them in the order of a hash.
    wrong.sort_unstable();
    for (begin, text) in wrong {
        errors.push(PolicyError::new(at(begin), Problem::CedarInvalid(text)));
    }
    if errors.len() > before {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for (policy, begin) in &policies {
        let Ok(json) = policy.to_json() else {
            errors.push(PolicyError::new(at(*begin), Problem::CedarSchema));
            continue;
        };
        let mut report = |problem| errors.push(PolicyError::new(at(*begin), problem));
        check_names(&json, origin, &mut report);
        rules.push(rule(policy, &json, at(*begin), origin));
    }
    rules
}

/// Refuses ids that stand twice, in one file or in several.
pub(super) fn refuse_second_ids(known: &[Rule], new: &[Rule], errors: &mut Vec<PolicyError>) {
    let mut places: HashMap<&str, &Place> =
        known.iter().rev().map(|rule| (&*rule.id, &rule.place)).collect();
    for rule in new {
        match places.entry(&rule.id) {
            Entry::Vacant(vacant) => {
                vacant.insert(&rule.place);
            }
            Entry::Occupied(first) => {
                let (name, first) = (quote(&rule.id), (*first.get()).clone());
                let problem = Problem::DuplicateName { what: "policy", name, first };
                errors.push(PolicyError::new(rule.place.clone(), problem));
            }
        }
    }
}

/// The policies of a text in the order in which they stand there, each with where it begins.
fn in_order<'a>(set: &'a PolicySet, text: &str) -> Vec<(&'a Policy, usize)> {
    let number = |policy: &Policy| -> usize {
        let id = policy.id().to_string();
        id.strip_prefix("policy").and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX)
    };
    let mut policies: Vec<&Policy> = set.policies().collect();
    policies.sort_by_key(|policy| number(policy));
    let mut end = 0;
    let mut found = Vec::with_capacity(policies.len());
    for policy in policies {
        let own = policy.to_cedar().unwrap_or_default();
        let begin = text.get(end..).and_then(|rest| rest.find(&own)).map_or(end, |at| end + at);
        end = begin + own.len();
        found.push((policy, begin));
    }
    found
}

fn check_annotations(policy: &Policy, origin: Origin<'_>, report: &mut impl FnMut(Problem)) {
    let mut id = None;
    for (key, value) in policy.annotations() {
        match key {
            "id" => id = Some(value),
            "reason" => {
                if value.is_empty()
                    || value.len() > REASON_LIMIT
                    || value.contains(char::is_control)
                {
                    report(Problem::BadText {
                        key: "@reason",
                        fault: "is no text of one line",
                        limit: REASON_LIMIT,
                    });
                }
            }
            "approval" => {
                if value != "required" {
                    report(Problem::BadWord {
                        key: "@approval",
                        value: quote(value),
                        choices: "`required`",
                    });
                } else if policy.effect() == Effect::Forbid {
                    report(Problem::CedarApprovalOfForbid);
                }
            }
            other => report(Problem::CedarAnnotation(quote(other))),
        }
    }
    let Some(id) = id else { return report(Problem::CedarNoId) };
    if id.is_empty() || id.len() > ID_LIMIT || id.contains(char::is_control) {
        report(Problem::BadText { key: "@id", fault: "is no text of one line", limit: ID_LIMIT });
    }
    if matches!(origin, Origin::File { .. }) && id.starts_with(RENDERED_PREFIX) {
        report(Problem::CedarReservedId(quote(id)));
    }
}

/// Refuses agents and tools that are not there: a forbid of them would close nothing.
fn check_names(json: &Value, origin: Origin<'_>, report: &mut impl FnMut(Problem)) {
    let Origin::File { tools, agents } = origin else { return };
    let mut named = Vec::new();
    entities(json, &mut named);
    named.sort_unstable();
    named.dedup();
    for (kind, id) in named {
        match kind.as_str() {
            "Agent" if !agents.iter().any(|agent| *agent.name == *id) => {
                report(Problem::UnknownAgent(quote(&id)));
            }
            "Tool" if !tools.iter().any(|tool| *tool.name == *id) => {
                report(Problem::UnknownTool(quote(&id)));
            }
            _ => {}
        }
    }
}

fn rule(policy: &Policy, json: &Value, place: Place, origin: Origin<'_>) -> Rule {
    let id: PolicyName = policy.annotation("id").unwrap_or_default().into();
    let is_yaml = matches!(origin, Origin::Yaml);
    let approval = policy.annotation("approval").is_some();
    let mut reads = Reads::of_conditions(json);
    let agent = match policy.principal_constraint() {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        PrincipalConstraint::In(one)
        | PrincipalConstraint::IsIn(_, one)
        | PrincipalConstraint::Eq(one) => named(&one, "Agent", &mut reads),
    };
    let tool = match policy.resource_constraint() {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
        ResourceConstraint::In(one)
        | ResourceConstraint::IsIn(_, one)
        | ResourceConstraint::Eq(one) => named(&one, "Tool", &mut reads),
    };
    let has = |action: Action| {
        let word = word(action);
        match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(one) => one.id().unescaped() == word,
            ActionConstraint::In(some) => some.iter().any(|one| one.id().unescaped() == word),
        }
    };
    let scope = Scope { agent, tool, connect: has(Action::Connect), listen: has(Action::Listen) };
    // Whether a person is to be asked is a matter of each call; what the YAML says of its tools they
    // say themselves.
    reads.call |= approval && !is_yaml;
    let policy = policy.new_id(PolicyId::new(&*id));
    Rule { id, place, policy, scope, reads, approval }
}

/// The agent or tool that a scope names; anything else that it names is known with the call only.
fn named(one: &EntityUid, kind: &str, reads: &mut Reads) -> Option<String> {
    if one.type_name().to_string() == kind {
        return Some(one.id().unescaped().to_owned());
    }
    reads.call = true;
    None
}

/// The word in policies.
const fn word(action: Action) -> &'static str {
    match action {
        Action::Connect => "NetworkConnect",
        Action::Listen => "NetworkListen",
    }
}

/// Where in its text a problem is, in bytes.
fn offset(problem: &dyn Diagnostic) -> Option<usize> {
    problem.labels()?.next().map(|label| label.offset())
}

/// Cedar's words on one line.
fn told(problem: &dyn Diagnostic) -> String {
    let mut text = problem.to_string();
    if let Some(label) = problem.labels().and_then(|mut labels| labels.next())
        && let Some(label) = label.label()
    {
        text = format!("{text}, {label}");
    }
    if let Some(help) = problem.help() {
        text = format!("{text} ({help})");
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The same without the number that Cedar gives each policy of a text.
fn told_of(problem: &dyn Diagnostic, id: &PolicyId) -> String {
    let text = told(problem);
    text.replace(&format!("for policy `{id}`, "), "").replace(&format!("policy `{id}`"), "policy")
}

impl Scope {
    /// Whether it can have a say.
    pub(super) fn fits(&self, agent: &str, tool: &str, action: Action) -> bool {
        let has_action = match action {
            Action::Connect => self.connect,
            Action::Listen => self.listen,
        };
        has_action
            && self.agent.as_ref().is_none_or(|own| own == agent)
            && self.tool.as_ref().is_none_or(|own| own == tool)
    }
}

impl Rule {
    /// Whether its answer is known when it is loaded.
    pub(super) const fn is_settled(&self) -> bool {
        !self.reads.call
    }

    /// Its id among those of Cedar.
    pub(super) fn name(&self) -> PolicyName {
        Arc::clone(&self.id)
    }
}
