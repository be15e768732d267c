//! A token that was made of another permits no more than that one's grant.
//!
//! In: a token, and the grant of its parent as it stands. Out: the token, or in which respect it goes
//! beyond. Asked: is the parent live, is it for the same principal, agent and instance, and are tools,
//! locations, actions, end and uses within it? What begins before its parent begins with it.

use std::{sync::Arc, time::SystemTime};

use agent_enforcer_common::id::InstanceId;

use super::{ExceededLimit, Scope, TokenContext, TokenRefusal, VerifiedToken};

/// The grant that came of an earlier token, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentGrant {
    /// On whose behalf.
    pub principal: Arc<str>,
    /// The agent that may act.
    pub agent: Arc<str>,
    /// The one instance that may; `None` for every instance.
    pub instance: Option<InstanceId>,
    /// What it may do.
    pub scope: Scope,
    /// From when on.
    pub not_before: SystemTime,
    /// Until when.
    pub expires: SystemTime,
    /// How many calls it still admits; `None` for any number.
    pub uses_left: Option<u32>,
    /// Whether it admits calls: not revoked, not expired, not used up.
    pub is_live: bool,
}

/// Keeps a token within its parent, where it has one.
pub(super) fn check(
    token: VerifiedToken,
    context: &TokenContext<'_>,
) -> Result<VerifiedToken, TokenRefusal> {
    let Some(jti) = token.parent_jti.clone() else { return Ok(token) };
    let parent =
        context.world.parent(&jti).ok_or_else(|| TokenRefusal::ParentUnknown(jti.to_string()))?;
    if !parent.is_live || context.now >= parent.expires {
        return Err(TokenRefusal::ParentNotLive(jti.to_string()));
    }
    if let Some(limit) = exceeded(&token, &parent) {
        return Err(TokenRefusal::ExceedsParent(limit));
    }
    Ok(VerifiedToken { not_before: token.not_before.max(parent.not_before), ..token })
}

fn exceeded(token: &VerifiedToken, parent: &ParentGrant) -> Option<ExceededLimit> {
    let ParentGrant {
        principal,
        agent,
        instance,
        scope,
        not_before: _,
        expires,
        uses_left,
        is_live: _,
    } = parent;
    if token.principal != *principal {
        Some(ExceededLimit::Principal)
    } else if token.agent != *agent {
        Some(ExceededLimit::Agent)
    } else if instance.is_some() && token.instance != *instance {
        Some(ExceededLimit::Instance)
    } else if !scope.covers(&token.scope) {
        Some(ExceededLimit::Scope)
    } else if token.expires > *expires {
        Some(ExceededLimit::Expiry)
    } else if uses_left.is_some_and(|left| token.max_uses.is_none_or(|uses| uses > left)) {
        Some(ExceededLimit::Uses)
    } else {
        None
    }
}
