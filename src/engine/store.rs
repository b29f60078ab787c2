//! Desired state on disk: an embedded ACID store of JSON records.
//!
//! Knows tables and keys, not what records mean. Every record is wrapped with a schema version, so
//! that a newer engine can read what an older one wrote and an older one refuses what it does not
//! understand instead of changing it.
//!
//! Commits are durable when they return, and are grouped: callers that arrive while one commit is
//! being written share the next, so that fifty containers cost a few disk flushes, not fifty.
//! Runtime facts (pids, phases) do not belong here but in the
//! run directory, because a container's start must not wait for a disk.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The schema version that this program writes and the newest that it reads.
const SCHEMA: u32 = 1;

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Meta,
    Projects,
    Containers,
    Networks,
    /// Leased addresses and published ports by container id.
    Endpoints,
    Volumes,
    Images,
    /// Image id by reference.
    References,
    /// Unpacked layers by chain id.
    Snapshots,
}

impl Table {
    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Table::Meta => "meta",
            Table::Projects => "projects",
            Table::Containers => "containers",
            Table::Networks => "networks",
            Table::Endpoints => "endpoints",
            Table::Volumes => "volumes",
            Table::Images => "images",
            Table::References => "references",
            Table::Snapshots => "snapshots",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the state store {path}")]
    Open {
        path: String,
        source: redb::DatabaseError,
    },
    #[error(
        "the state store was written by a newer wharf (schema {found}, this program reads up to {SCHEMA})"
    )]
    TooNew { found: u32 },
    /// Shared, because one failed commit fails every batch that was grouped into it.
    #[error("cannot read or write the state store")]
    Storage(#[source] Arc<redb::Error>),
    #[error("record {key:?} of the state store does not have the expected form")]
    Record {
        key: String,
        source: serde_json::Error,
    },
}

fn storage(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Storage(Arc::new(error.into()))
}

/// A handle; clones share the store.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    /// Batches that wait for the next commit.
    waiting: Arc<Mutex<Vec<Waiting>>>,
    /// Held by the caller that writes.
    writer: Arc<Mutex<()>>,
}

/// A batch and where its fate is to be told.
type Waiting = (Batch, Arc<Outcome>);

/// The fate of one batch, set by whichever caller wrote it.
type Outcome = Mutex<Option<Result<(), Arc<redb::Error>>>>;

/// Changes that become visible and durable together.
#[derive(Default)]
pub struct Batch {
    changes: Vec<(Table, String, Option<Vec<u8>>)>,
}

impl Batch {
    pub fn put(&mut self, table: Table, key: &str, record: &impl Serialize) {
        // Records are our own types: strings, numbers, maps with string keys. Serialising them
        // cannot fail.
        let bytes = serde_json::to_vec(record).expect("records serialise to JSON");
        self.changes.push((table, key.to_owned(), Some(bytes)));
    }

    pub fn remove(&mut self, table: Table, key: &str) {
        self.changes.push((table, key.to_owned(), None));
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Store {
    /// Opens or makes the store in the given file.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let database = Database::builder()
            .set_cache_size(4 << 20)
            .create(path)
            .map_err(|source| StoreError::Open {
                path: path.display().to_string(),
                source,
            })?;
        let store = Store {
            database: Arc::new(database),
            waiting: Arc::default(),
            writer: Arc::default(),
        };
        match store.get::<u32>(Table::Meta, "schema")? {
            Some(found) if found > SCHEMA => return Err(StoreError::TooNew { found }),
            Some(SCHEMA) => {}
            Some(_) | None => store.put(Table::Meta, "schema", &SCHEMA)?,
        }
        Ok(store)
    }

    pub fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        let read = self.database.begin_read().map_err(storage)?;
        let table = match read.open_table(table.definition()) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(storage(error)),
        };
        let Some(guard) = table.get(key).map_err(storage)? else {
            return Ok(None);
        };
        decode(key, guard.value()).map(Some)
    }

    /// All records of a table, by key.
    pub fn list<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StoreError> {
        let read = self.database.begin_read().map_err(storage)?;
        let table = match read.open_table(table.definition()) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(storage(error)),
        };
        let mut records = Vec::new();
        for entry in table.iter().map_err(storage)? {
            let (key, value) = entry.map_err(storage)?;
            let record = decode(key.value(), value.value())?;
            records.push((key.value().to_owned(), record));
        }
        Ok(records)
    }

    pub fn put(&self, table: Table, key: &str, record: &impl Serialize) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put(table, key, record);
        self.commit(batch)
    }

    pub fn remove(&self, table: Table, key: &str) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.remove(table, key);
        self.commit(batch)
    }

    /// Makes all changes of the batch durable in one transaction. Blocks for the disk.
    pub fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let outcome = Arc::new(Outcome::default());
        lock(&self.waiting).push((batch, outcome.clone()));
        let _writing = lock(&self.writer);
        // Whoever held the writer before us took every waiting batch, perhaps ours.
        if let Some(result) = lock(&outcome).take() {
            return result.map_err(StoreError::Storage);
        }
        let group = std::mem::take(&mut *lock(&self.waiting));
        let result = self
            .write(group.iter().map(|(batch, _)| batch))
            .map_err(Arc::new);
        for (_, other) in &group {
            *lock(other) = Some(result.clone());
        }
        result.map_err(StoreError::Storage)
    }

    /// [`Store::commit`] for async callers: the disk is waited for on a thread of its own.
    pub async fn commit_async(&self, batch: Batch) -> Result<(), StoreError> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || store.commit(batch)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn write<'a>(&self, batches: impl Iterator<Item = &'a Batch>) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        for (kind, key, value) in batches.flat_map(|batch| &batch.changes) {
            let mut table = write.open_table(kind.definition())?;
            match value {
                Some(bytes) => table.insert(key.as_str(), bytes.as_slice())?,
                None => table.remove(key.as_str())?,
            };
        }
        Ok(write.commit()?)
    }
}

/// Locks even after a panic elsewhere: the data behind these locks is replaced whole, never left
/// half-changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Record {
        key: key.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_seen_whole_and_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let store = Store::open(&path).unwrap();
        let mut batch = Batch::default();
        batch.put(Table::Volumes, "a", &1u32);
        batch.put(Table::Containers, "a", &2u32);
        store.commit(batch).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(
            store.list::<u32>(Table::Volumes).unwrap(),
            [("a".to_owned(), 1)]
        );
        assert_eq!(store.get::<u32>(Table::Containers, "a").unwrap(), Some(2));
        store.remove(Table::Volumes, "a").unwrap();
        assert_eq!(store.get::<u32>(Table::Volumes, "a").unwrap(), None);
    }

    #[test]
    fn commits_from_many_threads_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.redb")).unwrap();
        std::thread::scope(|scope| {
            for n in 0..32u32 {
                let store = &store;
                scope.spawn(move || store.put(Table::Containers, &n.to_string(), &n).unwrap());
            }
        });
        assert_eq!(store.list::<u32>(Table::Containers).unwrap().len(), 32);
    }

    #[test]
    fn a_store_of_a_newer_program_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        Store::open(&path)
            .unwrap()
            .put(Table::Meta, "schema", &(SCHEMA + 1))
            .unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::TooNew { .. })));
    }
}
