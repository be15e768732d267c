//! Who asks: program images and instances, from the kernel's record to an attested identity.
//!
//! An image is attested once, ahead of its first question where there is time. Where the policy
//! demands a digest and an image does not have it, nothing of its instance may act any more:
//! executing something harmless afterwards launders nothing. The image of a launcher that only
//! moved into the cgroup is judged when it asks for something itself.

use std::{sync::Arc, thread, time::Duration};

use agent_enforcer_common::{
    id::{ExecId, InstanceId},
    process::TermSet,
    reason::Reason,
    record::{ExecRecord, ProcessFacts},
};

use super::{Engine, Instance, scripts::Subject};
use crate::{
    decision::{Process, Sha256Digest},
    events::{DaemonEvent, InstanceFacts},
    resolver::attestation::{
        exec::ExecFacts,
        process::{ProcessReading, ReadError, ReadFailure},
        worker::Work,
    },
};

/// Images that are remembered; one that is forgotten is attested again when it asks.
const IMAGE_LIMIT: usize = 32_768;
/// Images that wait to be attested before they ask for anything.
const PREFETCH: usize = 64;
/// Exec changes the executable that /proc shows a moment before the kernel side records it.
const EXEC_WINDOW: Duration = Duration::from_micros(500);

/// A program image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) process: Arc<Process>,
    /// As the kernel side recorded it.
    pub(super) facts: ProcessFacts,
    pub(super) standing: ImageStanding,
}

/// What is known of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageStanding {
    /// Its executable is being hashed, or its script looked for.
    Hashing,
    /// It may ask.
    Attested,
    /// It may use only what names its executable, for this reason.
    Limited(Reason),
    /// It may not, until it executes something else.
    Refused(Reason),
    /// It may not now; the next question tries again.
    Unreadable(Reason),
}

impl Engine {
    /// A process entered an agent's cgroup: its instance begins, with the program of its launcher.
    pub(super) fn on_joined(&mut self, facts: &ProcessFacts) {
        let process = match self.reader.read(facts) {
            Ok(reading) => reading.process,
            Err(error) => *error.process,
        };
        let standing = ImageStanding::Unreadable(Reason::IdentityUnverified);
        self.remember(facts, process, standing);
        self.announce(facts);
    }

    /// An agent's process executed a program.
    pub(super) fn on_executed(&mut self, record: &ExecRecord) {
        let facts = &record.process;
        self.execs.insert(facts.exec, ExecFacts::of(record));
        if self.may_demand_digest(facts) {
            self.attest_ahead(facts);
            return;
        }
        if self.prefetch.len() == PREFETCH
            && let Some(oldest) = self.prefetch.pop_front()
        {
            // It asks when it needs to; only its instance must not stay unknown.
            self.announce(&oldest);
        }
        self.prefetch.push_back(*facts);
    }

    /// Attests an image that has not asked for anything yet.
    pub(super) fn attest_ahead(&mut self, facts: &ProcessFacts) {
        let standing = self.attest(facts);
        if matches!(standing, ImageStanding::Unreadable(_)) && self.may_demand_digest(facts) {
            self.taint(facts, Reason::IdentityUnverified);
        }
        self.announce(facts);
    }

