//! Volumes: directories that outlive containers, and mounts described by driver options.
//!
//! ```text
//! <data root>/volumes/<name>/_data         what containers see
//! <data root>/volumes/<name>/staging       a first fill that is under way
//! <data root>/volumes/<name>/ready         a first fill that is complete, being moved to _data
//! <data root>/volumes/<name>/initialized   the first fill is done or was not wanted
//! <data root>/volumes/.removing-<name>     a removal that has begun
//! ```
//!
//! A volume's data is never deleted except by [`Volumes::remove`]: directories without a record
//! are kept and adopted. Mounts nothing; says what is to be mounted. Must not know containers:
//! whoever removes a volume says who uses it.

mod options;
mod populate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::engine::image::private_directory;
use crate::engine::store::{Batch, Store, StoreError, Table};
use crate::plan::VolumeConfig;
use crate::sys::beneath;

pub use options::{OptionError, VolumeMount};
pub use populate::{PopulateError, Populated};

const REMOVING: &str = ".removing-";

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{name:?} is not a volume name: it has to match [a-zA-Z0-9][a-zA-Z0-9_.-]+")]
    Name { name: String },
    #[error("volume {name} wants the driver {driver:?}; there is only \"local\"")]
    Driver { name: String, driver: String },
    #[error("volume {name} has unusable driver options")]
    Options { name: String, source: OptionError },
    #[error("volume {name} exists with the driver {driver:?}")]
    OtherDriver { name: String, driver: String },
    #[error("no such volume: {name}")]
    NotFound { name: String },
    #[error("volume {name} is used by {}", users.join(", "))]
    InUse { name: String, users: Vec<String> },
    #[error("cannot make the directory of volume {name}")]
    Create { name: String, source: io::Error },
    #[error("cannot remove the directory of volume {name}")]
    Remove { name: String, source: io::Error },
    #[error("cannot open the volumes at {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot make a name for an anonymous volume")]
    Random(#[source] getrandom::Error),
    #[error(transparent)]
    Populate(#[from] PopulateError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub created_at: u64,
    pub mount: VolumeMount,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct VolumeRecord {
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    created_at: u64,
}

/// Clones share the directory and the records.
#[derive(Clone)]
pub struct Volumes {
    root: PathBuf,
    store: Store,
}

impl Volumes {
    /// Opens the volumes under a data root and finishes removals that had begun.
    pub fn open(data_root: &Path, store: Store) -> Result<Volumes, VolumeError> {
        let root = data_root.join("volumes");
        let open = |source| VolumeError::Open {
            path: root.clone(),
            source,
        };
        private_directory(&root).map_err(open)?;
        let dir = beneath::open_root(&root).map_err(open)?;
        let names = beneath::names(dir.as_fd()).map_err(open)?;
        let volumes = Volumes { root, store };
        for name in names {
            if let Some(name) = name.to_str().and_then(|name| name.strip_prefix(REMOVING)) {
                volumes.finish_removal(name)?;
            }
        }
        Ok(volumes)
    }

    /// 64 random hex digits: the name of a volume that nobody named.
    pub fn anonymous_name() -> Result<String, VolumeError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(VolumeError::Random)?;
        Ok(hex::encode(bytes))
    }

    /// Whether this is a name that [`Volumes::anonymous_name`] makes.
    pub fn is_anonymous_name(name: &str) -> bool {
        name.len() == 64
            && name
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    }

    /// Makes a volume, or returns the one that has the name. As with Docker, the labels and
    /// options of an existing volume stay; another driver is a conflict.
    pub fn create(&self, config: &VolumeConfig) -> Result<Volume, VolumeError> {
        let name = &config.name;
        check_name(name)?;
        let driver = match config.driver.as_str() {
            "" => "local",
            driver => driver,
        };
        if let Some(record) = self.record(name)? {
            if record.driver != driver {
                return Err(VolumeError::OtherDriver {
                    name: name.clone(),
                    driver: record.driver,
                });
            }
            // The record is written after the directory, so it only lacks when somebody deleted it.
            self.make_directory(name)?;
            return self.volume(name, record);
        }
        if driver != "local" {
            return Err(VolumeError::Driver {
                name: name.clone(),
                driver: driver.to_owned(),
            });
        }
        let record = VolumeRecord {
            driver: driver.to_owned(),
            driver_opts: config.driver_opts.clone(),
            labels: config.labels.clone(),
            created_at: now(),
        };
        let volume = self.volume(name, record.clone())?;
        self.make_directory(name)?;
        self.store.put(Table::Volumes, name, &record)?;
        Ok(volume)
    }

    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        let record = self.record(name)?.ok_or_else(|| VolumeError::NotFound {
            name: name.to_owned(),
        })?;
        self.volume(name, record)
    }

    /// All volumes by name.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        self.store
            .list::<VolumeRecord>(Table::Volumes)?
            .into_iter()
            .map(|(name, record)| self.volume(&name, record))
            .collect()
    }

    /// What is to be mounted for the volume.
    pub fn path(&self, name: &str) -> Result<VolumeMount, VolumeError> {
        Ok(self.get(name)?.mount)
    }

    /// Deletes a volume and its data. `users` are the containers that mount it.
    pub fn remove(&self, name: &str, users: &[String]) -> Result<(), VolumeError> {
        if self.record(name)?.is_none() {
            return Err(VolumeError::NotFound {
                name: name.to_owned(),
            });
        }
        if !users.is_empty() {
            return Err(VolumeError::InUse {
                name: name.to_owned(),
                users: users.to_vec(),
            });
        }
        // The rename is the intent: from here on the removal is finished, by us or at the next
        // start, and a new volume of the name starts empty.
        let aside = self.root.join(format!("{REMOVING}{name}"));
        if aside.exists() {
            self.finish_removal(name)?;
        }
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            self.root.join(name),
            rustix::fs::CWD,
            &aside,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                return Err(VolumeError::Remove {
                    name: name.to_owned(),
                    source: error.into(),
                });
            }
        }
        self.finish_removal(name)
    }

    fn finish_removal(&self, name: &str) -> Result<(), VolumeError> {
        let remove = |source| VolumeError::Remove {
            name: name.to_owned(),
            source,
        };
        // The volume exists again if it was created after a removal that left rubbish behind.
        if !self.root.join(name).exists() {
            let mut batch = Batch::default();
            batch.remove(Table::Volumes, name);
            self.store.commit(batch)?;
        }
        let dir = beneath::open_root(&self.root).map_err(remove)?;
        beneath::remove_tree(dir.as_fd(), OsStr::new(&format!("{REMOVING}{name}"))).map_err(remove)
    }

    /// Fills a volume on its first use with what the image has at `target`; see [`Populated`].
    /// `layers` are the image's, from top to bottom.
    ///
    /// A crash at any point leaves a volume that the next call fills completely, and two calls at
    /// once fill it once. A volume that has content is never touched.
    pub fn populate(
        &self,
        name: &str,
        layers: &[PathBuf],
        target: &Path,
    ) -> Result<Populated, VolumeError> {
        match self.get(name)?.mount {
            VolumeMount::Directory(_) => {
                Ok(populate::populate(&self.root.join(name), layers, target)?)
            }
            // Filling it would need it mounted.
            VolumeMount::Mount { .. } => Ok(Populated::NotWanted),
        }
    }

    fn record(&self, name: &str) -> Result<Option<VolumeRecord>, VolumeError> {
        Ok(self.store.get(Table::Volumes, name)?)
    }

    fn make_directory(&self, name: &str) -> Result<(), VolumeError> {
        let create = |source: io::Error| VolumeError::Create {
            name: name.to_owned(),
            source,
        };
        let dir = self.root.join(name);
        private_directory(&dir).map_err(create)?;
        // 0755 as Docker makes it: a container's user reaches it by a mount, never through the
        // closed directory above.
        let dir = beneath::open_root(&dir).map_err(create)?;
        match rustix::fs::mkdirat(&dir, populate::DATA, Mode::RWXU) {
            Ok(()) => {
                let data = beneath::open_child_directory(dir.as_fd(), OsStr::new(populate::DATA))
                    .map_err(create)?;
                rustix::fs::fchmod(&data, Mode::from_raw_mode(0o755))
                    .and_then(|()| rustix::fs::fsync(&dir))
                    .map_err(|error| create(error.into()))
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(create(error.into())),
        }
    }

    fn volume(&self, name: &str, record: VolumeRecord) -> Result<Volume, VolumeError> {
        let data = self.root.join(name).join(populate::DATA);
        let mount =
            options::mount(&record.driver_opts, data).map_err(|source| VolumeError::Options {
                name: name.to_owned(),
                source,
            })?;
        Ok(Volume {
            name: name.to_owned(),
            driver: record.driver,
            driver_opts: record.driver_opts,
            labels: record.labels,
            created_at: record.created_at,
            mount,
        })
    }
}

/// Docker's grammar; it also makes the name a safe file name.
fn check_name(name: &str) -> Result<(), VolumeError> {
    let mut bytes = name.bytes();
    let is_good = name.len() >= 2
        && name.len() <= 200
        && bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    match is_good {
        true => Ok(()),
        false => Err(VolumeError::Name {
            name: name.chars().take(300).collect(),
        }),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}
