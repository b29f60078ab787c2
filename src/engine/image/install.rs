//! A found image becomes layers on disk and a record.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::content::Staged;
use super::digest::chain_ids;
use super::extract::Extracted;
use super::images::{Image, ImageRecord, Inner, ReferenceRecord, SnapshotRecord, lock, now};
use super::layer::{self, Allowance, LayerError, Limits};
use super::registry::RegistryError;
use super::source::{Found, FoundLayer, SourceError, Stamp};
use super::{Digest, ImageError, Reference};
use crate::engine::store::{Batch, Table};
use crate::reconcile::ImageProgress;
use crate::sys::detached;

/// Layers under way at once, on the smallest machine.
const MIN_LAYERS_AT_ONCE: usize = 4;

/// A layer that is wrong twice is wrong at its origin.
const MAX_ATTEMPTS: usize = 2;

/// Progress is reported at most once per this many bytes of a layer.
const PROGRESS_BYTES: u64 = 1 << 20;

impl Inner {
    /// Unpacks what is missing and records the image under the reference.
    pub(super) fn install(
        &self,
        found: Found,
        reference: &Reference,
        stamp: Option<Stamp>,
        batch: Batch,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let references = std::slice::from_ref(reference);
        self.install_as(found, references, stamp, batch, progress)
    }

    /// As [`Inner::install`], under any number of names.
    pub(super) fn install_as(
        &self,
        found: Found,
        references: &[Reference],
        stamp: Option<Stamp>,
        mut batch: Batch,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let shown = match references.first() {
            Some(reference) => reference.to_string(),
            None => found.id.short().to_owned(),
        };
        let chain = chain_ids(&found.checked.diff_ids);
        let mut leased = chain.clone();
        leased.push(found.id.clone());
        leased.extend(found.manifest.iter().map(|(digest, _)| digest.clone()));
        let lease = self.lease(leased);

        let mut sizes = HashMap::new();
        let mut missing = Vec::new();
        for (position, chain_id) in chain.iter().enumerate() {
            if self.snapshot(chain_id)?.is_none() {
                missing.push(position);
            }
        }
        let mut staged = Vec::new();
        if !missing.is_empty() {
            let unpacked = self
                .unpack(&shown, &found.layers, &missing, progress)
                .and_then(|unpacked| self.complete(&shown, &chain, unpacked));
            // What was fetched is kept for the next attempt, but not where it fills the disk, or
            // would be refused again.
            if unpacked
                .as_ref()
                .is_err_and(|e| e.is_disk_full() || e.is_limit())
            {
                for &position in &missing {
                    found.layers[position].origin.forget();
                }
            }
            staged = unpacked?;
            // Before the sync, which would otherwise bring to the disk what nobody needs any more.
            for &position in &missing {
                found.layers[position].origin.forget();
            }
        }
        let mut blobs = Vec::new();
        if let Some((digest, bytes)) = &found.manifest {
            blobs.extend(self.content.stage_blob(digest, bytes)?);
        }
        blobs.extend(self.content.stage_blob(&found.id, &found.config_bytes)?);
        // The order is what makes it safe at any instant: all data is on disk before anything has
        // its name, all names are before a record tells of them.
        let is_new = !staged.is_empty() || !blobs.is_empty();
        if is_new {
            self.content.sync()?;
        }
        // One at a time: between the look at a record and its commit nobody else may publish the
        // same layer, or it would be swapped under a container that has it mounted.
        let _alone = lock(&self.publishing);
        for (position, staged, n_bytes) in staged {
            if self.snapshot(&chain[position])?.is_some() {
                continue;
            }
            self.content.publish(staged, &chain[position])?;
            let record = SnapshotRecord {
                diff_id: found.checked.diff_ids[position].clone(),
                n_bytes,
                disk_bytes: None,
            };
            batch.put(Table::Snapshots, &chain[position].to_string(), &record);
            sizes.insert(position, n_bytes);
        }
        for blob in &blobs {
            self.content.publish_blob(blob)?;
        }
        if is_new {
            self.content.sync_names()?;
        }
        let mut size = 0;
        for (position, chain_id) in chain.iter().enumerate() {
            size += match sizes.get(&position) {
                Some(n_bytes) => *n_bytes,
                None => self.snapshot(chain_id)?.map_or(0, |record| record.n_bytes),
            };
        }

        let id = found.id.to_string();
        let known: Option<ImageRecord> = self.store.get(Table::Images, &id)?;
        let record = ImageRecord {
            rootfs: None,
            manifest: found.manifest.map(|(digest, _)| digest),
            chain_ids: chain,
            size,
            added_at: known.map_or_else(now, |known| known.added_at),
            is_deleted: false,
        };
        batch.put(Table::Images, &id, &record);
        for reference in references {
            let name = ReferenceRecord {
                image: found.id.clone(),
                name: reference.to_string(),
                stamp: stamp.clone(),
                digest: None,
                pulled_at: None,
            };
            batch.put(Table::References, &reference.canonical(), &name);
        }
        self.store.commit(batch)?;
        // Read before the lease ends: a removal may come right behind it.
        let image = self.image(&found.id);
        drop(lease);
        let image = image?;
        progress(ImageProgress {
            part: shown,
            status: "complete".to_owned(),
            current_bytes: size,
            total_bytes: size,
        });
        Ok(image)
    }

