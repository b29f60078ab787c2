//! `ContainerConfig` and image config to the OCI runtime specification of Docker's container.
//!
//! Pure: what the machine has to say (device numbers, mounts, paths) is in the input, so every rule
//! is a line of a table test. Mistakes of the user are [`SpecError`]s that say what to write instead.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Root, Spec};

use super::{DeviceNode, HostFacts, ResolvedMount, mounts, process, resources, security};
use crate::plan::{ContainerConfig, NamespaceMode};
use crate::shim::protocol::seccomp::ProfileError;
use crate::shim::protocol::sysctl::{self, OwnNamespaces, SysctlError};

/// Everything that a specification is made from.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    pub config: &'a ContainerConfig,
    /// `None` for images without one (`rootfs:`).
    pub image: Option<&'a oci_spec::image::Config>,
    /// User mounts, with host paths. Order does not matter.
    pub mounts: &'a [ResolvedMount],
    pub network: NetworkNamespace,
    /// The final name, also when the user gave none.
    pub hostname: &'a str,
    pub files: NameFiles<'a>,
    /// `/proc/<pid>/ns/…` of the container that a `container:` mode names.
    pub joined: JoinedNamespaces<'a>,
    /// Relative to each hierarchy's root.
    pub cgroup: &'a Path,
    /// Nodes for `config.devices`, in order, with those inside directories; see
    /// [`super::devices::resolve`].
    pub devices: &'a [DeviceNode],
    /// All of the host, for `privileged`; see [`super::devices::host`].
    pub host_devices: &'a [DeviceNode],
    pub host: &'a HostFacts,
    /// Content of the file that `seccomp=FILE` names.
    pub seccomp_profile: Option<&'a str>,
}

/// Whose network the container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// One of its own: made by the engine, or empty.
    Own,
    /// Another container's. The shim is handed the descriptor.
    Joined,
    Host,
}

/// Files of the run directory that cover the image's. `None` leaves the image's in place.
#[derive(Debug, Clone, Copy, Default)]
pub struct NameFiles<'a> {
    pub hosts: Option<&'a Path>,
    pub hostname: Option<&'a Path>,
    pub resolv_conf: Option<&'a Path>,
}

/// Namespaces to join, one for each `container:` mode.
#[derive(Debug, Clone, Copy, Default)]
pub struct JoinedNamespaces<'a> {
    pub pid: Option<&'a Path>,
    pub ipc: Option<&'a Path>,
    /// The `/dev/shm` that belongs to `ipc`.
    pub shm: Option<&'a Path>,
    pub uts: Option<&'a Path>,
    pub cgroup: Option<&'a Path>,
}

