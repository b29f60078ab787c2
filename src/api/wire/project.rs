//! Requests on a whole project: a verb, its options, and the desired state where the verb needs one.

use serde::{Deserialize, Serialize};

use crate::compose::Project;
pub use crate::plan::{
    DownOptions, ExecuteOptions, KillOptions, Login, Logins, PullOptions, PushOptions,
    RemoveImages, RestartOptions, StartOptions, StopOptions, UpOptions,
};

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
    Pull(PullOptions),
    Push(PushOptions),
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
            Verb::Pull(_) => "pull",
            Verb::Push(_) => "push",
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
