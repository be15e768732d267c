//! Agents' manifests in force: which images are the agent's own software, and when that ends.
//!
//! In: the policy's manifests, the clock, images as they were attested. Out: how each image stands
//! ([`ImageStanding`]), and events when a manifest begins or ceases to count.

use std::{sync::Arc, time::SystemTime};

use agent_enforcer_common::{id::ExecId, reason::Reason, record::ProcessFacts};

use super::{Engine, images::ImageStanding};
use crate::{
    decision::Process,
    events::{DaemonEvent, ManifestFacts},
    resolver::{
        manifest::SoftwareKind,
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
        let agent = self.agent_names.get(&facts.agent).and_then(|name| self.policy.agent(name));
        let manifest = agent.and_then(|agent| agent.manifest.as_ref());
        let Some(software) = manifest.and_then(AgentManifest::software) else {
            return ImageStanding::Attested;
        };
        let listed = process.sha256.as_ref().and_then(|digest| software.with_sha256(digest));
        match listed.map(|software| software.kind) {
            Some(SoftwareKind::Executable) => ImageStanding::Attested,
            Some(SoftwareKind::Interpreter) => ImageStanding::Limited(Reason::ScriptUnverified),
            Some(SoftwareKind::Script) | None => {
                ImageStanding::Limited(Reason::SoftwareNotApproved)
            }
        }
    }

    /// Judges every attested image by the manifests in force.
    pub(super) fn rejudge_images(&mut self) {
        let mut changed: Vec<(ExecId, ImageStanding)> = Vec::new();
        for (exec, image) in &self.images {
            match image.standing {
                ImageStanding::Attested | ImageStanding::Limited(_) => {}
                ImageStanding::Hashing
                | ImageStanding::Refused(_)
                | ImageStanding::Unreadable(_) => continue,
            }
            let standing = self.standing_by_manifest(&image.facts, &image.process);
            if standing != image.standing {
                changed.push((*exec, standing));
            }
        }
        for (exec, standing) in changed {
            if let Some(image) = self.images.get_mut(&exec) {
                image.standing = standing;
            }
            self.write_standing(exec, standing);
        }
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
