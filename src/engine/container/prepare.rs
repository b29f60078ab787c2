//! A start: from a container's record to a running process, and back to nothing when a step fails.
//!
//! What does not depend on each other runs at the same time: the network namespace with its
//! endpoints, and the volumes. The program is executed only after the firewall transaction that
//! publishes its ports (HAZARDS N25). No step waits for a disk, except a volume's first filling.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::devices;
use super::{ContainerRecord, Shim};
use super::{
    DeviceNode, JoinedNamespaces, NameFiles, NetworkNamespace, ResolvedMount, ResolvedSource,
    SpecInput, Specified,
};
use crate::engine::image::Image;
use crate::engine::network::{Attach, Attachment, Netns};
use crate::engine::{EngineError, Shared};
use crate::plan::{MountSource, NamespaceMode, NetworkMode, ObservedEndpoint, ObservedPort};
use crate::shim::protocol::{self, Bundle, Event, InjectedFile, Rootfs, Spawn, StartRecord};

/// A container that has just been started.
pub struct Started {
    pub shim: Shim,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub start: StartRecord,
    pub attached: Attached,
}

/// Its places on networks, as the kernel has them now.
#[derive(Debug, Clone, Default)]
pub struct Attached {
    pub endpoints: Vec<ObservedEndpoint>,
    pub ports: Vec<ObservedPort>,
}

/// Starts the container; on failure nothing of it is left but its run directory's files.
pub async fn start(shared: &Shared, record: &ContainerRecord) -> Result<Started, EngineError> {
    let result = try_start(shared, record).await;
    if result.is_err() {
        // Idempotent: takes down as much as there was.
        if let Err(error) = shared.networks.detach(record.id.as_str()).await {
            tracing::warn!(container = %record.config.name, error = &error as &dyn std::error::Error, "cannot undo the network");
        }
        shared.kill_cgroup(&record.id).await;
        Shim::put_down(&shared.run_dir(&record.id)).await;
    }
    result
}

async fn try_start(shared: &Shared, record: &ContainerRecord) -> Result<Started, EngineError> {
    let image = shared.image_of(record)?;
    // A crash may have come between the record and the directories.
    shared.make_data_dir(&record.id)?;
    let run_dir = fresh_run_dir(shared, record)?;
    let (network, mounts) = tokio::join!(
        network(shared, record, &run_dir),
        mounts(shared, record, &image, &run_dir)
    );
    let (network, mounts) = (network?, mounts?);
    let bundle = bundle(shared, record, &image, &network, mounts)?;
    // The bundle is plain data; serialising it cannot fail.
    let bytes = serde_json::to_vec(&bundle).expect("a bundle serialises to JSON");
    write(&run_dir.join(protocol::file::BUNDLE), &bytes)?;

    let failed = |action| {
        let name = record.config.name.clone();
        move |source: std::io::Error| EngineError::File {
            action,
            path: name,
            source,
        }
    };
    let (ours, theirs) =
        crate::sys::socket::pair().map_err(failed("make the control socket of container"))?;
    let mut fds = vec![theirs];
    let has_netns = network.netns.is_some();
    fds.extend(network.netns);
    fds.extend(network.reservations);
    let spawn = Spawn {
        dir: run_dir,
        has_netns,
    };
    shared
        .spawner
        .spawn(&spawn, fds)
        .await
        .map_err(failed("spawn the shim of container"))?;
    let (shim, mut events) =
        Shim::attach(ours).map_err(failed("use the control socket of container"))?;
    loop {
        match events.recv().await {
            Some(Event::Started(start)) => {
                return Ok(Started {
                    shim,
                    events,
                    start,
                    attached: network.attached,
                });
            }
            Some(Event::StartFailed { failure }) => {
                return Err(EngineError::Start {
                    name: record.config.name.clone(),
                    source: failure,
                });
            }
            Some(_) => {}
            None => {
                return Err(EngineError::ShimDied {
                    name: record.config.name.clone(),
                });
            }
        }
    }
}

