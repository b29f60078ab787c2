//! What the store keeps of a container: its definition, and what a user did to it on purpose.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ContainerId;
use crate::plan::ContainerConfig;
use crate::shim::protocol::ExitRecord;

/// One container's desired state, in `Table::Containers` by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub config: ContainerConfig,
    /// Digest of the image config that the container was created from.
    pub image_id: String,
    /// Nanoseconds since the epoch.
    pub created_at: u64,
    /// Stopped by a command: `unless-stopped` does not start it again (HAZARDS L16).
    #[serde(default)]
    pub manually_stopped: bool,
    /// How its last run ended; `None` while it runs and before it ever ran.
    #[serde(default)]
    pub exit: Option<ExitRecord>,
    /// What the last start failed with.
    #[serde(default)]
    pub error: String,
    /// Volumes behind its mounts, in the order of the targets.
    #[serde(default)]
    pub volumes: Vec<VolumeMountRecord>,
}

/// [`ContainerRecord::error`] of one whose shim was killed.
pub const SUPERVISOR_LOST: &str = "supervisor lost";
/// [`ContainerRecord::error`] of one that ran when the machine stopped.
pub const MACHINE_DOWN: &str = "the machine went down while it ran";

impl ContainerRecord {
    /// Whether who wrote the log was stopped in the middle of it, maybe of a record.
    pub fn is_log_torn(&self) -> bool {
        matches!(self.error.as_str(), SUPERVISOR_LOST | MACHINE_DOWN)
    }
}

/// A volume at a place in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMountRecord {
    pub volume: String,
    pub target: PathBuf,
    /// Made for this container; goes with it when it is removed with its volumes.
    pub anonymous: bool,
    pub read_only: bool,
    /// Directory inside the volume.
    #[serde(default)]
    pub subpath: Option<PathBuf>,
    /// Do not fill the volume from the image.
    #[serde(default)]
    pub nocopy: bool,
}

/// Facts of this boot about one container, in its run directory: what must survive `kill -9` of
/// the engine but not a reboot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Restarts by policy since the last start by a command.
    pub restart_count: u32,
    /// Beginning of the run whose end the policy has decided about, nanoseconds since the epoch. An
    /// engine that dies before the store has the end hears of it again, and must not count it twice.
    #[serde(default)]
    pub decided_about: Option<u64>,
    /// The delay before the next restart, milliseconds.
    pub backoff_ms: u64,
    /// A health state already reached, so that a restarted engine does not forget it.
    pub health: Option<crate::plan::Health>,
    /// Failed probes in a row that led to it, or are on the way to the next.
    #[serde(default)]
    pub failing_streak: u32,
    /// For an engine whose question the shim does not answer at once.
    #[serde(default)]
    pub paused: bool,
    /// A restart by policy is due: the engine died in the pause before it.
    pub restart_pending: bool,
    /// When it is due, milliseconds since the boot.
    #[serde(default)]
    pub restart_due_ms: u64,
    /// The restart is one after the machine's boot: due when what the container depends on is there.
    #[serde(default)]
    pub after_boot: bool,
}
