//! Who asks: program images and instances, from the kernel's record to an attested identity.
//!
//! An image is attested once. Its instance is as good as its first image: where the policy
//! demands a digest of that and it does not hold, nothing of the instance may act.

use std::{sync::Arc, time::SystemTime};

use agent_enforcer_common::{
    id::{ExecId, InstanceId},
    reason::Reason,
    record::ProcessFacts,
};

use super::{Engine, Instance};
use crate::{
    decision::{Process, Sha256Digest},
    events::{DaemonEvent, InstanceFacts},
    resolver::attestation::{
        digest::{DigestError, Hashed},
        process::ReadFailure,
    },
};

/// Images that are remembered; one that is forgotten is attested again when it asks.
const IMAGE_LIMIT: usize = 32_768;

/// A program image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) process: Arc<Process>,
    pub(super) instance: InstanceId,
    pub(super) standing: ImageStanding,
}

/// What is known of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageStanding {
    /// Its executable is being hashed.
    Hashing,
    /// It may ask.
    Attested,
    /// It may not, until it executes something else.
    Refused(Reason),
    /// It may not now; the next question tries again.
    Unreadable(Reason),
}

impl Engine {
    /// A process was recognised: its instance begins with it.
    pub(super) fn on_classified(&mut self, facts: &ProcessFacts) {
        self.attest(facts);
    }

    /// The last process of an instance ended.
    pub(super) fn on_instance_ended(&mut self, facts: &ProcessFacts) {
        self.images.retain(|_, image| image.instance != facts.instance);
        if let Some(instance) = self.instances.remove(&facts.instance)
            && let Some(agent) = self.policy.agent(&instance.agent)
        {
            self.tell(DaemonEvent::InstanceEnded(InstanceFacts {
                agent: Arc::clone(&instance.agent),
                owner: Arc::clone(&agent.owner),
                instance: facts.instance,
                process: instance.process,
            }));
        }
    }

    /// The process of an image that need not be attested to be named in an event.
    pub(super) fn process_of(&mut self, facts: &ProcessFacts) -> Arc<Process> {
        if !facts.exec.is_none() {
            self.attest(facts);
            if let Some(image) = self.images.get(&facts.exec) {
                return Arc::clone(&image.process);
            }
        }
        match self.reader.read(facts) {
            Ok(reading) => Arc::new(reading.process),
            Err(error) => Arc::new(*error.process),
        }
    }

    /// Establishes the identity of an image, as far as that can be done at once.
    pub(super) fn attest(&mut self, facts: &ProcessFacts) -> ImageStanding {
        if let Some(image) = self.images.get(&facts.exec)
            && !matches!(image.standing, ImageStanding::Unreadable(_))
        {
            return image.standing;
        }
        match self.reader.read(facts) {
            Ok(reading) => {
                let stamp = reading.executable.stamp();
                let mut process = reading.process;
                if let Some(digest) = self.digests.lookup(&stamp) {
                    process.sha256 = Some(digest);
                    return self.conclude(facts, process, None);
                }
                match self.hashers.submit(reading.executable, facts.exec) {
                    Ok(()) => self.remember(facts, process, ImageStanding::Hashing),
                    Err(busy) => {
                        tracing::warn!(pid = facts.tgid, error = %busy, "an executable is not hashed");
                        let standing = ImageStanding::Unreadable(Reason::IdentityUnverified);
                        self.remember(facts, process, standing)
                    }
                }
            }
            Err(error) => {
                let reason = error.reason();
                if matches!(error.failure, ReadFailure::ExecutableMismatch { .. }) {
                    return self.conclude(facts, *error.process, Some(reason));
                }
                tracing::debug!(pid = facts.tgid, %error, "a process is not attested");
                self.remember(facts, *error.process, ImageStanding::Unreadable(reason))
            }
        }
    }

    /// The digest of an image's executable is known, or can't be.
    pub(super) fn on_hashed(&mut self, exec: ExecId, result: Result<Hashed, DigestError>) {
        let Some(image) = self.images.get(&exec) else { return };
        let mut process = (*image.process).clone();
        let facts = ProcessFacts {
            instance: image.instance,
            exec,
            tgid: process.pid,
            start_ns: process.start_ns,
            agent: self.agent_of(image.instance),
            ..ProcessFacts::default()
        };
        match result {
            Ok(hashed) => {
                self.digests.insert(&hashed);
                process.sha256 = Some(hashed.digest);
                self.conclude(&facts, process, None);
            }
            Err(error) => {
                tracing::warn!(pid = process.pid, exe = ?process.exe, %error, "an executable is not hashed");
                let standing = ImageStanding::Unreadable(Reason::IdentityUnverified);
                self.remember(&facts, process, standing);
            }
        }
        self.decide_waiting(|key, _group| key.exec == exec);
    }