/// What cannot be made into a container, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error(
        "no command specified: neither the service nor the image has `command` or `entrypoint`"
    )]
    NoCommand,
    #[error("{what} contains a NUL byte")]
    Nul { what: &'static str },
    #[error(
        "{what} of the image takes {bytes} bytes, more than the {limit} that a process can be given"
    )]
    TooLarge {
        what: &'static str,
        bytes: usize,
        limit: usize,
    },
    #[error("environment variable {0:?} is not a name; write it as NAME=value")]
    Environment(String),
    #[error("the working directory {0:?} is invalid, it needs to be an absolute path")]
    WorkingDirectory(String),
    #[error("mount target {0:?} is invalid, it needs to be an absolute path below /")]
    MountTarget(PathBuf),
    #[error("two mounts have the target {0:?}; remove one of them")]
    DuplicateMount(PathBuf),
    #[error(
        "tmpfs option {option:?} of {target:?} is unknown; use size, mode, uid, gid, nr_inodes, nr_blocks, mpol or a mount flag"
    )]
    TmpfsOption { target: PathBuf, option: String },
    #[error(
        "bind propagation {0:?} is unknown; use private, rprivate, shared, rshared, slave or rslave"
    )]
    Propagation(String),
    #[error("subpath {0:?} is invalid, it has to be a relative path without `..`")]
    Subpath(PathBuf),
    #[error("bind option recursive {0:?} is unknown; use enabled, disabled, writable or readonly")]
    Recursive(String),
    #[error("unknown capability {0:?}; capabilities are written as NET_ADMIN or ALL")]
    Capability(String),
    #[error(
        "unknown security option {0:?}; use no-new-privileges, seccomp=, apparmor=, label= or systempaths=unconfined"
    )]
    SecurityOption(String),
    #[error("the seccomp profile {0:?} has not been read")]
    ProfileMissing(String),
    #[error("seccomp profile {path:?} cannot be used")]
    Profile { path: String, source: ProfileError },
    #[error("unknown ulimit {0:?}; use nofile, nproc, memlock, core, stack and the like")]
    UlimitName(String),
    #[error("ulimit {name} has the soft limit {soft} above its hard limit {hard}")]
    UlimitOrder { name: String, soft: i64, hard: i64 },
    #[error("ulimit {name} is {value}; use -1 for unlimited")]
    UlimitValue { name: String, value: i64 },
    #[error("device cgroup rule {0:?} is invalid; write it as \"c 10:229 rwm\"")]
    DeviceRule(String),
    #[error("device permissions {0:?} are invalid; use some of r, w, m")]
    DevicePermissions(String),
    #[error("cannot look at device {path:?}")]
    Device {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0:?} is neither a device nor a directory with devices")]
    NotADevice(PathBuf),
    #[error("the sysctl cannot be set in this container")]
    Sysctl(#[source] SysctlError),
    #[error("a memory limit of {0} bytes is too small; the least is 6 MiB")]
    MemoryTooSmall(u64),
    #[error("memswap_limit needs mem_limit beside it: it counts memory and swap together")]
    SwapWithoutMemory,
    #[error(
        "memswap_limit of {swap} bytes is below mem_limit of {memory}; it counts memory and swap together, -1 is unlimited"
    )]
    SwapBelowMemory { swap: i64, memory: u64 },
    #[error("mem_reservation of {reservation} bytes is above mem_limit of {memory}")]
    ReservationAboveLimit { reservation: u64, memory: u64 },
    #[error("{what} is {value}, and has to be between {least} and {most}")]
    Range {
        what: &'static str,
        value: i64,
        least: i64,
        most: i64,
    },
    #[error("cpus is {wanted}, and this machine has {available}")]
    Cpus { wanted: f64, available: u32 },
    #[error("cpus and {0} set the same limit; remove one of them")]
    CpusTwice(&'static str),
    #[error("cpuset {0:?} is not a list of processors; write it as \"0-3,5\"")]
    Cpuset(String),
    #[error("{kind} mode names another container, whose namespace was not found")]
    Joined { kind: &'static str },
    #[error("cgroup path {0:?} is not a plain path below the root; write it without `..`")]
    CgroupPath(PathBuf),
}

/// A specification, and what of the container it cannot say.
#[derive(Debug, Clone)]
pub struct Specified {
    pub spec: Spec,
    /// Without a `linux.seccomp` there: whether the container has the filter that the spawner holds
    /// compiled, or none.
    pub default_seccomp: bool,
}

/// The specification of the container.
///
/// The user stays 0:0 here: names are resolved by the shim, inside the container's own root
/// (see [`super::user`]).
///
/// # Errors
/// [`SpecError`].
pub fn spec(input: &SpecInput<'_>) -> Result<Specified, SpecError> {
    let config = input.config;
    let security = security::Security::new(input)?;
    let mut linux = Linux::default();
    linux
        .set_net_devices(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_namespaces(Some(namespaces(input)?))
        .set_devices(Some(input_devices(input)))
        .set_sysctl(Some(sysctls(input)?))
        .set_resources(Some(resources::resources(input)?))
        .set_cgroups_path(Some(cgroup_path(input.cgroup)?))
        .set_seccomp(security.seccomp.clone())
        .set_masked_paths(Some(security.masked_paths.clone()))
        .set_readonly_paths(Some(security.readonly_paths.clone()))
        .set_rootfs_propagation(mounts::root_propagation(input.mounts));

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(config.read_only));

    let annotations: HashMap<String, String> = config
        .annotations
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();

    let owns_uts = config.uts == NamespaceMode::Private;
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_process(Some(process::process(input, &security)?))
        .set_mounts(Some(mounts::mounts(input, &security)?))
        .set_hostname(owns_uts.then(|| input.hostname.to_owned()))
        .set_domainname(config.domainname.clone().filter(|_| owns_uts))
        .set_annotations((!annotations.is_empty()).then_some(annotations))
        .set_linux(Some(linux));
    Ok(Specified {
        spec,
        default_seccomp: security.default_seccomp,
    })
}

fn namespaces(input: &SpecInput<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let config = input.config;
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)];
    // Both own and joined come as a descriptor beside the bundle.
    if input.network != NetworkNamespace::Host {
        list.push(namespace(LinuxNamespaceType::Network, None));
    }
    let others = [
        (
            LinuxNamespaceType::Uts,
            &config.uts,
            input.joined.uts,
            "uts",
        ),
        (
            LinuxNamespaceType::Pid,
            &config.pid,
            input.joined.pid,
            "pid",
        ),
        (
            LinuxNamespaceType::Ipc,
            &config.ipc,
            input.joined.ipc,
            "ipc",
        ),
        (
            LinuxNamespaceType::Cgroup,
            &config.cgroup,
            input.joined.cgroup,
            "cgroup",
        ),
    ];
    for (typ, mode, joined, kind) in others {
        match mode {
            NamespaceMode::Private => list.push(namespace(typ, None)),
            NamespaceMode::Host => {}
            NamespaceMode::Container(_) => {
                let path = joined.ok_or(SpecError::Joined { kind })?;
                list.push(namespace(typ, Some(path)));
            }
        }
    }
    Ok(list)
}

