//! The images of one engine: records, making them present, removing them.
//!
//! Every call blocks; async callers use a blocking thread. Content that is being used by a call
//! is leased before its existence is checked, so a removal running beside it never takes it away.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::config::{self, ImageHealthcheck};
use super::content::{Content, ContentError, private_directory};
use super::platform::Platform;
use super::pull::{Claims, Wish};
use super::pull_policy::PullPolicy;
use super::registry::{Artifact, Described, Registries, RegistryError, Visit};
use super::source::{self, Stamp};
use super::{Digest, ImageError, Reference};
use crate::engine::store::{Batch, Store, Table};
use crate::plan::Login;
use crate::reconcile::ImageProgress;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    /// Set for a `rootfs:` image, which has nothing else.
    pub(super) rootfs: Option<PathBuf>,
    pub(super) manifest: Option<Digest>,
    /// Bottom to top.
    pub(super) chain_ids: Vec<Digest>,
    /// Bytes.
    pub(super) size: u64,
    /// Nanoseconds since the epoch.
    pub(super) added_at: u64,
    /// Removed by its user, and kept for containers that were made from it.
    #[serde(default)]
    pub(super) is_deleted: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReferenceRecord {
    pub(super) image: Digest,
    /// As the reference is shown.
    pub(super) name: String,
    /// State of the file or layout that it was read from.
    pub(super) stamp: Option<Stamp>,
    /// What a registry has under this name: the digest of an index or a manifest.
    #[serde(default)]
    pub(super) digest: Option<Digest>,
    /// When a registry was asked for it last, nanoseconds since the epoch.
    #[serde(default)]
    pub(super) pulled_at: Option<u64>,
}

impl ReferenceRecord {
    /// The name by which exactly this can be got again: `repository@digest`.
    pub(super) fn pinned(&self) -> Option<String> {
        let digest = self.digest.clone()?;
        match Reference::parse(&self.name) {
            Ok(Reference::Registry {
                registry,
                repository,
                ..
            }) => {
                let pinned = Reference::Registry {
                    registry,
                    repository,
                    tag: None,
                    digest: Some(digest),
                };
                Some(pinned.to_string())
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) diff_id: Digest,
    /// Bytes of file data.
    pub(super) n_bytes: u64,
    /// What it takes of the disk, with its recipe; measured when it is first asked for.
    #[serde(default)]
    pub(super) disk_bytes: Option<u64>,
}

/// Clones share everything.
#[derive(Clone)]
pub struct Images {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) content: Arc<Content>,
    pub(super) store: Store,
    /// The only layer of an image that has none.
    pub(super) empty: PathBuf,
    /// One at a time makes a given reference present.
    pub(super) flights: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Held while layers get their names and records.
    pub(super) publishing: Mutex<()>,
    /// How many calls need which content.
    pub(super) leases: Mutex<HashMap<Digest, usize>>,
    pub(super) registries: Registries,
    /// Layers that a pull is bringing.
    pub(super) claims: Claims,
}

pub(super) struct Lease<'a> {
    inner: &'a Inner,
    digests: Vec<Digest>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.inner.release(&self.digests);
    }
}

