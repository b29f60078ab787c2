//! How a reconciliation fails.

use super::{BackendError, FailureKind};
use crate::plan::PlanError;

/// What went wrong, the first failure in front, and what is there nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    pub error: BackendError,
    /// Failures of steps that ran at the same time or did not depend on the first.
    pub others: Vec<BackendError>,
    /// What was made before the failure and is still there: kind and name.
    pub kept: Vec<String>,
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Failure {
            error,
            others: Vec::new(),
            kept: Vec::new(),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let kind = if error.is_not_found() {
            FailureKind::NotFound
        } else {
            FailureKind::Invalid
        };
        Failure::from(BackendError {
            kind,
            message: error.to_string(),
            hints: error.hints(),
        })
    }
}