/// Empties the run directory of an earlier run's facts. 0700: it holds the shim's socket (S48).
fn fresh_run_dir(shared: &Shared, record: &ContainerRecord) -> Result<PathBuf, EngineError> {
    let dir = shared.run_dir(&record.id);
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir);
    made.map_err(|source| file_error("create", &dir, source))?;
    for name in [
        protocol::file::SOCKET,
        protocol::file::SHIM,
        protocol::file::START,
        protocol::file::EXIT,
    ] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error("remove", &dir.join(name), error));
            }
            _ => {}
        }
    }
    Ok(dir)
}

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> EngineError {
    EngineError::File {
        action,
        path: path.display().to_string(),
        source,
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    std::fs::write(path, bytes).map_err(|source| file_error("write", path, source))
}

/// What a start needs of its network.
struct Network {
    netns: Option<OwnedFd>,
    reservations: Vec<OwnedFd>,
    attached: Attached,
    /// The container's own `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`.
    files: Option<NetworkFiles>,
    namespace: NetworkNamespace,
    hostname: String,
}

struct NetworkFiles {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    hostname: PathBuf,
}

async fn network(
    shared: &Shared,
    record: &ContainerRecord,
    run_dir: &Path,
) -> Result<Network, EngineError> {
    let config = &record.config;
    let hostname = hostname(record);
    let own_files = |hosts: &str, resolv_conf: &str| -> Result<NetworkFiles, EngineError> {
        let files = NetworkFiles {
            hosts: run_dir.join("hosts"),
            resolv_conf: run_dir.join("resolv.conf"),
            hostname: run_dir.join("hostname"),
        };
        write(&files.hosts, hosts.as_bytes())?;
        write(&files.resolv_conf, resolv_conf.as_bytes())?;
        write(&files.hostname, format!("{hostname}\n").as_bytes())?;
        Ok(files)
    };
    let attach = |netns, endpoints| Attach {
        id: record.id.as_str(),
        name: &config.name,
        hostname: &hostname,
        domainname: config.domainname.as_deref(),
        netns,
        endpoints,
        ports: &config.ports,
        expose: &config.expose,
        dns: &config.dns,
        dns_search: &config.dns_search,
        dns_opt: &config.dns_opt,
        extra_hosts: &config.extra_hosts,
    };
    match &config.network {
        NetworkMode::Networks(_) | NetworkMode::None => {
            let endpoints = match &config.network {
                NetworkMode::Networks(endpoints) => endpoints.as_slice(),
                _ => &[],
            };
            let netns = Netns::create().await?;
            let Attachment {
                endpoints,
                ports,
                reservations,
                hosts_file,
                resolv_conf,
            } = shared.networks.attach(&attach(&netns, endpoints)).await?;
            Ok(Network {
                netns: Some(descriptor(&netns, record)?),
                reservations,
                attached: Attached { endpoints, ports },
                files: Some(own_files(&hosts_file, &resolv_conf)?),
                namespace: NetworkNamespace::Own,
                hostname,
            })
        }
        NetworkMode::Host => {
            let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let extra = extra_hosts(&config.extra_hosts);
            Ok(Network {
                netns: None,
                reservations: Vec::new(),
                attached: Attached::default(),
                files: Some(own_files(&format!("{hosts}{extra}"), &resolv_conf)?),
                namespace: NetworkNamespace::Host,
                hostname,
            })
        }
        NetworkMode::Container(other) => {
            let (owner, pid) = shared.namespace_owner(record, other)?;
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let netns =
                std::fs::File::open(&path).map_err(|source| file_error("open", &path, source))?;
            let dir = shared.run_dir(&owner);
            // As Docker: who is at the same address goes by the same name.
            let owners_name = std::fs::read_to_string(dir.join("hostname"))
                .ok()
                .map(|name| name.trim_end().to_owned());
            Ok(Network {
                netns: Some(netns.into()),
                reservations: Vec::new(),
                attached: Attached::default(),
                // Docker shares the owner's files; so do we, as long as the owner has them.
                files: dir.join("hosts").exists().then(|| NetworkFiles {
                    hosts: dir.join("hosts"),
                    resolv_conf: dir.join("resolv.conf"),
                    hostname: dir.join("hostname"),
                }),
                namespace: NetworkNamespace::Joined,
                hostname: owners_name.unwrap_or(hostname),
            })
        }
    }
}

fn extra_hosts(entries: &[(String, String)]) -> String {
    entries
        .iter()
        .filter(|(_, address)| address.parse::<IpAddr>().is_ok())
        .map(|(host, address)| format!("{address}\t{host}\n"))
        .collect()
}

/// `hostname:`, else the host's own in its UTS namespace, else the short id as Docker does.
pub fn hostname(record: &ContainerRecord) -> String {
    let config = &record.config;
    if let Some(hostname) = &config.hostname {
        return hostname.clone();
    }
    if config.uts == NamespaceMode::Host || config.network == NetworkMode::Host {
        return nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_else(|_| record.id.short().to_owned());
    }
    record.id.short().to_owned()
}

/// The host side of every mount, made if it has to be, and files with content.
struct Mounts {
    mounts: Vec<ResolvedMount>,
    files: Vec<InjectedFile>,
}

async fn mounts(
    shared: &Shared,
    record: &ContainerRecord,
    image: &Image,
    run_dir: &Path,
) -> Result<Mounts, EngineError> {
    let mut mounts = Vec::new();
    for mount in &record.config.mounts {
        match &mount.source {
            MountSource::Bind {
                path,
                propagation,
                create_host_path,
                recursive,
            } => {
                if !path.exists() {
                    if !create_host_path {
                        return Err(EngineError::BindSourceMissing {
                            path: path.display().to_string(),
                        });
                    }
                    std::fs::create_dir_all(path)
                        .map_err(|source| file_error("create", path, source))?;
                }
                mounts.push(ResolvedMount {
                    source: ResolvedSource::Bind {
                        path: path.clone(),
                        subpath: None,
                        propagation: propagation.clone(),
                        recursive: recursive.clone(),
                    },
                    target: mount.target.clone(),
                    read_only: mount.read_only,
                });
            }
            MountSource::Tmpfs { options } => mounts.push(ResolvedMount {
                source: ResolvedSource::Tmpfs {
                    options: options.clone(),
                },
                target: mount.target.clone(),
                read_only: mount.read_only,
            }),
            MountSource::Image { reference, subpath } => {
                mounts.push(ResolvedMount {
                    source: shared.image_tree(reference, subpath.as_deref())?,
                    target: mount.target.clone(),
                    // Images never change.
                    read_only: true,
                });
            }
            // Their volumes stand in the record, below.
            MountSource::Volume { .. } => {}
        }
    }
    for volume in &record.volumes {
        mounts.push(shared.volume_mount(volume, image).await?);
    }
    let mut files = Vec::new();
    for (n, file) in record.config.files.iter().enumerate() {
        let source = run_dir.join(format!("file-{n}"));
        place_file(&source, file)?;
        files.push(InjectedFile {
            source,
            target: file.target.clone(),
        });
    }
    Ok(Mounts { mounts, files })
}

fn place_file(path: &Path, file: &crate::plan::FileConfig) -> Result<(), EngineError> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
    let place = || -> std::io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        out.write_all(&file.content)?;
        fchown(&out, Some(file.uid), Some(file.gid))?;
        // After the chown, which clears set-id bits; and beyond any umask.
        out.set_permissions(std::fs::Permissions::from_mode(file.mode))
    };
    place().map_err(|source| file_error("write", path, source))
}

