//! Compose words to engine words: a service and its number become a [`ContainerConfig`].
//!
//! Decides names, labels, aliases and attach order. Knows nothing of what exists: the names of
//! other containers that a service refers to are handed in.

use std::collections::{BTreeMap, HashMap};

use super::cause::locate;
use super::files;
use super::graph::parent_service;
use super::machine::{Machine, known_name};
use super::{
    ContainerConfig, EndpointConfig, MountConfig, MountSource, NamespaceMode, NetworkConfig,
    NetworkMode, Observed, ObservedContainer, PlanError, VolumeConfig, labels,
};
use crate::compose::{Mount, MountKind, Network, Project, Service, Volume};

/// Names of the containers of each service, in order of their numbers.
pub type ContainerNames<'a> = HashMap<&'a str, Vec<String>>;

/// Which container of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity<'a> {
    /// Numbers count from 1.
    Replica(u32),
    /// A container of `run`.
    OneOff {
        /// Random hex digits that make the name unique.
        slug: &'a str,
        /// Answer to the service's name and aliases.
        use_aliases: bool,
    },
}

/// A container to create, and what the user should know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    pub config: ContainerConfig,
    pub warnings: Vec<String>,
}

/// The name of a service's container.
pub fn container_name(project: &Project, service: &str, identity: Identity<'_>) -> String {
    let custom = project
        .services
        .get(service)
        .and_then(|s| s.container_name.clone());
    let (name, join) = (&project.name, project.separator());
    match identity {
        Identity::Replica(number) => {
            custom.unwrap_or_else(|| format!("{name}{join}{service}{join}{number}"))
        }
        Identity::OneOff { slug, .. } => format!("{name}{join}{service}{join}run{join}{slug}"),
    }
}

/// The image of a service: as written, or the name that a build gives it.
pub fn image_reference(project: &Project, name: &str, service: &Service) -> String {
    service
        .image
        .clone()
        .unwrap_or_else(|| format!("{}{}{name}", project.name, project.separator()))
}

/// The name that a container bears while it waits to replace another one: the old one's short id
/// keeps it unique, and lets the next command recognise it after an interruption.
pub(super) fn temporary_name(replaced_id: &str, name: &str) -> String {
    format!("{}_{name}", replaced_id.get(..12).unwrap_or(replaced_id))
}

/// The lasting name behind a temporary one.
pub fn lasting_name(temporary: &str) -> Option<&str> {
    let (id, name) = temporary.split_once('_')?;
    let is_id = id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
    (is_id && !name.is_empty()).then_some(name)
}

/// The names that a command which makes one container more (`run`) needs to resolve references.
pub fn container_names<'a>(project: &'a Project, observed: &Observed) -> ContainerNames<'a> {
    let machine = Machine::new(project, observed);
    let name = |c: &&ObservedContainer| known_name(c).to_owned();
    let services = project.services.keys();
    services
        .map(|service| {
            let names = machine.replicas(service).iter().map(name).collect();
            (service.as_str(), names)
        })
        .collect()
}

