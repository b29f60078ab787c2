//! The images of one engine: records, making them present, removing them.
//!
//! Every call blocks; async callers use a blocking thread. Content that is being used by a call
//! is leased before its existence is checked, so a removal running beside it never takes it away.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder};
use serde::{Deserialize, Serialize};

use super::config::{self, ConfigError, ImageHealthcheck};
use super::content::{Content, ContentError, Staged, private_directory};
use super::digest::chain_ids;
use super::extract::Extracted;
use super::layer::{self, LayerError, Limits};
use super::platform::{Platform, PlatformError};
use super::source::{self, Found, FoundLayer, SourceError, Stamp};
use super::{Digest, Reference, ReferenceError};
use crate::engine::store::{Batch, Store, StoreError, Table};
use crate::reconcile::ImageProgress;
use crate::sys::detached;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Progress is reported at most once per this many bytes of a layer.
const PROGRESS_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("image {image} is damaged")]
    Config { image: String, source: ConfigError },
    #[error("cannot unpack layer {layer} of image {image}")]
    Layer {
        image: String,
        layer: String,
        source: LayerError,
    },
    #[error("cannot stack the layers below layer {layer}")]
    View { layer: String, source: io::Error },
    #[error("cannot use {path:?} as an image")]
    Rootfs { path: PathBuf, source: io::Error },
    #[error("image {image} is not present, and wharf cannot pull from a registry yet")]
    NotPresent { image: String },
    #[error("image {image} is to be pulled always, and wharf cannot pull from a registry yet")]
    CannotPull { image: String },
    #[error("image {image} is made for {present}, not for {wanted}")]
    OtherPlatform {
        image: String,
        present: String,
        wanted: String,
    },
    #[error("no such image: {name}")]
    NotFound { name: String },
    #[error("{name:?} is the beginning of several image ids")]
    AmbiguousId { name: String },
    #[error("layer {layer} of image {image} is missing on disk")]
    MissingLayer { image: String, layer: String },
    #[error("image {image} is used by {}", users.join(", "))]
    InUse { image: String, users: Vec<String> },
    #[error("image {image} has several names: {}", names.join(", "))]
    SeveralNames { image: String, names: Vec<String> },
}

impl ImageError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ImageError::NotPresent { image } | ImageError::CannotPull { image } => Some(format!(
                "save it with another engine (`docker save {image} -o /path/image.tar`) and write `image: docker-archive:/path/image.tar`"
            )),
            ImageError::SeveralNames { .. } => Some("remove it by each of its names".to_owned()),
            ImageError::MissingLayer { .. } => {
                Some("remove the image and load it again".to_owned())
            }
            _ => None,
        }
    }
}

/// The digest of the image config; for a `rootfs:` image, of its canonical path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(Digest);

impl ImageId {
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

/// `sha256:<64 hex digits>`.
impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone)]
pub struct Image {
    pub id: ImageId,
    /// Names of the image, as Docker shows them; empty when it was untagged.
    pub references: Vec<String>,
    /// Digest of the manifest it came with.
    pub manifest: Option<Digest>,
    /// Checked: no reserved labels, no dangerous volumes.
    pub config: ImageConfiguration,
    pub healthcheck: Option<ImageHealthcheck>,
    /// Directories from top to bottom, as overlay wants them; at least one.
    pub layers: Vec<PathBuf>,
    /// Bytes of file data in all layers; 0 for a `rootfs:` image.
    pub size: u64,
    /// When it was made present, nanoseconds since the epoch.
    pub added_at: u64,
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that were taken away, as Docker shows them.
    pub untagged: Vec<String>,
    /// The image, if that was its last name.
    pub deleted: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImageRecord {
    /// Set for a `rootfs:` image, which has nothing else.
    rootfs: Option<PathBuf>,
    manifest: Option<Digest>,
    /// Bottom to top.
    chain_ids: Vec<Digest>,
    /// Bytes.
    size: u64,
    /// Nanoseconds since the epoch.
    added_at: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ReferenceRecord {
    image: Digest,
    /// As the reference is shown.
    name: String,
    /// State of the file or layout that it was read from.
    stamp: Option<Stamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SnapshotRecord {
    diff_id: Digest,
    /// Bytes of file data.
    n_bytes: u64,
}

/// Clones share everything.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    content: Content,
    store: Store,
    /// The only layer of an image that has none.
    empty: PathBuf,
    /// One at a time makes a given reference present.
    flights: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// How many calls need which content.
    leases: Mutex<HashMap<Digest, usize>>,
}

struct Lease<'a> {
    inner: &'a Inner,
    digests: Vec<Digest>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut leases = lock(&self.inner.leases);
        for digest in &self.digests {
            if let Some(count) = leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    leases.remove(digest);
                }
            }
        }
    }
}

