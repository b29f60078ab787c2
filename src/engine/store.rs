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

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The schema version that this program writes and the newest that it reads.
const SCHEMA: u32 = 1;
/// What is kept aside for a full disk; removing a container writes a few pages of the store.
const RESERVE_BYTES: u64 = 1 << 20;
/// A read that writers interrupt again and again is told so; each of them has a full disk to fight.
const MAX_READS: usize = 8;

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
    /// It was closed after a failed write and does not open; the next access tries again.
    #[error("the state store {path} is closed")]
    Closed { path: String },
    #[error("record {key:?} of the state store does not have the expected form")]
    Record {
        key: String,
        source: serde_json::Error,
    },
}

fn storage(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Storage(Arc::new(error.into()))
}

impl StoreError {
    /// For another caller whose batch was in the same commit.
    fn shared(&self) -> StoreError {
        match self {
            StoreError::Storage(error) => StoreError::Storage(error.clone()),
            StoreError::Closed { path } => StoreError::Closed { path: path.clone() },
            // A commit has no other failures.
            other => StoreError::Closed {
                path: other.to_string(),
            },
        }
    }

    /// Whether the database was closed under the caller, or is about to be after a failed write.
    fn is_interruption(&self) -> bool {
        let StoreError::Storage(error) = self else {
            return false;
        };
        matches!(
            **error,
            redb::Error::DatabaseClosed | redb::Error::PreviousIo
        )
    }

    /// Whether room on the disk would have helped.
    pub fn is_disk_full(&self) -> bool {
        match self {
            StoreError::Storage(error) => is_disk_full(error),
            StoreError::Closed { .. } => true,
            _ => false,
        }
    }
}

fn is_disk_full(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, redb::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded))
}

/// A handle; clones share the store.
#[derive(Clone)]
pub struct Store {
    place: Arc<Place>,
    /// Batches that wait for the next commit.
    waiting: Arc<Mutex<Vec<Waiting>>>,
    /// Held by the caller that writes.
    writer: Arc<Mutex<()>>,
}

/// A batch and where its fate is to be told.
type Waiting = (Batch, Arc<Outcome>);

/// The file, and the database in it.
struct Place {
    path: PathBuf,
    /// `None` after a failed write, until it could be opened again: the database refuses everything
    /// from the first failed write on, even when there is room again (L39).
    database: RwLock<Option<Database>>,
}

impl Place {
    fn open(path: &Path) -> Result<Database, StoreError> {
        Database::builder()
            .set_cache_size(4 << 20)
            .create(path)
            .map_err(|source| StoreError::Open {
                path: path.display().to_string(),
                source,
            })
    }

    /// Where a megabyte is kept for the day when the disk is full, so that things can be removed.
    fn reserve(&self) -> PathBuf {
        self.path.with_extension("reserve")
    }

    fn keep_reserve(&self) {
        let keep = || -> std::io::Result<()> {
            let file = std::fs::OpenOptions::new()
                .create_new(true)
                .write(true)
                .open(self.reserve())?;
            let kept =
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES);
            kept.or_else(|error| {
                std::fs::remove_file(self.reserve())?;
                Err(error.into())
            })
        };
        match keep() {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                tracing::warn!(%error, "cannot keep a reserve on the disk");
            }
            _ => {}
        }
    }

    fn read(&self) -> Result<ReadTransaction, StoreError> {
        {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(database) = &*database {
                return database.begin_read().map_err(storage);
            }
        }
        self.open_if_closed()?;
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Some(database) => database.begin_read().map_err(storage),
            None => Err(self.closed()),
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed {
            path: self.path.display().to_string(),
        }
    }

    /// Opens the database unless somebody else has done so meanwhile: whoever found it closed must
    /// not close it again under a writer that was quicker.
    fn open_if_closed(&self) -> Result<(), StoreError> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some(Place::open(&self.path)?);
        }
        Ok(())
    }

    /// Closes and opens the database, which repairs it: the last commit that succeeded stands.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Closed first: the file is locked by whoever has it open.
        *database = None;
        *database = Some(Place::open(&self.path)?);
        Ok(())
    }
}

