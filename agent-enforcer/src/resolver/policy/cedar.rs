//! What decides: Cedar policies, those that the YAML says and those of `*.cedar` files beside it.
//!
//! In: checked tools and agents, and the texts of the files. Out: [`Cedar`], which knows for each agent,
//! approved tool and action what is decided once and for all ([`Access`]), and asks Cedar's own
//! authorizer about the rest, call by call. What the YAML says is rendered as Cedar text and loaded
//! from that text (`render`), so what `policy show --cedar` shows is what decides.
//!
//! Authority is an intersection: the ceiling of an agent is a forbid, so no permit opens what its
//! `tools` lack. Manifests, `via`, software and whether a grant is live are asked before (`rule`).

mod access;
mod check;
mod decide;
mod facts;
mod render;
mod size;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
    thread,
};

use agent_enforcer_common::id::ToolId;
use cedar_policy::{EntityTypeName, EntityUid, Schema};

use super::{
    Agent, Tool,
    directory::CedarFile,
    error::{PolicyError, Problem},
    place::Place,
};
use crate::resolver::grant::token::Action;
pub(super) use access::{Access, Slice};
#[cfg(test)]
use check::Rule;
pub use decide::minute_left_ns;
pub(super) use decide::{Answer, Facts};
pub(super) use size::{DEPTH_LIMIT, POLICY_LIMIT};

/// Under which name the rendered policies are shown.
const RENDERED: &str = "yaml.cedar";
/// What the ids of rendered policies begin with.
const RENDERED_PREFIX: &str = "yaml/";
const SCHEMA: &str = include_str!("cedar/agent-enforcer.cedarschema");

/// Stack of the thread that reads policies: enough for the deepest that `size` lets through.
const STACK: usize = 256 << 20;

/// The schema, and its types and actions.
static KNOWN: LazyLock<Option<(Schema, Words)>> = LazyLock::new(|| {
    let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA).ok()?;
    Some((schema, Words::new()?))
});

/// The id of a policy, as `@id` gives it.
pub type PolicyName = Arc<str>;

/// The policies in force.
#[derive(Clone, Debug)]
pub struct Cedar {
    /// The text of each file, and of what was rendered.
    texts: BTreeMap<Arc<str>, Arc<str>>,
    /// By agent, for each of its tools in their order.
    access: HashMap<Arc<str>, Vec<ByAction>>,
    reads_time: bool,
    /// All of them, for whoever asks Cedar about everything at once.
    #[cfg(test)]
    rules: Vec<Rule>,
}

/// Access by action.
#[derive(Clone, Debug)]
struct ByAction {
    connect: Access,
    listen: Access,
}

/// The types and actions of the schema.
#[derive(Clone, Debug)]
struct Words {
    agent: EntityTypeName,
    tool: EntityTypeName,
    instance: EntityTypeName,
    destination: EntityTypeName,
    connect: EntityUid,
    listen: EntityUid,
}

impl Cedar {
    /// Renders the YAML, checks all policies and decides what can be decided now.
    pub(super) fn check(
        tools: &[Tool],
        agents: &[Agent],
        files: &[CedarFile],
        errors: &mut Vec<PolicyError>,
    ) -> Option<Self> {
        let whole = PolicyError::new(Place::rendered(), Problem::CedarSchema);
        let Some((schema, words)) = &*KNOWN else {
            errors.push(whole);
            return None;
        };
        let known = errors.len();
        let checked = thread::scope(|scope| {
            let check = || Self::check_by(schema, words, (tools, agents), files, errors);
            let worker = thread::Builder::new().name("cedar".to_owned()).stack_size(STACK);
            worker.spawn_scoped(scope, check).ok()?.join().ok()?
        });
        if checked.is_none() && errors.len() == known {
            errors.push(whole);
        }
        checked
    }

    fn check_by(
        schema: &Schema,
        words: &Words,
        (tools, agents): (&[Tool], &[Agent]),
        files: &[CedarFile],
        errors: &mut Vec<PolicyError>,
    ) -> Option<Self> {
        let rendered =
            CedarFile { file: RENDERED.into(), text: render::render(tools, agents).into() };
        let before = errors.len();
        let mut rules = check::check(&rendered, check::Origin::Yaml, schema, errors);
        for file in files {
            let found = check::check(file, check::Origin::File { tools, agents }, schema, errors);
            check::refuse_second_ids(&rules, &found, errors);
            rules.extend(found);
        }
        if errors.len() > before {
            return None;
        }
        let access = access::tables(&rules, tools, agents, words);
        let texts = files.iter().chain([&rendered]);
        Some(Self {
            texts: texts.map(|file| (Arc::clone(&file.file), Arc::clone(&file.text))).collect(),
            access,
            reads_time: rules.iter().any(|rule| rule.reads.time),
            #[cfg(test)]
            rules,
        })
    }

    /// What is decided about an approved tool; `None` where the tool is not approved.
    pub(super) fn access(&self, agent: &Agent, tool: ToolId, action: Action) -> Option<&Access> {
        let at = agent.tools.binary_search(&tool).ok()?;
        let ByAction { connect, listen } = self.access.get(&agent.name)?.get(at)?;
        Some(match action {
            Action::Connect => connect,
            Action::Listen => listen,
        })
    }

    /// The text of every file, and of what the YAML says under a name of its own.
    pub fn texts(&self) -> &BTreeMap<Arc<str>, Arc<str>> {
        &self.texts
    }

    /// Whether what is decided can change with the minute.
    pub const fn reads_time(&self) -> bool {
        self.reads_time
    }
}

impl PartialEq for Cedar {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Words {
    fn new() -> Option<Self> {
        Some(Self {
            agent: "Agent".parse().ok()?,
            tool: "Tool".parse().ok()?,
            instance: "Instance".parse().ok()?,
            destination: "Destination".parse().ok()?,
            connect: "Action::\"NetworkConnect\"".parse().ok()?,
            listen: "Action::\"NetworkListen\"".parse().ok()?,
        })
    }

    const fn action(&self, action: Action) -> &EntityUid {
        match action {
            Action::Connect => &self.connect,
            Action::Listen => &self.listen,
        }
    }
}
