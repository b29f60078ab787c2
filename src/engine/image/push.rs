//! An image handed to the registry that its name says.
//!
//! A layer that came from a registry is known by the digest that it had there, and is not sent where
//! that exists. Only what is missing is put together from the snapshot, compressed and sent.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::Descriptor;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::config;
use super::images::{ImageRecord, Images, Inner, ReferenceRecord, lock, now};
use super::registry::{
    DOCKER_MANIFEST, OCI_MANIFEST, RegistryError, Repository, TransportError, Visit,
};
use super::{Digest, ImageError, Reference};
use crate::engine::store::Table;
use crate::plan::Login;
use crate::reconcile::ImageProgress;

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Layers under way at once.
const LAYERS_AT_ONCE: usize = 3;
/// Progress is told at most once per this many bytes.
const PROGRESS_BYTES: u64 = 1 << 20;

/// The part of a stored manifest that matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredManifest {
    media_type: Option<String>,
    layers: Vec<Descriptor>,
}

/// A layer as the registry has it now.
struct Sent {
    media_type: String,
    digest: Digest,
    n_bytes: u64,
    /// Where it is instead, if it may not be distributed.
    urls: Vec<String>,
}

struct Pushing<'a> {
    inner: &'a Inner,
    id: Digest,
    runtime: &'a Handle,
    repository: &'a Repository,
    /// Other repositories of the registry, with the blobs of theirs that are known.
    sources: &'a [(String, Vec<Digest>)],
    progress: &'a (dyn Fn(ImageProgress) + Sync),
    cancelled: &'a CancellationToken,
}

impl Images {
    /// Pushes an image under one of its names; returns the digest of its manifest.
    pub fn push(
        &self,
        reference: &Reference,
        login: Option<&Login>,
        cancelled: &CancellationToken,
        progress: impl Fn(ImageProgress) + Sync,
    ) -> Result<Digest, ImageError> {
        let pushed = self.inner.push(reference, login, cancelled, &progress);
        pushed.map_err(|error| match error {
            ImageError::Registry(source) => ImageError::Push {
                image: reference.to_string(),
                source: Box::new(source),
            },
            error => error,
        })
    }
}