/// A panic elsewhere leaves these maps as they were between two operations: still usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

impl Images {
    /// Opens the images under a data root (made 0700 where it is missing) and removes what an
    /// earlier engine left unfinished or unreferenced.
    pub fn open(data_root: &Path, store: Store) -> Result<Images, ImageError> {
        let content = Content::open(data_root)?;
        let empty = data_root.join("empty");
        private_directory(&empty).map_err(|source| ContentError::Open {
            path: empty.clone(),
            source,
        })?;
        let inner = Inner {
            content,
            store,
            empty,
            flights: Mutex::default(),
            leases: Mutex::default(),
        };
        inner.collect_garbage()?;
        Ok(Images {
            inner: Arc::new(inner),
        })
    }

    /// Makes the image present and returns it. A source that did not change since the last call is
    /// not read again, and nothing is written.
    ///
    /// `pull_policy` is Compose's word; only `always` matters, and only to registry references.
    pub fn ensure(
        &self,
        reference: &Reference,
        pull_policy: Option<&str>,
        platform: Option<&str>,
        progress: impl Fn(ImageProgress) + Sync,
    ) -> Result<Image, ImageError> {
        let wanted = platform.map(Platform::parse).transpose()?;
        let key = reference.canonical();
        let flight = Arc::clone(lock(&self.inner.flights).entry(key.clone()).or_default());
        let result = {
            let _alone = lock(&flight);
            self.inner
                .ensure(reference, &key, pull_policy, wanted.as_ref(), &progress)
        };
        let mut flights = lock(&self.inner.flights);
        drop(flight);
        // The map holds the last reference when nobody else waits.
        if flights
            .get(&key)
            .is_some_and(|flight| Arc::strong_count(flight) == 1)
        {
            flights.remove(&key);
        }
        result
    }

    /// An image by reference, or by id or the unique beginning of one.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        let id = self.inner.resolve(name)?;
        self.inner.image(&id)
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for (id, _) in self.inner.store.list::<ImageRecord>(Table::Images)? {
            let Ok(id) = Digest::parse(&id) else { continue };
            images.push(self.inner.image(&id)?);
        }
        images.sort_by_key(|image| std::cmp::Reverse(image.added_at));
        Ok(images)
    }

    /// Gives an image a further name.
    pub fn tag(&self, name: &str, reference: &Reference) -> Result<(), ImageError> {
        let _steady = lock(&self.inner.leases);
        let id = self.inner.resolve(name)?;
        let record = ReferenceRecord {
            image: id,
            name: reference.to_string(),
            stamp: None,
        };
        let key = reference.canonical();
        Ok(self.inner.store.put(Table::References, &key, &record)?)
    }

    /// Reads every image of an archive or layout and gives it the names that it has there, as
    /// `docker load` does. Returns those names.
    pub fn load(
        &self,
        archive: &Reference,
        progress: impl Fn(ImageProgress) + Sync,
    ) -> Result<Vec<String>, ImageError> {
        let mut loaded = Vec::new();
        for name in source::tags_in(archive, &self.inner.content)? {
            // A bare tag such as `v1` of a layout would become an image of that name.
            let Ok(tag @ Reference::Registry { .. }) = Reference::parse(&name) else {
                continue;
            };
            if !name.contains([':', '@', '/']) {
                continue;
            }
            let Some(found) = source::find(&archive.with_tag(&name), None, &self.inner.content)?
            else {
                continue;
            };
            let batch = Batch::default();
            self.inner.install(found, &tag, None, batch, &progress)?;
            loaded.push(tag.to_string());
        }
        if loaded.is_empty() {
            loaded.push(self.ensure(archive, None, None, progress)?.id.to_string());
        }
        Ok(loaded)
    }

    /// Takes a name away; with the last one goes the image, and with it the layers that no other
    /// image needs. `users` are the containers that were made from it.
    pub fn remove(&self, name: &str, users: &[String]) -> Result<Removed, ImageError> {
        self.inner.remove(name, users)
    }
}

