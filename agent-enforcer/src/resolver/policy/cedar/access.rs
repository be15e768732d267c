//! What is decided about each agent, approved tool and action, as far as it is once and for all.
//!
//! In: checked policies. Out: [`Access`] for each. Only policies whose scope fits are looked at. Those
//! that read nothing of the call are answered here by Cedar's authorizer, without and with a grant;
//! where others may have a say, all that may are kept as a [`Slice`] and are asked with each call.

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityUid, PolicySet, Request,
    RestrictedExpression,
};

use super::{
    super::{Agent, Tool},
    ByAction, PolicyName, Words,
    check::Rule,
};
use crate::resolver::grant::token::Action;

/// What is decided before any call.
#[derive(Clone, Debug)]
pub(in crate::resolver::policy) enum Access {
    /// These policies forbid it, whatever is granted.
    Never(Arc<[PolicyName]>),
    /// It needs no grant.
    Standing,
    /// It needs a live grant, of whomever.
    WithGrant,
    /// It depends on the call.
    Conditional(Arc<Slice>),
}

/// The policies that may have a say in a call.
#[derive(Clone, Debug)]
pub(in crate::resolver::policy) struct Slice {
    pub(super) set: PolicySet,
    /// Of each policy in it.
    pub(super) notes: HashMap<PolicyName, Note>,
    pub(super) reads_time: bool,
    pub(super) words: Words,
}

/// What the authorizer does not need to know of a policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub(super) reads_grant: bool,
    pub(super) approval: bool,
}

/// Whether there is a live grant.
#[derive(Clone, Copy)]
enum Granted {
    No,
    Yes,
}

/// The tables of every agent.
pub(super) fn tables(
    rules: &[Rule],
    tools: &[Tool],
    agents: &[Agent],
    words: &Words,
) -> HashMap<Arc<str>, Vec<ByAction>> {
    let mut general = Vec::new();
    let mut own: HashMap<&str, Vec<&Rule>> = HashMap::new();
    for rule in rules {
        match &rule.scope.agent {
            None => general.push(rule),
            Some(agent) => own.entry(agent).or_default().push(rule),
        }
    }
    let of_agent = |agent: &Agent| {
        let own = own.get(&*agent.name).map(Vec::as_slice).unwrap_or_default();
        let rules: Vec<&Rule> = own.iter().chain(&general).copied().collect();
        let tool = |id: &agent_enforcer_common::id::ToolId| {
            tools.get(usize::try_from(id.get().checked_sub(1)?).ok()?)
        };
        let by_action = |tool: &Tool| {
            let of = |action| access(&rules, &agent.name, &tool.name, action, words);
            ByAction { connect: of(Action::Connect), listen: of(Action::Listen) }
        };
        (Arc::clone(&agent.name), agent.tools.iter().filter_map(tool).map(by_action).collect())
    };
    agents.iter().map(of_agent).collect()
}

fn access(rules: &[&Rule], agent: &str, tool: &str, action: Action, words: &Words) -> Access {
    let fitting: Vec<&Rule> =
        rules.iter().filter(|rule| rule.scope.fits(agent, tool, action)).copied().collect();
    let (settled, open): (Vec<&Rule>, Vec<&Rule>) =
        fitting.iter().partition(|rule| rule.is_settled());
    let case = Case { agent, tool, action, words };
    let conditional = |rules: Vec<&Rule>| Access::Conditional(Arc::new(Slice::new(&rules, words)));
    let (Some(without), Some(with)) =
        (case.ask(&settled, Granted::No), case.ask(&settled, Granted::Yes))
    else {
        // What goes wrong here goes wrong with each call, and is told there.
        return conditional(fitting);
    };
    let forbidden = |answer: &Settled| !answer.allowed && !answer.policies.is_empty();
    if forbidden(&without) && forbidden(&with) {
        return Access::Never(with.policies.into());
    }
    if !open.is_empty() {
        let has_a_say = |rule: &&Rule| {
            let holds =
                |granted| case.ask(&[*rule], granted).is_none_or(|one| !one.policies.is_empty());
            holds(Granted::No) || holds(Granted::Yes)
        };
        return conditional(settled.into_iter().filter(has_a_say).chain(open).collect());
    }
    match (without.allowed, with.allowed) {
        (true, _) => Access::Standing,
        (false, true) => Access::WithGrant,
        (false, false) => Access::Never(with.policies.into()),
    }
}

/// A call of which nothing but this is known.
struct Case<'a> {
    agent: &'a str,
    tool: &'a str,
    action: Action,
    words: &'a Words,
}

/// What Cedar says of it.
struct Settled {
    allowed: bool,
    /// Those that determined it.
    policies: Vec<PolicyName>,
}

impl Case<'_> {
    /// Asks policies that read nothing else; `None` where one of them can't be evaluated.
    fn ask(&self, rules: &[&Rule], granted: Granted) -> Option<Settled> {
        let Self { agent, tool, action, words } = *self;
        let mut set = PolicySet::new();
        for rule in rules {
            set.add(rule.policy.clone()).ok()?;
        }
        let uid = |kind: &cedar_policy::EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
        };
        let instance = uid(&words.instance, "");
        let destination = uid(&words.destination, "");
        let entities = [
            Entity::new_no_attrs(instance.clone(), [uid(&words.agent, agent)].into()),
            Entity::new_no_attrs(destination.clone(), [uid(&words.tool, tool)].into()),
        ];
        let entities = Entities::from_entities(entities, None).ok()?;
        let grant = match granted {
            Granted::No => None,
            // Nobody reads what is in it.
            Granted::Yes => Some(("grant".to_owned(), RestrictedExpression::new_long(0))),
        };
        let context = Context::from_pairs(grant).ok()?;
        let action = words.action(action).clone();
        let request = Request::new(instance, action, destination, context, None).ok()?;
        let response = Authorizer::new().is_authorized(&request, &set, &entities);
        let diagnostics = response.diagnostics();
        if diagnostics.errors().next().is_some() {
            return None;
        }
        let allowed = response.decision() == Decision::Allow;
        let policies = sorted(diagnostics.reason());
        Some(Settled { allowed, policies })
    }
}

/// Ids as names, in their order.
pub(super) fn sorted<'a>(ids: impl Iterator<Item = &'a cedar_policy::PolicyId>) -> Vec<PolicyName> {
    let mut names: Vec<PolicyName> = ids
        .map(|id| {
            let id: &str = id.as_ref();
            id.into()
        })
        .collect();
    names.sort_unstable();
    names
}

impl Slice {
    fn new(rules: &[&Rule], words: &Words) -> Self {
        let mut set = PolicySet::new();
        let mut notes = HashMap::new();
        for rule in rules {
            // Ids are unique: nothing is refused.
            if set.add(rule.policy.clone()).is_ok() {
                let note = Note { reads_grant: rule.reads.grant, approval: rule.approval };
                notes.insert(rule.name(), note);
            }
        }
        let reads_time = rules.iter().any(|rule| rule.reads.time);
        Self { set, notes, reads_time, words: words.clone() }
    }

    /// Whether its answer can change with the minute.
    pub(in crate::resolver::policy) const fn reads_time(&self) -> bool {
        self.reads_time
    }
}