impl Inner {
    fn push(
        &self,
        reference: &Reference,
        login: Option<&Login>,
        cancelled: &CancellationToken,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Digest, ImageError> {
        let Reference::Registry {
            registry,
            repository: name,
            tag,
            digest: None,
        } = reference
        else {
            return Err(ImageError::NotPushable {
                image: reference.to_string(),
            });
        };
        let not_found = || ImageError::NotFound {
            name: reference.to_string(),
        };
        let runtime = Handle::try_current().map_err(|error| RegistryError::Unreachable {
            host: registry.clone(),
            source: TransportError::new(error.to_string()),
        })?;
        let named: Option<ReferenceRecord> =
            self.store.get(Table::References, &reference.canonical())?;
        let id = named.ok_or_else(not_found)?.image;
        let record: Option<ImageRecord> = self.store.get(Table::Images, &id.to_string())?;
        let record = record.ok_or_else(not_found)?;
        if record.rootfs.is_some() {
            return Err(ImageError::NotPushable {
                image: reference.to_string(),
            });
        }
        let mut needed = record.chain_ids.clone();
        needed.push(id.clone());
        needed.extend(record.manifest.clone());
        // The image may be removed meanwhile.
        let _lease = self.lease(needed);
        let config_bytes = self.content.blob(&id)?;
        let checked = config::check(&config_bytes).map_err(|source| ImageError::Config {
            image: id.short().to_owned(),
            source,
        })?;
        let stored = self.stored_manifest(&record);
        let known: Vec<Option<Descriptor>> = match &stored {
            Some((_, manifest)) if manifest.layers.len() == record.chain_ids.len() => {
                manifest.layers.iter().cloned().map(Some).collect()
            }
            _ => vec![None; record.chain_ids.len()],
        };
        let sources = self.sources(registry, name)?;
        let visit = Visit {
            registry,
            repository: name,
            login,
            cancelled,
        };
        let names: Vec<String> = sources.iter().map(|(name, _)| name.clone()).collect();
        let repository = runtime.block_on(self.registries.open_for_push(&visit, &names))?;
        let pushing = Pushing {
            inner: self,
            id: id.clone(),
            runtime: &runtime,
            repository: &repository,
            sources: &sources,
            progress,
            cancelled,
        };
        let sent = pushing.layers(&record.chain_ids, &checked.diff_ids, &known)?;
        pushing.config(&id, &config_bytes)?;
        let is_as_stored = sent.iter().zip(&known).all(|(sent, known)| {
            known
                .as_ref()
                .is_some_and(|k| k.digest().as_ref() == sent.digest.to_string())
        });
        let (media_type, bytes) = match stored {
            // Byte for byte what it came with: its digest stays, and with it every pin and signature.
            Some((bytes, manifest)) if is_as_stored => {
                let media_type = manifest
                    .media_type
                    .unwrap_or_else(|| OCI_MANIFEST.to_owned());
                (media_type, bytes)
            }
            _ => (
                OCI_MANIFEST.to_owned(),
                manifest_of(&id, config_bytes.len(), &sent),
            ),
        };
        let media_type = match media_type.as_str() {
            DOCKER_MANIFEST => DOCKER_MANIFEST,
            _ => OCI_MANIFEST,
        };
        let digest = Digest::of(&bytes);
        let n_bytes = bytes.len() as u64;
        let tag = tag.as_deref().unwrap_or("latest");
        runtime.block_on(repository.put_manifest(tag, media_type, bytes))?;
        self.note_pushed(reference, &id, &digest)?;
        progress(ImageProgress {
            part: reference.to_string(),
            status: format!("digest: {digest}"),
            current_bytes: n_bytes,
            total_bytes: n_bytes,
        });
        Ok(digest)
    }

    /// What the registry has under the name now is known, as after a pull.
    fn note_pushed(
        &self,
        reference: &Reference,
        id: &Digest,
        digest: &Digest,
    ) -> Result<(), ImageError> {
        let key = reference.canonical();
        let record: Option<ReferenceRecord> = self.store.get(Table::References, &key)?;
        // The name may have been given to another image meanwhile.
        let Some(record) = record.filter(|record| record.image == *id) else {
            return Ok(());
        };
        let record = ReferenceRecord {
            digest: Some(digest.clone()),
            pulled_at: Some(now()),
            ..record
        };
        Ok(self.store.put(Table::References, &key, &record)?)
    }

    /// The manifest that the image came with, if it is here and undamaged.
    fn stored_manifest(&self, record: &ImageRecord) -> Option<(Vec<u8>, StoredManifest)> {
        let bytes = self.content.blob(record.manifest.as_ref()?).ok()?;
        let manifest = serde_json::from_slice(&bytes).ok()?;
        Some((bytes, manifest))
    }

    /// Repositories of the same registry that images here came from.
    fn sources(
        &self,
        registry: &str,
        name: &str,
    ) -> Result<Vec<(String, Vec<Digest>)>, ImageError> {
        let mut sources: Vec<(String, Vec<Digest>)> = Vec::new();
        for (_, named) in self.store.list::<ReferenceRecord>(Table::References)? {
            // Only what a registry has told of is known to be there.
            if named.digest.is_none() {
                continue;
            }
            let Ok(Reference::Registry {
                registry: other_registry,
                repository,
                ..
            }) = Reference::parse(&named.name)
            else {
                continue;
            };
            if other_registry != registry || repository == name {
                continue;
            }
            let record: Option<ImageRecord> =
                self.store.get(Table::Images, &named.image.to_string())?;
            let Some((_, manifest)) = record.and_then(|record| self.stored_manifest(&record))
            else {
                continue;
            };
            let blobs = manifest.layers.iter();
            let blobs = blobs.filter_map(|layer| Digest::parse(layer.digest().as_ref()).ok());
            sources.push((repository, blobs.collect()));
        }
        Ok(sources)
    }
}

impl Pushing<'_> {
    fn tell(&self, part: &str, status: &str, current_bytes: u64, total_bytes: u64) {
        (self.progress)(ImageProgress {
            part: part.to_owned(),
            status: status.to_owned(),
            current_bytes,
            total_bytes,
        });
    }

