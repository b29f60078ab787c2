//! Requests on a whole project: a verb, its options, and the desired state where the verb needs one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compose::{Project, optional_nanoseconds};

/// The body of `POST /wharf/v1/projects/{name}/{verb}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectRequest<O> {
    /// The desired state. `None` where no Compose file is at hand (`wharf -p name down`): the engine
    /// then goes by the labels of what exists. Required by `up`.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
    pub options: O,
}

/// One verb with its options.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    Up(UpOptions),
    Down(DownOptions),
    Stop(StopOptions),
    Start(StartOptions),
    Restart(RestartOptions),
    Kill(KillOptions),
}

impl Verb {
    /// The last segment of the route.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verb::Up(_) => "up",
            Verb::Down(_) => "down",
            Verb::Stop(_) => "stop",
            Verb::Start(_) => "start",
            Verb::Restart(_) => "restart",
            Verb::Kill(_) => "kill",
        }
    }
}

/// When an existing container is replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recreate {
    /// When its configuration changed.
    #[default]
    Diverged,
    Force,
    Never,
}

/// Options of `up`. An empty `services` means all of them, everywhere in this module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpOptions {
    pub services: Vec<String>,
    pub recreate: Recreate,
    /// How dependencies of the named services are treated.
    pub recreate_dependencies: Recreate,
    pub no_deps: bool,
    pub scale: BTreeMap<String, u32>,
    /// For containers that are stopped on the way; `None`: each container's own.
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    pub remove_orphans: bool,
    /// Say nothing about orphans (`COMPOSE_IGNORE_ORPHANS`).
    pub ignore_orphans: bool,
    pub renew_anonymous_volumes: bool,
    /// False: create, do not start.
    pub start: bool,
    /// End only when everything runs or is healthy.
    pub wait: bool,
    #[serde(with = "optional_nanoseconds")]
    pub wait_timeout: Option<Duration>,
    /// Overrides every service's `pull_policy`.
    pub pull: Option<String>,
    /// Answer with the plan and do nothing.
    pub plan_only: bool,
    /// Steps carried out at once; `None`: as many as the graph allows.
    pub parallel: Option<usize>,
}

impl Default for UpOptions {
    fn default() -> Self {
        UpOptions {
            services: Vec::new(),
            recreate: Recreate::Diverged,
            recreate_dependencies: Recreate::Diverged,
            no_deps: false,
            scale: BTreeMap::new(),
            timeout: None,
            remove_orphans: false,
            ignore_orphans: false,
            renew_anonymous_volumes: false,
            start: true,
            wait: false,
            wait_timeout: None,
            pull: None,
            plan_only: false,
            parallel: None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DownOptions {
    pub services: Vec<String>,
    pub volumes: bool,
    pub remove_orphans: bool,
    /// Say nothing about orphans (`COMPOSE_IGNORE_ORPHANS`).
    pub ignore_orphans: bool,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    pub remove_images: Option<RemoveImages>,
}

/// Which images `down --rmi` takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoveImages {
    All,
    /// Those that the project built without a name of their own.
    Local,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopOptions {
    pub services: Vec<String>,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartOptions {
    pub services: Vec<String>,
    pub wait: bool,
    #[serde(with = "optional_nanoseconds")]
    pub wait_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartOptions {
    pub services: Vec<String>,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    pub no_deps: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KillOptions {
    pub services: Vec<String>,
    /// Name or number: `SIGKILL`, `HUP`, `9`.
    pub signal: String,
    pub remove_orphans: bool,
}

impl Default for KillOptions {
    fn default() -> Self {
        KillOptions {
            services: Vec::new(),
            signal: "SIGKILL".to_owned(),
            remove_orphans: false,
        }
    }
}

/// The parameters of `GET /wharf/v1/projects/{name}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogsQuery {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Lines from the end, of each container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
    /// Nanoseconds since the epoch, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Nanoseconds since the epoch, exclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Only this replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Names of services with commas between them; empty means all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub services: String,
}

impl LogsQuery {
    /// The services asked for; empty means all.
    pub fn services(&self) -> Vec<&str> {
        self.services
            .split(',')
            .filter(|name| !name.is_empty())
            .collect()
    }
}