fn namespace(typ: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ).set_path(path.map(Path::to_owned));
    namespace
}

fn input_devices(input: &SpecInput<'_>) -> Vec<oci_spec::runtime::LinuxDevice> {
    let mut devices: Vec<&DeviceNode> = Vec::new();
    if input.config.privileged {
        devices.extend(input.host_devices);
    }
    for device in input.devices {
        // In a privileged container the same path is there already.
        devices.retain(|d| d.path != device.path);
        devices.push(device);
    }
    devices.into_iter().map(DeviceNode::to_oci).collect()
}

fn sysctls(input: &SpecInput<'_>) -> Result<HashMap<String, String>, SpecError> {
    let own = OwnNamespaces {
        network: input.network == NetworkNamespace::Own,
        ipc: input.config.ipc == NamespaceMode::Private,
        uts: input.config.uts == NamespaceMode::Private,
        user: false,
    };
    let mut all = HashMap::new();
    if own.network {
        // Any user may ping and bind low ports: it is the container's own network.
        all.insert(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        );
        all.insert(
            "net.ipv4.ping_group_range".to_owned(),
            "0 2147483647".to_owned(),
        );
    }
    for (name, value) in &input.config.sysctls {
        sysctl::validate(name, own).map_err(SpecError::Sysctl)?;
        // Both spellings of one of the defaults must replace it.
        let name = if name.contains('.') {
            name.clone()
        } else {
            name.replace('/', ".")
        };
        all.insert(name, value.clone());
    }
    Ok(all)
}

/// OCI reads a path without the leading slash as the runtime's to place.
fn cgroup_path(path: &Path) -> Result<PathBuf, SpecError> {
    use std::path::Component;
    let relative = path.strip_prefix("/").unwrap_or(path);
    let is_plain = relative
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    if relative.as_os_str().is_empty() || !is_plain {
        return Err(SpecError::CgroupPath(path.to_owned()));
    }
    Ok(Path::new("/").join(relative))
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