impl Inner {
    fn ensure(
        &self,
        reference: &Reference,
        key: &str,
        pull_policy: Option<&str>,
        wanted: Option<&Platform>,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let record: Option<ReferenceRecord> = self.store.get(Table::References, key)?;
        match reference {
            Reference::Rootfs(path) => self.ensure_rootfs(path, reference, key),
            Reference::Registry { .. } => {
                let image = || reference.to_string();
                if pull_policy == Some("always") {
                    return Err(ImageError::CannotPull { image: image() });
                }
                let Some(record) = record else {
                    return Err(ImageError::NotPresent { image: image() });
                };
                let present = self.image(&record.image)?;
                let made_for = Platform::of_config(&present.config);
                match wanted {
                    Some(wanted) if !wanted.accepts(&made_for) => Err(ImageError::OtherPlatform {
                        image: image(),
                        present: made_for.to_string(),
                        wanted: wanted.to_string(),
                    }),
                    _ => Ok(present),
                }
            }
            _ => {
                let stamp = Stamp::of_source(reference)?;
                if let Some(record) = record
                    && record.stamp == stamp
                    // Whatever is wrong with what is there, reading the source again heals it.
                    && let Ok(image) = self.image(&record.image)
                    && wanted.is_none_or(|w| w.accepts(&Platform::of_config(&image.config)))
                {
                    return Ok(image);
                }
                progress(ImageProgress {
                    part: reference.to_string(),
                    status: "reading".to_owned(),
                    current_bytes: 0,
                    total_bytes: 0,
                });
                let Some(found) = source::find(reference, wanted, &self.content)? else {
                    return Err(ImageError::NotPresent {
                        image: reference.to_string(),
                    });
                };
                self.install(found, reference, stamp, Batch::default(), progress)
            }
        }
    }

    fn ensure_rootfs(
        &self,
        path: &Path,
        reference: &Reference,
        key: &str,
    ) -> Result<Image, ImageError> {
        let refuse = |source| ImageError::Rootfs {
            path: path.to_owned(),
            source,
        };
        let canonical = path.canonicalize().map_err(refuse)?;
        if !canonical.is_dir() {
            return Err(refuse(io::ErrorKind::NotADirectory.into()));
        }
        let mut named = b"rootfs:".to_vec();
        named.extend_from_slice(canonical.as_os_str().as_encoded_bytes());
        let id = Digest::of(&named);
        let mut batch = Batch::default();
        let known: Option<ImageRecord> = self.store.get(Table::Images, &id.to_string())?;
        if known.is_none() {
            batch.put(
                Table::Images,
                &id.to_string(),
                &ImageRecord {
                    rootfs: Some(canonical),
                    manifest: None,
                    chain_ids: Vec::new(),
                    size: 0,
                    added_at: now(),
                },
            );
        }
        let named: Option<ReferenceRecord> = self.store.get(Table::References, key)?;
        if named.is_none_or(|record| record.image != id) {
            batch.put(
                Table::References,
                key,
                &ReferenceRecord {
                    image: id.clone(),
                    name: reference.to_string(),
                    stamp: None,
                },
            );
        }
        self.store.commit(batch)?;
        self.image(&id)
    }

