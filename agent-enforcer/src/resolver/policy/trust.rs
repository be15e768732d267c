//! Whose signatures count, and for what.
//!
//! In: decoded files, the names of agents and tools. Out: [`Trust`], and every problem found. A key
//! vouches for nothing by being there: `signers` and `issuers` say what it may vouch for.

use std::{collections::HashSet, sync::Arc};

use super::{
    directory::Source,
    document::SignerEntry,
    error::{PolicyError, Problem},
    place::quote,
    tool_check::{CheckedTools, Report},
};
use crate::{
    resolver::grant::token::{IssuerEntry, Issuers},
    signing::{KeyId, KeySet, PublicKey},
};

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    keys: KeySet,
    signers: Vec<Signer>,
    issuers: Issuers,
}

/// A key that signs agent manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// Its name.
    pub key: KeyId,
    /// The agents whose manifests it may sign; `None`: every agent's.
    pub agents: Option<Vec<Arc<str>>>,
}

impl Trust {
    /// Every key.
    pub const fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// Whose signatures under manifests count.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Who may issue signed grants.
    pub const fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// The key of a name, if it may sign an agent's manifest.
    pub fn manifest_key(&self, kid: &str, agent: &str) -> Option<&PublicKey> {
        let may = |signer: &Signer| {
            let agents = signer.agents.as_ref();
            signer.key.as_str() == kid
                && agents.is_none_or(|agents| agents.iter().any(|name| **name == *agent))
        };
        self.keys.get(kid).filter(|_| self.signers.iter().any(may))
    }
}

/// Checks what all files say about keys.
pub(super) fn check(
    sources: &[Source],
    tools: &CheckedTools,
    agents: &HashSet<String>,
    errors: &mut Vec<PolicyError>,
) -> Trust {
    let mut trust = Trust::default();
    for source in sources {
        let mut report = Report { file: &source.file, errors };
        for key in &source.document.keys {
            if let Err(error) = trust.keys.add(key.value.clone()) {
                report.add(key.referenced, error.into());
            }
        }
    }
    let mut issuers = Vec::new();
    for source in sources {
        let mut report = Report { file: &source.file, errors };
        for entry in &source.document.signers {
            let signer = signer(entry, &trust.keys, agents, &mut report);
            trust.signers.extend(signer);
        }
        for entry in &source.document.issuers {
            let at = entry.referenced;
            for problem in unknown_names(&entry.value, tools, agents) {
                report.add(at, problem);
            }
            let resolved = entry.value.clone().resolve(&trust.keys).and_then(|issuer| {
                // Two of one name are found here, at the second.
                issuers.push(issuer);
                Issuers::new(issuers.clone())
            });
            match resolved {
                Ok(all) => trust.issuers = all,
                Err(error) => report.add(at, error.into()),
            }
        }
    }
    trust
}

fn signer(
    entry: &SignerEntry,
    keys: &KeySet,
    known: &HashSet<String>,
    report: &mut Report<'_>,
) -> Option<Signer> {
    let SignerEntry { key, agents } = entry;
    let agents = agents.as_ref().map(|agents| {
        if agents.value.is_empty() {
            let problem = Problem::EmptyList("agents", "name an agent, or remove the key");
            report.add(agents.referenced, problem);
        }
        let parse = |name: &str| known_agent(name, known).map(|()| Arc::<str>::from(name));
        report.each(&agents.value, parse).into_iter().map(|(name, _)| name).collect()
    });
    let Some(found) = keys.get(&key.value) else {
        report.add(key.referenced, Problem::UnknownKeyId(quote(&key.value)));
        return None;
    };
    Some(Signer { key: found.kid().clone(), agents })
}

fn known_agent(name: &str, known: &HashSet<String>) -> Result<(), Problem> {
    if known.contains(name) { Ok(()) } else { Err(Problem::UnknownAgent(quote(name))) }
}

fn unknown_names(
    entry: &IssuerEntry,
    tools: &CheckedTools,
    agents: &HashSet<String>,
) -> Vec<Problem> {
    let unknown_tools = entry.tools.iter().filter(|tool| !tools.names.contains_key(&***tool));
    let unknown_tools = unknown_tools.map(|tool| Problem::UnknownTool(quote(tool)));
    let unknown_agents = entry.agents.iter().filter_map(|name| known_agent(name, agents).err());
    unknown_agents.chain(unknown_tools).collect()
}
