//! The engine as reconciliation sees it.

use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::container::{
    ContainerId, ContainerRecord, Driver, VolumeMountRecord, log_rotation, logging_remark,
    parse_signal,
};
use super::image::{Artifact, Described, Image, ImageError, Platform, PullPolicy, Reference, Wish};
use super::store::{Batch, Table};
use super::volume::{VolumeError, Volumes};
use super::{Engine, EngineError, clock};
use crate::compose::ProjectName;
use crate::plan::{
    ContainerConfig, Login, MountSource, NetworkConfig, Observed, ObservedContainer, VolumeConfig,
    labels,
};
use crate::reconcile::{
    Backend, BackendError, ContainerChange, FailureKind, ImageProgress, ImageRequest,
};

impl Backend for Engine {
    async fn observe(&self, project: &ProjectName) -> Result<Observed, BackendError> {
        let containers = self
            .containers()
            .iter()
            .map(|container| container.view().observed())
            .filter(|container| container.label(labels::PROJECT) == project.as_str())
            .collect();
        Ok(Observed {
            containers,
            networks: self.shared.networks.list(),
            volumes: self.observed_volumes()?,
            images: self.image_ids()?,
        })
    }

    async fn inspect(&self, container: &str) -> Result<ObservedContainer, BackendError> {
        Ok(self.container(container)?.view().observed())
    }

