//! Limits and reservations of one container.

use serde::{Deserialize, Serialize};

/// Limits of one container, `deploy.resources` and the older service keys merged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Bytes.
    pub memory_reservation: Option<u64>,
    /// Bytes of memory plus swap; -1 is unlimited swap.
    pub memswap_limit: Option<i64>,
    pub mem_swappiness: Option<u64>,
    pub oom_kill_disable: Option<bool>,
    pub oom_score_adj: Option<i32>,
    /// CPUs, in billionths.
    pub nano_cpus: Option<u64>,
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds.
    pub cpu_rt_runtime: Option<i64>,
    /// Microseconds.
    pub cpu_rt_period: Option<u64>,
    pub cpuset: Option<String>,
    /// -1 is unlimited.
    pub pids_limit: Option<i64>,
    pub blkio_weight: Option<u16>,
}