    /// Extracts the missing layers in parallel, each into its own staging directory.
    fn unpack(
        &self,
        image: &str,
        layers: &[FoundLayer],
        missing: &[usize],
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Vec<(usize, Staged, Extracted)>, ImageError> {
        // Some wait for the network while others unpack.
        let n_threads = std::thread::available_parallelism()
            .map_or(2, usize::from)
            .max(MIN_LAYERS_AT_ONCE)
            .min(missing.len());
        // The largest first: the last one to end should be a small one.
        let mut missing = missing.to_vec();
        missing.sort_by_key(|position| std::cmp::Reverse(layers[*position].expected.blob_bytes));
        let next = AtomicUsize::new(0);
        let allowance = Allowance::new(Limits::DEFAULT);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                scope.spawn(|| {
                    loop {
                        let Some(&position) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                        else {
                            return;
                        };
                        let result =
                            self.unpack_one(image, &layers[position], &allowance, progress);
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
        allowance: &Allowance,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<(Staged, Extracted), ImageError> {
        let part = found.expected.blob.as_ref();
        let part = part.unwrap_or(&found.expected.diff_id).short().to_owned();
        let report = |status: &str, current_bytes, total_bytes| {
            progress(ImageProgress {
                part: part.clone(),
                status: status.to_owned(),
                current_bytes,
                total_bytes,
            });
        };
        let mut n_attempts = 0;
        loop {
            let refuse = |source| ImageError::Layer {
                image: image.to_owned(),
                layer: part.clone(),
                source,
            };
            let (blob, total_bytes) = match found.origin.open() {
                Ok(opened) => opened,
                Err(error) => return Err(layer_error(LayerError::Read(error), refuse)),
            };
            let staged = self.content.stage()?;
            let status = found.origin.status();
            report(status, 0, total_bytes);
            let reported = std::cell::Cell::new(0);
            let on_bytes = |n_bytes: u64| {
                if n_bytes >= reported.get() + PROGRESS_BYTES {
                    reported.set(n_bytes);
                    report(status, n_bytes, total_bytes);
                }
            };
            let unpacked = layer::unpack(
                blob,
                &found.expected,
                staged.target()?,
                allowance,
                &on_bytes,
            );
            match unpacked {
                Ok(extracted) => {
                    report("complete", total_bytes, total_bytes);
                    return Ok((staged, extracted));
                }
                Err(error) if is_final(&error) => return Err(layer_error(error, refuse)),
                // Bytes that are wrong break decompression or the archive before anybody can
                // compare digests. Damaged on their way, or kept from an attempt that went wrong,
                // they are fetched once more.
                Err(error) => match found.origin.fault() {
                    None => return Err(layer_error(error, refuse)),
                    Some(fault @ RegistryError::Mismatch { .. }) => {
                        found.origin.forget();
                        n_attempts += 1;
                        if n_attempts == MAX_ATTEMPTS {
                            return Err(fault.into());
                        }
                    }
                    Some(fault) => return Err(fault.into()),
                },
            }
        }
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
}

/// Whether the same bytes again could not be the reason.
fn is_final(error: &LayerError) -> bool {
    match error {
        LayerError::Read(error) => error
            .get_ref()
            .is_some_and(|inner| inner.is::<RegistryError>()),
        LayerError::Limit { .. }
        | LayerError::Make { .. }
        | LayerError::Copy(_)
        | LayerError::Compression { .. } => true,
        _ => false,
    }
}

/// What went wrong at the layer's origin says more than that it could not be read.
fn layer_error(error: LayerError, refuse: impl FnOnce(LayerError) -> ImageError) -> ImageError {
    match error {
        LayerError::Read(error) if is_of::<RegistryError>(&error) => match downcast(error) {
            Ok(error) => ImageError::Registry(error),
            Err(error) => refuse(LayerError::Read(error)),
        },
        LayerError::Read(error) if is_of::<SourceError>(&error) => match downcast(error) {
            Ok(error) => ImageError::Source(error),
            Err(error) => refuse(LayerError::Read(error)),
        },
        error => refuse(error),
    }
}

fn is_of<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<E>())
}

fn downcast<E: std::error::Error + Send + Sync + 'static>(
    error: io::Error,
) -> Result<E, io::Error> {
    error.downcast::<E>()
}
