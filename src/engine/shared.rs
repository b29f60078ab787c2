//! What every container's driver needs of the engine: stores, paths, and facts about images.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, watch};

use super::container::{
    Attached, ContainerId, ContainerRecord, LogWatch, RunRecord, Spawner, View, VolumeMountRecord,
};
use super::container::{Check, HostFacts, ResolvedMount, ResolvedSource};
use super::image::{Image, Images};
use super::names::Names;
use super::network::Networks;
use super::network::{Attach, Netns};
use super::store::{Batch, Store, Table};
use super::volume::{VolumeError, VolumeMount, Volumes};
use super::{EngineError, Roots};
use crate::reconcile::ContainerChange;
use crate::shim::protocol::parts;

/// Changes that a slow subscriber may fall behind before it has to look again.
const CHANGE_BACKLOG: usize = 1024;
/// In a container's data directory: an empty file whose time is that of the last start.
const STARTED: &str = "started";

pub struct Shared {
    pub roots: Roots,
    pub store: Store,
    pub images: Images,
    pub volumes: Volumes,
    pub networks: Networks,
    pub spawner: Spawner,
    pub names: Names,
    pub log_watch: LogWatch,
    pub changes: broadcast::Sender<ContainerChange>,
    /// Views of all containers, for namespace sharing and volume users.
    views: Mutex<HashMap<ContainerId, watch::Receiver<Arc<View>>>>,
    cgroups: super::cgroup::Cgroups,
    pub host: HostFacts,
}

impl Shared {
    pub fn open(roots: Roots, spawner: OwnedFd) -> Result<Shared, EngineError> {
        private_dir(&roots.data)?;
        private_dir(&roots.run)?;
        for dir in ["containers", "trash"] {
            private_dir(&roots.data.join(dir))?;
        }
        private_dir(&roots.run.join("containers"))?;
        let store = Store::open(&roots.data.join("state.redb"))?;
        let images = Images::open(&roots.data, store.clone())?;
        let volumes = Volumes::open(&roots.data, store.clone())?;
        let cgroups = super::cgroup::Cgroups::find(&roots);
        let networks = Networks::open(store.clone(), &roots)?;
        if let Some(base) = cgroups.unified_base() {
            networks.use_cgroup(&base);
        }
        let spawner = Spawner::new(spawner).map_err(|source| EngineError::File {
            action: "use the socket to",
            path: "the spawner".to_owned(),
            source,
        })?;
        Ok(Shared {
            roots,
            store,
            images,
            volumes,
            networks,
            spawner,
            names: Names::default(),
            log_watch: LogWatch::default(),
            changes: broadcast::channel(CHANGE_BACKLOG).0,
            views: Mutex::default(),
            cgroups,
            host: HostFacts::read(),
        })
    }

    // Paths.