    /// The last process of an instance ended.
    pub(super) fn on_instance_ended(&mut self, facts: &ProcessFacts) {
        // While its images are known.
        self.tell_counted();
        self.announce(facts);
        self.images.retain(|_, image| image.facts.instance != facts.instance);
        self.prefetch.retain(|waiting| waiting.instance != facts.instance);
        self.questions.forget(facts.instance);
        if let Some(instance) = self.instances.remove(&facts.instance) {
            let facts = self.instance_facts(facts.instance, &instance);
            self.tell(DaemonEvent::InstanceEnded(facts));
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
        match self.read(facts) {
            Ok(reading) => {
                let stamp = reading.executable.stamp();
                let mut process = reading.process;
                process.code = self.code_of(facts.exec, &reading.executable);
                if let Some(digests) = self.digests.lookup(&stamp) {
                    (process.sha256, process.fsverity) = (Some(digests.sha256), digests.fsverity);
                    return self.look_for_script(facts, process);
                }
                self.have_done(facts, process, Work::Hash(reading.executable), Subject::Executable)
            }
            Err(error) => {
                let reason = error.reason();
                if is_mismatch(&error) && self.is_current(facts) {
                    return self.conclude(facts, *error.process, Some(reason));
                }
                tracing::debug!(pid = facts.tgid, %error, "an image is not attested");
                let standing = ImageStanding::Unreadable(Reason::IdentityUnverified);
                self.remember(facts, *error.process, standing)
            }
        }
    }

    /// Reads a process. An executable that is not the recorded one is looked at twice.
    fn read(&mut self, facts: &ProcessFacts) -> Result<ProcessReading, ReadError> {
        match self.reader.read(facts) {
            Err(error) if is_mismatch(&error) && self.is_current(facts) => {
                thread::sleep(EXEC_WINDOW);
                self.reader.read(facts)
            }
            result => result,
        }
    }

    /// Whether a process still runs the image, by the kernel side's own record.
    pub(super) fn is_current(&self, facts: &ProcessFacts) -> bool {
        self.processes.processes.get(facts.tgid).is_ok_and(|tag| tag.exec == facts.exec)
    }

    /// Everything that can be known of an image is known: does it hold?
    pub(super) fn conclude(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
        failure: Option<Reason>,
    ) -> ImageStanding {
        let own = failure.or_else(|| self.demand_failure(facts, &process));
        let refused =
            own.or_else(|| self.instances.get(&facts.instance).and_then(|found| found.refused));
        let standing = match refused {
            Some(reason) => ImageStanding::Refused(reason),
            None => self.standing_by_manifest(facts, &process),
        };
        self.remember(facts, process, standing);
        self.write_standing(facts.exec, standing);
        if let Some(reason) = own {
            self.taint(facts, reason);
        }
        standing
    }

    /// Tells the kernel side how an image stands.
    pub(super) fn write_standing(&mut self, exec: ExecId, standing: ImageStanding) {
        let written = match standing {
            ImageStanding::Attested => self.verdicts.identify(exec, None),
            ImageStanding::Refused(reason) => self.verdicts.identify(exec, Some(reason)),
            // What the prefixes allow is for the agent's own software: the kernel side asks about all
            // that others do.
            ImageStanding::Limited(_) | ImageStanding::Hashing | ImageStanding::Unreadable(_) => {
                self.verdicts.forget_identity(exec)
            }
        };
        self.check(written);
    }

    /// What the policy demands of this image's executable, and it is not.
    fn demand_failure(&self, facts: &ProcessFacts, process: &Process) -> Option<Reason> {
        let agent = self.agent_names.get(&facts.agent)?;
        let named = self.executable_terms(facts);
        let term = self.plan.classify(&process.cgroup, process.uid, named)?;
        if term.agent != *agent || term.digests.is_empty() {
            return None;
        }
        let holds = |digest: &Sha256Digest| term.digests.contains(digest);
        (!process.sha256.as_ref().is_some_and(holds)).then_some(Reason::DigestMismatch)
    }

    /// The terms that an executable satisfies, by the inode that the kernel side recorded.
    fn executable_terms(&self, facts: &ProcessFacts) -> TermSet {
        let terms = self.selectors.executable_terms(facts.exe_inode, facts.exe_device);
        terms.unwrap_or(TermSet::EMPTY)
    }

    /// Whether the policy may demand a digest of an image, by what the kernel side recorded of it:
    /// it need not live any more.
    fn may_demand_digest(&self, facts: &ProcessFacts) -> bool {
        let Some(agent) = self.agent_names.get(&facts.agent) else { return false };
        let named = self.executable_terms(facts);
        self.plan.terms().iter().enumerate().any(|(number, term)| {
            term.agent == *agent
                && !term.digests.is_empty()
                && (term.executable.is_none() || contains(&named, number))
        })
    }

    /// Nothing of the instance may act any more.
    fn taint(&mut self, facts: &ProcessFacts, reason: Reason) {
        let Some(instance) = self.instances.get_mut(&facts.instance) else { return };
        if instance.refused.is_some() {
            return;
        }
        instance.refused = Some(reason);
        let agent = Arc::clone(&instance.agent);
        let process = self.images.get(&facts.exec).map(|image| Arc::clone(&image.process));
        let process = process.unwrap_or_else(|| Arc::clone(&instance.process));
        let mut images = Vec::new();
        for (exec, image) in &mut self.images {
            let may_act =
                matches!(image.standing, ImageStanding::Attested | ImageStanding::Limited(_));
            if image.facts.instance == facts.instance && may_act {
                image.standing = ImageStanding::Refused(reason);
                images.push(*exec);
            }
        }
        for exec in images {
            let written = self.verdicts.identify(exec, Some(reason));
            self.check(written);
        }
        let instance = facts.instance;
        self.tell(DaemonEvent::IdentityRefused { agent, instance, process, reason });
        // Verdicts that were made for its images end with the generation.
        self.recompile();
    }

    pub(super) fn remember(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
        standing: ImageStanding,
    ) -> ImageStanding {
        let process = Arc::new(process);
        self.expect_held(facts.tgid, &process.cgroup);
        self.begin_instance(facts, &process);
        let image = Image { process, facts: *facts, standing };
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
            started,
            refused: None,
            announced: false,
        });
        // The first process goes on to be told with its newest image.
        if instance.process.pid == process.pid && process.exe.is_some() {
            instance.process = Arc::clone(process);
        }
    }

    /// Tells once that an instance began.
    pub(super) fn announce(&mut self, facts: &ProcessFacts) {
        let Some(instance) = self.instances.get_mut(&facts.instance) else { return };
        if std::mem::replace(&mut instance.announced, true) {
            return;
        }
        if let Some(instance) = self.instances.get(&facts.instance) {
            let facts = self.instance_facts(facts.instance, instance);
            self.tell(DaemonEvent::InstanceStarted(facts));
        }
    }

    fn instance_facts(&self, id: InstanceId, instance: &Instance) -> InstanceFacts {
        let owner = self.policy.agent(&instance.agent).map(|agent| Arc::clone(&agent.owner));
        InstanceFacts {
            agent: Arc::clone(&instance.agent),
            owner: owner.unwrap_or_else(|| Arc::from("")),
            instance: id,
            process: Arc::clone(&instance.process),
        }
    }
}

fn is_mismatch(error: &ReadError) -> bool {
    matches!(error.failure, ReadFailure::ExecutableMismatch { .. })
}

fn contains(terms: &TermSet, number: usize) -> bool {
    terms.words.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
}