    fn image(&self, id: &Digest) -> Result<Image, ImageError> {
        let not_found = || ImageError::NotFound {
            name: id.to_string(),
        };
        let record: ImageRecord = self
            .store
            .get(Table::Images, &id.to_string())?
            .ok_or_else(not_found)?;
        let mut references: Vec<String> = self
            .store
            .list::<ReferenceRecord>(Table::References)?
            .into_iter()
            .filter(|(_, reference)| reference.image == *id)
            .map(|(_, reference)| reference.name)
            .collect();
        references.sort();
        let (config, healthcheck, layers) = match &record.rootfs {
            Some(path) => (rootfs_config(), None, vec![path.clone()]),
            None => {
                let bytes = self.content.blob(id)?;
                let checked = config::check(&bytes).map_err(|source| ImageError::Config {
                    image: id.short().to_owned(),
                    source,
                })?;
                (
                    checked.config,
                    checked.healthcheck,
                    self.layers(id, &record)?,
                )
            }
        };
        Ok(Image {
            id: ImageId(id.clone()),
            references,
            manifest: record.manifest,
            config,
            healthcheck,
            layers,
            size: record.size,
            added_at: record.added_at,
        })
    }

    fn layers(&self, id: &Digest, record: &ImageRecord) -> Result<Vec<PathBuf>, ImageError> {
        if record.chain_ids.is_empty() {
            return Ok(vec![self.empty.clone()]);
        }
        let mut layers = Vec::with_capacity(record.chain_ids.len());
        for chain_id in record.chain_ids.iter().rev() {
            if !self.content.has_snapshot(chain_id) {
                return Err(ImageError::MissingLayer {
                    image: id.short().to_owned(),
                    layer: chain_id.short().to_owned(),
                });
            }
            layers.push(self.content.snapshot_path(chain_id));
        }
        Ok(layers)
    }

    fn resolve(&self, name: &str) -> Result<Digest, ImageError> {
        if let Ok(reference) = Reference::parse(name) {
            let key = reference.canonical();
            let record: Option<ReferenceRecord> = self.store.get(Table::References, &key)?;
            if let Some(record) = record {
                return Ok(record.image);
            }
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let not_found = || ImageError::NotFound {
            name: name.to_owned(),
        };
        if hex.is_empty() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let prefix = format!("sha256:{hex}");
        let ids = self.store.list::<ImageRecord>(Table::Images)?;
        let mut matching = ids.iter().filter(|(id, _)| id.starts_with(&prefix));
        match (matching.next(), matching.next()) {
            (Some((id, _)), None) => Digest::parse(id).map_err(|_| not_found()),
            (None, _) => Err(not_found()),
            (Some(_), Some(_)) => Err(ImageError::AmbiguousId {
                name: name.to_owned(),
            }),
        }
    }

    fn lease(&self, digests: Vec<Digest>) -> Lease<'_> {
        let mut leases = lock(&self.leases);
        for digest in &digests {
            *leases.entry(digest.clone()).or_default() += 1;
        }
        Lease {
            inner: self,
            digests,
        }
    }

    /// Unpacks what is missing and records the image under the reference.
    fn install(
        &self,
        found: Found,
        reference: &Reference,
        stamp: Option<Stamp>,
        mut batch: Batch,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let chain = chain_ids(&found.checked.diff_ids);
        let mut leased = chain.clone();
        leased.push(found.id.clone());
        leased.extend(found.manifest.iter().map(|(digest, _)| digest.clone()));
        let lease = self.lease(leased);

        let mut size = 0;
        let mut missing = Vec::new();
        for (position, chain_id) in chain.iter().enumerate() {
            let record: Option<SnapshotRecord> =
                self.store.get(Table::Snapshots, &chain_id.to_string())?;
            match record.filter(|_| self.content.has_snapshot(chain_id)) {
                Some(record) => size += record.n_bytes,
                None => missing.push(position),
            }
        }
        if !missing.is_empty() {
            let image = reference.to_string();
            let unpacked = self.unpack(&image, &found.layers, &missing, progress)?;
            let staged = self.complete(&image, &chain, unpacked)?;
            self.content.sync()?;
            for (position, staged, n_bytes) in staged {
                self.content.publish(staged, &chain[position])?;
                size += n_bytes;
                let record = SnapshotRecord {
                    diff_id: found.checked.diff_ids[position].clone(),
                    n_bytes,
                };
                batch.put(Table::Snapshots, &chain[position].to_string(), &record);
            }
        }
        if let Some((digest, bytes)) = &found.manifest {
            self.content.put_blob(digest, bytes)?;
        }
        self.content.put_blob(&found.id, &found.config_bytes)?;
        self.content.sync_names()?;

        let id = found.id.to_string();
        let known: Option<ImageRecord> = self.store.get(Table::Images, &id)?;
        let record = ImageRecord {
            rootfs: None,
            manifest: found.manifest.map(|(digest, _)| digest),
            chain_ids: chain,
            size,
            added_at: known.map_or_else(now, |known| known.added_at),
        };
        batch.put(Table::Images, &id, &record);
        let name = ReferenceRecord {
            image: found.id.clone(),
            name: reference.to_string(),
            stamp,
        };
        batch.put(Table::References, &reference.canonical(), &name);
        self.store.commit(batch)?;
        drop(lease);
        progress(ImageProgress {
            part: reference.to_string(),
            status: "complete".to_owned(),
            current_bytes: size,
            total_bytes: size,
        });
        self.image(&found.id)
    }

