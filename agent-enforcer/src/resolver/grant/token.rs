//! Grants as signed tokens: what an issuer that the policy pins says about agents of this host.
//!
//! In: a compact JWS of at most 16 KiB, and what the host knows ([`TokenContext`]). Out: a
//! [`VerifiedToken`], or one [`TokenRefusal`] with its word. Pure: reads no clock and keeps nothing.
//! Questions, in order: has it the size and form, is it of this type, is its key pinned, does its
//! signature hold; and only then: is the key its issuer's, is it for this host and this moment, does
//! the issuer speak for this agent and these tools, is it new, and does it stay within the grant
//! that it was made of? Claims that are not known are refused: a limit that is not understood is
//! a limit that is not kept.

mod attenuation;
mod claims;
mod issuer;
mod location;
mod refusal;
mod scope;
mod world;

#[cfg(test)]
mod testing;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::id::InstanceId;

pub use attenuation::ParentGrant;
pub use claims::{
    Actor, Audience, Detail, DetailKind, Instance, LocationText, NumericDate, Principal,
    SignTokenError, TokenClaims, TokenId, TokenText, sign_token,
};
pub use issuer::{Issuer, IssuerEntry, IssuerError, Issuers, KeyReference};
pub use location::{Location, LocationError};
pub use refusal::{ExceededLimit, TokenRefusal};
pub use scope::{Action, Actions, Scope, ScopedLocation};
pub use world::{TokenAgent, TokenWorld, ToolStanding};

use crate::{
    decision::{Sha256Digest, instance_name},
    signing::{Compact, JwsError, KeyId},
    strict_json::{self, Limits},
};

/// Largest token, and how deep its claims are nested.
const LIMITS: Limits = Limits { bytes: 16 << 10, depth: 16 };
/// What `typ` of the header says.
const TYPE: &str = "agent-grant+jwt";
/// Longest life of a token where the policy gives an agent no other.
pub const DEFAULT_CEILING: Duration = Duration::from_mins(15);
/// How far the clocks of issuer and host may be apart, where a token begins. It ends by the host's.
pub const SKEW: Duration = Duration::from_mins(1);

/// What the host knows at the moment that a token comes.
#[derive(Clone, Copy)]
pub struct TokenContext<'a> {
    /// Who may issue.
    pub issuers: &'a Issuers,
    /// What tokens for this host say in `aud`.
    pub audience: &'a str,
    /// The wall clock.
    pub now: SystemTime,
    /// How far ahead `iat` and `nbf` may be; see [`SKEW`].
    pub skew: Duration,
    /// Agents, tools, and the tokens before this one.
    pub world: &'a dyn TokenWorld,
}

/// A token that holds, in the host's own terms. Made by [`verify_token`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Who issued it.
    pub issuer: Arc<str>,
    /// By which key.
    pub kid: KeyId,
    /// Its id. Keep it until `expires`: a token counts once.
    pub jti: Arc<str>,
    /// The transaction that it belongs to.
    pub txn: Option<Arc<str>>,
    /// On whose behalf.
    pub principal: Arc<str>,
    /// The agent that may act, by the policy's name.
    pub agent: Arc<str>,
    /// Who acted before it, the last one first. Tells how it came about, and permits nothing (RFC
    /// 8693 section 4.1).
    pub former_actors: Vec<Arc<str>>,
    /// The one instance that may act; `None` for every instance of the agent.
    pub instance: Option<InstanceId>,
    /// What it may do.
    pub scope: Scope,
    /// When it was issued.
    pub issued: SystemTime,
    /// From when on.
    pub not_before: SystemTime,
    /// Until when.
    pub expires: SystemTime,
    /// How many calls it admits; `None` for any number.
    pub max_uses: Option<u32>,
    /// The token that it was made of. It ends with that one's grant.
    pub parent_jti: Option<Arc<str>>,
    /// The manifest that it is bound to.
    pub manifest: Option<Sha256Digest>,
    /// For which task.
    pub task: Option<Arc<str>>,
    /// Why.
    pub reason: Option<Arc<str>>,
}

/// Verifies a token.
pub fn verify_token(text: &str, context: &TokenContext<'_>) -> Result<VerifiedToken, TokenRefusal> {
    let token = Compact::parse(text, LIMITS.bytes).map_err(of_form)?;
    if !token.header().is_type(TYPE) {
        return Err(TokenRefusal::WrongType);
    }
    let (claims, issuer) = authenticate(&token, context.issuers)?;
    check_audience(&claims, context.audience)?;
    let period = Period::check(&claims, context)?;
    let agent = check_agent(&claims, issuer, &period, context.world)?;
    if let Some(Instance(id)) = claims.instance
        && !context.world.runs(&agent.name, id)
    {
        let (instance, agent) = (instance_name(id), agent.name.to_string());
        return Err(TokenRefusal::InstanceUnknown { instance, agent });
    }
    if context.world.was_seen(&claims.jti) {
        return Err(TokenRefusal::Replayed(claims.jti.to_string()));
    }
    let scope = scope::resolve(&claims.authorization_details, &agent.name, issuer, context.world)?;
    if claims.manifest_sha256.is_some_and(|digest| agent.manifest != Some(digest)) {
        return Err(TokenRefusal::ManifestMismatch);
    }
    if claims.parent_jti.is_none() && issuer.must_attenuate {
        return Err(TokenRefusal::MustAttenuate);
    }
    let verified = assemble(claims, issuer, token.header().kid(), &agent, scope, &period);
    attenuation::check(verified, context)
}

