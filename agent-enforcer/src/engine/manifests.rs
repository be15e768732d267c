//! Agents' manifests in force: which images are the agent's own software, and when that ends.
//!
//! In: the policy's manifests, the clock, images as they were attested. Out: how each image stands
//! ([`ImageStanding`]), and events when a manifest begins or ceases to count.

use std::{sync::Arc, time::SystemTime};

use agent_enforcer_common::{id::ExecId, reason::Reason, record::ProcessFacts};

use super::{Engine, images::ImageStanding};
use crate::{
    decision::{Code, Process},
    events::{DaemonEvent, ManifestFacts},
    resolver::{
        manifest::{SoftwareKind, SoftwareSet},
        policy::{Agent, AgentManifest},
    },
};

impl Engine {
    /// How an image that holds otherwise stands by its agent's manifest. One that does not count says
    /// nothing about software: it refuses every call.
    pub(super) fn standing_by_manifest(
        &self,
        facts: &ProcessFacts,
        process: &Process,
    ) -> ImageStanding {
        let Some(software) = self.software_of(facts) else { return ImageStanding::Attested };
        let kind_of = |sha256, fsverity| software.find(sha256, fsverity).map(|found| found.kind);
        if let Code::Unverified(why) = &process.code
            && why.is_of_executable()
        {
            return ImageStanding::Limited(Reason::SoftwareNotApproved);
        }
        match kind_of(process.sha256, process.fsverity) {
            Some(SoftwareKind::Executable) => ImageStanding::Attested,
            Some(SoftwareKind::Interpreter) => match &process.code {
                Code::Script(script) => match kind_of(Some(script.sha256), script.fsverity) {
                    Some(SoftwareKind::Script) => ImageStanding::Attested,
                    Some(SoftwareKind::Executable | SoftwareKind::Interpreter) | None => {
                        ImageStanding::Limited(Reason::SoftwareNotApproved)
                    }
                },
                Code::Own | Code::Unverified(_) => ImageStanding::Limited(Reason::ScriptUnverified),
            },
            Some(SoftwareKind::Script) | None => {
                ImageStanding::Limited(Reason::SoftwareNotApproved)
            }
        }
    }

    /// The software of an agent, where its manifest counts.
    pub(super) fn software_of(&self, facts: &ProcessFacts) -> Option<&SoftwareSet> {
        let agent = self.agent_names.get(&facts.agent).and_then(|name| self.policy.agent(name))?;
        agent.manifest.as_ref().and_then(AgentManifest::software)
    }

    /// Judges every attested image by the manifests in force and by who vouches for it; true where one
    /// may act no more.
    pub(super) fn rejudge_images(&mut self) -> bool {
        let mut changed: Vec<(ExecId, ImageStanding)> = Vec::new();
        for (exec, image) in &self.images {
            match image.standing {
                ImageStanding::Attested
                | ImageStanding::Limited(_)
                // What the policy calls the agent may have changed.
                | ImageStanding::Refused(Reason::SpiffeIdMismatch) => {}
                ImageStanding::Hashing
                | ImageStanding::Asked
                | ImageStanding::Refused(_)
                | ImageStanding::Unreadable(_) => continue,
            }
            let standing = self.standing_by_identity(&image.facts, &image.process);
            if standing != image.standing {
                changed.push((*exec, standing));
            }
        }
        let mut ends = false;
        for (exec, standing) in changed {
            if let Some(image) = self.images.get_mut(&exec) {
                ends |= image.standing.may_act() && !standing.may_act();
                image.standing = standing;
            }
            self.write_standing(exec, standing);
        }
        ends
    }

    /// Sees manifests begin and end.
    pub(super) fn watch_manifests(&mut self) {
        let changed = self.policy.judge_manifests(SystemTime::now());
        if changed.is_empty() {
            return;
        }
        self.tell_manifests(|agent| changed.contains(&agent.name));
        self.note_policy();
        self.rejudge_images();
        self.recompile();
    }

    /// Tells how manifests stand.
    pub(super) fn tell_manifests(&self, of: impl Fn(&Agent) -> bool) {
        for agent in self.policy.agents().iter().filter(|agent| of(agent)) {
            let Some(manifest) = &agent.manifest else { continue };
            let facts = Box::new(facts(agent, manifest));
            self.tell(match manifest.standing() {
                Ok(()) => DaemonEvent::ManifestAccepted(facts),
                Err(reason) => DaemonEvent::ManifestRefused(facts, reason),
            });
        }
    }
}

fn facts(agent: &Agent, manifest: &AgentManifest) -> ManifestFacts {
    ManifestFacts {
        agent: Arc::clone(&agent.name),
        owner: Arc::clone(&agent.owner),
        agent_id: manifest.agent_id().to_string(),
        version: manifest.document().map(|document| document.version.get()),
        digest: manifest.digest().map(|digest| digest.to_string()),
        signers: manifest.signers().iter().map(ToString::to_string).collect(),
    }
}
