//! What agents' manifests come to under this policy.
//!
//! In: manifest files, the agents that name a SPIFFE ID, the keys that may sign for them, the newest
//! versions that were seen, the wall clock. Out: for each of these agents its [`AgentManifest`]:
//! whether it counts now, which tools and which software it names. One that does not count refuses
//! the agent everything; its selectors recognise the agent's processes all the same.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use agent_enforcer_common::{id::ToolId, reason::Reason};

use super::{
    Policy,
    directory::ManifestFile,
    error::{PolicyError, Problem},
    place::{Place, quote},
    tool_check::CheckedTools,
};
use crate::{
    decision::Sha256Digest,
    resolver::{
        manifest::{Document, KnownVersion, Manifest, ManifestRefusal, SoftwareSet},
        spiffe::SpiffeId,
    },
    signing::KeyId,
};

/// The manifest that an agent must have.
#[derive(Clone, Debug)]
pub struct AgentManifest {
    agent_id: SpiffeId,
    /// `None`: no file has it.
    found: Option<Found>,
    /// Why it does not count at any moment.
    fault: Option<Reason>,
    /// Why it does not count now.
    standing: Result<(), Reason>,
}

/// A manifest that is there.
#[derive(Clone, Debug)]
struct Found {
    manifest: Arc<Manifest>,
    digest: Sha256Digest,
    /// Trusted keys that signed it.
    signers: Vec<KeyId>,
    /// The tools of the policy that it names; sorted.
    tools: Vec<ToolId>,
}

impl AgentManifest {
    /// Of an agent whose manifest nobody has verified yet.
    pub(super) fn new(
        agent_id: SpiffeId,
        manifest: Option<&Arc<Manifest>>,
        known: &CheckedTools,
    ) -> Self {
        let found = manifest.map(|manifest| {
            let named = manifest.document().tools.iter();
            let mut tools: Vec<_> =
                named.filter_map(|name| known.names.get(&**name)).map(|(id, _)| *id).collect();
            tools.sort_unstable();
            Found {
                digest: manifest.digest(),
                manifest: Arc::clone(manifest),
                signers: Vec::new(),
                tools,
            }
        });
        let reason =
            if found.is_some() { Reason::ManifestUntrusted } else { Reason::ManifestMissing };
        Self { agent_id, found, fault: Some(reason), standing: Err(reason) }
    }

    /// The agent, the same on every host.
    pub const fn agent_id(&self) -> &SpiffeId {
        &self.agent_id
    }

    /// Why it does not count now, if it does not.
    pub const fn standing(&self) -> Result<(), Reason> {
        self.standing
    }

    /// What it says, whether that counts or not.
    pub fn document(&self) -> Option<&Document> {
        self.found.as_ref().map(|found| found.manifest.document())
    }

    /// SHA-256 of what is signed.
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.found.as_ref().map(|found| found.digest)
    }

    /// The trusted keys that signed it.
    pub fn signers(&self) -> &[KeyId] {
        self.found.as_ref().map_or(&[], |found| &found.signers)
    }

    /// What it may execute; `None` where it does not count.
    pub fn software(&self) -> Option<&SoftwareSet> {
        self.standing.ok()?;
        self.found.as_ref().map(|found| found.manifest.software())
    }

    /// Whether it names a tool.
    pub(super) fn names(&self, tool: ToolId) -> bool {
        self.found.as_ref().is_some_and(|found| found.tools.binary_search(&tool).is_ok())
    }

    fn judge(&mut self, now: SystemTime) -> bool {
        let standing = match (self.fault, &self.found) {
            (Some(reason), _) => Err(reason),
            (None, None) => Err(Reason::ManifestMissing),
            (None, Some(found)) => {
                let standing = found.manifest.document().standing(now);
                standing.map_err(|refusal| refusal.reason())
            }
        };
        std::mem::replace(&mut self.standing, standing) != standing
    }
}

/// By what is in force. Who else signed the same content changes nothing.
impl PartialEq for AgentManifest {
    fn eq(&self, other: &Self) -> bool {
        (&self.agent_id, self.digest(), self.standing)
            == (&other.agent_id, other.digest(), other.standing)
    }
}

impl Eq for AgentManifest {}

impl Policy {
    /// Verifies every agent's manifest, and holds it against the newest versions that were seen. Out:
    /// what to remember from now on. Until this is called, no manifest counts.
    pub fn admit_manifests(
        &mut self,
        now: SystemTime,
        known: impl Fn(&SpiffeId) -> Option<KnownVersion>,
    ) -> Vec<(SpiffeId, KnownVersion)> {
        let Self { agents, trust, .. } = self;
        let mut seen = Vec::new();
        for agent in agents {
            let Some(own) = &mut agent.manifest else { continue };
            let Some(found) = &mut own.found else { continue };
            let verified = found.manifest.verify(|kid, _| trust.manifest_key(kid, &agent.name));
            own.fault = match verified {
                Err(refusal) => Some(refusal.reason()),
                Ok(verified) => {
                    found.signers = verified.signers().to_vec();
                    let judgement = verified.judge(now, known(&own.agent_id));
                    seen.extend(judgement.known.map(|version| (own.agent_id.clone(), version)));
                    match judgement.standing {
                        Err(refusal @ ManifestRefusal::RolledBack { .. }) => Some(refusal.reason()),
                        Ok(()) | Err(_) => None,
                    }
                }
            };
        }
        self.judge_manifests(now);
        seen
    }

    /// Looks again how manifests stand by the wall clock. Out: the agents of which that has changed.
    pub fn judge_manifests(&mut self, now: SystemTime) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        for agent in &mut self.agents {
            if agent.manifest.as_mut().is_some_and(|manifest| manifest.judge(now)) {
                changed.push(Arc::clone(&agent.name));
            }
        }
        changed
    }
}

/// Manifest files by the agents that they are of.
pub(super) struct ManifestFiles<'a>(HashMap<&'a SpiffeId, &'a ManifestFile>);

impl<'a> ManifestFiles<'a> {
    /// Each agent has one at most.
    pub(super) fn new(files: &'a [ManifestFile], errors: &mut Vec<PolicyError>) -> Self {
        let mut by_agent: HashMap<&SpiffeId, &ManifestFile> = HashMap::new();
        for file in files {
            let agent = &file.manifest.document().agent_id;
            if let Some(first) = by_agent.get(agent) {
                let (agent, first) = (agent.clone(), first.place.clone());
                let problem = Problem::SecondManifest { agent, first };
                errors.push(PolicyError::new(file.place.clone(), problem));
            } else {
                by_agent.insert(agent, file);
            }
        }
        Self(by_agent)
    }

    /// The manifest of an agent of that name.
    pub(super) fn of(
        &self,
        agent_id: &SpiffeId,
        name: &str,
        errors: &mut Vec<PolicyError>,
    ) -> Option<&'a ManifestFile> {
        let file = *self.0.get(agent_id)?;
        let said = &file.manifest.document().name;
        if **said != *name {
            let (agent, name, called) = (agent_id.clone(), quote(said), quote(name));
            let problem = Problem::ManifestName { agent, name, called };
            errors.push(PolicyError::new(file.place.clone(), problem));
        }
        Some(file)
    }
}

/// A problem of a member of a manifest.
pub(super) fn in_manifest(place: &Place, path: String, problem: Problem) -> PolicyError {
    PolicyError::new(place.clone(), Problem::InManifest { path, problem: Box::new(problem) })
}
