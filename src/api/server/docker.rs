//! Docker's own routes, as far as they are served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Shared;
use super::error::ApiError;
use crate::api::Host;
use crate::api::containers::{Filters, summary};
use crate::api::wire::docker::{API_VERSION, Component, Info, MIN_API_VERSION, Platform, Version};

/// Docker's clients read the API version and the operating system from these headers.
pub(super) async fn ping() -> Response {
    (
        [
            (header::HeaderName::from_static("api-version"), API_VERSION),
            (
                header::HeaderName::from_static("docker-experimental"),
                "false",
            ),
            (header::HeaderName::from_static("ostype"), "linux"),
            (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
            (header::PRAGMA, "no-cache"),
            (header::SERVER, concat!("wharf/", env!("CARGO_PKG_VERSION"))),
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        ],
        "OK",
    )
        .into_response()
}

/// Go's names of architectures, which is what clients compare with.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

pub(super) async fn version<H: Host>(State(shared): State<Arc<Shared<H>>>) -> Response {
    let status = shared.host.status().await;
    let details = BTreeMap::from([
        ("ApiVersion".to_owned(), API_VERSION.to_owned()),
        ("MinAPIVersion".to_owned(), MIN_API_VERSION.to_owned()),
        ("Os".to_owned(), "linux".to_owned()),
        ("Arch".to_owned(), architecture().to_owned()),
        ("KernelVersion".to_owned(), kernel_release()),
    ]);
    Json(Version {
        platform: Platform {
            name: "wharf".to_owned(),
        },
        components: vec![Component {
            name: "Engine".to_owned(),
            version: status.version.clone(),
            details,
        }],
        version: status.version,
        api_version: API_VERSION.to_owned(),
        min_api_version: MIN_API_VERSION.to_owned(),
        git_commit: String::new(),
        go_version: String::new(),
        os: "linux".to_owned(),
        arch: architecture().to_owned(),
        kernel_version: kernel_release(),
        experimental: false,
        build_time: String::new(),
    })
    .into_response()
}

pub(super) async fn info<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
) -> Result<Response, ApiError> {
    let status = shared.host.status().await;
    let containers = shared.host.list(None, true).await?;
    let count = |phase| containers.iter().filter(|c| c.phase == phase).count();
    let running = count(crate::plan::Phase::Running);
    let paused = count(crate::plan::Phase::Paused);
    let memory = rustix::system::sysinfo();
    Ok(Json(Info {
        id: status.run_root.display().to_string(),
        containers: containers.len(),
        containers_running: running,
        containers_paused: paused,
        containers_stopped: containers.len() - running - paused,
        images: shared.host.n_images().await?,
        driver: "overlay2".to_owned(),
        logging_driver: "json-file".to_owned(),
        cgroup_driver: "cgroupfs".to_owned(),
        docker_root_dir: status.data_root.display().to_string(),
        name: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        server_version: status.version,
        os_type: "linux".to_owned(),
        operating_system: "Linux".to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        kernel_version: kernel_release(),
        n_cpu: std::thread::available_parallelism().map_or(1, usize::from),
        mem_total: memory.totalram.saturating_mul(u64::from(memory.mem_unit)),
    })
    .into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainersQuery {
    /// Docker's clients send `1`, `true` or `True`.
    all: String,
    limit: Option<i64>,
    filters: String,
}

pub(super) async fn containers<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Result<Query<ContainersQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let filters = Filters::parse(&query.filters)?;
    let limit = query
        .limit
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n > 0);
    let all = is_true(&query.all) || limit.is_some() || filters.names_a_status();
    let mut containers = shared.host.list(None, all).await?;
    containers.retain(|container| filters.accept(container));
    // Docker's order: the newest first.
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    containers.truncate(limit.unwrap_or(usize::MAX));
    let now_ns = now_ns();
    let rows: Vec<_> = containers.iter().map(|c| summary(c, now_ns)).collect();
    Ok(Json(rows).into_response())
}

/// Go's `httputils.BoolValue`: everything but these is true.
pub(super) fn is_true(value: &str) -> bool {
    !matches!(
        value.trim().to_ascii_lowercase().as_str(),
        "" | "0" | "no" | "false" | "none"
    )
}

pub(super) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}