/// A panic elsewhere leaves these maps as they were between two operations: still usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn now() -> u64 {
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
            content: Arc::new(content),
            store,
            empty,
            flights: Mutex::default(),
            publishing: Mutex::default(),
            leases: Mutex::default(),
            registries: Registries::default(),
            claims: Claims::default(),
        };
        // Which containers there are is not known yet, so images that only they need stay.
        inner.collect_garbage()?;
        Ok(Images {
            inner: Arc::new(inner),
        })
    }

    /// Makes the image present and returns it. A source that did not change since the last call is
    /// not read again, and nothing is written.
    ///
    /// `pull_policy` is Compose's word and matters to registry references only.
    pub fn ensure(
        &self,
        reference: &Reference,
        pull_policy: Option<&str>,
        platform: Option<&str>,
        progress: impl Fn(ImageProgress) + Sync,
    ) -> Result<Image, ImageError> {
        let wish = Wish {
            policy: PullPolicy::parse(pull_policy)?,
            platform: platform.map(Platform::parse).transpose()?,
            ..Wish::default()
        };
        self.ensure_as(reference, &wish, progress)
    }

    /// As [`Images::ensure`], with all that may be wished for.
    pub fn ensure_as(
        &self,
        reference: &Reference,
        wish: &Wish,
        progress: impl Fn(ImageProgress) + Sync,
    ) -> Result<Image, ImageError> {
        let key = reference.canonical();
        let flight = Arc::clone(lock(&self.inner.flights).entry(key.clone()).or_default());
        let result = {
            let _alone = lock(&flight);
            self.inner.ensure(reference, &key, wish, &progress)
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

    /// Has a registry check a login.
    pub async fn authenticate(&self, registry: &str, login: &Login) -> Result<(), ImageError> {
        let visit = Visit {
            registry,
            repository: "",
            login: Some(login),
            cancelled: &CancellationToken::new(),
        };
        Ok(self.inner.registries.authenticate(&visit).await?)
    }

    /// Everything that the registry has in a reference's repository, as references with tags.
    pub async fn tags(
        &self,
        reference: &Reference,
        login: Option<&Login>,
        cancelled: &CancellationToken,
    ) -> Result<Vec<Reference>, ImageError> {
        let visit = visit(reference, login, cancelled)?;
        let told = self.inner.registries.tags(&visit).await;
        let told = told.map_err(not_told(reference))?;
        let tagged = |tag: String| Ok(reference.tagged(&tag)?);
        told.into_iter().map(tagged).collect()
    }

    /// The digest that the registry has for a reference now, whatever is stored here.
    pub async fn remote_digest(
        &self,
        reference: &Reference,
        login: Option<&Login>,
        cancelled: &CancellationToken,
    ) -> Result<Digest, ImageError> {
        let visit = visit(reference, login, cancelled)?;
        let tag = match reference {
            Reference::Registry {
                digest: Some(digest),
                ..
            } => return Ok(digest.clone()),
            Reference::Registry { tag: Some(tag), .. } => tag,
            _ => "latest",
        };
        let told = self.inner.registries.digest(&visit, tag).await;
        told.map_err(not_told(reference))
    }

    /// What a registry has under a reference, for something that is no image. Nothing is stored.
    pub async fn artifact(
        &self,
        reference: &Reference,
        kinds: &[String],
        login: Option<&Login>,
        cancelled: &CancellationToken,
    ) -> Result<Artifact, ImageError> {
        let visit = visit(reference, login, cancelled)?;
        let asked = tag_or_digest(reference);
        let fetched = self.inner.registries.artifact(&visit, &asked, kinds).await;
        fetched.map_err(|error| match error {
            ImageError::Registry(source) => not_told(reference)(source),
            error => error,
        })
    }

    /// What the registry has under a reference now, whatever is stored here.
    pub async fn describe(
        &self,
        reference: &Reference,
        login: Option<&Login>,
        cancelled: &CancellationToken,
    ) -> Result<Described, ImageError> {
        let visit = visit(reference, login, cancelled)?;
        let asked = tag_or_digest(reference);
        self.inner.registries.describe(&visit, &asked).await
    }

    /// An image by reference, or by id or the unique beginning of one.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        let id = self.inner.resolve(name)?;
        self.inner.image(&id)
    }

    /// Whether an image is made for a platform; why not is the error.
    pub fn require_platform(&self, name: &str, platform: &str) -> Result<(), ImageError> {
        let wanted = Platform::parse(platform)?;
        let made_for = Platform::of_config(&self.get(name)?.config);
        match wanted.accepts(&made_for) {
            true => Ok(()),
            false => Err(ImageError::OtherPlatform {
                image: name.to_owned(),
                present: made_for.to_string(),
                wanted: wanted.to_string(),
            }),
        }
    }

    /// All images, newest first. A damaged one is left out, with a warning in the log; it can
    /// still be removed, and reading its source again heals it.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for (id, record) in self.inner.store.list::<ImageRecord>(Table::Images)? {
            if record.is_deleted {
                continue;
            }
            let Ok(id) = Digest::parse(&id) else { continue };
            match self.inner.image(&id) {
                Ok(image) => images.push(image),
                Err(ImageError::Store(error)) => return Err(error.into()),
                Err(error) => tracing::warn!(image = %id, %error, "image is damaged"),
            }
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
            digest: None,
            pulled_at: None,
        };
        let key = reference.canonical();
        Ok(self.inner.store.put(Table::References, &key, &record)?)
    }
}

