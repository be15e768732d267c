//! From a signed token to a grant that may be issued.
//!
//! In: the token, the policy, the grants before it, the live instances, the moment, the name that
//! tokens have for this host. Out: a [`NewGrant`], or the one refusal. What the host knows is asked
//! here ([`TokenWorld`]); what tokens must be is in `token`.

use std::sync::Arc;

use agent_enforcer_common::id::InstanceId;

use super::{
    GrantState, GrantSubject, GrantTable, Moment, NewGrant, TokenOrigin,
    token::{
        Location, ParentGrant, SKEW, TokenAgent, TokenContext, TokenRefusal, TokenWorld,
        ToolStanding, VerifiedToken, verify_token,
    },
};
use crate::resolver::{
    policy::{Agent, AgentManifest, Policy},
    spiffe::SpiffeId,
};

/// Checks a token. `audience`: what tokens for this host say in `aud`. `agent_of` names the agent of
/// a live instance.
pub fn check_token(
    token: &str,
    audience: &str,
    policy: &Policy,
    grants: &GrantTable,
    agent_of: &dyn Fn(InstanceId) -> Option<Arc<str>>,
    now: &Moment,
) -> Result<NewGrant, TokenRefusal> {
    let world = Host { policy, grants, agent_of, now_ns: now.boot_ns };
    let context = TokenContext {
        issuers: policy.trust().issuers(),
        audience,
        now: now.wall,
        skew: SKEW,
        world: &world,
    };
    let verified = verify_token(token, &context)?;
    Ok(new_grant(verified, grants, now))
}

/// The one tool that has every destination of a location, or is called at every address of it.
pub fn tool_of(policy: &Policy, location: &Location) -> Option<Arc<str>> {
    let mut found = policy.tools().iter().filter(|tool| tool.holds(location));
    let tool = found.next()?;
    found.next().is_none().then(|| Arc::clone(&tool.name))
}

fn new_grant(token: VerifiedToken, grants: &GrantTable, now: &Moment) -> NewGrant {
    let VerifiedToken {
        issuer,
        kid,
        jti,
        txn,
        principal,
        agent,
        former_actors,
        instance,
        scope,
        issued: _,
        not_before,
        expires,
        max_uses,
        parent_jti,
        manifest,
        task,
        reason,
    } = token;
    let none = || Arc::from("");
    let parent = parent_jti.and_then(|jti| grants.of_token(&jti)).map(|grant| grant.id);
    NewGrant {
        subject: GrantSubject { agent, instance },
        scope,
        principal,
        task: task.unwrap_or_else(none),
        reason: reason.unwrap_or_else(none),
        not_before,
        expires,
        // What begins within the skew of clocks begins now.
        not_before_ns: now.boot_ns,
        expires_ns: now.boot_ns_at(expires),
        max_uses,
        checked: now.clone(),
        origin: Some(TokenOrigin { issuer, kid, jti, txn, manifest, former_actors, parent }),
    }
}

struct Host<'a> {
    policy: &'a Policy,
    grants: &'a GrantTable,
    agent_of: &'a dyn Fn(InstanceId) -> Option<Arc<str>>,
    now_ns: u64,
}

impl Host<'_> {
    fn known(&self, actor: &str) -> Option<&Agent> {
        let by_id = |id: &SpiffeId| {
            let own =
                |agent: &&Agent| agent.manifest.as_ref().map(AgentManifest::agent_id) == Some(id);
            self.policy.agents().iter().find(own)
        };
        match actor.parse::<SpiffeId>() {
            Ok(id) => by_id(&id),
            Err(_other_form) => self.policy.agent(actor),
        }
    }
}

impl TokenWorld for Host<'_> {
    fn agent(&self, actor: &str) -> Option<TokenAgent> {
        let agent = self.known(actor)?;
        let counts = agent.manifest.as_ref().filter(|manifest| manifest.standing().is_ok());
        Some(TokenAgent {
            name: Arc::clone(&agent.name),
            ceiling: agent.max_grant_lifetime,
            manifest: counts.and_then(AgentManifest::digest),
        })
    }

    fn runs(&self, agent: &str, instance: InstanceId) -> bool {
        (self.agent_of)(instance).is_some_and(|name| *name == *agent)
    }

    fn tool(&self, agent: &str, tool: &str) -> ToolStanding {
        let Some(tool) = self.policy.tool_named(tool) else { return ToolStanding::Unknown };
        let approved = self
            .policy
            .agent(agent)
            .is_some_and(|agent| agent.approves(tool.id) && agent.check_manifest(tool.id).is_ok());
        if approved { ToolStanding::Approved } else { ToolStanding::NotApproved }
    }

    fn tool_of(&self, location: &Location) -> Option<Arc<str>> {
        tool_of(self.policy, location)
    }

    fn was_seen(&self, jti: &str) -> bool {
        self.grants.of_token(jti).is_some()
    }

    fn parent(&self, jti: &str) -> Option<ParentGrant> {
        let grant = self.grants.of_token(jti)?;
        let line_left = self
            .grants
            .lineage(grant)
            .filter_map(|grant| grant.max_uses.map(|max_uses| max_uses.saturating_sub(grant.uses)));
        Some(ParentGrant {
            principal: Arc::clone(&grant.principal),
            agent: Arc::clone(&grant.subject.agent),
            instance: grant.subject.instance,
            scope: grant.scope.clone(),
            not_before: grant.not_before,
            expires: grant.expires,
            uses_left: line_left.min(),
            is_live: self.grants.state(grant, self.now_ns) == GrantState::Live
                && self.grants.lineage(grant).count() < super::table::LINEAGE_LIMIT,
        })
    }
}
