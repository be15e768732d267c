//! The durable store: grants, agent ids and the epoch, in one file.
//!
//! In: checked grants, revocations, uses. Out: the same, durable before the call returns: whatever
//! was returned is there after `kill -9` or a power cut, and what was not returned is there whole
//! or not at all. Never gives a number out twice. One daemon at a time: the file is locked.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent_enforcer_common::id::{AgentId, GrantId};
use redb::{
    CommitError, Database, ReadableTable, StorageError, TableDefinition, TableError,
    TransactionError, WriteTransaction, backends::FileBackend,
};

use super::{
    BootId, Grant, GrantStoreError, GrantTable, Moment, NewGrant, Revocation, UseError,
    record::{GrantRecord, MarkRecord},
    state_file::{open_directory, open_file, sync_directory},
    table::LINEAGE_LIMIT,
};
use crate::decision::grant_name;

/// Name of the file in the state directory.
const FILE: &str = "grants.redb";
/// Format of the records.
const FORMAT: u64 = 1;
/// Memory for pages: the store is small, and read once.
const CACHE_BYTES: usize = 1 << 20;

/// `GrantId` -> `GrantRecord` as JSON.
const GRANTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("grants");
/// Id of a token -> `GrantId` of the grant that came of it.
const TOKENS: TableDefinition<'_, &str, u64> = TableDefinition::new("tokens");
/// Name of an agent -> `AgentId`.
const AGENTS: TableDefinition<'_, &str, u32> = TableDefinition::new("agents");
/// The last number given out, by its kind.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// The one `MarkRecord` as JSON.
const MARK: TableDefinition<'_, (), &[u8]> = TableDefinition::new("mark");

const FORMAT_NUMBER: &str = "format";
const GRANT_NUMBER: &str = "grant";
const AGENT_NUMBER: &str = "agent";
const EPOCH_NUMBER: &str = "epoch";

/// The open store. Every method that changes it is durable when it returns.
#[derive(Debug)]
pub struct GrantStore {
    database: Database,
    path: PathBuf,
}

/// What can go wrong inside of a transaction, before the path is known.
pub(in crate::resolver) enum Fault {
    Redb(redb::Error),
    Record(serde_json::Error),
    Store(GrantStoreError),
}

impl GrantStore {
    /// Opens the store of a state directory; makes both where they are missing.
    pub fn open(state_dir: &Path) -> Result<Self, GrantStoreError> {
        open_directory(state_dir)?;
        let path = state_dir.join(FILE);
        let file = open_file(&path)?;
        let made = FileBackend::new(file)
            .map_err(redb::Error::from)
            .and_then(|backend| {
                Database::builder()
                    .set_cache_size(CACHE_BYTES)
                    .set_check_integrity_on_open(true)
                    .create_with_backend(backend)
                    .map_err(redb::Error::from)
            })
            .map_err(|error| storage_error(&path, error))?;
        sync_directory(state_dir)?;
        let store = Self { database: made, path };
        store.write(|transaction| store.check_format(transaction))?;
        Ok(store)
    }

    /// Every grant, with its deadlines in the boot of `now`.
    pub fn load(&self, now: &Moment) -> Result<GrantTable, GrantStoreError> {
        self.write(|transaction| {
            let mark = read_mark(transaction)?;
            let mut loaded = GrantTable::default();
            let mut carried = Vec::new();
            let mut records = transaction.open_table(GRANTS)?;
            for entry in records.iter()? {
                let (id, bytes) = entry?;
                let id = GrantId::new(id.value());
                let mut record: GrantRecord = serde_json::from_slice(bytes.value())?;
                if record.carry_over(mark.as_ref(), now) {
                    carried.push((id, serde_json::to_vec(&record)?));
                }
                loaded.insert(record.into_grant(id));
            }
            for (id, bytes) in carried {
                records.insert(id.get(), bytes.as_slice())?;
            }
            drop(records);
            write_mark(transaction, now)?;
            Ok(loaded)
        })
    }

    /// Gives a grant its id and stores it. A token counts once.
    pub fn issue(&self, new: NewGrant) -> Result<Grant, GrantStoreError> {
        self.write(|transaction| {
            let id = GrantId::new(self.next_number(transaction, GRANT_NUMBER)?);
            let now = new.checked;
            let grant = Grant {
                id,
                subject: new.subject,
                scope: new.scope,
                principal: new.principal,
                task: new.task,
                reason: new.reason,
                issued: now.wall,
                not_before: new.not_before,
                expires: new.expires,
                not_before_ns: new.not_before_ns,
                expires_ns: new.expires_ns,
                max_uses: new.max_uses,
                uses: 0,
                revoked: None,
                origin: new.origin.map(Box::new),
            };
            if let Some(origin) = &grant.origin {
                let mut tokens = transaction.open_table(TOKENS)?;
                if tokens.insert(&*origin.jti, id.get())?.is_some() {
                    return Err(GrantStoreError::Replayed(origin.jti.to_string()).into());
                }
            }
            let mut records = transaction.open_table(GRANTS)?;
            records.insert(id.get(), record_bytes(&grant, &now.boot)?.as_slice())?;
            drop(records);
            write_mark(transaction, &now)?;
            Ok(grant)
        })
    }