    fn layers(
        &self,
        chain: &[Digest],
        diff_ids: &[Digest],
        known: &[Option<Descriptor>],
    ) -> Result<Vec<Sent>, ImageError> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..LAYERS_AT_ONCE.min(chain.len()) {
                scope.spawn(|| {
                    loop {
                        let position = next.fetch_add(1, Ordering::Relaxed);
                        let Some(chain_id) = chain.get(position) else {
                            return;
                        };
                        let diff_id = &diff_ids[position];
                        let result = self.layer(chain_id, diff_id, known[position].as_ref());
                        if result.is_err() {
                            next.store(chain.len(), Ordering::Relaxed);
                        }
                        lock(&results).push(result.map(|sent| (position, sent)));
                    }
                });
            }
        });
        let results = std::mem::take(&mut *lock(&results));
        let mut sent = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        sent.sort_unstable_by_key(|(position, _)| *position);
        Ok(sent.into_iter().map(|(_, sent)| sent).collect())
    }

    fn layer(
        &self,
        chain_id: &Digest,
        diff_id: &Digest,
        known: Option<&Descriptor>,
    ) -> Result<Sent, ImageError> {
        let part = diff_id.short();
        if let Some(known) = known
            && let Some(elsewhere) = elsewhere(known)
        {
            self.tell(part, "left where it is", 0, 0);
            return Ok(elsewhere);
        }
        self.tell(part, "preparing", 0, 0);
        if let Some(known) = known
            && let Ok(digest) = Digest::parse(known.digest().as_ref())
            && self.is_offered(part, &digest)?
        {
            return Ok(Sent {
                media_type: known.media_type().to_string(),
                digest,
                n_bytes: known.size(),
                urls: Vec::new(),
            });
        }
        let (file, digest, n_bytes) = self.compressed(chain_id, diff_id)?;
        if !self.is_offered(part, &digest)? {
            self.send(part, &digest, &file, n_bytes)?;
        }
        Ok(Sent {
            media_type: OCI_LAYER_GZIP.to_owned(),
            digest,
            n_bytes,
            urls: Vec::new(),
        })
    }

    /// Whether the registry has the blob in this repository, now or already.
    fn is_offered(&self, part: &str, digest: &Digest) -> Result<bool, ImageError> {
        if self.runtime.block_on(self.repository.has_blob(digest))? {
            self.tell(part, "already there", 0, 0);
            return Ok(true);
        }
        for (name, blobs) in self.sources {
            if !blobs.contains(digest) {
                continue;
            }
            // A source that is not for us is one source less.
            if let Ok(true) = self.runtime.block_on(self.repository.mount(digest, name)) {
                self.tell(part, &format!("mounted from {name}"), 0, 0);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn send(
        &self,
        part: &str,
        digest: &Digest,
        file: &File,
        n_bytes: u64,
    ) -> Result<(), ImageError> {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let reported = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let on_bytes = move |n: u64| {
            let last = reported.load(Ordering::Relaxed);
            if n < last || n >= last + PROGRESS_BYTES {
                reported.store(n, Ordering::Relaxed);
                // Nobody listens when the upload is over.
                let _ = told.send(n);
            }
        };
        self.tell(part, "pushing", 0, n_bytes);
        let sending = async {
            let mut sending =
                std::pin::pin!(self.repository.send_blob(digest, file, n_bytes, on_bytes));
            loop {
                tokio::select! {
                    // Cancel safe: it is polled on in the next round.
                    sent = &mut sending => return sent,
                    // Cancel safe: a message that was not taken stays.
                    Some(n) = heard.recv() => self.tell(part, "pushing", n, n_bytes),
                }
            }
        };
        self.runtime.block_on(sending)?;
        self.tell(part, "complete", n_bytes, n_bytes);
        Ok(())
    }

    /// The layer as a file without a name, its digest and its length.
    fn compressed(
        &self,
        chain_id: &Digest,
        diff_id: &Digest,
    ) -> Result<(File, Digest, u64), ImageError> {
        let file = self.inner.content.scratch_file()?;
        let keep = |source| RegistryError::Keep {
            layer: diff_id.short().to_owned(),
            source,
        };
        let (hasher, n_bytes) = {
            let out = Hashed {
                out: BufWriter::with_capacity(1 << 18, &file),
                hasher: Sha256::new(),
                n_bytes: 0,
            };
            // The same layer always makes the same bytes: without name and time in the header.
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(5));
            let mut out = UnlessCancelled {
                out: &mut encoder,
                cancelled: self.cancelled,
            };
            let written = self
                .inner
                .write_layer(&self.id, chain_id, diff_id, &mut out);
            if self.cancelled.is_cancelled() {
                return Err(RegistryError::Cancelled.into());
            }
            written?;
            let mut out = encoder.finish().map_err(keep)?;
            out.flush().map_err(keep)?;
            (out.hasher, out.n_bytes)
        };
        let text = format!("sha256:{}", hex::encode(hasher.finalize()));
        let digest = Digest::parse(&text).expect("it is made of hex digits");
        Ok((file, digest, n_bytes))
    }

    fn config(&self, id: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        if self.runtime.block_on(self.repository.has_blob(id))? {
            return Ok(());
        }
        let keep = |source| RegistryError::Keep {
            layer: id.short().to_owned(),
            source,
        };
        let mut file = self.inner.content.scratch_file()?;
        file.write_all(bytes).map_err(keep)?;
        let n_bytes = bytes.len() as u64;
        let sending = self.repository.send_blob(id, &file, n_bytes, |_| ());
        Ok(self.runtime.block_on(sending)?)
    }
}

fn manifest_of(id: &Digest, n_config_bytes: usize, layers: &[Sent]) -> Vec<u8> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| {
            let mut descriptor = json!({
                "mediaType": oci_layer_type(&layer.media_type),
                "digest": layer.digest.to_string(),
                "size": layer.n_bytes,
            });
            if !layer.urls.is_empty() {
                descriptor["urls"] = json!(layer.urls);
            }
            descriptor
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": OCI_CONFIG,
            "digest": id.to_string(),
            "size": n_config_bytes,
        },
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// A layer that its licence forbids to hand on: the manifest says where to get it, as it said to us.
fn elsewhere(known: &Descriptor) -> Option<Sent> {
    let media_type = known.media_type().to_string();
    let urls = known.urls().clone().filter(|urls| !urls.is_empty())?;
    let is_foreign = [".nondistributable.", ".foreign."]
        .iter()
        .any(|mark| media_type.contains(mark));
    let digest = Digest::parse(known.digest().as_ref()).ok()?;
    is_foreign.then(|| Sent {
        media_type,
        digest,
        n_bytes: known.size(),
        urls,
    })
}

/// Docker's names of layers do not belong into an OCI manifest.
fn oci_layer_type(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => OCI_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        }
        "application/vnd.docker.image.rootfs.foreign.diff.tar" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar"
        }
        other => other,
    }
}

/// A large layer is compressed for minutes, which nobody waits for any more.
struct UnlessCancelled<'a, W> {
    out: W,
    cancelled: &'a CancellationToken,
}

impl<W: Write> Write for UnlessCancelled<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.cancelled.is_cancelled() {
            true => Err(io::Error::other("given up")),
            false => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Hashed<W> {
    out: W,
    hasher: Sha256,
    n_bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
