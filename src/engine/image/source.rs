//! Local image sources: an OCI layout (directory or archive) and `docker save` archives.
//!
//! Finds the image that a reference names and says where its layers can be read. Documents are
//! verified before they are parsed; layers are verified by whoever reads them. Writes nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};

use super::archive::{Source, blob_name};
use super::config::{self, CheckedConfig, ConfigError};
use super::content::{Content, ContentError, MAX_DOCUMENT_BYTES};
use super::layer::Expected;
use super::platform::Platform;
use super::registry::RegistryError;
use super::tar_stream::TarError;
use super::{Digest, DigestError, LayerError, Reference};

/// Members of an image archive: three or four per layer, plus documents.
pub(super) const MAX_MEMBERS: usize = 100_000;
/// Indexes that name indexes. Buildx makes two levels.
pub(super) const MAX_NESTING: usize = 4;
/// Overlay refuses more layers than this, so a longer image could never start.
pub const MAX_LAYERS: usize = 500;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot open {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read the archive {path:?}")]
    Archive { path: PathBuf, source: TarError },
    #[error("cannot decompress the archive {path:?}")]
    Decompress { path: PathBuf, source: LayerError },
    #[error("{path:?} has more than {MAX_MEMBERS} members")]
    TooManyMembers { path: PathBuf },
    #[error("{path:?} has no {name}")]
    Missing { path: PathBuf, name: String },
    #[error("cannot read {name} of {path:?}")]
    Read {
        path: PathBuf,
        name: String,
        source: io::Error,
    },
    #[error("{name} is larger than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge { name: String },
    #[error("{name} is not what it should be")]
    Json {
        name: String,
        source: serde_json::Error,
    },
    #[error("{name} names both manifests and layers")]
    Ambiguous { name: String },
    #[error("the content of {name} does not match: expected {expected}, found {found}")]
    Mismatch {
        name: String,
        expected: String,
        found: String,
    },
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("{path:?} has no image {tag:?}; it has: {present}")]
    NoTag {
        path: PathBuf,
        tag: String,
        present: String,
    },
    #[error("{path:?} has several images; name one of: {present}")]
    SeveralImages { path: PathBuf, present: String },
    #[error("the image is not made for {wanted}; it is made for: {present}")]
    NoPlatform { wanted: String, present: String },
    #[error("the indexes of the image are nested more than {MAX_NESTING} deep")]
    Nesting,
    #[error("the image has {n_layers} layers, the kernel stacks at most {MAX_LAYERS}")]
    TooManyLayers { n_layers: usize },
    #[error("the image config lists {n_diff_ids} layers, the manifest {n_layers}")]
    LayerCount { n_diff_ids: usize, n_layers: usize },
}

impl SourceError {
    /// Whether it was something else than an archive of images.
    pub fn is_no_archive(&self) -> bool {
        match self {
            SourceError::Archive { .. } => true,
            SourceError::Missing { name, .. } => name == "index.json" || name == "image",
            _ => false,
        }
    }
}

/// Identifies the state of a file without reading it: a second `up` compares only this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds; ctime as well, since mtime can be set back.
    modified: i128,
    changed: i128,
}

impl Stamp {
    fn of(path: &Path) -> Result<Stamp, SourceError> {
        let metadata = std::fs::metadata(path).map_err(|source| SourceError::Open {
            path: path.to_owned(),
            source,
        })?;
        let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The state of a local source; blobs are named by digest, so a layout's index stands for all.
    pub fn of_source(reference: &Reference) -> Result<Option<Stamp>, SourceError> {
        match reference {
            Reference::OciLayout { dir, .. } => Stamp::of(&dir.join("index.json")).map(Some),
            Reference::OciArchive { file, .. } | Reference::DockerArchive { file, .. } => {
                Stamp::of(file).map(Some)
            }
            Reference::Registry { .. } | Reference::Rootfs(_) => Ok(None),
        }
    }
}

/// An image that was found, its layers not read yet.
pub struct Found {
    pub id: Digest,
    pub config_bytes: Vec<u8>,
    pub checked: CheckedConfig,
    /// The manifest with its digest; `docker save` of old has none.
    pub manifest: Option<(Digest, Vec<u8>)>,
    /// Bottom to top.
    pub layers: Vec<FoundLayer>,
}

pub struct FoundLayer {
    pub expected: Expected,
    pub origin: Box<dyn LayerOrigin>,
}

/// Where the bytes of a layer come from.
pub trait LayerOrigin: Send + Sync {
    /// The blob from its beginning, and its length.
    fn open(&self) -> io::Result<(Box<dyn Read + Send + '_>, u64)>;

    /// What reading it is called while it goes on.
    fn status(&self) -> &'static str {
        "unpacking"
    }

