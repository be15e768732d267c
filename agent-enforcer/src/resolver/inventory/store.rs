//! The inventory in the durable store, in tables of its own.

use std::{fmt, sync::Arc};

use agent_enforcer_common::id::InstanceId;
use redb::{ReadableTable as _, TableDefinition};
use serde::de::{DeserializeOwned, Error as _};

use super::{Changes, InstanceRecord, Inventory, Remembered};
use crate::{
    decision::instance_name,
    resolver::grant::{GrantStore, GrantStoreError},
};

/// Name of an agent -> `AgentRecord` as JSON.
const AGENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("inventory_agents");
/// `InstanceId` -> `InstanceRecord` as JSON.
const INSTANCES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("inventory_instances");

impl GrantStore {
    /// Everything that was stored.
    pub fn load_inventory(&self) -> Result<Inventory, GrantStoreError> {
        self.write(|transaction| {
            let mut loaded = Inventory::default();
            for entry in transaction.open_table(AGENTS)?.iter()? {
                let (name, bytes) = entry?;
                let record = decode(format_args!("agent {}", name.value()), bytes.value())?;
                loaded.agents.insert(name.value().into(), record);
            }
            let mut ended = Vec::new();
            for entry in transaction.open_table(INSTANCES)?.iter()? {
                let (id, bytes) = entry?;
                let id = InstanceId::new(id.value());
                let what = format!("instance {}", instance_name(id));
                let record: InstanceRecord = decode(&what, bytes.value())?;
                if !loaded.agents.contains_key(&record.agent) {
                    let problem = format!("{what}: there is no agent {:?}", record.agent);
                    return Err(serde_json::Error::custom(problem).into());
                }
                if let Some(at) = record.ended {
                    ended.push((at, id, Arc::clone(&record.agent)));
                }
                loaded.instances.insert(id, Remembered { record, stored: true });
            }
            ended.sort_unstable();
            for (_, id, agent) in ended {
                loaded.keep_ended(id, agent);
            }
            Ok(loaded)
        })
    }

    /// Stores what has changed, all of it or nothing: durable when this returns.
    pub fn record_inventory(&self, changes: &Changes) -> Result<(), GrantStoreError> {
        self.write(|transaction| {
            let mut agents = transaction.open_table(AGENTS)?;
            for (name, record) in &changes.agents {
                agents.insert(&**name, serde_json::to_vec(record)?.as_slice())?;
            }
            let mut instances = transaction.open_table(INSTANCES)?;
            for (id, record) in &changes.instances {
                match record {
                    Some(record) => {
                        instances.insert(id.get(), serde_json::to_vec(record)?.as_slice())?;
                    }
                    None => {
                        instances.remove(id.get())?;
                    }
                }
            }
            Ok(())
        })
    }
}

fn decode<T: DeserializeOwned>(
    what: impl fmt::Display,
    bytes: &[u8],
) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| serde_json::Error::custom(format!("inventory of {what}: {error}")))
}
