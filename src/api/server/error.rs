//! Failures as HTTP answers: the one place where a kind becomes a status.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::wire::ErrorBody;
use crate::reconcile::{BackendError, FailureKind};

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct ApiError(#[from] pub BackendError);

impl ApiError {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> ApiError {
        ApiError(BackendError {
            kind,
            message: message.into(),
            hints: Vec::new(),
        })
    }
}

fn status_of(kind: FailureKind) -> StatusCode {
    match kind {
        // Docker answers 400 when a program is not in the container.
        FailureKind::Invalid | FailureKind::StartFailed { .. } => StatusCode::BAD_REQUEST,
        FailureKind::Denied => StatusCode::UNAUTHORIZED,
        FailureKind::NotFound => StatusCode::NOT_FOUND,
        FailureKind::Conflict => StatusCode::CONFLICT,
        FailureKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (status_of(self.0.kind), Json(ErrorBody::from(self.0))).into_response()
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> ApiError {
        ApiError::new(FailureKind::Invalid, rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> ApiError {
        ApiError::new(FailureKind::Invalid, rejection.body_text())
    }
}
