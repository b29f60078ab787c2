//! The engine's images as the routes see them: conversion to Docker's terms.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde_json::Value;
use tokio::sync::mpsc;

use super::containers::summary;
use super::images::{Filtered, ImageFilters, ImageHost, Import};
use super::wire::image::{
    ContainerUsage, DeleteItem, DiskUsage, ErrorDetail, GraphDriver, HistoryItem, ImageInspect,
    ImageMetadata, ImageSummary, ImageVerdict, ImagesPruned, ProgressDetail, ProgressLine, RootFs,
    VolumeUsage, VolumeUsageData,
};
use super::wire::registry::{
    self, Artifact, DistributionDescriptor, DistributionInspect, DistributionPlatform,
};
use crate::engine::image::{
    ArtifactBlob, Description, Digest, Facts, ImageError, Reference, Removed, Usage,
};
use crate::engine::{Engine, EngineError};
use crate::reconcile::{BackendError, ImageProgress, ImageRequest};

/// Bytes of a saved archive in one piece.
const CHUNK: usize = 128 * 1024;
/// Pieces that wait for a slow client before the archive is written on.
const BACKLOG: usize = 8;
/// A layer's progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Runs what blocks for the disk on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, BackendError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(BackendError::from),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn reference(text: &str) -> Result<Reference, EngineError> {
    Ok(Reference::parse(text).map_err(ImageError::from)?)
}

fn seconds(nanoseconds: Option<u64>) -> i64 {
    nanoseconds.map_or(0, |ns| (ns / 1_000_000_000) as i64)
}

fn rfc3339(nanoseconds: u64) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    at.map_or(String::new(), |at| at.to_string())
}

fn now_seconds() -> i64 {
    seconds(Some(crate::engine::now()))
}

fn row(facts: &Facts, usage: &Usage, n_containers: i64) -> ImageSummary {
    let of_image = usage.images.get(&facts.id).copied().unwrap_or_default();
    ImageSummary {
        id: facts.id.clone(),
        parent_id: String::new(),
        repo_tags: facts.tags.clone(),
        repo_digests: facts.digests.clone(),
        created: seconds(facts.created_at),
        size: of_image.size,
        shared_size: of_image.shared as i64,
        labels: Some(facts.labels.clone()),
        containers: n_containers,
    }
}

fn filtered(facts: &Facts) -> Filtered<'_> {
    Filtered {
        tags: &facts.tags,
        digests: &facts.digests,
        created: seconds(facts.created_at),
        labels: &facts.labels,
    }
}

fn deleted(removed: &Removed) -> Vec<DeleteItem> {
    let untagged = removed.untagged.iter().map(|name| DeleteItem {
        untagged: Some(name.clone()),
        deleted: None,
    });
    let deleted = removed.deleted.iter().map(|id| DeleteItem {
        untagged: None,
        deleted: Some(id.clone()),
    });
    untagged.chain(deleted).collect()
}

