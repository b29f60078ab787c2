//! Progress of a reconciliation, as values. Nothing here prints.

use serde::{Deserialize, Serialize};

use super::{BackendError, ImageProgress};

/// What one line of progress is about. Shown as Compose does: `Container demo-web-1  Started`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "name")]
pub enum Subject {
    Container(String),
    Network(String),
    Volume(String),
    Image(String),
}

/// Where a subject has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pulling,
    Pulled,
    Pushing,
    Pushed,
    Creating,
    Created,
    Recreate,
    Recreated,
    Starting,
    Started,
    /// Nothing to do: it runs already.
    Running,
    Waiting,
    Healthy,
    Exited,
    Stopping,
    Stopped,
    Killing,
    Killed,
    Restarting,
    Removing,
    Removed,
    Skipped,
    Error,
}

impl Status {
    /// Whether more is to come for this subject.
    pub fn is_working(self) -> bool {
        matches!(
            self,
            Status::Pulling
                | Status::Pushing
                | Status::Creating
                | Status::Recreate
                | Status::Starting
                | Status::Waiting
                | Status::Stopping
                | Status::Killing
                | Status::Restarting
                | Status::Removing
        )
    }
}

/// One event of a running reconciliation; the stream ends with `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Report {
    Progress {
        subject: Subject,
        status: Status,
        /// Detail such as an error's text; empty if there is none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
    },
    Image {
        reference: String,
        progress: ImageProgress,
    },
    Warning {
        text: String,
    },
    /// The printed plan, for `--plan`.
    Plan {
        text: String,
    },
    Done {
        /// Steps that were carried out; 0 says that nothing had to change.
        n_steps: usize,
    },
    Failed {
        error: BackendError,
        /// What was made before the failure and is still there, by name.
        kept: Vec<String>,
    },
}
