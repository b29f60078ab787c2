//! The engine about itself, and the shape of a failure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::reconcile::{BackendError, FailureKind};

/// Answer of `GET /wharf/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    pub version: String,
    pub pid: u32,
    pub data_root: PathBuf,
    pub run_root: PathBuf,
    pub socket: PathBuf,
    pub n_containers: usize,
    pub n_running: usize,
    /// Nanoseconds since the epoch.
    pub started_at: u64,
    /// What the kernel gives and what stands in for it, as `(feature, finding)`.
    #[serde(default)]
    pub features: Vec<(String, String)>,
}

/// The body of every answer that is not a success. Docker's clients read `message` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FailureKind>,
}

impl From<BackendError> for ErrorBody {
    fn from(error: BackendError) -> Self {
        ErrorBody {
            message: error.message,
            hints: error.hints,
            kind: Some(error.kind),
        }
    }
}
