//! Grants: permission for an agent or instance to use tools, for someone, until a moment.
//!
//! In: a [`GrantSpec`](crate::control::GrantSpec), checked against the policy by [`check_spec`], or
//! a signed token, checked by [`check_token`]. Out: a [`Grant`], durable in the [`GrantStore`] and looked up in the [`GrantTable`]. Decisions
//! compare `CLOCK_BOOTTIME` only: whoever sets the wall clock moves no expiry. A grant never says
//! what is allowed on its own; the agent's approved set is asked first, on every call.

mod admission;
mod clock;
mod record;
mod spec;
mod state_file;
mod store;
mod store_error;
mod table;
pub mod token;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
pub(in crate::resolver) mod testing;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{
    id::{GrantId, InstanceId},
    reason::Reason,
};

pub use admission::{check_token, tool_of};
pub use clock::{BootId, ClockError, Moment};
pub use spec::{GrantSpecError, LONGEST_LIFE, NewGrant, check_reason, check_spec};
pub use store::GrantStore;
pub use store_error::GrantStoreError;
pub use table::{GrantMatch, GrantTable, UseError};

use crate::{
    control::GrantView,
    decision::{GrantRef, Sha256Digest, grant_name, instance_name},
    signing::KeyId,
};
use token::Scope;

/// How long after its expiry a grant can still be listed and explains a denial.
const KEPT: Duration = Duration::from_hours(24);

/// Who may use a grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrantSubject {
    /// Name of the agent.
    pub agent: Arc<str>,
    /// The one instance that may use it; `None` for every instance of the agent.
    pub instance: Option<InstanceId>,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id, never used for another.
    pub id: GrantId,
    /// Who may use it.
    pub subject: GrantSubject,
    /// What it permits: tools by their names, whose meaning is that of the policy in force.
    pub scope: Scope,
    /// On whose behalf.
    pub principal: Arc<str>,
    /// For which task.
    pub task: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// When it was issued, for people.
    pub issued: SystemTime,
    /// From when, for people.
    pub not_before: SystemTime,
    /// Until when, for people.
    pub expires: SystemTime,
    /// From when, ns of `CLOCK_BOOTTIME`.
    pub not_before_ns: u64,
    /// Until when, ns of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// How many calls it admits; `None` for any number.
    pub max_uses: Option<u32>,
    /// How many it has admitted; counted only where `max_uses` is set.
    pub uses: u32,
    /// Set once it was taken back.
    pub revoked: Option<Revocation>,
    /// The token that it came of; `None`: root of this host issued it.
    pub origin: Option<Box<TokenOrigin>>,
}

/// What a signed grant has beyond what every grant has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrigin {
    /// Who issued the token.
    pub issuer: Arc<str>,
    /// By which key.
    pub kid: KeyId,
    /// Its id.
    pub jti: Arc<str>,
    /// The transaction that it belongs to.
    pub txn: Option<Arc<str>>,
    /// The manifest that it is bound to.
    pub manifest: Option<Sha256Digest>,
    /// Who acted before the agent, the last one first.
    pub former_actors: Vec<Arc<str>>,
    /// The grant that it was derived from: it ends with that one, and its uses are uses of that one.
    pub parent: Option<GrantId>,
}

/// When and why a grant was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub at: SystemTime,
    /// Why.
    pub reason: Arc<str>,
}

/// How a grant stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantState {
    /// It admits calls.
    Live,
    /// It begins later.
    NotYetValid,
    /// All its uses are spent.
    UsedUp,
    /// It has ended.
    Expired,
    /// It was taken back.
    Revoked,
    /// It lives, but what it was derived from has ended.
    ParentEnded,
    /// It lives, but was issued for another manifest than the agent has now.
    ManifestChanged,
    /// It lives, but the policy does not trust its issuer with this any more.
    IssuerNotTrusted,
    /// It lives, but nobody has signed it, and the agent may have signed ones only.
    Unsigned,
    /// It lives, but what is asked for may not be done on behalf of its principal.
    BeyondPrincipal,
}

