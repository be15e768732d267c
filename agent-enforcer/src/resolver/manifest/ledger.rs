//! The newest versions of manifests that this host has seen, in the durable store.

use std::collections::HashMap;

use redb::{ReadableTable as _, TableDefinition};

use super::KnownVersion;
use crate::resolver::{
    grant::{GrantStore, GrantStoreError, Moment},
    policy::Policy,
    spiffe::SpiffeId,
};

/// SPIFFE ID of an agent -> `KnownVersion` as JSON.
const MANIFESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("manifests");

impl GrantStore {
    /// Verifies the manifests of a policy, and holds them against the newest versions that were seen;
    /// what is newer is remembered, durable when this returns.
    pub fn admit_manifests(
        &self,
        policy: &mut Policy,
        now: &Moment,
    ) -> Result<(), GrantStoreError> {
        self.write(|transaction| {
            let mut versions = transaction.open_table(MANIFESTS)?;
            let mut known = HashMap::new();
            for entry in versions.iter()? {
                let (agent, bytes) = entry?;
                let version: KnownVersion = serde_json::from_slice(bytes.value())?;
                known.insert(agent.value().to_owned(), version);
            }
            let seen = policy.admit_manifests(now.wall, |agent| known.get(agent.as_str()).copied());
            for (agent, version) in seen {
                if known.get(SpiffeId::as_str(&agent)) != Some(&version) {
                    let bytes = serde_json::to_vec(&version)?;
                    versions.insert(agent.as_str(), bytes.as_slice())?;
                }
            }
            Ok(())
        })
    }
}
