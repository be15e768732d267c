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
    maps::{identities, state, verdicts},
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
    pub(crate) const NONE: Self = Self {
        expires_ns: 0,
        grant: GrantId::NONE,
        tool: ToolId::NONE,
        reason: 0,
        flags: 0,
        tally: 0,
        _pad: 0,
    };
}

/// The answer that most calls get: an exact verdict that admits every one.
#[inline(always)]
pub(crate) fn look_up_exact(exec: ExecId, destination: Destination) -> Option<Permit> {
    let mut permit = Permit::NONE;
    let key = VerdictKey { exec, destination };
    let action = verdicts::exact(&key, state::generation(), &mut permit)?;
    (action == Action::Allow as u8 && permit.flags == 0).then_some(permit)
}

const ALLOWED: u32 = 1;
const DENIED: u32 = 2;
const UNATTESTED: u32 = 3;
const UNANSWERED: u32 = 4;

/// Looks the question up.
#[inline(always)]
pub(crate) fn look_up<const CURRENT: bool>(case: &Case<CURRENT>, purpose: Purpose) -> Answer {
    let mut permit = Permit::NONE;
    match ae_look_up((&raw const *case).cast(), purpose as u32, &raw mut permit) {
        ALLOWED => Answer::Allow(permit),
        UNATTESTED => Answer::Unknown { attested: false },
        UNANSWERED => Answer::Unknown { attested: true },
        _ => {
            Answer::Deny(Refusal { reason: permit.reason, grant: permit.grant, tool: permit.tool })
        }
    }
}

/// VERIFIER: a global function, which is verified once, whoever calls it in whatever state
/// (kernel/bpf/verifier.c `do_check_subprogs`, 5.6). It gets memory of a known size, and numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ae_look_up(case: *const Case<true>, purpose: u32, permit: *mut Permit) -> u32 {
    if case.is_null() || permit.is_null() {
        return DENIED;
    }
    // SAFETY: the verifier holds callers to it.
    let (case, permit) = unsafe { (&*case, &mut *permit) };
    // Keys are copies: before 6.2 what is handed over is no memory for one (kernel/bpf/verifier.c
    // `map_key_value_types`).
    let key = VerdictKey { exec: case.tag.exec, destination: case.destination };
    let key = &key;
    let generation = state::generation();
    if let Some(action) = verdicts::exact(key, generation, permit) {
        match Action::from_raw(action) {
            Some(Action::Allow) => {
                let once = permit.is_taken();
                let flow_only = permit.flags & u16::from(VERDICT_FLOW_ONLY) != 0;
                let admits = if purpose == Purpose::NewCall as u32 {
                    !flow_only && (!once || verdicts::take(key))
                } else if purpose == Purpose::LiveFlow as u32 {
                    !once
                } else {
                    !flow_only
                };
                if admits {
                    return ALLOWED;
                }
            }
            Some(Action::Deny) => return DENIED,
            None => {
                *permit = Permit { reason: Reason::Internal.raw(), ..Permit::NONE };
                return DENIED;
            }
        }
    }
    let Some(identity) = identities::get(&key.exec) else { return UNATTESTED };
    if identity.reason != Reason::None.raw() {
        *permit = Permit { reason: identity.reason, ..Permit::NONE };
        return DENIED;
    }
    let destination = &key.destination;
    let port = destination.port();
    for scope in [instance_scope(case.tag.instance), agent_scope(case.tag.agent)] {
        if let Some(table) = verdicts::prefix(scope, destination, generation)
            && apply_rule(table, port, permit)
        {
            return ALLOWED;
        }
    }
    UNANSWERED
}

/// Writes the permit of the rule that covers the port; false where none does.
#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the loop's own condition bounds the index"
)]
fn apply_rule(table: &PortTable, port: u16, permit: &mut Permit) -> bool {
    let mut position = 0;
    while position < PORT_RULES {
        if position as u32 >= table.length {
            return false;
        }
        let rule = &table.rules[position];
        if rule.first <= port && port <= rule.last && lives(rule.expires_ns) {
            let reason =
                if rule.grant.is_none() { Reason::AllowedStanding } else { Reason::AllowedGrant };
            permit.expires_ns = rule.expires_ns;
            permit.grant = rule.grant;
            permit.tool = rule.tool;
            permit.reason = reason.raw();
            permit.flags = 0;
            permit.tally = 0;
            return true;
        }
        position += 1;
    }
    false
}