/// Who signed, and what. The key is found by its name; the payload says nothing before it holds.
fn authenticate<'a>(
    token: &Compact<'_>,
    issuers: &'a Issuers,
) -> Result<(TokenClaims, &'a Issuer), TokenRefusal> {
    let kid = token.header().kid();
    let mut refusal = TokenRefusal::KeyUnknown(kid.clone());
    let mut signers = Vec::new();
    let mut payload = None;
    for (issuer, key) in issuers.with_key(kid) {
        match token.verify(key) {
            Ok(signed) => {
                payload = Some(signed);
                signers.push(issuer);
            }
            Err(error) => refusal = of_form(error),
        }
    }
    let payload = payload.ok_or(refusal)?;
    let claims = strict_json::decode::<TokenClaims>(payload, LIMITS)
        .map_err(|error| TokenRefusal::Malformed(error.to_string()))?
        .typed;
    claims.check().map_err(TokenRefusal::Malformed)?;
    let issuer = signers.into_iter().find(|issuer| *issuer.name == *claims.iss);
    let issuer = issuer.ok_or_else(|| TokenRefusal::IssuerUnknown(claims.iss.to_string()))?;
    Ok((claims, issuer))
}

fn of_form(error: JwsError) -> TokenRefusal {
    match error {
        JwsError::TooLarge { length, limit } => TokenRefusal::TooLarge { length, limit },
        JwsError::UnknownAlgorithm | JwsError::OtherAlgorithm { .. } => {
            TokenRefusal::Algorithm(error.to_string())
        }
        JwsError::BadSignature(kid) => TokenRefusal::BadSignature(kid),
        JwsError::Parts
        | JwsError::Base64(_)
        | JwsError::Header(_)
        | JwsError::MissingMember(_)
        | JwsError::BadKeyId
        | JwsError::Forbidden(_)
        | JwsError::NotSigned => TokenRefusal::Malformed(error.to_string()),
    }
}

fn check_audience(claims: &TokenClaims, audience: &str) -> Result<(), TokenRefusal> {
    if claims.aud.names(audience) { Ok(()) } else { Err(TokenRefusal::WrongAudience) }
}

/// When a token counts.
#[derive(Clone, Copy)]
struct Period {
    issued: SystemTime,
    not_before: SystemTime,
    expires: SystemTime,
    lifetime: Duration,
}

impl Period {
    fn check(claims: &TokenClaims, context: &TokenContext<'_>) -> Result<Self, TokenRefusal> {
        let TokenContext { now, skew, .. } = *context;
        let ahead = |moment: SystemTime| moment.duration_since(now).is_ok_and(|by| by > skew);
        let issued = claims.iat.moment();
        let not_before = claims.nbf.map_or(issued, NumericDate::moment).max(issued);
        let expires = claims.exp.moment();
        if ahead(issued) {
            return Err(TokenRefusal::IssuedInFuture);
        }
        if now >= expires {
            return Err(TokenRefusal::Expired);
        }
        if ahead(not_before) {
            return Err(TokenRefusal::NotYetValid);
        }
        // It may end before it begins where it begins within the skew of clocks.
        let lifetime = expires.duration_since(not_before).unwrap_or_default();
        Ok(Self { issued, not_before, expires, lifetime })
    }
}

fn check_agent(
    claims: &TokenClaims,
    issuer: &Issuer,
    period: &Period,
    world: &dyn TokenWorld,
) -> Result<TokenAgent, TokenRefusal> {
    let actor = &*claims.act.sub;
    let agent = world.agent(actor).ok_or_else(|| TokenRefusal::AgentUnknown(actor.to_owned()))?;
    if !issuer.agents.contains(&agent.name) {
        let (agent, issuer) = (agent.name.to_string(), issuer.name.to_string());
        return Err(TokenRefusal::AgentNotAllowed { agent, issuer });
    }
    if period.lifetime.is_zero() || period.lifetime > agent.ceiling {
        let (lifetime, ceiling) = (period.lifetime, agent.ceiling);
        return Err(TokenRefusal::Lifetime { lifetime, ceiling });
    }
    Ok(agent)
}

fn assemble(
    claims: TokenClaims,
    issuer: &Issuer,
    kid: &KeyId,
    agent: &TokenAgent,
    scope: Scope,
    period: &Period,
) -> VerifiedToken {
    let former_actors = claims.act.former().map(|actor| actor.sub.to_arc()).collect();
    let TokenClaims {
        iss: _,
        sub,
        act: _,
        aud: _,
        jti,
        txn,
        iat: _,
        nbf: _,
        exp: _,
        authorization_details: _,
        max_uses,
        manifest_sha256: manifest,
        parent_jti,
        instance,
        task,
        reason,
    } = claims;
    let Period { issued, not_before, expires, lifetime: _ } = *period;
    VerifiedToken {
        issuer: Arc::clone(&issuer.name),
        kid: kid.clone(),
        jti: jti.to_arc(),
        txn: txn.map(|id| id.to_arc()),
        principal: sub.to_arc(),
        agent: Arc::clone(&agent.name),
        former_actors,
        instance: instance.map(|Instance(id)| id),
        scope,
        issued,
        not_before,
        expires,
        max_uses: max_uses.map(std::num::NonZeroU32::get),
        parent_jti: parent_jti.map(|id| id.to_arc()),
        manifest,
        task: task.map(|text| text.to_arc()),
        reason: reason.map(|text| text.to_arc()),
    }
}

#[cfg(test)]
mod tests;
