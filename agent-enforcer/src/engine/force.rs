//! What is in force: policy, grants, and the tables compiled from them.
//!
//! Every change loads a whole new generation and then decides waiting calls again. What can't be
//! loaded changes nothing.

use std::{sync::Arc, time::SystemTime};

use agent_enforcer_common::{
    config::StateWord,
    id::{AgentId, InstanceId},
};

use super::{Engine, EngineError, SelectorError, via::ViaIndex};
use crate::{
    control::{ControlError, GrantSpec, GrantView, PolicyView},
    events::{DaemonEvent, GrantFacts, TokenFacts, TokenRefused},
    resolver::{
        attestation::executables::resolve,
        grant::{Grant, GrantState, Moment, NewGrant, check_spec, check_token},
        policy::{Policy, SelectorPlan, compile},
    },
    verdicts::VerdictError,
};

impl Engine {
    /// Loads everything of the policy: selectors, profiles, prefixes.
    pub(super) fn load_policy(&mut self) -> Result<(), EngineError> {
        let agents: Vec<_> = self
            .policy
            .agents()
            .iter()
            .filter_map(|agent| Some((*self.agent_ids.get(&agent.name)?, agent)))
            .collect();
        self.verdicts.load_profiles(&self.policy, agents.into_iter())?;
        self.via = ViaIndex::new(&self.policy);
        let of_selectors = self.plan.executables().iter().map(|(glob, _)| glob.as_str());
        let globs: Vec<&str> = of_selectors.chain(self.via.globs()).collect();
        let executables = resolve(&globs).map_err(SelectorError::from)?;
        let globs = globs.into_iter().map(str::to_owned).collect();
        self.note_executables(&executables);
        let ids = &self.agent_ids;
        let slot = self.selectors.load(&self.plan, &executables, |name| ids.get(name).copied())?;
        self.verdicts.set(StateWord::SelectorSlot, slot)?;
        if self.globs.try_send(globs).is_err() {
            tracing::warn!("executables of the policy are watched later");
        }
        self.load_generation()?;
        self.approvers.set(self.policy.approvals().approvers.iter().map(|one| one.uid).collect());
        self.tell(DaemonEvent::PolicyLoaded {
            generation: self.verdicts.generation(),
            directory: self.policy_dir.clone(),
            agents: self.policy.agents().len(),
            tools: self.policy.tools().len(),
        });
        self.tell_manifests(|_| true);
        self.rejudge_images();
        Ok(())
    }

    fn load_generation(&mut self) -> Result<(), VerdictError> {
        let now_ns = self.clock.now_ns();
        let ids = &self.agent_ids;
        let compiled = compile(&self.policy, &self.grants, |name| ids.get(name).copied(), now_ns);
        self.verdicts.load(&compiled)?;
        self.tallies.retire_all(self.clock.now_ns());
        self.next_compile_ns = compiled.next_change_ns;
        Ok(())
    }

    /// Loads a new generation because something changed or began, and decides waiting calls.
    pub(super) fn recompile(&mut self) {
        self.tell_counted();
        if let Err(error) = self.load_generation() {
            // The generation in force stays; it allows no more than it did.
            tracing::error!(%error, "a new generation could not be loaded");
            self.tell(DaemonEvent::Alarm {
                what: format!("a new generation could not be loaded: {error}"),
                remedy: "shorten the policy or end grants; nothing new is in force".to_owned(),
            });
            self.next_compile_ns = self.clock.now_ns() + 1_000_000_000;
        }
        self.decide_waiting(|_, _| true);
    }

    /// Checks what an operator asked for.
    pub(super) fn check_grant(
        &self,
        spec: &GrantSpec,
        now: &Moment,
    ) -> Result<NewGrant, ControlError> {
        let agent_of = |instance: InstanceId| {
            self.instances.get(&instance).map(|instance| Arc::clone(&instance.agent))
        };
        check_spec(spec, &self.policy, agent_of, now)
            .map_err(|error| ControlError::Invalid(error.to_string()))
    }

    /// Checks a signed grant.
    pub(super) fn check_token(&self, token: &str, now: &Moment) -> Result<NewGrant, ControlError> {
        let agent_of = |instance: InstanceId| {
            self.instances.get(&instance).map(|instance| Arc::clone(&instance.agent))
        };
        let checked =
            check_token(token, &self.audience, &self.policy, &self.grants, &agent_of, now);
        checked.map_err(|refusal| {
            let refused = TokenRefused::from(&refusal);
            let error = ControlError::Invalid(refused.to_string());
            self.tell(DaemonEvent::GrantRefused(Box::new(refused)));
            error
        })
    }