    /// Unpacking went wrong: whether that is because the bytes are not those that were announced.
    fn fault(&self) -> Option<RegistryError> {
        None
    }

    /// What was kept for another attempt is of no use any more.
    fn forget(&self) {}
}

/// A member of a local source.
struct Member {
    source: Arc<Source>,
    name: String,
}

impl LayerOrigin for Member {
    fn open(&self) -> io::Result<(Box<dyn Read + Send + '_>, u64)> {
        let (section, n_bytes) = self.source.open(&self.name).map_err(io::Error::other)?;
        Ok((Box::new(section), n_bytes))
    }
}

impl FoundLayer {
    /// A layer that is the whole of a file.
    pub(super) fn of_file(
        expected: Expected,
        file: std::fs::File,
    ) -> Result<FoundLayer, SourceError> {
        let name = "layer.tar".to_owned();
        let source = Arc::new(Source::whole_file(&name, file)?);
        Ok(FoundLayer {
            expected,
            origin: Box::new(Member { source, name }),
        })
    }
}

/// An index or a manifest; one that claims to be both could be read differently by two programs
/// (CVE-2021-41190).
#[derive(Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

fn parse<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, SourceError> {
    serde_json::from_slice(bytes).map_err(|source| SourceError::Json {
        name: name.to_owned(),
        source,
    })
}

fn document(name: &str, bytes: &[u8]) -> Result<Document, SourceError> {
    let document: Document = parse(name, bytes)?;
    if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
        return Err(SourceError::Ambiguous {
            name: name.to_owned(),
        });
    }
    Ok(document)
}

/// Whether bytes are an index, a manifest, or Docker's own index, as far as they can be read.
pub(super) fn is_document(bytes: &[u8]) -> bool {
    let entries: Result<Vec<DockerEntry>, _> = parse("manifest.json", bytes);
    if let Ok(entries) = &entries {
        return entries
            .iter()
            .all(|entry| entry.tags().all(|name| is_same_name(name, name)));
    }
    let Ok(document) = document("document", bytes) else {
        return false;
    };
    assert!(document.manifests.is_none() || document.layers.is_none());
    let descriptors = document.manifests.iter().chain(&document.layers).flatten();
    for descriptor in descriptors.chain(&document.config) {
        if let Ok(digest) = Digest::parse(descriptor.digest().as_ref()) {
            // What becomes a path is one component of it.
            assert_eq!(Path::new(digest.hex()).components().count(), 1);
        }
        let _ = (names_of(descriptor), is_attestation(descriptor));
        let _ = descriptor.platform().as_ref().map(Platform::of);
    }
    true
}

/// Finds the image that a local reference names.
pub fn find(
    reference: &Reference,
    wanted: Option<&Platform>,
    content: &Content,
) -> Result<Option<Found>, SourceError> {
    match reference {
        Reference::OciLayout { dir, tag } => {
            let source = Arc::new(Source::directory(dir)?);
            find_oci(&source, tag.as_deref(), wanted).map(Some)
        }
        Reference::OciArchive { file, tag } => {
            let source = Arc::new(Source::archive(file, content)?);
            find_oci(&source, tag.as_deref(), wanted).map(Some)
        }
        Reference::DockerArchive { file, tag } => {
            let source = Arc::new(Source::archive(file, content)?);
            find_docker(&source, tag.as_deref(), wanted).map(Some)
        }
        Reference::Registry { .. } | Reference::Rootfs(_) => Ok(None),
    }
}

fn names_of(descriptor: &Descriptor) -> Vec<String> {
    let Some(annotations) = descriptor.annotations() else {
        return Vec::new();
    };
    [REF_NAME, IMAGE_NAME]
        .iter()
        .filter_map(|key| annotations.get(*key).cloned())
        .collect()
}

/// The images that an index lists at its top.
fn listed(source: &Source) -> Result<Vec<Descriptor>, SourceError> {
    let bytes = source.document("index.json")?;
    let manifests = document("index.json", &bytes)?.manifests;
    Ok(manifests
        .unwrap_or_default()
        .into_iter()
        .filter(|descriptor| !is_attestation(descriptor))
        .collect())
}

