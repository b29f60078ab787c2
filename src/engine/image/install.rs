//! A found image becomes layers on disk and a record.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::content::Staged;
use super::digest::chain_ids;
use super::extract::Extracted;
use super::images::{Image, ImageRecord, Inner, ReferenceRecord, SnapshotRecord, lock, now};
use super::layer::{self, Limits};
use super::source::{Found, FoundLayer, Stamp};
use super::{Digest, ImageError, Reference};
use crate::engine::store::{Batch, Table};
use crate::reconcile::ImageProgress;
use crate::sys::detached;

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
            let unpacked = self.unpack(&shown, &found.layers, &missing, progress)?;
            staged = self.complete(&shown, &chain, unpacked)?;
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
            };
            batch.put(Table::References, &reference.canonical(), &name);
        }
        self.store.commit(batch)?;
        drop(lease);
        progress(ImageProgress {
            part: shown,
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
            staged.target()?,
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
}
