//! The whole table of routes on one page.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;

use super::error::ApiError;
use super::{Shared, docker, images, logs, project, registry, session};
use crate::api::Host;
use crate::reconcile::FailureKind;

/// A project with all its inline content; Compose files are kilobytes.
const PROJECT_BODY_BYTES: usize = 32 << 20;
const BODY_BYTES: usize = 1 << 20;
/// Bodies of these are archives, which go to the disk as they come.
const UPLOADS: [&str; 2] = ["/images/load", "/images/create"];

pub(super) fn router<H: Host>(shared: Arc<Shared<H>>) -> Router {
    let projects = Router::new()
        .route("/{project}/up", post(project::up::<H>))
        .route("/{project}/down", post(project::down::<H>))
        .route("/{project}/stop", post(project::stop::<H>))
        .route("/{project}/start", post(project::start::<H>))
        .route("/{project}/restart", post(project::restart::<H>))
        .route("/{project}/kill", post(project::kill::<H>))
        .route("/{project}/pull", post(project::pull::<H>))
        .route("/{project}/push", post(project::push::<H>))
        .route("/{project}/cancel", post(project::cancel::<H>))
        .route("/{project}/containers", get(project::containers::<H>))
        .route("/{project}/logs", get(logs::logs::<H>))
        .layer(DefaultBodyLimit::max(PROJECT_BODY_BYTES));

    Router::new()
        // Docker's.
        .route("/_ping", get(docker::ping))
        .route("/version", get(docker::version::<H>))
        .route("/info", get(docker::info::<H>))
        .route("/containers/json", get(docker::containers::<H>))
        .route("/images/json", get(images::list::<H>))
        .route("/images/get", get(images::get::<H>))
        .route("/images/load", post(images::load::<H>))
        .route("/images/create", post(images::create::<H>))
        .route("/images/prune", post(images::prune::<H>))
        .route(
            "/images/{*name}",
            get(images::of_name::<H>)
                .post(images::change::<H>)
                .delete(images::remove::<H>),
        )
        .route("/distribution/{*name}", get(registry::distribution::<H>))
        .route("/system/df", get(images::disk_usage::<H>))
        .route("/auth", post(registry::auth::<H>))
        // Our own.
        .route("/wharf/v1/images/pull", post(registry::pull::<H>))
        .route("/wharf/v1/images/push", post(registry::push::<H>))
        .route("/wharf/v1/images/digest", post(registry::digest::<H>))
        .route("/wharf/v1/artifacts", post(registry::artifact::<H>))
        .route("/wharf/v1/images/check", post(images::check::<H>))
        .route("/wharf/v1/containers", get(project::all_containers::<H>))
        .route(
            "/wharf/v1/containers/{container}/exec",
            post(session::exec::<H>),
        )
        .route(
            "/wharf/v1/containers/{container}/attach",
            post(session::attach::<H>),
        )
        .route("/wharf/v1/status", get(project::status::<H>))
        .route("/wharf/v1/shutdown", post(project::shutdown::<H>))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .nest("/wharf/v1/projects", projects)
        .fallback(page_not_found)
        .layer(middleware::from_fn(refuse_giants))
        .layer(middleware::from_fn(survive_panics))
        .with_state(shared)
}

async fn page_not_found() -> ApiError {
    ApiError::new(FailureKind::NotFound, "page not found")
}

/// A bug in one handler is that request's failure, not the engine's end. The panic hook has
/// already logged where it happened.
async fn survive_panics(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => ApiError::new(
            FailureKind::Internal,
            "the engine hit a bug in this request",
        )
        .into_response(),
    }
}

/// A body that announces too much is refused before a byte of it is read; one that lies about its
/// length is cut off by the limits above.
async fn refuse_giants(request: Request, next: Next) -> Response {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_upload = UPLOADS.contains(&request.uri().path());
    if !is_upload && announced.is_some_and(|length| length > PROJECT_BODY_BYTES as u64) {
        let message = format!("the request is longer than {PROJECT_BODY_BYTES} bytes");
        return ApiError::new(FailureKind::Invalid, message).into_response();
    }
    next.run(request).await
}