impl Inner {
    fn ensure(
        &self,
        reference: &Reference,
        key: &str,
        wish: &Wish,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let wanted = wish.platform.as_ref();
        let record: Option<ReferenceRecord> = self.store.get(Table::References, key)?;
        match reference {
            Reference::Rootfs(path) => self.ensure_rootfs(path, reference, key),
            Reference::Registry { .. } => self.ensure_pulled(reference, record, wish, progress),
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
                    return Err(ImageError::NoImage {
                        path: reference.to_string().into(),
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
        if known.is_none_or(|known| known.is_deleted) {
            batch.put(
                Table::Images,
                &id.to_string(),
                &ImageRecord {
                    rootfs: Some(canonical),
                    manifest: None,
                    chain_ids: Vec::new(),
                    size: 0,
                    added_at: now(),
                    is_deleted: false,
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
                    digest: None,
                    pulled_at: None,
                },
            );
        }
        self.store.commit(batch)?;
        self.image(&id)
    }

    pub(super) fn image(&self, id: &Digest) -> Result<Image, ImageError> {
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

    /// The record of a layer that is on disk.
    pub(super) fn snapshot(&self, chain_id: &Digest) -> Result<Option<SnapshotRecord>, ImageError> {
        let record: Option<SnapshotRecord> =
            self.store.get(Table::Snapshots, &chain_id.to_string())?;
        Ok(record.filter(|_| self.content.has_snapshot(chain_id)))
    }

    pub(super) fn resolve(&self, name: &str) -> Result<Digest, ImageError> {
        if let Ok(reference) = Reference::parse(name) {
            let key = reference.canonical();
            let record: Option<ReferenceRecord> = self.store.get(Table::References, &key)?;
            if let Some(record) = record {
                return Ok(record.image);
            }
            if let Reference::Registry {
                digest: Some(_), ..
            } = reference
            {
                // Pulled by a tag, and known under the digest that it had.
                let pinned = Some(reference.to_string());
                let records = self.store.list::<ReferenceRecord>(Table::References)?;
                let mut records = records.into_iter().map(|(_, record)| record);
                if let Some(record) = records.find(|record| record.pinned() == pinned) {
                    return Ok(record.image);
                }
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
        // What a container was made from is found by its whole id even when it was removed.
        let mut matching = ids.iter().filter(|(id, record)| {
            id.starts_with(&prefix) && (!record.is_deleted || *id == prefix)
        });
        match (matching.next(), matching.next()) {
            (Some((id, _)), None) => Digest::parse(id).map_err(|_| not_found()),
            (None, _) => Err(not_found()),
            (Some(_), Some(_)) => Err(ImageError::AmbiguousId {
                name: name.to_owned(),
            }),
        }
    }

    pub(super) fn lease(&self, digests: Vec<Digest>) -> Lease<'_> {
        self.hold(&digests);
        Lease {
            inner: self,
            digests,
        }
    }

    /// Leases for longer than a call; [`Inner::release`] ends it.
    pub(super) fn hold(&self, digests: &[Digest]) {
        let mut leases = lock(&self.leases);
        for digest in digests {
            *leases.entry(digest.clone()).or_default() += 1;
        }
    }

    pub(super) fn release(&self, digests: &[Digest]) {
        let mut leases = lock(&self.leases);
        for digest in digests {
            if let Some(count) = leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    leases.remove(digest);
                }
            }
        }
    }
}

pub(super) fn rootfs_config() -> ImageConfiguration {
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

/// Who asks which registry about what; of an image that is in none, an error.
fn visit<'a>(
    reference: &'a Reference,
    login: Option<&'a Login>,
    cancelled: &'a CancellationToken,
) -> Result<Visit<'a>, ImageError> {
    match reference {
        Reference::Registry {
            registry,
            repository,
            ..
        } => Ok(Visit {
            registry,
            repository,
            login,
            cancelled,
        }),
        _ => Err(ImageError::NotPulled {
            image: reference.to_string(),
        }),
    }
}

/// What a registry is asked for; a tag beside a digest says nothing more.
pub(super) fn tag_or_digest(reference: &Reference) -> String {
    match reference {
        Reference::Registry {
            digest: Some(digest),
            ..
        } => digest.to_string(),
        Reference::Registry { tag: Some(tag), .. } => tag.clone(),
        _ => "latest".to_owned(),
    }
}

fn not_told(reference: &Reference) -> impl FnOnce(RegistryError) -> ImageError + use<> {
    let image = reference.to_string();
    move |source| ImageError::Pull {
        image,
        source: Box::new(source),
    }
}