    fn agent_of(&self, instance: InstanceId) -> agent_enforcer_common::id::AgentId {
        self.instances
            .get(&instance)
            .and_then(|instance| self.agent_ids.get(&instance.agent))
            .copied()
            .unwrap_or_default()
    }

    /// Everything that can be known of an image is known: does it hold?
    fn conclude(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
        failure: Option<Reason>,
    ) -> ImageStanding {
        let refused = failure
            .or_else(|| self.demand_failure(facts, &process))
            .or_else(|| self.instance_refusal(facts));
        let standing = refused.map_or(ImageStanding::Attested, ImageStanding::Refused);
        self.remember(facts, process, standing);
        let written = self.verdicts.identify(facts.exec, refused);
        self.check(written);
        self.settle_instance(facts, refused);
        standing
    }

    /// What the policy demands of this image's executable, and it is not.
    fn demand_failure(&self, facts: &ProcessFacts, process: &Process) -> Option<Reason> {
        let agent = self.agent_names.get(&facts.agent)?;
        let exe = process.exe.as_deref()?;
        let term = self.plan.classify(&process.cgroup, process.uid, exe)?;
        if term.agent != *agent || term.digests.is_empty() {
            return None;
        }
        let holds = |digest: &Sha256Digest| term.digests.contains(digest);
        (!process.sha256.as_ref().is_some_and(holds)).then_some(Reason::DigestMismatch)
    }

    fn instance_refusal(&self, facts: &ProcessFacts) -> Option<Reason> {
        self.instances.get(&facts.instance)?.refused
    }

    fn remember(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
        standing: ImageStanding,
    ) -> ImageStanding {
        let process = Arc::new(process);
        self.begin_instance(facts, &process);
        let image = Image { process, instance: facts.instance, standing };
        if self.images.insert(facts.exec, image).is_none() {
            self.image_order.push_back(facts.exec);
        }
        while self.images.len() > IMAGE_LIMIT
            && let Some(oldest) = self.image_order.pop_front()
        {
            self.images.remove(&oldest);
        }
        if self.image_order.len() > 2 * IMAGE_LIMIT {
            let images = &self.images;
            self.image_order.retain(|exec| images.contains_key(exec));
        }
        standing
    }

    fn begin_instance(&mut self, facts: &ProcessFacts, process: &Arc<Process>) {
        let Some(agent) = self.agent_names.get(&facts.agent) else { return };
        let agent = Arc::clone(agent);
        let started = self.clock.wall(process.start_ns);
        let instance = self.instances.entry(facts.instance).or_insert_with(|| Instance {
            agent,
            process: Arc::clone(process),
            root: facts.exec,
            started,
            refused: None,
            announced: false,
        });
        if instance.root == facts.exec {
            instance.process = Arc::clone(process);
        }
    }

    /// The first image of an instance decides for all of it, and is announced when it is known.
    fn settle_instance(&mut self, facts: &ProcessFacts, refused: Option<Reason>) {
        let Some(instance) = self.instances.get_mut(&facts.instance) else { return };
        let process = self.images.get(&facts.exec).map(|image| Arc::clone(&image.process));
        let process = process.unwrap_or_else(|| Arc::clone(&instance.process));
        let agent = Arc::clone(&instance.agent);
        let mut events = Vec::new();
        if instance.root == facts.exec {
            instance.refused = refused;
            if !instance.announced {
                instance.announced = true;
                let owner = self.policy.agent(&agent).map(|agent| Arc::clone(&agent.owner));
                events.push(DaemonEvent::InstanceStarted(InstanceFacts {
                    agent: Arc::clone(&agent),
                    owner: owner.unwrap_or_else(|| Arc::from("")),
                    instance: facts.instance,
                    process: Arc::clone(&process),
                }));
            }
        }
        if let Some(reason) = refused {
            let instance = facts.instance;
            events.push(DaemonEvent::IdentityRefused { agent, instance, process, reason });
        }
        for event in events {
            self.tell(event);
        }
    }
}

impl Instance {
    /// When it began, for people.
    pub(super) const fn started(&self) -> SystemTime {
        self.started
    }
}
