//! `deploy`: what a cluster would need, kept so that nothing written is lost, and devices.
//!
//! Replicas, limits and the restart policy have effect here and are merged into the service's own
//! fields; the rest is carried for printing and for exporters.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::optional_nanoseconds;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deploy {
    pub mode: Option<String>,
    pub endpoint_mode: Option<String>,
    pub replicas: Option<u32>,
    pub labels: BTreeMap<String, String>,
    pub update_config: Option<UpdateConfig>,
    pub rollback_config: Option<UpdateConfig>,
    pub restart_policy: Option<DeployRestart>,
    pub placement: Placement,
    /// CPUs, in billionths; without effect on one machine.
    pub reserved_nano_cpus: Option<u64>,
    /// Kind and amount of generic resources.
    pub generic_resources: Vec<(String, i64)>,
    pub devices: Vec<DeviceRequest>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    pub parallelism: Option<u32>,
    #[serde(with = "optional_nanoseconds")]
    pub delay: Option<Duration>,
    pub failure_action: Option<String>,
    #[serde(with = "optional_nanoseconds")]
    pub monitor: Option<Duration>,
    pub max_failure_ratio: Option<f64>,
    pub order: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeployRestart {
    /// `none`, `on-failure` or `any`.
    pub condition: Option<String>,
    #[serde(with = "optional_nanoseconds")]
    pub delay: Option<Duration>,
    pub max_attempts: Option<u32>,
    #[serde(with = "optional_nanoseconds")]
    pub window: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    pub constraints: Vec<String>,
    /// The `spread` of each preference.
    pub preferences: Vec<String>,
    pub max_replicas_per_node: Option<u32>,
}

/// A request for devices by capability, as GPUs are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    pub driver: Option<String>,
    /// -1 is all.
    pub count: Option<i64>,
    pub device_ids: Vec<String>,
    pub capabilities: Vec<String>,
    pub options: BTreeMap<String, String>,
}

/// Weights and rates of block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioConfig {
    pub weight_device: Vec<(String, u16)>,
    /// Bytes per second by device path.
    pub device_read_bps: Vec<(String, u64)>,
    /// Bytes per second by device path.
    pub device_write_bps: Vec<(String, u64)>,
    pub device_read_iops: Vec<(String, u64)>,
    pub device_write_iops: Vec<(String, u64)>,
}

/// A file, registry value or config with credentials; only other systems' engines use it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialSpec {
    pub config: Option<String>,
    pub file: Option<String>,
    pub registry: Option<String>,
}