fn bundle(
    shared: &Shared,
    record: &ContainerRecord,
    image: &Image,
    network: &Network,
    mounts: Mounts,
) -> Result<Bundle, EngineError> {
    let config = &record.config;
    let joined = |mode: &NamespaceMode, kind: &str| -> Result<Option<PathBuf>, EngineError> {
        match mode {
            NamespaceMode::Private | NamespaceMode::Host => Ok(None),
            NamespaceMode::Container(other) => {
                let (_, pid) = shared.namespace_owner(record, other)?;
                Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/{kind}"))))
            }
        }
    };
    let (pid, ipc) = (joined(&config.pid, "pid")?, joined(&config.ipc, "ipc")?);
    let (uts, cgroup) = (
        joined(&config.uts, "uts")?,
        joined(&config.cgroup, "cgroup")?,
    );
    let shm = match &config.ipc {
        NamespaceMode::Container(other) => {
            let (_, pid) = shared.namespace_owner(record, other)?;
            Some(PathBuf::from(format!("/proc/{pid}/root/dev/shm")))
        }
        _ => None,
    };
    let of_spec = |source| EngineError::Spec {
        name: config.name.clone(),
        source,
    };
    let mut nodes: Vec<DeviceNode> = Vec::new();
    for device in &config.devices {
        nodes.extend(devices::resolve(device).map_err(of_spec)?);
    }
    let host_devices = match config.privileged {
        true => devices::host().map_err(of_spec)?,
        false => Vec::new(),
    };
    let image_config = image.config.config().as_ref();
    let files = network.files.as_ref();
    let Specified {
        mut spec,
        default_seccomp,
    } = super::spec(&SpecInput {
        config,
        image: image_config,
        mounts: &mounts.mounts,
        network: network.namespace,
        hostname: &network.hostname,
        files: NameFiles {
            hosts: files.map(|files| files.hosts.as_path()),
            hostname: files.map(|files| files.hostname.as_path()),
            resolv_conf: files.map(|files| files.resolv_conf.as_path()),
        },
        joined: JoinedNamespaces {
            pid: pid.as_deref(),
            ipc: ipc.as_deref(),
            shm: shm.as_deref(),
            uts: uts.as_deref(),
            cgroup: cgroup.as_deref(),
        },
        // The specification counts from the hierarchy's root.
        cgroup: &Path::new("/").join(shared.cgroup_path(&record.id)),
        devices: &nodes,
        host_devices: &host_devices,
        host: &shared.host,
        seccomp_profile: seccomp_profile(config)?.as_deref(),
    })
    .map_err(of_spec)?;
    hide(&mut spec, shared.hidden_paths(image));
    let data_dir = shared.data_dir(&record.id);
    Ok(Bundle {
        container_id: record.id.to_string(),
        spec,
        rootfs: Rootfs::Overlay {
            lower: image.layers.clone(),
            upper: data_dir.join("upper"),
            work: data_dir.join("work"),
        },
        log_path: shared.log_path(&record.id),
        log_rotation: Some(super::log_rotation(config.logging.as_ref())?),
        is_log_torn: record.is_log_torn(),
        user: super::user(config, image_config).map(str::to_owned),
        group_add: config.group_add.clone(),
        default_seccomp,
        init: config.init,
        open_stdin: config.open_stdin,
        cgroup: shared.cgroup_path(&record.id),
        stop_signal: shared.stop_signal(record),
        stop_grace_ms: config.stop_timeout.map_or(10_000, |grace| {
            u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)
        }),
        files: mounts.files,
        engine_command: shared.engine_command(),
        engine_lock: shared.roots.run.join("engine.lock"),
    })
}