impl Grant {
    /// How it stands by itself at a moment of `CLOCK_BOOTTIME`, ns; see [`GrantTable::state`].
    pub fn state(&self, now_ns: u64) -> GrantState {
        if self.revoked.is_some() {
            GrantState::Revoked
        } else if now_ns >= self.expires_ns {
            GrantState::Expired
        } else if self.max_uses.is_some_and(|max| self.uses >= max) {
            GrantState::UsedUp
        } else if now_ns < self.not_before_ns {
            GrantState::NotYetValid
        } else {
            GrantState::Live
        }
    }

    /// Whether it expired so long ago that it is dropped. The kernel ends every verdict and flow at
    /// the expiry, so that nothing refers to it any more. A restart of the host sets the clock of
    /// decisions back: then the wall clock tells how long ago it was, but never that it expired.
    pub fn is_outdated(&self, now_ns: u64, now: SystemTime) -> bool {
        let kept_ns = clock::nanoseconds(KEPT);
        now_ns >= self.expires_ns
            && (now_ns - self.expires_ns >= kept_ns
                || now.duration_since(self.expires).is_ok_and(|since| since >= KEPT))
    }

    /// Whether it admits a limited number of calls.
    pub const fn is_counted(&self) -> bool {
        self.max_uses.is_some()
    }

    /// The grant that it was derived from.
    pub fn parent(&self) -> Option<GrantId> {
        self.origin.as_ref()?.parent
    }

    /// The part that decisions and events carry.
    pub fn to_ref(&self) -> GrantRef {
        let origin = self.origin.as_ref();
        GrantRef {
            id: self.id,
            principal: self.principal.to_string(),
            task: self.task.to_string(),
            issuer: origin.map(|origin| origin.issuer.to_string()),
            jti: origin.map(|origin| origin.jti.to_string()),
            txn: origin.and_then(|origin| origin.txn.as_ref()).map(ToString::to_string),
        }
    }

    /// As operators see it in a state.
    pub fn to_view(&self, state: GrantState) -> GrantView {
        let origin = self.origin.as_ref();
        GrantView {
            id: grant_name(self.id),
            agent: self.subject.agent.to_string(),
            instance: self.subject.instance.map(instance_name),
            tools: self.scope.tools.keys().map(ToString::to_string).collect(),
            locations: self.scope.locations.iter().map(|part| part.location.to_string()).collect(),
            principal: self.principal.to_string(),
            task: self.task.to_string(),
            reason: self.reason.to_string(),
            issued: self.issued,
            not_before: self.not_before,
            expires: self.expires,
            max_uses: self.max_uses,
            uses: self.uses,
            state: state.word().to_owned(),
            issuer: origin.map(|origin| origin.issuer.to_string()),
            jti: origin.map(|origin| origin.jti.to_string()),
            parent: self.parent().map(grant_name),
        }
    }
}

impl GrantState {
    /// The word that operators see.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NotYetValid => "not_yet_valid",
            Self::UsedUp => "used_up",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::ParentEnded => "parent_ended",
            Self::ManifestChanged => "manifest_changed",
            Self::IssuerNotTrusted => "issuer_not_trusted",
            Self::Unsigned => "unsigned",
            Self::BeyondPrincipal => "beyond_principal",
        }
    }

    /// Why a call with no better grant than this is (not) allowed.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Live => Reason::AllowedGrant,
            Self::NotYetValid => Reason::GrantNotYetValid,
            Self::UsedUp => Reason::GrantUsedUp,
            Self::Expired => Reason::GrantExpired,
            Self::Revoked => Reason::GrantRevoked,
            Self::ParentEnded => Reason::GrantParentEnded,
            Self::ManifestChanged => Reason::GrantManifestChanged,
            Self::IssuerNotTrusted => Reason::GrantIssuerNotTrusted,
            Self::Unsigned => Reason::GrantUnsigned,
            Self::BeyondPrincipal => Reason::PrincipalNotAllowed,
        }
    }
}
