//! What exists, as plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Everything on the machine that concerns one project, as the engine knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observed {
    /// Containers that carry the project's label.
    pub containers: Vec<ObservedContainer>,
    /// All networks of the engine (names are engine-wide).
    pub networks: Vec<ObservedNetwork>,
    /// All volumes of the engine (names are engine-wide).
    pub volumes: Vec<ObservedVolume>,
    /// Image id (digest of the image config) by reference, for those that are present.
    pub images: BTreeMap<String, String>,
}

/// Docker's status words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Created,
    Running,
    Restarting,
    Paused,
    Removing,
    Exited,
    Dead,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Restarting => "restarting",
            Phase::Paused => "paused",
            Phase::Removing => "removing",
            Phase::Exited => "exited",
            Phase::Dead => "dead",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedContainer {
    /// 64 hex digits.
    pub id: String,
    pub name: String,
    /// Image reference as the container was created with.
    pub image: String,
    pub image_id: String,
    pub labels: BTreeMap<String, String>,
    pub phase: Phase,
    /// `None` when the container has no health check.
    pub health: Option<Health>,
    /// 128 + signal when a signal ended it. Meaningful in `Exited` and `Dead`.
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    /// What the last start failed with, else empty.
    #[serde(default)]
    pub error: String,
    /// Stopped by a user's command, as against by itself.
    #[serde(default)]
    pub manually_stopped: bool,
    #[serde(default)]
    pub restart_count: u32,
    /// Nanoseconds since the epoch.
    pub created_at: u64,
    /// Nanoseconds since the epoch.
    pub started_at: Option<u64>,
    /// Nanoseconds since the epoch.
    pub finished_at: Option<u64>,
    /// Main process in the host's pid namespace, while it runs.
    pub pid: Option<i32>,
    /// Entry point and command, joined for display.
    #[serde(default)]
    pub command: String,
    /// Networks it is attached to, by name.
    #[serde(default)]
    pub networks: Vec<ObservedEndpoint>,
    /// Volumes it mounts, by engine name, with the target.
    #[serde(default)]
    pub volumes: Vec<ObservedMount>,
    /// Ports as bound now (host port filled in).
    #[serde(default)]
    pub ports: Vec<ObservedPort>,
}

impl ObservedContainer {
    /// A label's value, or the empty string.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedEndpoint {
    pub network: String,
    pub network_id: String,
    pub ipv4: Option<IpAddr>,
    pub ipv6: Option<IpAddr>,
    pub mac: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedMount {
    pub volume: String,
    pub target: std::path::PathBuf,
    pub anonymous: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedPort {
    pub host_ip: Option<IpAddr>,
    /// `None` for an exposed but unpublished port.
    pub host_port: Option<u16>,
    pub container_port: u16,
    pub protocol: crate::compose::Protocol,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedNetwork {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    /// Names of the containers attached.
    pub containers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedVolume {
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    /// Names of the containers that mount it.
    pub containers: Vec<String>,
}
