//! The plan: a graph of steps, each with its cause.

use std::time::Duration;

use petgraph::graph::DiGraph;
use serde::{Deserialize, Serialize};

use super::{ContainerConfig, NetworkConfig, VolumeConfig};
use crate::compose::{Condition, Location};

/// What has to be done, and in what order: an edge `a → b` says that `a` ends before `b` begins.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub graph: DiGraph<Step, ()>,
    /// Remarks for the user that stop nothing (orphans, foreign volumes).
    pub warnings: Vec<String>,
    /// Containers that run as they should, by name: nothing has to be done for them.
    pub running: Vec<String>,
}

/// One step and the reason for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    pub cause: Cause,
}

/// Why a step is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// A clause such as "the configuration of service web changed".
    pub reason: String,
    /// The line of the user's file that asks for it.
    pub location: Option<Location>,
}

/// One action on the engine. Containers are named by their names, which the plan fixes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    EnsureImage {
        service: String,
        reference: String,
        pull_policy: Option<String>,
        platform: Option<String>,
    },
    /// Fetch an image for its own sake.
    PullImage {
        service: String,
        reference: String,
        pull_policy: String,
        platform: Option<String>,
        /// When false, a failure is a warning.
        required: bool,
    },
    PushImage {
        service: String,
        reference: String,
        required: bool,
    },
    CreateNetwork(NetworkConfig),
    RemoveNetwork {
        name: String,
    },
    CreateVolume(VolumeConfig),
    RemoveVolume {
        name: String,
    },
    CreateContainer {
        service: String,
        config: Box<ContainerConfig>,
        /// The container that this one replaces. Later steps of the plan remove it and give its name
        /// to this one, which is created under a temporary name.
        replaces: Option<String>,
        /// Take over the anonymous volumes of the replaced container.
        inherit_volumes: bool,
    },
    /// Give a container another name (the last part of a replacement).
    RenameContainer {
        service: String,
        from: String,
        to: String,
    },
    StartContainer {
        service: String,
        container: String,
    },
    StopContainer {
        service: String,
        container: String,
        /// `None`: the container's own.
        timeout: Option<Duration>,
    },
    RestartContainer {
        service: String,
        container: String,
        timeout: Option<Duration>,
    },
    KillContainer {
        service: String,
        container: String,
        signal: String,
    },
    RemoveContainer {
        service: String,
        container: String,
        /// Its anonymous volumes, too.
        volumes: bool,
        force: bool,
    },
    /// Wait until the containers meet the condition.
    AwaitCondition {
        service: String,
        containers: Vec<String>,
        condition: Condition,
        /// When false, a failure is a warning and what depends on this goes on.
        required: bool,
        timeout: Option<Duration>,
    },
}