    /// Extracts the missing layers in parallel, each into its own staging directory.
    fn unpack(
        &self,
        image: &str,
        layers: &[FoundLayer],
        missing: &[usize],
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Vec<(usize, Staged, Extracted)>, ImageError> {
        let n_threads = std::thread::available_parallelism()
            .map_or(2, usize::from)
            .min(missing.len());
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                scope.spawn(|| {
                    loop {
                        let Some(&position) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                        else {
                            return;
                        };
                        let result = self.unpack_one(image, &layers[position], progress);
                        if result.is_err() {
                            // Nobody starts another layer of an image that cannot be completed.
                            next.store(missing.len(), Ordering::Relaxed);
                        }
                        lock(&results)
                            .push(result.map(|(staged, extracted)| (position, staged, extracted)));
                    }
                });
            }
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut unpacked = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        unpacked.sort_unstable_by_key(|(position, ..)| *position);
        Ok(unpacked)
    }

    fn unpack_one(
        &self,
        image: &str,
        found: &FoundLayer,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<(Staged, Extracted), ImageError> {
        let part = found.expected.blob.as_ref();
        let part = part.unwrap_or(&found.expected.diff_id).short().to_owned();
        let (blob, total_bytes) = found.open()?;
        let staged = self.content.stage()?;
        let report = |status: &str, current_bytes| {
            progress(ImageProgress {
                part: part.clone(),
                status: status.to_owned(),
                current_bytes,
                total_bytes,
            });
        };
        report("unpacking", 0);
        let reported = std::cell::Cell::new(0);
        let on_bytes = |n_bytes: u64| {
            if n_bytes >= reported.get() + PROGRESS_BYTES {
                reported.set(n_bytes);
                report("unpacking", n_bytes);
            }
        };
        let extracted = layer::unpack(
            blob,
            &found.expected,
            staged.directory()?,
            Limits::DEFAULT,
            &on_bytes,
        )
        .map_err(|source| ImageError::Layer {
            image: image.to_owned(),
            layer: part.clone(),
            source,
        })?;
        report("complete", total_bytes);
        Ok((staged, extracted))
    }

    /// Finishes the layers from bottom to top, since each may need the view of those below it.
    fn complete(
        &self,
        image: &str,
        chain: &[Digest],
        unpacked: Vec<(usize, Staged, Extracted)>,
    ) -> Result<Vec<(usize, Staged, u64)>, ImageError> {
        let mut paths: Vec<PathBuf> = chain
            .iter()
            .map(|chain_id| self.content.snapshot_path(chain_id))
            .collect();
        let mut completed = Vec::with_capacity(unpacked.len());
        for (position, staged, extracted) in unpacked {
            let layer = chain[position].short();
            let view = if position > 0 && extracted.needs_lower() {
                let lower: Vec<PathBuf> = paths[..position].iter().rev().cloned().collect();
                let view = detached::view_layers(&lower).map_err(|source| ImageError::View {
                    layer: layer.to_owned(),
                    source,
                })?;
                Some(view)
            } else {
                None
            };
            let n_bytes = extracted
                .complete(view.as_ref().map(std::os::fd::AsFd::as_fd))
                .map_err(|source| ImageError::Layer {
                    image: image.to_owned(),
                    layer: layer.to_owned(),
                    source,
                })?;
            paths[position] = staged.path().to_owned();
            completed.push((position, staged, n_bytes));
        }
        Ok(completed)
    }

    fn remove(&self, name: &str, users: &[String]) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        {
            // Held until the records are gone, so that no lease is taken on what is going away.
            let leases = lock(&self.leases);
            let id = self.resolve(name)?;
            let names: Vec<(String, ReferenceRecord)> = self
                .store
                .list(Table::References)?
                .into_iter()
                .filter(|(_, record): &(String, ReferenceRecord)| record.image == id)
                .collect();
            let key = Reference::parse(name).map(|reference| reference.canonical());
            let by_name = names.iter().find(|(known, _)| Ok(known) == key.as_ref());
            let untagged: Vec<&(String, ReferenceRecord)> = match by_name {
                Some(one) => vec![one],
                None if names.len() > 1 => {
                    return Err(ImageError::SeveralNames {
                        image: id.short().to_owned(),
                        names: names.into_iter().map(|(_, record)| record.name).collect(),
                    });
                }
                None => names.iter().collect(),
            };
            let is_last = untagged.len() == names.len();
            if is_last && !users.is_empty() {
                return Err(ImageError::InUse {
                    image: name.to_owned(),
                    users: users.to_vec(),
                });
            }
            let mut batch = Batch::default();
            for (key, record) in untagged {
                batch.remove(Table::References, key);
                removed.untagged.push(record.name.clone());
            }
            if is_last && !leases.contains_key(&id) {
                batch.remove(Table::Images, &id.to_string());
                removed.deleted = Some(id.to_string());
            }
            self.store.commit(batch)?;
        }
        if removed.deleted.is_some() {
            self.collect_garbage()?;
        }
        Ok(removed)
    }