fn text_at<'a>(config: &'a Value, key: &str) -> &'a str {
    config.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl ImageHost for Engine {
    async fn images(&self, filters: ImageFilters) -> Result<Vec<ImageSummary>, BackendError> {
        let engine = self.clone();
        blocking(move || {
            let users = engine.image_users();
            let usage = engine.images().usage()?;
            let mut all = engine.images().facts()?;
            let (before, since) = filters.neighbours();
            // Of an image that does not say when it was made nothing is before or since.
            let made_at = |names: &[String]| -> Result<Vec<u64>, EngineError> {
                let mut moments = Vec::new();
                for name in names {
                    moments.extend(engine.images().facts_of(name)?.created_at);
                }
                Ok(moments)
            };
            let (before, since) = (made_at(before)?, made_at(since)?);
            let now = now_seconds();
            all.retain(|facts| {
                let is_made = |is: &dyn Fn(u64) -> bool| facts.created_at.is_some_and(is);
                filters.accept(&filtered(facts), now)
                    && filters
                        .dangling()
                        .is_none_or(|dangling| dangling == facts.is_dangling())
                    && before.iter().all(|at| is_made(&|made| made < *at))
                    && since.iter().all(|at| is_made(&|made| made > *at))
            });
            // Docker's order: the newest first.
            all.sort_by_key(|facts| std::cmp::Reverse(facts.created_at));
            let rows = all.iter().map(|facts| {
                let n = users
                    .iter()
                    .filter(|user| user.image_id == facts.id)
                    .count();
                let mut row = row(facts, &usage, n as i64);
                row.repo_tags.retain(|name| filters.shows(name));
                row.repo_digests.retain(|name| filters.shows(name));
                row
            });
            Ok(rows.collect())
        })
        .await
    }

    async fn n_images(&self) -> Result<usize, BackendError> {
        let engine = self.clone();
        blocking(move || Ok(engine.images().count()?)).await
    }

    async fn inspect_image(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> Result<ImageInspect, BackendError> {
        let (engine, name) = (self.clone(), name.to_owned());
        let platform = platform.map(str::to_owned);
        blocking(move || {
            if let Some(platform) = platform {
                engine.images().require_platform(&name, &platform)?;
            }
            let facts = engine.images().facts_of(&name)?;
            let usage = engine.images().usage()?;
            Ok(inspect(&engine, facts, &usage))
        })
        .await
    }

    async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>, BackendError> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let facts = engine.images().facts_of(&name)?;
            let mut rows = Vec::new();
            for (step, layer) in facts.history() {
                let size = match &layer {
                    Some(chain_id) => engine.images().layer_size(chain_id)?,
                    None => 0,
                };
                rows.push(HistoryItem {
                    id: "<missing>".to_owned(),
                    created: seconds(step.created_at()),
                    created_by: step.created_by.unwrap_or_default(),
                    tags: None,
                    size,
                    comment: step.comment.unwrap_or_default(),
                });
            }
            rows.reverse();
            if let Some(first) = rows.first_mut() {
                first.id = facts.id;
                first.tags = Some(facts.tags).filter(|tags| !tags.is_empty());
            }
            Ok(rows)
        })
        .await
    }

    async fn remote_tags(&self, request: &ImageRequest) -> Result<Vec<String>, BackendError> {
        Engine::remote_tags(self, request).await
    }

    async fn remote_digest(&self, request: &ImageRequest) -> Result<String, BackendError> {
        Engine::remote_digest(self, request).await
    }

    async fn artifact(
        &self,
        request: &ImageRequest,
        kinds: &[String],
    ) -> Result<Artifact, BackendError> {
        let artifact = Engine::artifact(self, request, kinds).await?;
        let blob = |blob: ArtifactBlob| registry::ArtifactBlob {
            media_type: blob.media_type,
            annotations: blob.annotations,
            content: STANDARD.encode(blob.bytes),
        };
        Ok(Artifact {
            digest: artifact.digest.to_string(),
            kind: artifact.kind,
            blobs: artifact.blobs.into_iter().map(blob).collect(),
        })
    }

    async fn describe_remote(
        &self,
        request: &ImageRequest,
    ) -> Result<DistributionInspect, BackendError> {
        let described = Engine::describe_remote(self, request).await?;
        let platforms = described.platforms.into_iter();
        Ok(DistributionInspect {
            descriptor: DistributionDescriptor {
                media_type: described.media_type,
                digest: described.digest.to_string(),
                size: described.n_bytes,
            },
            platforms: platforms
                .map(|platform| DistributionPlatform {
                    architecture: platform.architecture,
                    os: platform.os,
                    os_version: platform.os_version,
                    os_features: platform.os_features,
                    variant: platform.variant,
                })
                .collect(),
        })
    }

    async fn tag_image(&self, name: &str, to: &str) -> Result<(), BackendError> {
        let (engine, name, to) = (self.clone(), name.to_owned(), to.to_owned());
        blocking(move || Ok(engine.images().tag(&name, &reference(&to)?)?)).await
    }

    async fn delete_image(&self, name: &str, force: bool) -> Result<Vec<DeleteItem>, BackendError> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let users = engine.image_users();
            let removed = engine.images().remove(&name, force, &users)?;
            Ok(deleted(&removed))
        })
        .await
    }

    async fn prune_images(&self, filters: ImageFilters) -> Result<ImagesPruned, BackendError> {
        let engine = self.clone();
        blocking(move || {
            let users = engine.image_users();
            let now = now_seconds();
            let removed = engine.images().prune(&users, |facts| {
                let wants_all = filters.dangling() == Some(false);
                (wants_all || facts.is_dangling()) && filters.accept(&filtered(facts), now)
            })?;
            let items = deleted(&removed);
            Ok(ImagesPruned {
                images_deleted: Some(items).filter(|items| !items.is_empty()),
                space_reclaimed: removed.reclaimed,
            })
        })
        .await
    }

    async fn upload_file(&self) -> Result<File, BackendError> {
        let engine = self.clone();
        blocking(move || Ok(engine.images().scratch_file().map_err(ImageError::from)?)).await
    }

    async fn load_images(
        &self,
        archive: File,
        platform: Option<String>,
        lines: mpsc::UnboundedSender<ProgressLine>,
    ) {
        let engine = self.clone();
        // A receiver that is gone is a client that went away; the loading goes on.
        let send = move |line| _ = lines.send(line);
        let told = std::sync::Mutex::new(None::<Instant>);
        let told_as_it_goes = send.clone();
        let progress = move |event: ImageProgress| {
            let mut told = told
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let is_due = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
            if event.status == "complete" || is_due {
                *told = Some(Instant::now());
                told_as_it_goes(progress_line(event));
            }
        };
        let loaded = blocking(move || {
            Ok(engine
                .images()
                .load(archive, platform.as_deref(), &progress)?)
        });
        match loaded.await {
            Ok(loaded) => {
                for image in loaded {
                    if image.names.is_empty() {
                        send(text(format!("Loaded image ID: {}\n", image.id)));
                    }
                    for name in image.names {
                        send(text(format!("Loaded image: {name}\n")));
                    }
                }
            }
            Err(error) => send(ProgressLine {
                error: Some(error.message.clone()),
                error_detail: Some(ErrorDetail {
                    message: error.message,
                    hints: error.hints,
                }),
                ..ProgressLine::default()
            }),
        }
    }

    async fn save_images(
        &self,
        names: Vec<String>,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, BackendError> {
        let engine = self.clone();
        let saving = blocking(move || Ok(engine.images().saving(&names)?)).await?;
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::task::spawn_blocking(move || {
            let mut out = Pieces {
                piece: Vec::with_capacity(CHUNK),
                sender: sender.clone(),
            };
            if let Err(error) = saving.write(&mut out) {
                let message = crate::engine::chain(&error);
                if !matches!(error, ImageError::Send { .. }) {
                    tracing::error!(%message, "an archive could not be completed");
                }
                // Ends the answer in the middle, which is all that HTTP has for this.
                let _ = sender.blocking_send(Err(io::Error::other(message)));
            }
        });
        Ok(stream::unfold(receiver, |mut receiver| async move {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        })
        .boxed())
    }

    async fn import_image(&self, archive: File, import: Import) -> Result<String, BackendError> {
        let engine = self.clone();
        blocking(move || {
            let to = import.reference.as_deref().map(reference).transpose()?;
            let description = Description {
                message: import.message,
                changes: import.changes,
                platform: import.platform,
                created: rfc3339(crate::engine::now()),
            };
            Ok(engine.images().import(archive, to.as_ref(), &description)?)
        })
        .await
    }

    async fn check_images(&self, names: Vec<String>) -> Result<Vec<ImageVerdict>, BackendError> {
        let engine = self.clone();
        blocking(move || {
            let users = engine.image_users();
            let checked = engine.images().check(&names, &users)?;
            Ok(checked
                .into_iter()
                .map(|one| {
                    let mut damage: Vec<String> =
                        one.damage.iter().map(ToString::to_string).collect();
                    damage.extend(one.obstacle);
                    ImageVerdict {
                        id: one.id,
                        names: one.names,
                        damage,
                        healed: one.healed.iter().map(ToString::to_string).collect(),
                    }
                })
                .collect())
        })
        .await
    }

    async fn disk_usage(&self) -> Result<DiskUsage, BackendError> {
        let engine = self.clone();
        blocking(move || {
            let usage = engine.disk_usage()?;
            let users = engine.image_users();
            let images = engine.images().facts()?;
            let now_ns = crate::engine::now();
            let size_of = |image: &str| usage.images.images.get(image).map_or(0, |one| one.size);
            Ok(DiskUsage {
                layers_size: usage.images.total,
                layers_reclaimable: usage
                    .images
                    .total
                    .saturating_sub(usage.images.bytes_of(users.iter().map(|u| &*u.image_id))),
                images: images
                    .iter()
                    .map(|facts| {
                        let n = users
                            .iter()
                            .filter(|user| user.image_id == facts.id)
                            .count();
                        row(facts, &usage.images, n as i64)
                    })
                    .collect(),
                containers: usage
                    .containers
                    .iter()
                    .map(|(container, bytes)| ContainerUsage {
                        summary: summary(container, now_ns),
                        size_rw: *bytes,
                        size_root_fs: bytes + size_of(&container.image_id),
                    })
                    .collect(),
                volumes: usage.volumes.iter().map(volume_usage).collect(),
                build_cache: Vec::new(),
            })
        })
        .await
    }
}

