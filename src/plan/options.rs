//! What the caller of a project command may choose. Plain values; they travel in the request.
//!
//! Every list of services is empty for "all of the project".

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Logins;
use crate::compose::optional_nanoseconds;

/// How a plan is carried out, alike for all commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecuteOptions {
    /// Print the plan, do nothing.
    pub plan_only: bool,
    /// Steps under way at once (`COMPOSE_PARALLEL_LIMIT`); `None` and 0 are without limit. Waiting
    /// for a condition costs nothing and is not counted.
    pub parallel_limit: Option<usize>,
    /// Who the user is to the registries that images come from or go to.
    #[serde(skip_serializing_if = "Logins::is_empty")]
    pub logins: Logins,
}

/// Options of `up` and, with `start` off, of `create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpOptions {
    pub services: Vec<String>,
    /// Leave the services that the named ones depend on alone.
    pub no_deps: bool,
    pub force_recreate: bool,
    pub no_recreate: bool,
    /// Recreate dependencies of the named services even when they did not change.
    pub always_recreate_deps: bool,
    /// Do not hand anonymous volumes over to the new container; implies recreation.
    pub renew_anon_volumes: bool,
    pub remove_orphans: bool,
    /// Say nothing about orphans (`COMPOSE_IGNORE_ORPHANS`).
    pub ignore_orphans: bool,
    /// Replicas by service, in place of what the file says.
    pub scale: BTreeMap<String, u32>,
    /// `--pull`: a policy for all services, in place of the file's.
    pub pull: Option<String>,
    /// The user agreed that a volume whose definition changed is removed, with its data, and made
    /// again. Without it such a volume is kept and used as it is.
    pub recreate_volumes: bool,
    /// For stops on the way; `None` is each container's own.
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    /// Off: create only.
    pub start: bool,
    /// End only when every service runs, or is healthy where it has a health check.
    pub wait: bool,
    #[serde(with = "optional_nanoseconds")]
    pub wait_timeout: Option<Duration>,
    pub execute: ExecuteOptions,
}

impl Default for UpOptions {
    fn default() -> Self {
        UpOptions {
            services: Vec::new(),
            no_deps: false,
            force_recreate: false,
            no_recreate: false,
            always_recreate_deps: false,
            renew_anon_volumes: false,
            remove_orphans: false,
            ignore_orphans: false,
            scale: BTreeMap::new(),
            pull: None,
            recreate_volumes: false,
            timeout: None,
            start: true,
            wait: false,
            wait_timeout: None,
            execute: ExecuteOptions::default(),
        }
    }
}

/// Images that `down --rmi` takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoveImages {
    /// Those whose name the file does not give.
    Local,
    All,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DownOptions {
    pub services: Vec<String>,
    /// Remove the project's named volumes and its containers' anonymous ones.
    pub volumes: bool,
    pub remove_orphans: bool,
    pub ignore_orphans: bool,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    /// Not part of the plan: see [`super::removable_images`].
    pub rmi: Option<RemoveImages>,
    pub execute: ExecuteOptions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopOptions {
    pub services: Vec<String>,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    pub execute: ExecuteOptions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartOptions {
    pub services: Vec<String>,
    pub wait: bool,
    #[serde(with = "optional_nanoseconds")]
    pub wait_timeout: Option<Duration>,
    pub execute: ExecuteOptions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartOptions {
    pub services: Vec<String>,
    /// Leave dependents alone, even those that ask for `restart: true`.
    pub no_deps: bool,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    pub execute: ExecuteOptions,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KillOptions {
    pub services: Vec<String>,
    pub signal: String,
    /// Kill containers of services that the file no longer has, too.
    pub remove_orphans: bool,
    pub execute: ExecuteOptions,
}

impl Default for KillOptions {
    fn default() -> Self {
        KillOptions {
            services: Vec::new(),
            signal: "SIGKILL".to_owned(),
            remove_orphans: false,
            execute: ExecuteOptions::default(),
        }
    }
}

/// Options of `run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    pub service: String,
    /// Random hex digits, twelve by custom, that make the container's name.
    pub slug: String,
    /// Answer to the service's name and aliases on its networks.
    pub use_aliases: bool,
    /// Leave the services that this one depends on alone.
    pub no_deps: bool,
    pub pull: Option<String>,
    /// Off: the container is created when its dependencies are ready, and the caller starts it once
    /// it is attached.
    pub start: bool,
    pub execute: ExecuteOptions,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            service: String::new(),
            slug: String::new(),
            use_aliases: false,
            no_deps: false,
            pull: None,
            start: true,
            execute: ExecuteOptions::default(),
        }
    }
}

/// Options of `pull`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullOptions {
    pub services: Vec<String>,
    /// The images of services that the named ones depend on, too.
    pub include_deps: bool,
    /// Leave services with a build section out.
    pub ignore_buildable: bool,
    /// An image that cannot be pulled is a warning.
    pub ignore_failures: bool,
    /// `always` or `missing`, in place of what the file says.
    pub policy: Option<String>,
    pub execute: ExecuteOptions,
}

/// Options of `push`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PushOptions {
    pub services: Vec<String>,
    pub include_deps: bool,
    pub ignore_failures: bool,
    pub execute: ExecuteOptions,
}

/// Options of `rm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoveOptions {
    pub services: Vec<String>,
    /// Stop what runs first; without it running containers are left alone.
    pub stop: bool,
    /// Remove anonymous volumes, too.
    pub volumes: bool,
    #[serde(with = "optional_nanoseconds")]
    pub timeout: Option<Duration>,
    pub execute: ExecuteOptions,
}