    /// A container's directory on the run directory's tmpfs.
    pub fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.roots.run.join("containers").join(id.as_str())
    }

    /// A container's directory on disk: its writable layer and its log.
    pub fn data_dir(&self, id: &ContainerId) -> PathBuf {
        self.roots.data.join("containers").join(id.as_str())
    }

    pub fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.data_dir(id).join("log")
    }

    /// Relative to the mount point of every cgroup hierarchy.
    pub fn cgroup_path(&self, id: &ContainerId) -> PathBuf {
        self.cgroups.container(id)
    }

    pub async fn kill_cgroup(&self, id: &ContainerId) {
        self.cgroups.kill(id).await;
    }

    /// How a shim starts the engine again: the arguments of this very process.
    pub fn engine_command(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        vec![
            "--data-root".to_owned(),
            text(&self.roots.data),
            "--run-root".to_owned(),
            text(&self.roots.run),
            "--host".to_owned(),
            format!("unix://{}", text(&self.roots.socket)),
            "engine".to_owned(),
            "run".to_owned(),
        ]
    }

    /// Ids in the names of cgroups that are there.
    pub fn cgroup_ids(&self) -> Vec<ContainerId> {
        self.cgroups.ids()
    }

    /// Makes a container's directories and its log, where they are missing.
    pub fn make_data_dir(&self, id: &ContainerId) -> Result<(), EngineError> {
        let dir = self.data_dir(id);
        for part in ["upper", "work"] {
            // Not the mode of one that exists: the upper directory's is that of the container's
            // `/`, which is the container's to change.
            if !dir.join(part).is_dir() {
                private_dir(&dir.join(part))?;
                if part == "upper" {
                    set_mode(&dir.join(part), 0o755)?;
                }
            }
        }
        // Followers may come before the first start; the shim appends to what is there.
        let log = self.log_path(id);
        if parts::list(&log).is_ok_and(|parts| !parts.is_empty()) {
            return Ok(());
        }
        create_log(&log)
    }

    // Run records.

    /// Facts that outlive the engine but not the boot: tmpfs, no fsync, tmp and rename.
    pub fn save_run_record(&self, id: &ContainerId, run: &RunRecord) {
        let dir = self.run_dir(id);
        let save = || -> std::io::Result<()> {
            std::fs::create_dir_all(&dir)?;
            let bytes = serde_json::to_vec(run).expect("a run record serialises to JSON");
            std::fs::write(dir.join("run.json.tmp"), bytes)?;
            std::fs::rename(dir.join("run.json.tmp"), dir.join("run.json"))
        };
        if let Err(error) = save() {
            tracing::warn!(container = id.short(), %error, "cannot keep the run record");
        }
    }

    pub fn run_record(&self, id: &ContainerId) -> RunRecord {
        std::fs::read(self.run_dir(id).join("run.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Notes on disk that the container has just started, as a file's time: the run directory
    /// forgets with the boot, and a record would have to wait for the disk (HAZARDS L34, L38).
    pub fn mark_started(&self, id: &ContainerId) {
        let mark = || {
            let file = std::fs::File::create(self.data_dir(id).join(STARTED))?;
            file.set_modified(std::time::SystemTime::now())
        };
        if let Err(error) = mark() {
            tracing::warn!(container = id.short(), %error, "cannot note the start");
        }
    }

    /// When the container last started, in whatever boot; nanoseconds since the epoch.
    pub fn last_start(&self, id: &ContainerId) -> Option<u64> {
        let written = std::fs::metadata(self.data_dir(id).join(STARTED)).ok()?;
        let since = written.modified().ok()?;
        let since = since.duration_since(std::time::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_nanos()).ok()
    }

    /// Whether the machine has booted since an engine last used this run directory; notes this
    /// boot. Nothing that a run directory of another boot says about processes is true (L38).
    pub fn notice_boot(&self) -> Result<bool, EngineError> {
        let path = self.roots.run.join("boot_id");
        let failed = |action, path: &Path| {
            let path = path.display().to_string();
            move |source| EngineError::File {
                action,
                path,
                source,
            }
        };
        let source = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = std::fs::read_to_string(source).map_err(failed("read", source))?;
        if std::fs::read_to_string(&path).is_ok_and(|known| known == boot_id) {
            return Ok(false);
        }
        std::fs::write(&path, boot_id).map_err(failed("write", &path))?;
        Ok(true)
    }

    // Other containers.

    pub fn register(&self, id: &ContainerId, view: watch::Receiver<Arc<View>>) {
        self.lock_views().insert(id.clone(), view);
    }

    fn lock_views(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<ContainerId, watch::Receiver<Arc<View>>>> {
        // Each access is one map operation; a panic elsewhere leaves nothing half-done.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn views(&self) -> Vec<Arc<View>> {
        self.lock_views()
            .values()
            .map(|view| view.borrow().clone())
            .collect()
    }

    /// The container that `mode` names, and the pid of its init.
    pub fn namespace_owner(
        &self,
        record: &ContainerRecord,
        other: &str,
    ) -> Result<(ContainerId, i32), EngineError> {
        let id = self.names.find(other);
        let views = self.lock_views();
        let view = match id.and_then(|id| views.get(&id)) {
            Some(view) => Some(view.borrow().clone()),
            None => views
                .iter()
                .find(|(id, _)| id.as_str().starts_with(other))
                .map(|(_, view)| view.borrow().clone()),
        };
        let view = view.ok_or_else(|| EngineError::NoSuchContainer {
            name: other.to_owned(),
        })?;
        match (&view.start, view.is_running()) {
            (Some(start), true) => Ok((view.record.id.clone(), start.pid)),
            _ => Err(EngineError::NamespaceOwnerDown {
                name: record.config.name.clone(),
                other: other.to_owned(),
            }),
        }
    }

    /// Names of the containers that mount the volume.
    pub fn volume_users(&self, volume: &str) -> Vec<String> {
        self.views()
            .iter()
            .filter(|view| {
                view.record
                    .volumes
                    .iter()
                    .any(|mount| mount.volume == volume)
            })
            .map(|view| view.record.config.name.clone())
            .collect()
    }

    pub fn announce(&self, record: &ContainerRecord) {
        // Nobody listening is no fault.
        let _ = self.changes.send(ContainerChange {
            id: record.id.to_string(),
            name: record.config.name.clone(),
        });
    }

    // Images.

    pub fn image_of(&self, record: &ContainerRecord) -> Result<Image, EngineError> {
        Ok(self.images.get(&record.image_id)?)
    }

    pub fn image_by_reference(&self, reference: &str) -> Result<Image, EngineError> {
        Ok(self.images.get(reference)?)
    }

    fn image_config(&self, record: &ContainerRecord) -> Option<oci_spec::image::Config> {
        self.image_of(record).ok()?.config.config().clone()
    }

    /// A tree of an image, to be mounted read-only. One layer is a directory; several would need
    /// an overlay of their own.
    pub fn image_tree(
        &self,
        reference: &str,
        subpath: Option<&Path>,
    ) -> Result<ResolvedSource, EngineError> {
        let image = self.image_by_reference(reference)?;
        let [layer] = image.layers.as_slice() else {
            return Err(EngineError::ImageMountLayers {
                image: reference.to_owned(),
            });
        };
        Ok(ResolvedSource::Bind {
            path: layer.clone(),
            subpath: subpath.map(Path::to_owned),
            propagation: None,
            recursive: None,
        })
    }

    /// What must not be seen through the image: the engine's own state, when the image is a
    /// directory of the host that contains it.
    pub fn hidden_paths(&self, image: &Image) -> Vec<PathBuf> {
        // Unpacked layers are the engine's own and hold nothing of its state.
        let outside = |layer: &&PathBuf| !layer.starts_with(&self.roots.data);
        image
            .layers
            .iter()
            .filter(outside)
            .flat_map(|layer| {
                super::container::seen_in(layer, &[&self.roots.data, &self.roots.run])
            })
            .collect()
    }

    /// `stop_signal:`, else the image's, else SIGTERM.
    pub fn stop_signal(&self, record: &ContainerRecord) -> i32 {
        let of_image = || {
            self.image_config(record)
                .and_then(|config| config.stop_signal().clone())
        };
        record
            .config
            .stop_signal
            .clone()
            .or_else(of_image)
            .and_then(|signal| super::container::parse_signal(&signal).ok())
            .unwrap_or(nix::sys::signal::Signal::SIGTERM as i32)
    }

    /// The check of the file, its gaps filled from the image's.
    pub fn healthcheck(&self, record: &ContainerRecord) -> Option<Check> {
        let image = self.image_of(record).ok();
        let of_image =
            image
                .and_then(|image| image.healthcheck)
                .map(|check| crate::compose::Healthcheck {
                    test: Some(check.test).filter(|test| !test.is_empty()),
                    interval: check.interval,
                    timeout: check.timeout,
                    start_period: check.start_period,
                    start_interval: check.start_interval,
                    retries: check.retries,
                });
        let written = match (&record.config.healthcheck, of_image) {
            (Some(written), Some(image)) => crate::compose::Healthcheck {
                test: written.test.clone().or(image.test),
                interval: written.interval.or(image.interval),
                timeout: written.timeout.or(image.timeout),
                start_period: written.start_period.or(image.start_period),
                start_interval: written.start_interval.or(image.start_interval),
                retries: written.retries.or(image.retries),
            },
            (Some(written), None) => written.clone(),
            (None, Some(image)) => image,
            (None, None) => return None,
        };
        Check::new(&written)
    }

    /// Entry point and command, joined as `ps` shows them.
    pub fn display_command(&self, record: &ContainerRecord) -> String {
        let image = self.image_config(record);
        let of_image = |part: fn(&oci_spec::image::Config) -> &Option<Vec<String>>| {
            image
                .as_ref()
                .and_then(|config| part(config).clone())
                .unwrap_or_default()
        };
        let config = &record.config;
        let (entrypoint, default_command) = match &config.entrypoint {
            Some(entrypoint) => (entrypoint.clone(), Vec::new()),
            None => (
                of_image(oci_spec::image::Config::entrypoint),
                of_image(oci_spec::image::Config::cmd),
            ),
        };
        let command = config.command.clone().unwrap_or(default_command);
        [entrypoint, command].concat().join(" ")
    }

    // Volumes.

    /// Where a volume stands and how it is mounted; filled from the image if this is its first use.
    pub async fn volume_mount(
        &self,
        mount: &VolumeMountRecord,
        image: &Image,
    ) -> Result<ResolvedMount, EngineError> {
        let place = match self.volumes.path(&mount.volume) {
            // Half of a creation or of a removal; what was in it, if anything, was given up.
            Err(VolumeError::NotFound { .. }) if mount.anonymous => {
                self.volumes.create(&crate::plan::VolumeConfig {
                    name: mount.volume.clone(),
                    ..crate::plan::VolumeConfig::default()
                })?;
                self.volumes.path(&mount.volume)?
            }
            place => place?,
        };
        let source = match place {
            VolumeMount::Directory(dir) => {
                if !mount.nocopy && mount.subpath.is_none() {
                    let volumes = self.volumes.clone();
                    let name = mount.volume.clone();
                    let layers = image.layers.clone();
                    let target = mount.target.clone();
                    let filled = tokio::task::spawn_blocking(move || {
                        volumes.populate(&name, &layers, &target)
                    });
                    match filled.await {
                        Ok(result) => result.map(drop)?,
                        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                    }
                }
                bind(dir, mount.subpath.clone())
            }
            VolumeMount::Mount {
                kind,
                source,
                options,
            } => match kind.as_str() {
                "tmpfs" => ResolvedSource::Tmpfs { options },
                "none" | "bind" => bind(source.into(), mount.subpath.clone()),
                _ => {
                    return Err(EngineError::VolumeKind {
                        volume: mount.volume.clone(),
                        kind,
                    });
                }
            },
        };
        Ok(ResolvedMount {
            source,
            target: mount.target.clone(),
            read_only: mount.read_only,
        })
    }

    // Networks.

    /// Takes over the network of a container that runs: its links stay, its names and published
    /// ports are made to hold again.
    pub async fn readopt_network(&self, record: &ContainerRecord, pid: i32) -> Attached {
        let config = &record.config;
        let crate::plan::NetworkMode::Networks(endpoints) = &config.network else {
            return Attached::default();
        };
        if endpoints.is_empty() {
            return Attached::default();
        }
        let adopt = async {
            let netns = Netns::open(Path::new(&format!("/proc/{pid}/ns/net"))).await?;
            let hostname = super::container::hostname(record);
            self.networks
                .adopt(&Attach {
                    id: record.id.as_str(),
                    name: &config.name,
                    hostname: &hostname,
                    domainname: config.domainname.as_deref(),
                    netns: &netns,
                    endpoints,
                    ports: &config.ports,
                    expose: &config.expose,
                    dns: &config.dns,
                    dns_search: &config.dns_search,
                    dns_opt: &config.dns_opt,
                    extra_hosts: &config.extra_hosts,
                })
                .await
        };
        match adopt.await {
            Ok(attachment) => Attached {
                endpoints: attachment.endpoints,
                ports: attachment.ports,
            },
            Err(error) => {
                tracing::error!(container = %config.name, error = &error as &dyn std::error::Error, "cannot take over the network");
                Attached::default()
            }
        }
    }

    // Removal.

    /// Removes everything of a container that has ended: leases, volumes made for it, its record,
    /// its name, its directories.
    ///
    /// The record goes when nothing is left that can fail: until then a removal can be repeated,
    /// and a crash leaves a container that is still listed.
    pub async fn forget(
        self: Arc<Shared>,
        record: &ContainerRecord,
        volumes: bool,
    ) -> Result<(), EngineError> {
        let id = &record.id;
        self.networks.release(id.as_str()).await?;
        if volumes {
            for mount in record.volumes.iter().filter(|mount| mount.anonymous) {
                let users = self.volume_users(&mount.volume);
                // Another container may have inherited it (a replacement): then it stays.
                if users.iter().any(|user| *user != record.config.name) {
                    continue;
                }
                match self.volumes.remove(&mount.volume, &[]) {
                    Ok(()) | Err(VolumeError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.unlist(record).await
    }

    /// Takes back a container's record, name and directories.
    pub async fn unlist(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        let id = &record.id;
        let mut batch = Batch::default();
        batch.remove(Table::Containers, id.as_str());
        self.store.commit_async(batch).await?;
        self.lock_views().remove(id);
        self.names.release(&record.config.name, id);
        self.discard(&self.data_dir(id), id);
        if let Err(error) = std::fs::remove_dir_all(self.run_dir(id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(container = id.short(), %error, "cannot remove the run directory");
        }
        Ok(())
    }

    /// A writable layer can hold a million files: it leaves its place at once and is deleted
    /// behind the caller's back. What a crash leaves in `trash` the next engine deletes.
    fn discard(&self, dir: &Path, id: &ContainerId) {
        let trash = self.roots.data.join("trash").join(id.as_str());
        let moved = std::fs::rename(dir, &trash);
        let victim = if moved.is_ok() { trash } else { dir.to_owned() };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = std::fs::remove_dir_all(&victim)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(dir = %victim.display(), %error, "cannot delete");
            }
        });
    }
}

fn bind(path: PathBuf, subpath: Option<PathBuf>) -> ResolvedSource {
    ResolvedSource::Bind {
        path,
        subpath,
        propagation: None,
        recursive: None,
    }
}

/// Makes a directory that only its owner enters, and repairs the mode of one that exists (S49).
pub fn private_dir(dir: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::PermissionsExt;
    let make = || -> std::io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
    };
    make().map_err(|source| EngineError::File {
        action: "create",
        path: dir.display().to_string(),
        source,
    })
}

fn create_log(path: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options
        .open(path)
        .map(drop)
        .map_err(|source| EngineError::File {
            action: "create",
            path: path.display().to_string(),
            source,
        })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), EngineError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|source| {
        EngineError::File {
            action: "set the mode of",
            path: path.display().to_string(),
            source,
        }
    })
}