fn find_oci(
    source: &Arc<Source>,
    tag: Option<&str>,
    wanted: Option<&Platform>,
) -> Result<Found, SourceError> {
    let mut candidates = listed(source)?;
    let present = || {
        let mut names: Vec<String> = candidates.iter().flat_map(names_of).collect();
        names.dedup();
        match names.is_empty() {
            true => "images without a name".to_owned(),
            false => names.join(", "),
        }
    };
    match tag {
        Some(tag) => {
            let is_named = |descriptor: &Descriptor| {
                names_of(descriptor)
                    .iter()
                    .any(|name| is_same_name(name, tag))
            };
            if !candidates.iter().any(is_named) {
                return Err(SourceError::NoTag {
                    path: source.path().to_owned(),
                    tag: tag.to_owned(),
                    present: present(),
                });
            }
            candidates.retain(is_named);
        }
        None if candidates.len() > 1 => {
            // Several entries are one image when they differ by platform only.
            let first = names_of(&candidates[0]);
            let is_one_image = candidates
                .iter()
                .all(|d| d.platform().is_some() && names_of(d) == first);
            if !is_one_image {
                return Err(SourceError::SeveralImages {
                    path: source.path().to_owned(),
                    present: present(),
                });
            }
        }
        None => {}
    }
    descend(source, candidates, wanted)
}

/// From one image, as its indexes and manifests per platform, to its layers.
fn descend(
    source: &Arc<Source>,
    mut candidates: Vec<Descriptor>,
    wanted: Option<&Platform>,
) -> Result<Found, SourceError> {
    for _ in 0..MAX_NESTING {
        let missing = || SourceError::Missing {
            path: source.path().to_owned(),
            name: "image".to_owned(),
        };
        let chosen = choose(&candidates, wanted, missing)?;
        let (digest, bytes) = source.blob(&chosen)?;
        let document = document(&digest.to_string(), &bytes)?;
        if let Some(manifests) = document.manifests {
            candidates = manifests
                .into_iter()
                .filter(|descriptor| !is_attestation(descriptor))
                .collect();
            continue;
        }
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            return Err(SourceError::Missing {
                path: source.path().to_owned(),
                name: format!("config and layers in {digest}"),
            });
        };
        let (id, config_bytes) = source.blob(&config)?;
        let checked = config::check(&config_bytes)?;
        let mut blobs = Vec::new();
        for layer in &layers {
            let digest = Digest::parse(layer.digest().as_ref())?;
            blobs.push((blob_name(&digest), Some((digest, layer.size()))));
        }
        return found(
            source,
            id,
            config_bytes,
            checked,
            Some((digest, bytes)),
            blobs,
            wanted,
        );
    }
    Err(SourceError::Nesting)
}

/// Buildx lists provenance beside the images it belongs to.
pub(super) fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor
        .annotations()
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key("vnd.docker.reference.type"))
}

/// A tag matches an image's tag, or its full name in any spelling.
fn is_same_name(name: &str, wanted: &str) -> bool {
    if name == wanted {
        return true;
    }
    match (Reference::parse(name), Reference::parse(wanted)) {
        (Ok(name), Ok(wanted)) => name == wanted,
        _ => false,
    }
}

