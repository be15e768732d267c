//! One call of one agent's process: from the question to what the hook does about it.
//!
//! Questions, in order: is the agent in the policy; do the maps have the answer; does the profile
//! let the call wait for one. An agent in audit mode is judged the same and always let through.

use agent_enforcer_common::{
    config::{AgentProfile, PROFILE_AUDIT, PROFILE_DENY_ON_MISS},
    destination::{Destination, PeerFamily},
    id::{GrantId, RequestId},
    reason::Reason,
    record::Counter,
};

use crate::{
    decide::{Answer, Permit, Purpose, Refusal, look_up},
    hooks::call::PROFILE_UNKNOWN,
    maps::counters,
    report::{self, Case},
    stall::{self, Asked, Patience},
};

/// What is known of the grant under which a flow lived so far.
#[derive(Clone, Copy)]
pub(crate) struct Past {
    pub(crate) purpose: Purpose,
    pub(crate) grant: GrantId,
}

impl Past {
    pub(crate) const NONE: Self = Self { purpose: Purpose::NewCall, grant: GrantId::NONE };
}

/// Who decided; the daemon tells of its answers itself, but for those that admit one call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A verdict or prefix that was there already.
    Map,
    /// The daemon, just asked.
    Daemon,
    /// This side, without asking.
    Hook,
}

/// What became of the call.
pub(crate) enum Judgement {
    /// It goes ahead.
    Allow { permit: Permit, source: Source },
    /// It ends here.
    Deny { refusal: Refusal, source: Source },
    /// The decision is open; the question's number.
    Open(RequestId),
    /// Audit mode: it goes ahead, whatever was found.
    Watched,
}

/// Judges one call.
#[inline(always)]
pub(crate) fn judge<const CURRENT: bool>(
    case: &Case<CURRENT>,
    profile: AgentProfile,
    past: Past,
    patience: Patience,
) -> Judgement {
    if profile.flags & PROFILE_UNKNOWN != 0 {
        return Judgement::Deny {
            refusal: Refusal::new(Reason::AgentUnknown),
            source: Source::Hook,
        };
    }
    let audit = profile.flags & PROFILE_AUDIT != 0;
    match look_up(case, past.purpose) {
        Answer::Allow(permit) => Judgement::Allow { permit, source: Source::Map },
        Answer::Deny(refusal) if audit => {
            report::audited(case, &refusal);
            Judgement::Watched
        }
        Answer::Deny(refusal) => Judgement::Deny { refusal, source: Source::Map },
        Answer::Unknown { attested }
            if attested && denies_on_miss(profile) && !audit && is_compiled(&case.destination) =>
        {
            Judgement::Deny { refusal: Refusal::new(Reason::DeniedOnMiss), source: Source::Hook }
        }
        Answer::Unknown { attested } => {
            let patience = if audit { Patience::Ask } else { patience };
            match stall::ask(case, past.purpose, patience, past.grant, attested) {
                Asked::Allowed(permit) => Judgement::Allow { permit, source: Source::Daemon },
                Asked::Denied(_) | Asked::Open(_) if audit => Judgement::Watched,
                Asked::Refused(reason) if audit => {
                    report::audited(case, &Refusal::new(reason));
                    Judgement::Watched
                }
                Asked::Denied(refusal) => Judgement::Deny { refusal, source: Source::Daemon },
                Asked::Refused(reason) => {
                    Judgement::Deny { refusal: Refusal::new(reason), source: Source::Hook }
                }
                Asked::Open(request) => {
                    counters::count(Counter::Held);
                    Judgement::Open(request)
                }
            }
        }
    }
}

/// Whether the prefixes tell all that is allowed. Unix sockets have numbers that nobody knows before
/// they are called: only the daemon knows which of them a tool names.
#[inline(always)]
fn is_compiled(destination: &Destination) -> bool {
    destination.family() != PeerFamily::Unix as u8
}

#[inline(always)]
fn denies_on_miss(profile: AgentProfile) -> bool {
    profile.flags & PROFILE_DENY_ON_MISS != 0
}