/// The whole configuration of one container.
pub fn container(
    project: &Project,
    name: &str,
    service: &Service,
    identity: Identity<'_>,
    config_hash: &str,
    names: &ContainerNames<'_>,
) -> Result<Converted, PlanError> {
    let mut warnings = Vec::new();
    let mut mounts = mounts(project, name, service)?;
    let files = files::place(project, name, service, &mut mounts, &mut warnings)?;
    let namespace = |mode: Option<&str>, what| namespace(project, name, mode, what, names);
    let config = ContainerConfig {
        name: container_name(project, name, identity),
        image: image_reference(project, name, service),
        platform: service.platform.clone(),
        command: service.command.clone(),
        entrypoint: service.entrypoint.clone(),
        environment: service
            .environment
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        working_dir: service.working_dir.clone(),
        user: service.user.clone(),
        group_add: service.group_add.clone(),
        hostname: service.hostname.clone(),
        domainname: service.domainname.clone(),
        labels: container_labels(project, name, service, identity, config_hash),
        annotations: service.annotations.clone(),
        tty: service.tty,
        open_stdin: service.stdin_open,
        init: service.init.unwrap_or(false),
        read_only: service.read_only,
        privileged: service.privileged,
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        security_opt: service.security_opt.clone(),
        devices: service.devices.clone(),
        device_cgroup_rules: service.device_cgroup_rules.clone(),
        sysctls: service.sysctls.clone(),
        ulimits: service.ulimits.clone(),
        shm_size: service.shm_size,
        pid: namespace(service.pid.as_deref(), "pid namespace")?,
        ipc: namespace(service.ipc.as_deref(), "ipc namespace")?,
        uts: namespace(service.uts.as_deref(), "uts namespace")?,
        cgroup: namespace(service.cgroup.as_deref(), "cgroup namespace")?,
        cgroup_parent: service.cgroup_parent.clone(),
        resources: service.resources.clone(),
        mounts,
        volumes_from: volumes_from(project, name, service, names)?,
        files,
        network: network_mode(project, name, service, identity, names)?,
        ports: service.ports.clone(),
        expose: service.expose.clone(),
        dns: service.dns.clone(),
        dns_search: service.dns_search.clone(),
        dns_opt: service.dns_opt.clone(),
        extra_hosts: service.extra_hosts.clone(),
        healthcheck: service.healthcheck.clone(),
        restart: service.restart.unwrap_or_default(),
        stop_signal: service.stop_signal.clone(),
        stop_timeout: service.stop_grace_period,
        logging: service.logging.clone(),
    };
    Ok(Converted { config, warnings })
}

fn container_labels(
    project: &Project,
    name: &str,
    service: &Service,
    identity: Identity<'_>,
    config_hash: &str,
) -> BTreeMap<String, String> {
    let mut all = service.labels.clone();
    let mut set = |key: &str, value: String| {
        all.insert(key.to_owned(), value);
    };
    set(labels::PROJECT, project.name.to_string());
    set(labels::SERVICE, name.to_owned());
    set(labels::CONFIG_HASH, config_hash.to_owned());
    set(labels::VERSION, labels::OUR_VERSION.to_owned());
    set(
        labels::WORKING_DIR,
        project.working_dir.display().to_string(),
    );
    set(labels::CONFIG_FILES, join_paths(&project.config_files));
    if !project.environment_files.is_empty() {
        set(
            labels::ENVIRONMENT_FILE,
            join_paths(&project.environment_files),
        );
    }
    set(
        labels::DEPENDS_ON,
        labels::write_depends_on(&service.depends_on),
    );
    match identity {
        Identity::Replica(number) => {
            set(labels::CONTAINER_NUMBER, number.to_string());
            set(labels::ONE_OFF, "False".to_owned());
        }
        Identity::OneOff { slug, .. } => {
            set(labels::SLUG, slug.to_owned());
            set(labels::ONE_OFF, "True".to_owned());
        }
    }
    all
}