    /// As operators see a grant.
    pub(super) fn grant_view(&self, grant: &Grant) -> GrantView {
        grant.to_view(self.policy.best_standing_of(&self.grants, grant, self.clock.now_ns()))
    }

    /// A grant was issued or revoked: puts it in force.
    pub(super) fn on_grant_changed(&mut self, grant: Grant) -> Result<GrantView, ControlError> {
        let now_ns = self.clock.now_ns();
        let facts = facts(&grant);
        let event = match &grant.revoked {
            Some(revocation) => DaemonEvent::GrantRevoked(GrantFacts {
                reason: revocation.reason.to_string(),
                ..facts
            }),
            None => DaemonEvent::GrantIssued(facts),
        };
        let id = grant.id;
        self.tell_counted();
        self.grants.insert(grant);
        let view = self.grants.get(id).map(|grant| self.grant_view(grant));
        self.tell(event);
        self.note_ended_grants();
        let loaded = self.load_generation();
        self.decide_waiting(|_, _| true);
        loaded.map_err(|error| {
            self.next_compile_ns = now_ns;
            ControlError::Internal(format!(
                "grant g-{} is stored but not in force yet: {error}",
                id.get()
            ))
        })?;
        view.ok_or_else(|| ControlError::Internal("the grant is gone".to_owned()))
    }

    /// Tells once of every grant that came to its end.
    pub(super) fn note_ended_grants(&mut self) {
        let now_ns = self.clock.now_ns();
        let first_look = self.ended.is_empty() && self.images.is_empty();
        let mut events = Vec::new();
        for grant in self.grants.iter() {
            let state = grant.state(now_ns);
            let event = match state {
                GrantState::Expired => DaemonEvent::GrantExpired(facts(grant)),
                GrantState::UsedUp => DaemonEvent::GrantUsedUp(facts(grant)),
                GrantState::Live
                | GrantState::NotYetValid
                | GrantState::Revoked
                | GrantState::ParentEnded
                | GrantState::ManifestChanged
                | GrantState::IssuerNotTrusted
                | GrantState::Unsigned
                | GrantState::BeyondPrincipal => continue,
            };
            if self.ended.insert(grant.id, state) != Some(state) && !first_look {
                events.push(event);
            }
        }
        for event in events {
            self.tell(event);
        }
    }

    /// Drops grants that expired long ago; the store does so by itself.
    pub(super) fn drop_outdated_grants(&mut self) {
        for id in self.grants.drop_outdated(self.clock.now_ns(), SystemTime::now()) {
            self.ended.remove(&id);
        }
    }

    /// A policy was read: puts it in force, whole or not at all.
    pub(super) fn on_new_policy(
        &mut self,
        policy: Policy,
        ids: Vec<(Arc<str>, AgentId)>,
    ) -> Result<PolicyView, ControlError> {
        self.tell_counted();
        let plan = SelectorPlan::build(&policy);
        let before = (
            std::mem::replace(&mut self.policy, policy),
            std::mem::replace(&mut self.plan, plan),
            self.agent_ids.clone(),
        );
        for (name, id) in ids {
            self.agent_names.insert(id, Arc::clone(&name));
            self.agent_ids.insert(name, id);
        }
        if let Err(error) = self.load_policy() {
            (self.policy, self.plan, self.agent_ids) = before;
            if let Err(error) = self.load_policy() {
                tracing::error!(%error, "the policy before could not be loaded again");
            }
            return Err(ControlError::Internal(format!(
                "the policy is not in force: {error}; the one before is"
            )));
        }
        self.adopt().map_err(|error| {
            ControlError::Internal(format!("the policy is in force, but {error}"))
        })?;
        self.decide_waiting(|_, _| true);
        Ok(self.policy_view())
    }

    pub(super) fn policy_view(&self) -> PolicyView {
        PolicyView {
            generation: self.verdicts.generation().get(),
            directory: self.policy_dir.clone(),
            yaml: self.policy.to_yaml(),
        }
    }
}

fn facts(grant: &Grant) -> GrantFacts {
    GrantFacts {
        grant: grant.id,
        agent: Arc::clone(&grant.subject.agent),
        instance: grant.subject.instance,
        tools: grant.scope.tools.keys().map(ToString::to_string).collect(),
        locations: grant.scope.locations.iter().map(|part| part.location.to_string()).collect(),
        principal: grant.principal.to_string(),
        task: grant.task.to_string(),
        token: grant.origin.as_ref().map(|origin| TokenFacts {
            issuer: origin.issuer.to_string(),
            jti: origin.jti.to_string(),
            txn: origin.txn.as_ref().map(ToString::to_string),
            parent: origin.parent,
        }),
        reason: grant.reason.to_string(),
        not_before: grant.not_before,
        expires: grant.expires,
    }
}
