//! What an engine is asked to make, in Docker's terms.
//!
//! These are the inputs of `reconcile::Backend`. They hold no Compose words: a container that comes
//! from the REST API is described by the same type. They serialise because the engine's store keeps
//! them as the desired state.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compose::{
    Device, Healthcheck, IpamPool, Logging, PortBinding, Resources, RestartPolicy, Ulimit,
    optional_nanoseconds,
};

/// A container to create.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub name: String,
    /// Image reference as the user wrote it.
    pub image: String,
    pub platform: Option<String>,
    /// `None`: the image's.
    pub command: Option<Vec<String>>,
    /// `None`: the image's. `Some([])`: cleared, and the image's command is ignored as Docker does.
    pub entrypoint: Option<Vec<String>>,
    /// `None` as a value removes the variable from the image's environment.
    pub environment: Vec<(String, Option<String>)>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub tty: bool,
    pub open_stdin: bool,
    pub init: bool,

    pub read_only: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// `no-new-privileges:true`, `seccomp=unconfined`, `seccomp=/abs/profile.json`, `label=…`.
    pub security_opt: Vec<String>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Bytes; `None` is Docker's 64 MiB.
    pub shm_size: Option<u64>,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    pub uts: NamespaceMode,
    pub cgroup: NamespaceMode,
    pub cgroup_parent: Option<String>,
    pub resources: Resources,

    pub mounts: Vec<MountConfig>,
    /// Containers whose mounts this one takes over: `container` or `container:ro`.
    pub volumes_from: Vec<String>,
    /// Files with content that the engine places before the start (secrets, configs).
    pub files: Vec<FileConfig>,

    pub network: NetworkMode,
    pub ports: Vec<PortBinding>,
    pub expose: Vec<String>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    pub extra_hosts: Vec<(String, String)>,

    pub healthcheck: Option<Healthcheck>,
    pub restart: RestartPolicy,
    pub stop_signal: Option<String>,
    #[serde(with = "optional_nanoseconds")]
    pub stop_timeout: Option<Duration>,
    pub logging: Option<Logging>,
}

/// Whose namespace a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    #[default]
    Private,
    Host,
    /// Another container, by name or id.
    Container(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A network namespace with nothing but `lo`.
    None,
    Host,
    /// Another container, by name or id.
    Container(String),
    /// Endpoints in attach order: the first is `eth0`.
    Networks(Vec<EndpointConfig>),
}

impl Default for NetworkMode {
    fn default() -> Self {
        NetworkMode::Networks(Vec::new())
    }
}

/// A container's place on one network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConfig {
    /// The network's name.
    pub network: String,
    /// Names beside the container's own name and short id.
    pub aliases: Vec<String>,
    /// Legacy links: (name seen by this container, container name it stands for).
    pub links: Vec<(String, String)>,
    pub ipv4_address: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub mac_address: Option<String>,
    pub interface_name: Option<String>,
    pub gw_priority: i64,
    pub driver_opts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountConfig {
    pub source: MountSource,
    pub target: PathBuf,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum MountSource {
    Bind {
        path: PathBuf,
        propagation: Option<String>,
        create_host_path: bool,
        recursive: Option<String>,
    },
    /// A volume by its engine name; `None` makes an anonymous one.
    Volume {
        name: Option<String>,
        nocopy: bool,
        subpath: Option<PathBuf>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    },
    Tmpfs {
        /// Mount options as in `size=64m,mode=1777,uid=5`.
        options: String,
    },
    Image {
        reference: String,
        subpath: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileConfig {
    pub target: PathBuf,
    pub content: Vec<u8>,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// A network to create.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    pub name: String,
    /// `bridge`, `macvlan`, `ipvlan`, `overlay`, `none`, `host`.
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    pub ipam: Vec<IpamPool>,
    pub labels: BTreeMap<String, String>,
}

/// A volume to create.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeConfig {
    pub name: String,
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}
