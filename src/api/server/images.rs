//! Docker's routes for images, and what takes how much of the disk.
//!
//! A name may hold slashes, so the router hands over everything behind `/images/` and the last
//! segment is told apart here.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::Shared;
use super::docker::is_true;
use super::error::ApiError;
use super::registry;
use crate::api::Host;
use crate::api::images::{FiltersOf, ImageFilters, Import};
use crate::api::wire::image::{ErrorDetail, ProgressLine};
use crate::reconcile::FailureKind;

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Bytes of an upload that are written to the disk at once.
const UPLOAD_CHUNK: usize = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    filters: String,
    /// Older clients filter by name like this.
    filter: String,
}

pub(super) async fn list<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let filters = match query.filter.is_empty() {
        true => query.filters,
        false => serde_json::json!({"reference": [query.filter]}).to_string(),
    };
    let filters = ImageFilters::parse(&filters, FiltersOf::List)?;
    Ok(Json(shared.host.images(filters).await?).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OfNameQuery {
    platform: String,
}

/// Docker's clients send the platform as the OCI specification's object in JSON; ours as text.
fn platform_text(value: &str) -> Result<Option<String>, ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Object {
        os: String,
        architecture: String,
        variant: String,
    }
    if !value.starts_with('{') {
        return Ok((!value.is_empty()).then(|| value.to_owned()));
    }
    let object: Object = serde_json::from_str(value)
        .map_err(|_| ApiError::new(FailureKind::Invalid, "platform is no JSON object"))?;
    let parts = [object.os, object.architecture, object.variant];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Ok(Some(parts.join("/")))
}

/// `GET /images/{name}/json`, `…/history`, `…/get`.
pub(super) async fn of_name<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(path): Path<String>,
    query: Result<Query<OfNameQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let platform = platform_text(&query.platform)?;
    match path.rsplit_once('/') {
        Some((name, "json")) => {
            let image = shared.host.inspect_image(name, platform.as_deref());
            Ok(Json(image.await?).into_response())
        }
        Some((name, "history")) => Ok(Json(shared.host.image_history(name).await?).into_response()),
        Some((name, "get")) => save(shared, vec![name.to_owned()]).await,
        _ => Err(page_not_found()),
    }
}

fn page_not_found() -> ApiError {
    ApiError::new(FailureKind::NotFound, "page not found")
}