/// The fate of one batch, set by whichever caller wrote it.
type Outcome = Mutex<Option<Result<(), StoreError>>>;

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
        let database = Place::open(path)?;
        let place = Place {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
        };
        place.keep_reserve();
        let store = Store {
            place: Arc::new(place),
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
        self.reading(|read| {
            let table = match read.open_table(table.definition()) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(storage(error)),
            };
            let Some(guard) = table.get(key).map_err(storage)? else {
                return Ok(None);
            };
            decode(key, guard.value()).map(Some)
        })
    }

    /// Reads; once more when a writer has closed the database meanwhile to open it anew (L39). What
    /// is in memory already could be read on, what is not could not.
    fn reading<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let attempt = || look(&self.place.read()?);
        let mut result = attempt();
        for _ in 1..MAX_READS {
            if !result.as_ref().is_err_and(StoreError::is_interruption) {
                break;
            }
            // Until the writer is done with it.
            drop(lock(&self.writer));
            result = attempt();
        }
        result
    }

    /// All records of a table, by key.
    pub fn list<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StoreError> {
        self.reading(|read| {
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
        })
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
            return result;
        }
        let group = std::mem::take(&mut *lock(&self.waiting));
        let batches: Vec<&Batch> = group.iter().map(|(batch, _)| batch).collect();
        let result = self.write(&batches);
        for (_, other) in &group {
            *lock(other) = Some(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.shared()),
            });
        }
        result
    }

    /// [`Store::commit`] for async callers: the disk is waited for on a thread of its own.
    pub async fn commit_async(&self, batch: Batch) -> Result<(), StoreError> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || store.commit(batch)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Writes, and if that fails once more with a database that was opened anew; with what the
    /// reserve gives, if the disk is full.
    fn write(&self, batches: &[&Batch]) -> Result<(), StoreError> {
        let first = match self.try_write(batches) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if first.is_disk_full() {
            // Without one there is nothing to give.
            let _ = std::fs::remove_file(self.place.reserve());
        }
        if let Err(error) = self.place.reopen() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot open the state store again"
            );
            return Err(first);
        }
        if self.try_write(batches).is_err() {
            // What the next caller finds should work if anything does.
            let _ = self.place.reopen();
            return Err(first);
        }
        self.place.keep_reserve();
        Ok(())
    }

    fn try_write(&self, batches: &[&Batch]) -> Result<(), StoreError> {
        let write = {
            let database = self
                .place
                .database
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let database = database.as_ref().ok_or_else(|| self.place.closed())?;
            database.begin_write().map_err(storage)?
        };
        for (kind, key, value) in batches.iter().flat_map(|batch| &batch.changes) {
            let mut table = write.open_table(kind.definition()).map_err(storage)?;
            match value {
                Some(bytes) => table.insert(key.as_str(), bytes.as_slice()),
                None => table.remove(key.as_str()),
            }
            .map_err(storage)?;
        }
        write.commit().map_err(storage)
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

    /// A tmpfs of its own, in a mount namespace of this thread's own.
    #[test]
    fn privileged_l39_a_full_disk_is_an_error_and_room_heals_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let work = || {
            nix::sched::unshare(
                nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS,
            )
            .unwrap();
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let none = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("t"), dir.path(), Some("tmpfs"), none, Some("size=6m")).unwrap();
            let store = Store::open(&dir.path().join("state.redb")).unwrap();
            store.put(Table::Containers, "kept", &1u32).unwrap();

            let fill = dir.path().join("fill");
            let mut file = std::fs::File::create(&fill).unwrap();
            while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
            // The reserve lets small changes through; a large one cannot be.
            store.put(Table::Containers, "small", &2u32).unwrap();
            let large = vec![7u8; 8 << 20];
            let error = store.put(Table::Volumes, "large", &large).unwrap_err();
            assert!(error.is_disk_full(), "{error:?}");
            assert_eq!(
                store.get::<u32>(Table::Containers, "kept").unwrap(),
                Some(1)
            );

            drop(file);
            std::fs::remove_file(&fill).unwrap();
            store.put(Table::Containers, "after", &3u32).unwrap();
            assert_eq!(store.list::<u32>(Table::Containers).unwrap().len(), 3);
            drop(store);
            let store = Store::open(&dir.path().join("state.redb")).unwrap();
            assert_eq!(
                store.get::<u32>(Table::Containers, "small").unwrap(),
                Some(2)
            );
            nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        };
        std::thread::spawn(work).join().unwrap();
    }

    #[test]
    fn l39_a_reader_does_not_notice_that_a_writer_opens_the_store_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let mut batch = Batch::default();
        for n in 0..50 {
            batch.put(Table::Volumes, &format!("{n:02}"), &"x".repeat(1 << 16));
        }
        Store::open(&path).unwrap().commit(batch).unwrap();
        // Nothing of it is in memory yet.
        let store = Store::open(&path).unwrap();
        let n_attempts = std::cell::Cell::new(0);
        let n_bytes = store.reading(|read| {
            n_attempts.set(n_attempts.get() + 1);
            if n_attempts.get() == 1 {
                store.place.reopen()?;
            }
            let table = read.open_table(Table::Volumes.definition());
            let mut n_bytes = 0;
            for entry in table.map_err(storage)?.iter().map_err(storage)? {
                n_bytes += entry.map_err(storage)?.1.value().len();
            }
            Ok(n_bytes)
        });
        assert_eq!((n_bytes.unwrap(), n_attempts.get()), (50 * 65_538, 2));
    }

    #[test]
    fn l39_a_store_that_is_open_again_is_not_closed_under_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.redb")).unwrap();
        *store.place.database.write().unwrap() = None;
        store.place.open_if_closed().unwrap();
        let write = {
            let database = store.place.database.read().unwrap();
            database.as_ref().unwrap().begin_write().unwrap()
        };
        // By one who had found it closed, too.
        store.place.open_if_closed().unwrap();
        let mut table = write.open_table(Table::Meta.definition()).unwrap();
        table.insert("a", b"1".as_slice()).unwrap();
        drop(table);
        write.commit().unwrap();
        assert_eq!(store.get::<u32>(Table::Meta, "a").unwrap(), Some(1));
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