    async fn ensure_image(
        &self,
        request: &ImageRequest,
        progress: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<String, BackendError> {
        Ok(self.ensure(request, progress).await?.id.to_string())
    }

    async fn push_image(
        &self,
        request: &ImageRequest,
        progress: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<(), BackendError> {
        Ok(self.push(request, progress).await?)
    }

    async fn create_network(&self, config: &NetworkConfig) -> Result<(), BackendError> {
        self.shared
            .networks
            .create(config)
            .await
            .map_err(EngineError::from)?;
        Ok(())
    }

    async fn remove_network(&self, name: &str) -> Result<(), BackendError> {
        self.shared
            .networks
            .remove(name)
            .await
            .map_err(EngineError::from)?;
        Ok(())
    }

    async fn create_volume(&self, config: &VolumeConfig) -> Result<(), BackendError> {
        self.shared
            .volumes
            .create(config)
            .map_err(EngineError::from)?;
        Ok(())
    }

    async fn remove_image(&self, reference: &str) -> Result<(), BackendError> {
        let (images, users) = (self.shared.images.clone(), self.image_users());
        let reference = reference.to_owned();
        let work = tokio::task::spawn_blocking(move || images.remove(&reference, false, &users));
        match work.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(EngineError::from(error).into()),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    async fn remove_volume(&self, name: &str) -> Result<(), BackendError> {
        let users = self.shared.volume_users(name);
        match self
            .shared
            .volumes
            .remove(name, &users)
            .map_err(EngineError::from)
        {
            Err(EngineError::Volume(VolumeError::NotFound { .. })) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn create_container(
        &self,
        config: &ContainerConfig,
        inherit_volumes_from: Option<&str>,
    ) -> Result<String, BackendError> {
        Ok(self.create(config, inherit_volumes_from).await?.to_string())
    }

    async fn rename_container(&self, container: &str, name: &str) -> Result<(), BackendError> {
        Ok(self.container(container)?.rename(name.to_owned()).await?)
    }

    async fn start_container(&self, container: &str) -> Result<(), BackendError> {
        Ok(self.container(container)?.start().await?)
    }

    async fn stop_container(
        &self,
        container: &str,
        timeout: Option<Duration>,
    ) -> Result<(), BackendError> {
        Ok(self.container(container)?.stop(timeout).await?)
    }

    async fn kill_container(&self, container: &str, signal: &str) -> Result<(), BackendError> {
        let signal = parse_signal(signal)?;
        Ok(self.container(container)?.kill(signal).await?)
    }

    async fn remove_container(
        &self,
        container: &str,
        volumes: bool,
        force: bool,
    ) -> Result<(), BackendError> {
        let Ok(container) = self.container(container) else {
            return Ok(());
        };
        container.remove(volumes, force).await?;
        self.write().remove(&container.id);
        Ok(())
    }

    async fn warnings(&self, project: &ProjectName) -> Vec<String> {
        // A rule set that cannot be read is no reason to call a project that runs a failure.
        let mut warnings = self.shared.networks.warnings().unwrap_or_default();
        for container in self.containers() {
            let view = container.view();
            let config = &view.record.config;
            if config.labels.get(labels::PROJECT).map(String::as_str) == Some(project.as_str()) {
                warnings.extend(logging_remark(&config.name, config.logging.as_ref()));
            }
        }
        warnings
    }

    fn subscribe(&self) -> broadcast::Receiver<ContainerChange> {
        self.changes()
    }
}

impl Engine {
    async fn ensure(
        &self,
        request: &ImageRequest,
        progress: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<Image, EngineError> {
        let reference = parse_reference(&request.reference)?;
        let wish = Wish {
            policy: PullPolicy::parse(request.pull_policy.as_deref()).map_err(ImageError::from)?,
            platform: parse_platform(request.platform.as_deref())?,
            login: login_for(request, &reference),
            cancelled: CancellationToken::new(),
        };
        // A caller that goes away takes its wish along.
        let _given_up = wish.cancelled.clone().drop_guard();
        let images = self.shared.images.clone();
        let work = tokio::task::spawn_blocking(move || {
            images.ensure_as(&reference, &wish, |event| {
                // A client that no longer listens misses nothing it needs.
                let _ = progress.send(event);
            })
        });
        match work.await {
            Ok(image) => Ok(image?),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    async fn push(
        &self,
        request: &ImageRequest,
        progress: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<(), EngineError> {
        let reference = parse_reference(&request.reference)?;
        let login = login_for(request, &reference);
        let cancelled = CancellationToken::new();
        // A caller that goes away takes its wish along.
        let _given_up = cancelled.clone().drop_guard();
        let images = self.shared.images.clone();
        let work = tokio::task::spawn_blocking(move || {
            images.push(&reference, login.as_ref(), &cancelled, |event| {
                // A client that no longer listens misses nothing it needs.
                let _ = progress.send(event);
            })
        });
        match work.await {
            Ok(pushed) => Ok(pushed.map(drop)?),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// All references with tags under the name that is asked for.
    pub async fn remote_tags(&self, request: &ImageRequest) -> Result<Vec<String>, BackendError> {
        let name = parse_reference(&request.reference).map_err(EngineError::from)?;
        let login = login_for(request, &name);
        let cancelled = CancellationToken::new();
        let tags = self.shared.images.tags(&name, login.as_ref(), &cancelled);
        let tags = tags.await.map_err(EngineError::from)?;
        Ok(tags.iter().map(ToString::to_string).collect())
    }

    /// The digest that a registry has for a reference now.
    pub async fn remote_digest(&self, request: &ImageRequest) -> Result<String, BackendError> {
        let name = parse_reference(&request.reference).map_err(EngineError::from)?;
        let login = login_for(request, &name);
        let cancelled = CancellationToken::new();
        let images = &self.shared.images;
        let digest = images.remote_digest(&name, login.as_ref(), &cancelled);
        Ok(digest.await.map_err(EngineError::from)?.to_string())
    }

    /// A small artifact of one of the kinds, out of a registry.
    pub async fn artifact(
        &self,
        request: &ImageRequest,
        kinds: &[String],
    ) -> Result<Artifact, BackendError> {
        let name = parse_reference(&request.reference).map_err(EngineError::from)?;
        let login = login_for(request, &name);
        let cancelled = CancellationToken::new();
        let images = &self.shared.images;
        let artifact = images.artifact(&name, kinds, login.as_ref(), &cancelled);
        Ok(artifact.await.map_err(EngineError::from)?)
    }

    /// What a registry has under a reference now.
    pub async fn describe_remote(&self, request: &ImageRequest) -> Result<Described, BackendError> {
        let name = parse_reference(&request.reference).map_err(EngineError::from)?;
        let login = login_for(request, &name);
        let cancelled = CancellationToken::new();
        let images = &self.shared.images;
        let described = images.describe(&name, login.as_ref(), &cancelled).await;
        described.map_err(|error| {
            let is_denied = error.is_denied();
            let mut error = BackendError::from(EngineError::from(error));
            // Who asks only what is there is told apart from who may not know, as in Docker.
            if is_denied {
                error.kind = FailureKind::Denied;
            }
            error
        })
    }

    /// Has a registry check a login.
    pub async fn authenticate_to(&self, registry: &str, login: &Login) -> Result<(), BackendError> {
        let checked = self.shared.images.authenticate(registry, login).await;
        Ok(checked.map_err(EngineError::from)?)
    }

    fn observed_volumes(&self) -> Result<Vec<crate::plan::ObservedVolume>, EngineError> {
        let views = self.shared.views();
        let volumes = self.shared.volumes.list()?;
        let users = |volume: &str| {
            views
                .iter()
                .filter(|view| {
                    view.record
                        .volumes
                        .iter()
                        .any(|mount| mount.volume == volume)
                })
                .map(|view| view.record.config.name.clone())
                .collect()
        };
        Ok(volumes
            .into_iter()
            .map(|volume| crate::plan::ObservedVolume {
                containers: users(&volume.name),
                name: volume.name,
                driver: volume.driver,
                labels: volume.labels,
            })
            .collect())
    }

    /// Image ids by every name that an image has, in every way that a file may write it.
    fn image_ids(&self) -> Result<std::collections::BTreeMap<String, String>, EngineError> {
        let images = self.shared.images.list()?;
        let mut ids = std::collections::BTreeMap::new();
        for image in images {
            let id = image.id.to_string();
            for name in image.references {
                for spelling in spellings(&name) {
                    ids.insert(spelling, id.clone());
                }
            }
        }
        Ok(ids)
    }

    async fn create(
        &self,
        config: &ContainerConfig,
        inherit_volumes_from: Option<&str>,
    ) -> Result<ContainerId, EngineError> {
        let id = ContainerId::random();
        self.shared.names.take(&config.name, &id)?;
        let result = self
            .create_named(id.clone(), config, inherit_volumes_from)
            .await;
        if result.is_err() {
            self.shared.names.release(&config.name, &id);
        }
        result
    }

    async fn create_named(
        &self,
        id: ContainerId,
        config: &ContainerConfig,
        inherit_volumes_from: Option<&str>,
    ) -> Result<ContainerId, EngineError> {
        let shared = &self.shared;
        let image = shared.image_by_reference(&config.image)?;
        log_rotation(config.logging.as_ref())?;
        let inherited = match inherit_volumes_from {
            Some(other) => self.container(other)?.view().record.volumes.clone(),
            None => Vec::new(),
        };
        let mut config = config.clone();
        let (mut volumes, to_make) = volumes_for(&config, &image, &inherited)?;
        self.take_volumes_from(&mut config, &mut volumes)?;
        let record = ContainerRecord {
            id: id.clone(),
            config,
            image_id: image.id.to_string(),
            created_at: clock::now(),
            manually_stopped: false,
            exit: None,
            error: String::new(),
            volumes,
        };
        // The record is the intent: volumes and directories are made under the names in it, and
        // what a crash leaves out a start makes good.
        let mut batch = Batch::default();
        batch.put(Table::Containers, id.as_str(), &record);
        shared.store.commit_async(batch).await?;
        if let Err(error) = self.make_parts(&id, &to_make) {
            // The first cause is what the caller needs; what cannot be undone now is logged.
            for volume in to_make.iter().filter(|volume| volume.is_anonymous) {
                let _ = shared.volumes.remove(&volume.config.name, &[]);
            }
            if let Err(error) = shared.unlist(&record).await {
                tracing::error!(container = %record.config.name, error = &error as &dyn std::error::Error, "cannot undo the creation");
            }
            return Err(error);
        }
        let container = Driver::spawn(shared.clone(), record).await;
        shared.register(&id, container.watch());
        self.write().insert(id.clone(), container);
        Ok(id)
    }

    fn make_parts(&self, id: &ContainerId, volumes: &[VolumeToMake]) -> Result<(), EngineError> {
        for volume in volumes {
            self.shared.volumes.create(&volume.config)?;
        }
        self.shared.make_data_dir(id)
    }

    /// `volumes_from`: the mounts of other containers, where nothing of its own is mounted. An
    /// entry may end in `:ro` or `:rw`.
    fn take_volumes_from(
        &self,
        config: &mut ContainerConfig,
        volumes: &mut Vec<VolumeMountRecord>,
    ) -> Result<(), EngineError> {
        for entry in config.volumes_from.clone() {
            let (name, read_only) = match entry.rsplit_once(':') {
                Some((name, "ro")) => (name, true),
                Some((name, "rw")) => (name, false),
                _ => (entry.as_str(), false),
            };
            let name = name.strip_prefix("container:").unwrap_or(name);
            let other = self.container(name)?.view();
            for mount in &other.record.volumes {
                let taken = config.mounts.iter().any(|own| own.target == mount.target)
                    || volumes.iter().any(|own| own.target == mount.target);
                if !taken {
                    volumes.push(VolumeMountRecord {
                        // It is the other container's, and goes with that one.
                        anonymous: false,
                        read_only: mount.read_only || read_only,
                        ..mount.clone()
                    });
                }
            }
            for mount in &other.record.config.mounts {
                let is_bind = matches!(mount.source, MountSource::Bind { .. });
                let taken = config.mounts.iter().any(|own| own.target == mount.target);
                if is_bind && !taken {
                    let mut mount = mount.clone();
                    mount.read_only |= read_only;
                    config.mounts.push(mount);
                }
            }
        }
        Ok(())
    }
}

fn parse_reference(text: &str) -> Result<Reference, ImageError> {
    Ok(Reference::parse(text)?)
}

fn parse_platform(text: Option<&str>) -> Result<Option<Platform>, ImageError> {
    Ok(text.map(Platform::parse).transpose()?)
}

fn login_for(request: &ImageRequest, reference: &Reference) -> Option<Login> {
    match reference {
        Reference::Registry { registry, .. } => request.logins.of(registry).cloned(),
        _ => None,
    }
}

/// The ways to write a name: `nginx` is `docker.io/library/nginx:latest`.
fn spellings(name: &str) -> Vec<String> {
    let Ok(
        reference @ Reference::Registry {
            digest: None,
            tag: Some(_),
            ..
        },
    ) = Reference::parse(name)
    else {
        return vec![name.to_owned()];
    };
    let canonical = reference.canonical();
    let mut spellings = vec![canonical.clone()];
    if let Some(rest) = canonical.strip_prefix("docker.io/") {
        spellings.push(rest.to_owned());
        if let Some(short) = rest.strip_prefix("library/") {
            spellings.push(short.to_owned());
            spellings.push(format!("docker.io/{short}"));
        }
    }
    let untagged: Vec<String> = spellings
        .iter()
        .filter_map(|spelling| spelling.strip_suffix(":latest").map(str::to_owned))
        .collect();
    spellings.extend(untagged);
    spellings
}

/// A volume that has to be there before the container.
struct VolumeToMake {
    config: VolumeConfig,
    is_anonymous: bool,
}

/// The volumes of a container: named ones, anonymous ones of its file, and those that its image
/// declares where nothing else is mounted. An inherited anonymous volume keeps its data.
fn volumes_for(
    config: &ContainerConfig,
    image: &Image,
    inherited: &[VolumeMountRecord],
) -> Result<(Vec<VolumeMountRecord>, Vec<VolumeToMake>), EngineError> {
    let mut to_make = Vec::new();
    let mut anonymous = |target: &std::path::Path| -> Result<String, EngineError> {
        let known = inherited
            .iter()
            .find(|mount| mount.anonymous && mount.target == target);
        if let Some(mount) = known {
            return Ok(mount.volume.clone());
        }
        let name = Volumes::anonymous_name()?;
        to_make.push(VolumeToMake {
            config: VolumeConfig {
                name: name.clone(),
                ..VolumeConfig::default()
            },
            is_anonymous: true,
        });
        Ok(name)
    };
    let mut records = Vec::new();
    let mut named = Vec::new();
    for mount in &config.mounts {
        let MountSource::Volume {
            name,
            nocopy,
            subpath,
            labels,
        } = &mount.source
        else {
            continue;
        };
        let volume = match name {
            Some(name) => {
                named.push(VolumeToMake {
                    config: VolumeConfig {
                        name: name.clone(),
                        labels: labels.clone(),
                        ..VolumeConfig::default()
                    },
                    is_anonymous: false,
                });
                name.clone()
            }
            None => anonymous(&mount.target)?,
        };
        records.push(VolumeMountRecord {
            volume,
            target: mount.target.clone(),
            anonymous: name.is_none(),
            read_only: mount.read_only,
            subpath: subpath.clone(),
            nocopy: *nocopy,
        });
    }
    for target in declared_volumes(image) {
        let taken = config.mounts.iter().any(|mount| mount.target == target);
        if !taken {
            records.push(VolumeMountRecord {
                volume: anonymous(&target)?,
                target,
                anonymous: true,
                read_only: false,
                subpath: None,
                nocopy: false,
            });
        }
    }
    to_make.extend(named);
    Ok((records, to_make))
}

/// The `VOLUME` paths of an image; checked when the image was taken in (HAZARDS S45).
fn declared_volumes(image: &Image) -> Vec<std::path::PathBuf> {
    let config = image.config.config().as_ref();
    let volumes = config.and_then(|config| config.volumes().clone());
    let mut targets: Vec<_> = volumes.into_iter().flatten().map(Into::into).collect();
    targets.sort();
    targets
}