/// `POST /images/{name}/tag`, `…/push`.
pub(super) async fn change<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(path): Path<String>,
    query: Result<Query<TagQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    match path.rsplit_once('/') {
        Some((name, "tag")) => {
            let Some(reference) = named(&query.repo, &query.tag) else {
                return Err(ApiError::new(FailureKind::Invalid, "repo is missing"));
            };
            shared.host.tag_image(name, &reference).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        Some((name, "push")) => registry::docker_push(shared, &headers, name, &query.tag).await,
        _ => Err(page_not_found()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TagQuery {
    repo: String,
    tag: String,
}

fn named(repo: &str, tag: &str) -> Option<String> {
    match (repo.is_empty(), tag.is_empty()) {
        (true, _) => None,
        (false, true) => Some(repo.to_owned()),
        (false, false) => Some(format!("{repo}:{tag}")),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RemoveQuery {
    force: String,
}

pub(super) async fn remove<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(name): Path<String>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let items = shared.host.delete_image(&name, is_true(&query.force));
    Ok(Json(items.await?).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PruneQuery {
    filters: String,
}

pub(super) async fn prune<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Result<Query<PruneQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let filters = ImageFilters::parse(&query.filters, FiltersOf::Prune)?;
    Ok(Json(shared.host.prune_images(filters).await?).into_response())
}

/// `GET /images/get?names=a&names=b`.
pub(super) async fn get<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Pairs,
) -> Result<Response, ApiError> {
    let Query(pairs) = query?;
    let names = values(&pairs, "names");
    if names.is_empty() {
        return Err(ApiError::new(FailureKind::Invalid, "no image is named"));
    }
    save(shared, names).await
}

fn values(pairs: &[(String, String)], key: &str) -> Vec<String> {
    let of_key = pairs.iter().filter(|(found, _)| found == key);
    of_key.map(|(_, value)| value.clone()).collect()
}

async fn save<H: Host>(shared: Arc<Shared<H>>, names: Vec<String>) -> Result<Response, ApiError> {
    let archive = shared.host.save_images(names).await?;
    Ok((
        [(header::CONTENT_TYPE, "application/x-tar")],
        Body::from_stream(archive),
    )
        .into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoadQuery {
    quiet: String,
    /// `os/arch`, or as Docker's clients write it: `{"os":"linux","architecture":"arm64"}`.
    platform: String,
}

#[derive(Deserialize)]
struct PlatformJson {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

pub(super) async fn load<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Result<Query<LoadQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let platform = match serde_json::from_str::<PlatformJson>(&query.platform) {
        Ok(json) => Some(format!(
            "{}/{}/{}",
            json.os, json.architecture, json.variant
        )),
        Err(_) => Some(query.platform).filter(|platform| !platform.is_empty()),
    }
    .map(|platform| platform.trim_end_matches('/').to_owned());
    let archive = receive(&*shared.host, body).await?;
    let is_quiet = is_true(&query.quiet);
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move { shared.host.load_images(archive, platform, sender).await });
    let lines = stream_of(receiver)
        .filter(move |line| std::future::ready(!is_quiet || line.status.is_none()));
    Ok(progress(lines))
}

fn stream_of(
    receiver: mpsc::UnboundedReceiver<ProgressLine>,
) -> impl Stream<Item = ProgressLine> + Send {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((line, receiver))
    })
}

/// Docker's streams of progress: JSON objects with CRLF between them.
pub(super) fn progress(lines: impl Stream<Item = ProgressLine> + Send + 'static) -> Response {
    let lines = lines.map(|line| {
        let mut bytes = serde_json::to_vec(&line).expect("lines are plain data with string keys");
        bytes.extend_from_slice(b"\r\n");
        Ok::<_, Infallible>(Bytes::from(bytes))
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// `POST /images/create?fromSrc=-`: a file system from the body.
pub(super) async fn create<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Query(pairs) = query?;
    let value = |key: &str| values(&pairs, key).pop().unwrap_or_default();
    if value("fromSrc").is_empty() {
        let (image, tag, platform) = (value("fromImage"), value("tag"), value("platform"));
        return registry::docker_pull(shared, &headers, &image, &tag, &platform).await;
    }
    if value("fromSrc") != "-" {
        // Docker's daemon would fetch it; ours fetches nothing that a client names.
        let message = "an archive on another machine is not fetched: send it in the body with \
                       fromSrc=- (`curl -L URL | docker import -`)";
        return Err(ApiError::new(FailureKind::Unsupported, message));
    }
    let archive = receive(&*shared.host, body).await?;
    let import = Import {
        reference: named(&value("repo"), &value("tag")),
        message: match value("message") {
            message if message.is_empty() => "Imported from -".to_owned(),
            message => message,
        },
        changes: values(&pairs, "changes"),
        platform: Some(value("platform")).filter(|platform| !platform.is_empty()),
    };
    let line = match shared.host.import_image(archive, import).await {
        Ok(id) => ProgressLine {
            status: Some(id),
            ..ProgressLine::default()
        },
        Err(error) => ProgressLine {
            error: Some(error.message.clone()),
            error_detail: Some(ErrorDetail {
                message: error.message,
                hints: error.hints,
            }),
            ..ProgressLine::default()
        },
    };
    Ok(progress(futures_util::stream::iter([line])))
}

/// Keeps an upload in a file: archives are read more than once.
async fn receive<H: Host>(host: &H, body: Body) -> Result<File, ApiError> {
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::new(
            FailureKind::Internal,
            format!("cannot keep the upload: {error}"),
        )
    };
    let mut file = host.upload_file().await?;
    let mut chunks = body.into_data_stream();
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let chunk = chunks.next().await.transpose().map_err(|error| {
            let message = format!("the upload broke off: {error}");
            ApiError::new(FailureKind::Invalid, message)
        })?;
        let is_last = chunk.is_none();
        pending.extend_from_slice(&chunk.unwrap_or_default());
        if pending.len() < UPLOAD_CHUNK && !is_last {
            continue;
        }
        let bytes = std::mem::take(&mut pending);
        let write = tokio::task::spawn_blocking(move || {
            file.write_all(&bytes)?;
            if is_last {
                file.rewind()?;
            }
            Ok::<_, std::io::Error>((file, bytes))
        });
        let (written, mut bytes) = write
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        if is_last {
            return Ok(written);
        }
        file = written;
        bytes.clear();
        pending = bytes;
    }
}

pub(super) async fn disk_usage<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.host.disk_usage().await?).into_response())
}

/// Ours: `POST /wharf/v1/images/check?names=…`.
pub(super) async fn check<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Pairs,
) -> Result<Response, ApiError> {
    let Query(pairs) = query?;
    let verdicts = shared.host.check_images(values(&pairs, "names")).await?;
    Ok(Json(verdicts).into_response())
}