    /// Takes a grant back; the first revocation stays.
    pub fn revoke(
        &self,
        id: GrantId,
        reason: &str,
        now: &Moment,
    ) -> Result<Grant, GrantStoreError> {
        self.write(|transaction| {
            let mut records = transaction.open_table(GRANTS)?;
            let found = stored(&records, id)?;
            let (mut grant, boot) =
                found.ok_or_else(|| GrantStoreError::UnknownGrant(grant_name(id)))?;
            let revocation = || Revocation { at: now.wall, reason: reason.into() };
            grant.revoked.get_or_insert_with(revocation);
            records.insert(id.get(), record_bytes(&grant, &boot)?.as_slice())?;
            drop(records);
            write_mark(transaction, now)?;
            Ok(grant)
        })
    }

    /// Spends a use of a live counted grant, and of each counted one that it was derived from: all of
    /// them, or none. Out: all of them. The call may go ahead once this has returned.
    pub fn record_use(&self, id: GrantId, now: &Moment) -> Result<Vec<Grant>, GrantStoreError> {
        self.write(|transaction| {
            let mut records = transaction.open_table(GRANTS)?;
            let (mut line, mut boots) = (GrantTable::default(), Vec::new());
            let mut next = Some(id);
            while let Some(at) = next.filter(|_| boots.len() < LINEAGE_LIMIT) {
                let Some((grant, boot)) = stored(&records, at)? else { break };
                next = grant.parent();
                boots.push((at, boot));
                line.insert(grant);
            }
            let spent = line.spend(id, now.boot_ns);
            spent.map_err(|source| match source {
                UseError::Unknown => GrantStoreError::UnknownGrant(grant_name(id)),
                UseError::NotCounted | UseError::NotLive(_) => {
                    GrantStoreError::Use { grant: grant_name(id), source }
                }
            })?;
            for (at, boot) in boots {
                let Some(grant) = line.get(at).filter(|grant| grant.is_counted()) else { continue };
                records.insert(at.get(), record_bytes(grant, &boot)?.as_slice())?;
            }
            drop(records);
            write_mark(transaction, now)?;
            Ok(line.iter().filter(|grant| grant.is_counted()).cloned().collect())
        })
    }

    /// Drops what has expired long ago; returns how many grants that were. Numbers are not given
    /// out again.
    pub fn drop_outdated(&self, now: &Moment) -> Result<usize, GrantStoreError> {
        self.write(|transaction| {
            let mut records = transaction.open_table(GRANTS)?;
            let mut tokens = transaction.open_table(TOKENS)?;
            let mut outdated = Vec::new();
            for entry in records.iter()? {
                let (id, bytes) = entry?;
                let record: GrantRecord = serde_json::from_slice(bytes.value())?;
                let of_this_boot = record.boot() == now.boot;
                let grant = record.into_grant(GrantId::new(id.value()));
                if of_this_boot && grant.is_outdated(now.boot_ns, now.wall) {
                    outdated.push((id.value(), grant.origin));
                }
            }
            for (id, origin) in &outdated {
                records.remove(id)?;
                if let Some(origin) = origin {
                    tokens.remove(&*origin.jti)?;
                }
            }
            Ok(outdated.len())
        })
    }

    /// The id of an agent, the same for a name for as long as the store lives.
    pub fn agent_id(&self, name: &str) -> Result<AgentId, GrantStoreError> {
        let ids = self.agent_ids([name])?;
        ids.get(name).copied().ok_or_else(|| self.exhausted("agent ids"))
    }

    /// The ids of several agents, in one step.
    pub fn agent_ids<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<BTreeMap<Arc<str>, AgentId>, GrantStoreError> {
        self.write(|transaction| {
            let mut ids = BTreeMap::new();
            let mut agents = transaction.open_table(AGENTS)?;
            for name in names {
                let known = agents.get(name)?.map(|id| id.value());
                let id = if let Some(id) = known {
                    id
                } else {
                    let next = self.next_number(transaction, AGENT_NUMBER)?;
                    let id = u32::try_from(next).map_err(|_| self.exhausted("agent ids"))?;
                    agents.insert(name, id)?;
                    id
                };
                ids.insert(name.into(), AgentId::new(id));
            }
            Ok(ids)
        })
    }

