//! How a service's image is built, and how it follows its sources while it is developed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{FileMount, Hook, Ulimit};

/// `build` in canonical form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    /// An absolute directory, a URL or `service:NAME`.
    pub context: String,
    /// Relative to the context unless absolute; empty when the Dockerfile is inline.
    pub dockerfile: Option<String>,
    pub dockerfile_inline: Option<String>,
    pub args: BTreeMap<String, String>,
    /// Agent sockets or keys by id; `None` is the caller's own agent.
    pub ssh: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    pub no_cache: bool,
    /// Stages that are built without the cache.
    pub no_cache_filter: Vec<String>,
    pub additional_contexts: BTreeMap<String, String>,
    pub pull: bool,
    pub extra_hosts: Vec<(String, String)>,
    pub isolation: Option<String>,
    pub network: Option<String>,
    pub target: Option<String>,
    pub secrets: Vec<FileMount>,
    /// Bytes.
    pub shm_size: Option<u64>,
    pub tags: Vec<String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub platforms: Vec<String>,
    pub privileged: bool,
    pub entitlements: Vec<String>,
    pub provenance: Option<String>,
    pub sbom: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchAction {
    #[serde(rename = "rebuild")]
    Rebuild,
    #[serde(rename = "sync")]
    Sync,
    #[serde(rename = "restart")]
    Restart,
    #[serde(rename = "sync+restart")]
    SyncRestart,
    #[serde(rename = "sync+exec")]
    SyncExec,
}

/// One rule of `develop.watch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchRule {
    /// Absolute.
    pub path: PathBuf,
    pub action: WatchAction,
    /// Path in the container.
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default)]
    pub exec: Option<Hook>,
    #[serde(default)]
    pub include: Vec<String>,
    #[serde(default)]
    pub ignore: Vec<String>,
    #[serde(default)]
    pub initial_sync: bool,
}
