//! The request of an exec, and the frames that follow its upgrade.

use serde::{Deserialize, Serialize};

/// A process to run in a container: the body of `POST /wharf/v1/containers/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecConfig {
    pub argv: Vec<String>,
    pub tty: bool,
    /// Keep the process's stdin open for this client; else it is `/dev/null`.
    pub stdin: bool,
    /// `user` or `user:group`, by name or number. `None`: the container's.
    pub user: Option<String>,
    /// `None`: the container's.
    pub workdir: Option<String>,
    /// Added to the container's environment, `KEY=value`.
    pub env: Vec<String>,
    pub privileged: bool,
    /// `(columns, rows)` of the client's terminal, set before the process sees its own.
    pub size: Option<(u16, u16)>,
    /// Answer as soon as the process runs, and let it run on.
    pub detach: bool,
}
