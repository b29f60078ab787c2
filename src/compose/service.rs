//! A service: what its containers run, see and may use.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{
    BlkioConfig, Build, CredentialSpec, Deploy, DeviceRequest, EnvFile, FileMount, Hook, Mount,
    PortBinding, Provider, Resources, ServiceModel, ServiceNetwork, WatchRule,
};

/// One service in canonical form. `None` and empty collections mean "not written in the file".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Image as the user wrote it: a registry reference, or `rootfs:`, `oci:`, `oci-archive:`,
    /// `docker-archive:` with a path (made absolute by the loader).
    pub image: Option<String>,
    pub platform: Option<String>,
    pub pull_policy: Option<String>,
    pub container_name: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,

    /// `None`: the image's. `Some([])`: cleared.
    pub command: Option<Vec<String>>,
    /// `None`: the image's. `Some([])`: cleared.
    pub entrypoint: Option<Vec<String>>,
    /// Environment with `env_file` merged in. `None` as a value removes the variable, even one that
    /// the image sets (BEHAVIOURS E7).
    pub environment: IndexMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub tty: bool,
    pub stdin_open: bool,
    pub init: Option<bool>,
    pub attach: Option<bool>,

    pub read_only: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    /// `path` or `path:options` entries, as written.
    pub tmpfs: Vec<String>,
    /// Bytes.
    pub shm_size: Option<u64>,
    pub pid: Option<String>,
    pub ipc: Option<String>,
    pub uts: Option<String>,
    pub cgroup: Option<String>,
    pub cgroup_parent: Option<String>,
    pub userns_mode: Option<String>,
    pub runtime: Option<String>,
    pub resources: Resources,

    pub ports: Vec<PortBinding>,
    pub expose: Vec<String>,
    /// `none`, `host`, `bridge`, `service:NAME`, `container:NAME`.
    pub network_mode: Option<String>,
    pub networks: IndexMap<String, ServiceNetwork>,
    pub links: Vec<String>,
    pub external_links: Vec<String>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    /// `(host, address)`; the address may be the word `host-gateway`.
    pub extra_hosts: Vec<(String, String)>,
    pub mac_address: Option<String>,

    pub volumes: Vec<Mount>,
    pub volumes_from: Vec<String>,
    pub secrets: Vec<FileMount>,
    pub configs: Vec<FileMount>,

    pub depends_on: BTreeMap<String, Dependency>,
    pub healthcheck: Option<Healthcheck>,
    pub restart: Option<RestartPolicy>,
    pub stop_signal: Option<String>,
    #[serde(with = "optional_nanoseconds")]
    pub stop_grace_period: Option<Duration>,
    /// Number of containers: `scale` or `deploy.replicas`, 1 when neither is written.
    pub scale: Option<u32>,
    pub profiles: Vec<String>,
    pub logging: Option<Logging>,

    pub build: Option<Build>,
    /// `develop.watch`; `None` when the service has no `develop` at all.
    pub develop: Option<Vec<WatchRule>>,
    pub deploy: Option<Deploy>,
    pub gpus: Vec<DeviceRequest>,
    pub blkio_config: Option<BlkioConfig>,
    /// Hooks that run before the service's containers start, in containers of their own.
    pub pre_start: Vec<Hook>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
    pub models: BTreeMap<String, ServiceModel>,
    pub provider: Option<Provider>,
    /// Only filled when the load does not read env files.
    pub env_file: Vec<EnvFile>,
    /// Only filled when the load does not read label files.
    pub label_file: Vec<PathBuf>,
    pub credential_spec: Option<CredentialSpec>,
    pub use_api_socket: bool,
    pub storage_opt: BTreeMap<String, String>,
    /// Windows only, like `cpu_count` and `cpu_percent`.
    pub isolation: Option<String>,
    pub cpu_count: Option<i64>,
    pub cpu_percent: Option<f64>,
    /// `x-…` keys, `x-wharf` among them, as written.
    pub extensions: BTreeMap<String, serde_json::Value>,
}

impl Service {
    /// The number of containers that this service asks for.
    pub fn n_replicas(&self) -> u32 {
        self.scale.unwrap_or(1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    /// Restart the dependent when the dependency is restarted or recreated by a command.
    #[serde(default)]
    pub restart: bool,
    #[serde(default = "yes")]
    pub required: bool,
}

fn yes() -> bool {
    true
}

/// A health check. Absent durations and counts take Docker's defaults when the container is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `None`: the image's test. `["NONE"]`: disabled. Else `["CMD", …]` or `["CMD-SHELL", line]`.
    pub test: Option<Vec<String>>,
    #[serde(with = "optional_nanoseconds")]
    pub interval: Option<Duration>,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    #[serde(with = "optional_nanoseconds")]
    pub start_period: Option<Duration>,
    #[serde(with = "optional_nanoseconds")]
    pub start_interval: Option<Duration>,
    pub retries: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    /// At most this many restarts in a row; `None` is without limit.
    OnFailure(Option<u32>),
    UnlessStopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// -1 is "unlimited".
    pub soft: i64,
    /// -1 is "unlimited".
    pub hard: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub source: PathBuf,
    pub target: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    pub driver: Option<String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// Durations travel as whole nanoseconds, like Docker's own API.
pub mod optional_nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value
            .map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
            .serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_nanos))
    }
}