fn join_paths(paths: &[std::path::PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// The first container of a service, whose namespace is shared.
fn first_container(
    project: &Project,
    service: &str,
    parent: &str,
    what: &'static str,
    names: &ContainerNames<'_>,
) -> Result<String, PlanError> {
    names
        .get(parent)
        .and_then(|replicas| replicas.first())
        .cloned()
        .ok_or_else(|| PlanError::NoNamespaceParent {
            service: service.to_owned(),
            what,
            parent: parent.to_owned(),
            location: locate(project, &format!("services.{service}")),
        })
}

fn namespace(
    project: &Project,
    service: &str,
    mode: Option<&str>,
    what: &'static str,
    names: &ContainerNames<'_>,
) -> Result<NamespaceMode, PlanError> {
    if let Some(parent) = parent_service(mode) {
        return first_container(project, service, parent, what, names)
            .map(NamespaceMode::Container);
    }
    // `shareable` and `none` of ipc are private namespaces to us: sharing needs no preparation.
    Ok(match mode {
        Some("host") => NamespaceMode::Host,
        Some(mode) => match mode.strip_prefix("container:") {
            Some(container) => NamespaceMode::Container(container.to_owned()),
            None => NamespaceMode::Private,
        },
        None => NamespaceMode::Private,
    })
}

fn network_mode(
    project: &Project,
    name: &str,
    service: &Service,
    identity: Identity<'_>,
    names: &ContainerNames<'_>,
) -> Result<NetworkMode, PlanError> {
    let mode = service.network_mode.as_deref();
    if let Some(parent) = parent_service(mode) {
        return first_container(project, name, parent, "network", names)
            .map(NetworkMode::Container);
    }
    Ok(match mode {
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        Some(mode) => match mode.strip_prefix("container:") {
            Some(container) => NetworkMode::Container(container.to_owned()),
            // `bridge`, or the name of a network that the project does not manage.
            None => NetworkMode::Networks(vec![EndpointConfig {
                network: mode.to_owned(),
                mac_address: service.mac_address.clone(),
                ..EndpointConfig::default()
            }]),
        },
        None if service.networks.is_empty() => NetworkMode::None,
        None => NetworkMode::Networks(endpoints(project, name, service, identity, names)?),
    })
}

fn endpoints(
    project: &Project,
    name: &str,
    service: &Service,
    identity: Identity<'_>,
    names: &ContainerNames<'_>,
) -> Result<Vec<EndpointConfig>, PlanError> {
    let links = links(project, service, names);
    let answers = !matches!(
        identity,
        Identity::OneOff {
            use_aliases: false,
            ..
        }
    );
    let mut wanted: Vec<_> = service.networks.iter().collect();
    wanted.sort_by(|(a_key, a), (b_key, b)| b.priority.cmp(&a.priority).then(a_key.cmp(b_key)));
    let mut endpoints = Vec::with_capacity(wanted.len());
    for (position, (key, place)) in wanted.into_iter().enumerate() {
        let network = project
            .networks
            .get(key)
            .ok_or_else(|| undefined(project, name, "network", key, format!("networks.{key}")))?;
        let mut aliases = Vec::new();
        if answers {
            aliases.push(name.to_owned());
            aliases.extend(place.aliases.iter().filter(|a| *a != name).cloned());
        }
        // A service-wide MAC address belongs to the first network.
        let service_mac = service.mac_address.clone().filter(|_| position == 0);
        endpoints.push(EndpointConfig {
            network: network.name.clone(),
            aliases,
            links: links.clone(),
            ipv4_address: place.ipv4_address,
            ipv6_address: place.ipv6_address,
            mac_address: place.mac_address.clone().or(service_mac),
            interface_name: place.interface_name.clone(),
            gw_priority: place.gw_priority,
            driver_opts: place.driver_opts.clone(),
        });
    }
    Ok(endpoints)
}

/// K3: a link names its alias, and every replica by its short and its long name.
fn links(
    project: &Project,
    service: &Service,
    names: &ContainerNames<'_>,
) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for link in &service.links {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        for (i, container) in names.get(target).into_iter().flatten().enumerate() {
            let number = i + 1;
            if i == 0 {
                all.push((alias.to_owned(), container.clone()));
            }
            let join = project.separator();
            all.push((format!("{target}{join}{number}"), container.clone()));
            let long = format!("{}{join}{target}{join}{number}", project.name);
            if long != *container {
                all.push((long, container.clone()));
            }
        }
    }
    for link in &service.external_links {
        let (container, alias) = link.split_once(':').unwrap_or((link, link));
        all.push((alias.to_owned(), container.to_owned()));
    }
    all
}

fn undefined(
    project: &Project,
    service: &str,
    kind: &'static str,
    name: &str,
    path: String,
) -> PlanError {
    PlanError::Undefined {
        service: service.to_owned(),
        kind,
        name: name.to_owned(),
        location: locate(project, &format!("services.{service}.{path}")),
    }
}

fn volumes_from(
    project: &Project,
    name: &str,
    service: &Service,
    names: &ContainerNames<'_>,
) -> Result<Vec<String>, PlanError> {
    let resolve = |entry: &String| {
        if let Some(container) = entry.strip_prefix("container:") {
            return Ok(container.to_owned());
        }
        let (parent, mode) = match entry.split_once(':') {
            Some((parent, mode)) => (parent, Some(mode)),
            None => (entry.as_str(), None),
        };
        let container = first_container(project, name, parent, "volumes", names)?;
        Ok(match mode {
            Some(mode) => format!("{container}:{mode}"),
            None => container,
        })
    };
    service.volumes_from.iter().map(resolve).collect()
}

fn mounts(project: &Project, name: &str, service: &Service) -> Result<Vec<MountConfig>, PlanError> {
    let mut mounts = Vec::with_capacity(service.volumes.len() + service.tmpfs.len());
    for (i, mount) in service.volumes.iter().enumerate() {
        mounts.push(MountConfig {
            source: mount_source(project, name, mount, i)?,
            target: mount.target.clone(),
            read_only: mount.read_only,
        });
    }
    for entry in &service.tmpfs {
        let (target, options) = entry.split_once(':').unwrap_or((entry, ""));
        mounts.push(MountConfig {
            source: MountSource::Tmpfs {
                options: options.to_owned(),
            },
            target: target.into(),
            read_only: false,
        });
    }
    Ok(mounts)
}

fn mount_source(
    project: &Project,
    name: &str,
    mount: &Mount,
    position: usize,
) -> Result<MountSource, PlanError> {
    Ok(match &mount.kind {
        MountKind::Bind {
            source,
            propagation,
            create_host_path,
            recursive,
            selinux: _,
        } => MountSource::Bind {
            path: source.clone(),
            propagation: propagation.clone(),
            create_host_path: *create_host_path,
            recursive: recursive.clone(),
        },
        MountKind::Volume {
            source,
            nocopy,
            subpath,
            labels,
        } => MountSource::Volume {
            name: match source {
                Some(key) => Some(
                    project
                        .volumes
                        .get(key)
                        .ok_or_else(|| {
                            let path = format!("volumes.{position}");
                            undefined(project, name, "volume", key, path)
                        })?
                        .name
                        .clone(),
                ),
                None => None,
            },
            nocopy: *nocopy,
            subpath: subpath.clone(),
            labels: labels.clone(),
        },
        MountKind::Tmpfs { size_bytes, mode } => {
            let size = size_bytes.map(|bytes| format!("size={bytes}"));
            let mode = mode.map(|mode| format!("mode={mode:o}"));
            let options: Vec<String> = size.into_iter().chain(mode).collect();
            MountSource::Tmpfs {
                options: options.join(","),
            }
        }
        MountKind::Image { source, subpath } => MountSource::Image {
            reference: source.clone(),
            subpath: subpath.clone(),
        },
    })
}

/// A network to create for the project.
pub fn network(project: &Project, key: &str, network: &Network, hash: &str) -> NetworkConfig {
    NetworkConfig {
        name: network.name.clone(),
        driver: network
            .driver
            .clone()
            .unwrap_or_else(|| "bridge".to_owned()),
        driver_opts: network.driver_opts.clone(),
        internal: network.internal,
        attachable: network.attachable,
        enable_ipv4: network.enable_ipv4.unwrap_or(true),
        enable_ipv6: network.enable_ipv6.unwrap_or(false),
        ipam: network.ipam.clone(),
        labels: object_labels(project, &network.labels, labels::NETWORK, key, hash),
    }
}

/// A volume to create for the project.
pub fn volume(project: &Project, key: &str, volume: &Volume, hash: &str) -> VolumeConfig {
    VolumeConfig {
        name: volume.name.clone(),
        driver: volume.driver.clone().unwrap_or_else(|| "local".to_owned()),
        driver_opts: volume.driver_opts.clone(),
        labels: object_labels(project, &volume.labels, labels::VOLUME, key, hash),
    }
}

fn object_labels(
    project: &Project,
    own: &BTreeMap<String, String>,
    key_label: &str,
    key: &str,
    hash: &str,
) -> BTreeMap<String, String> {
    let mut all = own.clone();
    all.insert(labels::PROJECT.to_owned(), project.name.to_string());
    all.insert(key_label.to_owned(), key.to_owned());
    all.insert(labels::VERSION.to_owned(), labels::OUR_VERSION.to_owned());
    all.insert(labels::CONFIG_HASH.to_owned(), hash.to_owned());
    all
}
