//! May this program image talk to this destination?
//!
//! Questions, in order: is there an exact verdict of the generation in force (it was made for an
//! attested image; refusing one begins a new generation); is the image attested; is the
//! destination below a prefix granted to the instance or the agent. All keys are the kernel's own
//! (image and instance numbers given at fork and exec, the address that the protocol will use),
//! and only the daemon writes the answers. What is not answered is not allowed: the caller asks
//! or denies.

use agent_enforcer_common::{
    destination::Destination,
    id::{ExecId, GrantId, ToolId},
    reason::Reason,
    verdict::{
        Action, PORT_RULES, PortTable, VERDICT_FLOW_ONLY, VERDICT_ONCE, VerdictKey, agent_scope,
        instance_scope,
    },
};

use crate::{
    maps::{
        identities, state,
        verdicts::{self, Found},
    },
    report::{Case, lives},
};

/// What is asked for: a verdict that admits one call must not be spent by a flow that goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    NewCall,
    LiveFlow,
    /// Whether there is an answer for a new call, which another hook will take.
    Peek,
}

/// Under what a call is allowed.
#[derive(Clone, Copy)]
pub(crate) struct Permit {
    pub(crate) expires_ns: u64,
    pub(crate) grant: GrantId,
    pub(crate) tool: ToolId,
    /// [`Reason`], as the daemon wrote it.
    pub(crate) reason: u16,
    /// `VERDICT_*`.
    pub(crate) flags: u16,
    /// As in the verdict; 0 below a granted prefix.
    pub(crate) tally: u32,
    pub(crate) _pad: u32,
}

impl Permit {
    /// Whether calls under it could be counted, and are not yet.
    #[inline(always)]
    pub(crate) const fn may_be_counted(&self) -> bool {
        self.flags == 0 && self.tally == 0
    }

    /// Whether the call took a verdict that admits one. Which call that was, only the taker can
    /// tell: the daemon writes the verdict for whoever comes first.
    #[inline(always)]
    pub(crate) const fn is_taken(&self) -> bool {
        self.flags & VERDICT_ONCE as u16 != 0
    }
}

const _: () = assert!(size_of::<Permit>() == 32, "padding is copied uninitialised");

/// What a call was denied for.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// [`Reason`], as the daemon wrote it.
    pub(crate) reason: u16,
    pub(crate) grant: GrantId,
    pub(crate) tool: ToolId,
}

impl Refusal {
    #[inline(always)]
    pub(crate) const fn new(reason: Reason) -> Self {
        Self { reason: reason.raw(), grant: GrantId::NONE, tool: ToolId::NONE }
    }
}

/// What the maps say.
pub(crate) enum Answer {
    Allow(Permit),
    Deny(Refusal),
    /// Nothing yet. `attested` tells whether at least the identity is known.
    Unknown {
        attested: bool,
    },
}

impl Permit {
    #[inline(always)]
    const fn of(found: &Found) -> Self {
        let Found { expires_ns, grant, tool, reason, action: _, flags, tally, _pad: _ } = *found;
        Self { expires_ns, grant, tool, reason, flags: flags as u16, tally, _pad: 0 }
    }
}

/// The answer that most calls get: an exact verdict that admits every one.
#[inline(always)]
pub(crate) fn look_up_exact(exec: ExecId, destination: Destination) -> Option<Permit> {
    let found = verdicts::exact(&VerdictKey { exec, destination }, state::generation())?;
    (found.action == Action::Allow as u8 && found.flags == 0).then_some(Permit::of(&found))
}

/// Looks the question up.
#[inline(always)]
pub(crate) fn look_up<const CURRENT: bool>(case: &Case<CURRENT>, purpose: Purpose) -> Answer {
    let generation = state::generation();
    let key = VerdictKey { exec: case.tag.exec, destination: case.destination };
    if let Some(verdict) = verdicts::exact(&key, generation) {
        match Action::from_raw(verdict.action) {
            Some(Action::Allow) => {
                let once = verdict.flags & VERDICT_ONCE != 0;
                let flow_only = verdict.flags & VERDICT_FLOW_ONLY != 0;
                let admits = match purpose {
                    Purpose::NewCall => !flow_only && (!once || verdicts::take(&key)),
                    Purpose::LiveFlow => !once,
                    Purpose::Peek => !flow_only,
                };
                if admits {
                    return Answer::Allow(Permit::of(&verdict));
                }
            }
            Some(Action::Deny) => {
                return Answer::Deny(Refusal {
                    reason: verdict.reason,
                    grant: verdict.grant,
                    tool: verdict.tool,
                });
            }
            None => return Answer::Deny(Refusal::new(Reason::Internal)),
        }
    }
    let Some(identity) = identities::get(&case.tag.exec) else {
        return Answer::Unknown { attested: false };
    };
    if identity.reason != Reason::None.raw() {
        return Answer::Deny(Refusal {
            reason: identity.reason,
            grant: GrantId::NONE,
            tool: ToolId::NONE,
        });
    }
    let port = case.destination.port();
    let permit = verdicts::prefix(instance_scope(case.tag.instance), &case.destination, generation)
        .and_then(|table| port_rule(table, port))
        .or_else(|| {
            verdicts::prefix(agent_scope(case.tag.agent), &case.destination, generation)
                .and_then(|table| port_rule(table, port))
        });
    match permit {
        Some(permit) => Answer::Allow(permit),
        None => Answer::Unknown { attested: true },
    }
}

#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the loop's own condition bounds the index"
)]
fn port_rule(table: &PortTable, port: u16) -> Option<Permit> {
    let mut position = 0;
    while position < PORT_RULES {
        if position as u32 >= table.length {
            return None;
        }
        let rule = &table.rules[position];
        if rule.first <= port && port <= rule.last && lives(rule.expires_ns) {
            let reason =
                if rule.grant.is_none() { Reason::AllowedStanding } else { Reason::AllowedGrant };
            let reason = reason.raw();
            return Some(Permit {
                expires_ns: rule.expires_ns,
                grant: rule.grant,
                tool: rule.tool,
                reason,
                flags: 0,
                tally: 0,
                _pad: 0,
            });
        }
        position += 1;
    }
    None
}