fn inspect(engine: &Engine, facts: Facts, usage: &Usage) -> ImageInspect {
    let config = &facts.config;
    let path = |chain_id: &Digest| engine.images().layer_path(chain_id).display().to_string();
    let mut layers = facts.chain_ids.iter().rev().map(path);
    let mut data = std::collections::BTreeMap::new();
    if let Some(top) = layers.next() {
        data.insert("UpperDir".to_owned(), top);
        let lower: Vec<String> = layers.collect();
        if !lower.is_empty() {
            data.insert("LowerDir".to_owned(), lower.join(":"));
        }
    }
    let history = facts.history();
    let comment = history.last().and_then(|(step, _)| step.comment.clone());
    let diff_ids = config.pointer("/rootfs/diff_ids").and_then(Value::as_array);
    ImageInspect {
        repo_tags: facts.tags.clone(),
        repo_digests: facts.digests.clone(),
        parent: String::new(),
        comment: comment.unwrap_or_default(),
        created: text_at(config, "created").to_owned(),
        docker_version: text_at(config, "docker_version").to_owned(),
        author: text_at(config, "author").to_owned(),
        config: config.get("config").cloned().unwrap_or(Value::Null),
        architecture: text_at(config, "architecture").to_owned(),
        variant: text_at(config, "variant").to_owned(),
        os: text_at(config, "os").to_owned(),
        size: usage.images.get(&facts.id).map_or(0, |one| one.size),
        graph_driver: GraphDriver {
            data,
            name: "overlay2".to_owned(),
        },
        root_fs: RootFs {
            kind: "layers".to_owned(),
            layers: diff_ids
                .into_iter()
                .flatten()
                .filter_map(|id| id.as_str().map(str::to_owned))
                .collect(),
        },
        metadata: ImageMetadata {
            last_tag_time: rfc3339(facts.added_at),
        },
        id: facts.id,
    }
}