/// The one of an index's entries that is made for the platform.
pub(super) fn choose(
    candidates: &[Descriptor],
    wanted: Option<&Platform>,
    missing: impl Fn() -> SourceError,
) -> Result<Descriptor, SourceError> {
    let platform = |descriptor: &Descriptor| descriptor.platform().as_ref().map(Platform::of);
    if let [only] = candidates
        && (wanted.is_none() || platform(only).is_none())
    {
        return Ok(only.clone());
    }
    let host = Platform::host();
    let wanted = wanted.unwrap_or(&host);
    candidates
        .iter()
        .filter_map(|descriptor| {
            let fit = wanted.fit(&platform(descriptor)?)?;
            Some((fit, descriptor))
        })
        // The first of the best.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, descriptor)| descriptor.clone())
        .ok_or_else(|| {
            if candidates.is_empty() {
                return missing();
            }
            let present: Vec<String> = candidates
                .iter()
                .filter_map(platform)
                .map(|platform| platform.to_string())
                .collect();
            SourceError::NoPlatform {
                wanted: wanted.to_string(),
                present: present.join(", "),
            }
        })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn find_docker(
    source: &Arc<Source>,
    tag: Option<&str>,
    wanted: Option<&Platform>,
) -> Result<Found, SourceError> {
    let mut entries = docker_entries(source)?;
    let present = || {
        let names: Vec<&str> = entries.iter().flat_map(DockerEntry::tags).collect();
        names.join(", ")
    };
    let position = match tag {
        Some(tag) => entries
            .iter()
            .position(|entry| entry.tags().any(|name| is_same_name(name, tag)))
            .ok_or_else(|| SourceError::NoTag {
                path: source.path().to_owned(),
                tag: tag.to_owned(),
                present: present(),
            })?,
        None if entries.len() > 1 => {
            return Err(SourceError::SeveralImages {
                path: source.path().to_owned(),
                present: present(),
            });
        }
        None if entries.is_empty() => {
            return Err(SourceError::Missing {
                path: source.path().to_owned(),
                name: "image".to_owned(),
            });
        }
        None => 0,
    };
    docker_image(source, entries.swap_remove(position), wanted)
}

impl DockerEntry {
    fn tags(&self) -> impl Iterator<Item = &str> {
        self.repo_tags.iter().flatten().map(String::as_str)
    }
}

fn docker_entries(source: &Source) -> Result<Vec<DockerEntry>, SourceError> {
    let bytes = source.document("manifest.json")?;
    parse("manifest.json", &bytes)
}

fn docker_image(
    source: &Arc<Source>,
    entry: DockerEntry,
    wanted: Option<&Platform>,
) -> Result<Found, SourceError> {
    let config_bytes = source.document(&entry.config)?;
    let id = Digest::of(&config_bytes);
    // The member is named after the digest in both formats.
    let stem = Path::new(&entry.config)
        .file_name()
        .and_then(OsStr::to_str)
        .map(|name| name.trim_end_matches(".json"))
        .unwrap_or_default();
    if let Ok(named) = Digest::parse(&format!("sha256:{stem}"))
        && named != id
    {
        return Err(SourceError::Mismatch {
            name: entry.config,
            expected: named.to_string(),
            found: id.to_string(),
        });
    }
    let checked = config::check(&config_bytes)?;
    let blobs = entry.layers.into_iter().map(|name| (name, None)).collect();
    found(source, id, config_bytes, checked, None, blobs, wanted)
}

/// A layer's place in the source, and the digest and size of the blob where they are declared.
type LayerBlob = (String, Option<(Digest, u64)>);

fn found(
    source: &Arc<Source>,
    id: Digest,
    config_bytes: Vec<u8>,
    checked: CheckedConfig,
    manifest: Option<(Digest, Vec<u8>)>,
    blobs: Vec<LayerBlob>,
    wanted: Option<&Platform>,
) -> Result<Found, SourceError> {
    let n_layers = blobs.len();
    if n_layers > MAX_LAYERS {
        return Err(SourceError::TooManyLayers { n_layers });
    }
    if checked.diff_ids.len() != n_layers {
        return Err(SourceError::LayerCount {
            n_diff_ids: checked.diff_ids.len(),
            n_layers,
        });
    }
    let made_for = Platform::of_config(&checked.config);
    if let Some(wanted) = wanted
        && !wanted.accepts(&made_for)
    {
        return Err(SourceError::NoPlatform {
            wanted: wanted.to_string(),
            present: made_for.to_string(),
        });
    }
    let mut layers = Vec::with_capacity(n_layers);
    for ((name, declared), diff_id) in blobs.into_iter().zip(&checked.diff_ids) {
        let (blob, blob_bytes) = declared.unzip();
        layers.push(FoundLayer {
            expected: Expected {
                blob,
                blob_bytes,
                diff_id: diff_id.clone(),
            },
            origin: Box::new(Member {
                source: Arc::clone(source),
                name,
            }),
        });
    }
    Ok(Found {
        id,
        config_bytes,
        checked,
        manifest,
        layers,
    })
}

/// Every image of an archive or a layout, with the names that it has there.
///
/// `docker save` has written both kinds of index since version 25; its own says more about names.
pub fn all_in(
    source: &Arc<Source>,
    wanted: Option<&Platform>,
) -> Result<Vec<(Vec<String>, Found)>, SourceError> {
    let mut images = Vec::new();
    if source.has("manifest.json") {
        for entry in docker_entries(source)? {
            let names = entry.tags().map(str::to_owned).collect();
            images.push((names, docker_image(source, entry, wanted)?));
        }
        return Ok(images);
    }
    let listed = listed(source)?;
    let mut by_name: BTreeMap<String, Vec<Descriptor>> = BTreeMap::new();
    let mut nameless = Vec::new();
    for descriptor in listed {
        // The full name says more than a tag alone.
        let names = names_of(&descriptor);
        match names.into_iter().max_by_key(String::len) {
            Some(name) => by_name.entry(name).or_default().push(descriptor),
            None => nameless.push(descriptor),
        }
    }
    for (name, candidates) in by_name {
        images.push((vec![name], descend(source, candidates, wanted)?));
    }
    if nameless.len() > 1 && nameless.iter().all(|d| d.platform().is_some()) {
        // One image for several platforms.
        images.push((Vec::new(), descend(source, nameless, wanted)?));
    } else {
        for descriptor in nameless {
            images.push((Vec::new(), descend(source, vec![descriptor], wanted)?));
        }
    }
    Ok(images)
}