    /// Deletes layers and documents that no image has and no call has leased.
    fn collect_garbage(&self) -> Result<(), ImageError> {
        let leases = lock(&self.leases);
        let mut needed: HashSet<String> = leases
            .keys()
            .map(|digest| digest.hex().to_owned())
            .collect();
        for (id, record) in self.store.list::<ImageRecord>(Table::Images)? {
            needed.extend(id.strip_prefix("sha256:").map(str::to_owned));
            needed.extend(record.manifest.iter().map(|digest| digest.hex().to_owned()));
            needed.extend(
                record
                    .chain_ids
                    .iter()
                    .map(|digest| digest.hex().to_owned()),
            );
        }
        // Records first: one without its directory is noticed and healed, a directory without
        // its record is removed at the next start.
        let mut batch = Batch::default();
        for (chain_id, _) in self.store.list::<SnapshotRecord>(Table::Snapshots)? {
            let hex = chain_id.trim_start_matches("sha256:");
            if !needed.contains(hex) {
                batch.remove(Table::Snapshots, &chain_id);
            }
        }
        self.store.commit(batch)?;
        for hex in self.content.snapshot_names()? {
            if !needed.contains(&hex) {
                self.content.remove_snapshot(&hex)?;
            }
        }
        for hex in self.content.blob_names()? {
            if !needed.contains(&hex) {
                self.content.remove_blob(&hex)?;
            }
        }
        Ok(())
    }
}

fn rootfs_config() -> ImageConfiguration {
    let inner = ConfigBuilder::default()
        .env(vec![DEFAULT_PATH.to_owned()])
        .build()
        .expect("every field of a config has a default");
    let host = Platform::host();
    let rootfs = oci_spec::image::RootFsBuilder::default()
        .typ("layers")
        .diff_ids(Vec::<String>::new())
        .build()
        .expect("both fields are set");
    ImageConfigurationBuilder::default()
        .architecture(host.architecture.as_str())
        .os(host.os.as_str())
        .config(inner)
        .rootfs(rootfs)
        .build()
        .expect("all required fields are set")
}