/// The shim holds the namespace from here on; ours is closed when the start is over (L36).
fn descriptor(netns: &Netns, record: &ContainerRecord) -> Result<OwnedFd, EngineError> {
    netns
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| EngineError::File {
            action: "keep the network namespace of",
            path: record.config.name.clone(),
            source,
        })
}

/// Content of the profile file that `seccomp=FILE` names, if one is named.
fn seccomp_profile(config: &crate::plan::ContainerConfig) -> Result<Option<String>, EngineError> {
    let named = config.security_opt.iter().find_map(|option| {
        let file = option
            .strip_prefix("seccomp=")
            .or_else(|| option.strip_prefix("seccomp:"))?;
        (file != "unconfined" && file != "builtin" && !file.trim_start().starts_with('{'))
            .then_some(file)
    });
    let Some(file) = named else { return Ok(None) };
    let path = Path::new(file);
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(|source| file_error("read the seccomp profile", path, source))
}

/// Adds paths to what the container cannot look into.
fn hide(spec: &mut oci_spec::runtime::Spec, paths: Vec<PathBuf>) {
    if paths.is_empty() {
        return;
    }
    if let Some(linux) = spec.linux_mut() {
        let masked = linux.masked_paths_mut().get_or_insert_default();
        masked.extend(paths.iter().map(|path| path.display().to_string()));
    }
}
