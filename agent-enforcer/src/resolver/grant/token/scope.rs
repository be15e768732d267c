//! What a token permits, in the host's terms.
//!
//! In: `authorization_details`, the agent, the issuer. Out: a [`Scope`] of approved tools, and of
//! locations that each lie within one approved tool; or the first thing in it that goes beyond the
//! agent's approved set or the issuer's. A location is judged as its tool is, and narrows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use agent_enforcer_common::destination::{Destination, PeerFamily};
use serde::{Deserialize, Serialize};

use super::{Detail, Issuer, Location, TokenRefusal, TokenWorld, ToolStanding};

/// What may be done with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Call it.
    Connect,
    /// Be called by it.
    Listen,
}

/// Some actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actions {
    /// Whether `connect` is one of them.
    pub connect: bool,
    /// Whether `listen` is one of them.
    pub listen: bool,
}

/// What a token permits. Each part of it permits what it says, whatever the others say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Whole tools.
    pub tools: BTreeMap<Arc<str>, Actions>,
    /// Parts of tools.
    pub locations: Vec<ScopedLocation>,
}

/// A part of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedLocation {
    /// Which destinations.
    pub location: Location,
    /// The tool that has them.
    pub tool: Arc<str>,
    /// What may be done with them.
    pub actions: Actions,
}

/// Reads what a token permits, and refuses what it can't.
pub(super) fn resolve(
    details: &[Detail],
    agent: &str,
    issuer: &Issuer,
    world: &dyn TokenWorld,
) -> Result<Scope, TokenRefusal> {
    let mut scope = Scope::default();
    for Detail { kind: _, tools, locations, actions } in details {
        let actions: Actions = actions.iter().copied().collect();
        for tool in tools {
            check_tool(tool, agent, issuer, world)?;
            scope.tools.entry(tool.to_arc()).or_default().add(actions);
        }
        for text in locations {
            let location = text
                .parse::<Location>()
                .map_err(|error| TokenRefusal::Location(error.to_string()))?;
            let tool = world.tool_of(&location).ok_or_else(|| {
                TokenRefusal::Location(format!("{location} is not wholly within one tool"))
            })?;
            check_tool(&tool, agent, issuer, world)?;
            scope.locations.push(ScopedLocation { location, tool, actions });
        }
    }
    Ok(scope)
}

fn check_tool(
    tool: &str,
    agent: &str,
    issuer: &Issuer,
    world: &dyn TokenWorld,
) -> Result<(), TokenRefusal> {
    let refused = |by: &str| {
        let (tool, by) = (tool.to_owned(), by.to_owned());
        Err(TokenRefusal::ToolNotAllowed { tool, by })
    };
    match world.tool(agent, tool) {
        ToolStanding::Unknown => Err(TokenRefusal::ToolUnknown(tool.to_owned())),
        ToolStanding::NotApproved => refused(&format!("agent {agent}")),
        ToolStanding::Approved if !issuer.tools.iter().any(|own| **own == *tool) => {
            refused(&format!("issuer {}", issuer.name))
        }
        ToolStanding::Approved => Ok(()),
    }
}

impl Scope {
    /// Whole tools, for whatever can be done with them.
    pub fn of_tools(tools: impl IntoIterator<Item = Arc<str>>) -> Self {
        let tools = tools.into_iter().map(|tool| (tool, Actions::ALL)).collect();
        Self { tools, locations: Vec::new() }
    }

    /// The tools that it has something of, each once.
    pub fn tool_names(&self) -> BTreeSet<&Arc<str>> {
        let parts = self.locations.iter().map(|part| &part.tool);
        self.tools.keys().chain(parts).collect()
    }

    /// Whether it permits the whole of a tool.
    pub fn permits_whole(&self, tool: &str, action: Action) -> bool {
        self.tools.get(tool).is_some_and(|actions| actions.include(action))
    }

    /// Whether it permits a destination of a tool, or to be called at an address of it.
    pub fn permits(&self, tool: &str, destination: &Destination) -> bool {
        let action = Action::on(destination);
        let part = |part: &ScopedLocation| {
            *part.tool == *tool
                && part.actions.include(action)
                && part.location.contains(destination)
        };
        self.permits_whole(tool, action) || self.locations.iter().any(part)
    }

    /// Whether everything that the other permits is permitted here: by one part of this for each
    /// part of the other.
    pub fn covers(&self, other: &Self) -> bool {
        let tool = |tool: &str, actions: Actions| {
            self.tools.get(tool).is_some_and(|own| own.contain(actions))
        };
        let part = |other: &ScopedLocation| {
            self.locations.iter().any(|own| {
                // What a location leaves open is its tool's: another tool's is not in it, even where
                // a later policy has it there.
                own.tool == other.tool
                    && own.location.covers(&other.location)
                    && own.actions.contain(other.actions)
            })
        };
        other.tools.iter().all(|(name, actions)| tool(name, *actions))
            && other.locations.iter().all(|other| tool(&other.tool, other.actions) || part(other))
    }
}

impl Action {
    /// What a call does that goes to a destination, or comes to an address of this host.
    pub fn on(destination: &Destination) -> Self {
        if destination.family() == PeerFamily::Listen as u8 { Self::Listen } else { Self::Connect }
    }
}

impl Actions {
    /// Every one.
    pub const ALL: Self = Self { connect: true, listen: true };

    /// Whether an action is among these.
    pub const fn include(self, action: Action) -> bool {
        match action {
            Action::Connect => self.connect,
            Action::Listen => self.listen,
        }
    }

    /// Whether the others are among these.
    pub const fn contain(self, others: Self) -> bool {
        (self.connect || !others.connect) && (self.listen || !others.listen)
    }

    const fn add(&mut self, others: Self) {
        self.connect |= others.connect;
        self.listen |= others.listen;
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let mut all = Self::default();
        for action in actions {
            match action {
                Action::Connect => all.connect = true,
                Action::Listen => all.listen = true,
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_location_leaves_open_is_its_own_tools() {
        let scope = |tool: &str, location: &str| Scope {
            tools: BTreeMap::new(),
            locations: vec![ScopedLocation {
                location: location.parse().unwrap(),
                tool: tool.into(),
                actions: Actions { connect: true, listen: false },
            }],
        };
        let parent = scope("mail", "192.0.2.25");
        assert!(parent.covers(&scope("mail", "192.0.2.25:25/tcp")));
        assert!(!parent.covers(&scope("mail-admin", "192.0.2.25:8080/tcp")));
        assert!(parent.covers(&Scope::default()) && !Scope::default().covers(&parent));
    }
}