    /// Every agent that was ever given an id.
    pub fn known_agents(&self) -> Result<Vec<(Arc<str>, AgentId)>, GrantStoreError> {
        self.write(|transaction| {
            let mut known = Vec::new();
            for entry in transaction.open_table(AGENTS)?.iter()? {
                let (name, id) = entry?;
                known.push((name.value().into(), AgentId::new(id.value())));
            }
            Ok(known)
        })
    }

    /// A number greater than every one that this returned before, restarts included.
    pub fn next_epoch(&self) -> Result<u64, GrantStoreError> {
        self.write(|transaction| self.next_number(transaction, EPOCH_NUMBER))
    }

    /// Notes the time. Called every minute or so, it bounds how much life a grant can win when the
    /// host restarts with a wall clock that was set back.
    pub fn note_time(&self, now: &Moment) -> Result<(), GrantStoreError> {
        self.write(|transaction| write_mark(transaction, now))
    }

    /// One transaction: all of it is durable when this returns, or nothing happened.
    pub(in crate::resolver) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, GrantStoreError> {
        let run = || -> Result<T, Fault> {
            let transaction = self.database.begin_write()?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|fault| match fault {
            Fault::Redb(error) => storage_error(&self.path, error),
            Fault::Record(error) => {
                GrantStoreError::Corrupted { path: self.path.clone(), detail: error.to_string() }
            }
            Fault::Store(error) => error,
        })
    }

    fn check_format(&self, transaction: &WriteTransaction) -> Result<(), Fault> {
        let mut numbers = transaction.open_table(NUMBERS)?;
        let found = numbers.get(FORMAT_NUMBER)?.map(|format| format.value());
        match found {
            None => {
                numbers.insert(FORMAT_NUMBER, FORMAT)?;
                Ok(())
            }
            Some(FORMAT) => Ok(()),
            Some(found) => {
                let path = self.path.clone();
                Err(GrantStoreError::Version { path, found, known: FORMAT }.into())
            }
        }
    }

    fn next_number(&self, transaction: &WriteTransaction, kind: &str) -> Result<u64, Fault> {
        let mut numbers = transaction.open_table(NUMBERS)?;
        let last = numbers.get(kind)?.map_or(0, |last| last.value());
        let next = last.checked_add(1).ok_or_else(|| self.exhausted("numbers"))?;
        numbers.insert(kind, next)?;
        Ok(next)
    }

    fn exhausted(&self, what: &'static str) -> GrantStoreError {
        GrantStoreError::Exhausted(what, self.path.clone())
    }
}

/// A grant, and the boot that its deadlines count from.
fn stored(
    records: &impl ReadableTable<u64, &'static [u8]>,
    id: GrantId,
) -> Result<Option<(Grant, BootId)>, Fault> {
    let Some(bytes) = records.get(id.get())? else { return Ok(None) };
    let record: GrantRecord = serde_json::from_slice(bytes.value())?;
    let boot = record.boot();
    Ok(Some((record.into_grant(id), boot)))
}

fn record_bytes(grant: &Grant, boot: &BootId) -> Result<Vec<u8>, Fault> {
    Ok(serde_json::to_vec(&GrantRecord::new(grant, boot))?)
}

fn read_mark(transaction: &WriteTransaction) -> Result<Option<MarkRecord>, Fault> {
    let marks = transaction.open_table(MARK)?;
    let Some(bytes) = marks.get(())? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(bytes.value())?))
}

fn write_mark(transaction: &WriteTransaction, now: &Moment) -> Result<(), Fault> {
    let mut marks = transaction.open_table(MARK)?;
    marks.insert((), serde_json::to_vec(&MarkRecord::new(now))?.as_slice())?;
    Ok(())
}

/// The store's errors in our words.
#[expect(clippy::wildcard_enum_match_arm, reason = "foreign and open: the rest shares one form")]
fn storage_error(path: &Path, error: redb::Error) -> GrantStoreError {
    let path = path.to_owned();
    let corrupted = |detail: String| GrantStoreError::Corrupted { path: path.clone(), detail };
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            GrantStoreError::Locked { path }
        }
        redb::Error::Corrupted(detail) => corrupted(detail),
        redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => corrupted(error.to_string()),
        redb::Error::Io(ref cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            corrupted(cause.to_string())
        }
        _ => GrantStoreError::Storage { path, source: Box::new(error) },
    }
}

macro_rules! fault_from {
    ($($error:ty),+) => {
        $(
            impl From<$error> for Fault {
                fn from(error: $error) -> Self {
                    Self::Redb(error.into())
                }
            }
        )+
    };
}
fault_from!(TransactionError, TableError, StorageError, CommitError);

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Record(error)
    }
}

impl From<GrantStoreError> for Fault {
    fn from(error: GrantStoreError) -> Self {
        Self::Store(error)
    }
}