fn volume_usage(
    (volume, usage): &(crate::engine::volume::Volume, crate::engine::VolumeUsage),
) -> VolumeUsage {
    let mountpoint = match &volume.mount {
        crate::engine::volume::VolumeMount::Directory(path) => path.display().to_string(),
        crate::engine::volume::VolumeMount::Mount { source, .. } => source.clone(),
    };
    VolumeUsage {
        name: volume.name.clone(),
        driver: volume.driver.clone(),
        mountpoint,
        labels: Some(volume.labels.clone()),
        scope: "local".to_owned(),
        created_at: rfc3339(volume.created_at),
        options: Some(volume.driver_opts.clone()).filter(|options| !options.is_empty()),
        usage_data: VolumeUsageData {
            size: usage.bytes.map_or(-1, |bytes| bytes as i64),
            ref_count: usage.n_containers as i64,
        },
    }
}

fn text(text: String) -> ProgressLine {
    ProgressLine {
        stream: Some(text),
        ..ProgressLine::default()
    }
}

fn progress_line(event: ImageProgress) -> ProgressLine {
    ProgressLine {
        status: Some(match event.status.as_str() {
            "unpacking" => "Loading layer".to_owned(),
            "complete" => "Load complete".to_owned(),
            other => other.to_owned(),
        }),
        progress_detail: Some(ProgressDetail {
            current: event.current_bytes,
            total: event.total_bytes,
        }),
        id: Some(event.part),
        ..ProgressLine::default()
    }
}

/// Hands what is written to it to the client, in pieces.
struct Pieces {
    piece: Vec<u8>,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(CHUNK));
        self.sender
            .blocking_send(Ok(Bytes::from(piece)))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.send()
    }
}
