//! Pulls, pushes and logins: in Docker's terms, and as reports for our own client.
//!
//! A client that goes away gives its pull up: what was fetched is kept for the next one.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Shared;
use super::error::ApiError;
use crate::api::Host;
use crate::api::images::{FiltersOf, ImageFilters};
use crate::api::wire::registry::{
    Artifact, ArtifactRequest, AuthAnswer, AuthConfig, ImageTransfer, RemoteDigest, progress_line,
};
use crate::plan::Logins;
use crate::reconcile::{
    BackendError, FailureKind, ImageProgress, ImageRequest, Report, Status, Subject,
};

/// Lines that wait for a slow client.
const BACKLOG: usize = 64;

/// `POST /auth`.
pub(super) async fn auth<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    body: Result<Json<AuthConfig>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(auth) = body?;
    let server = auth.serveraddress.clone();
    let identity_token = auth.identitytoken.clone();
    shared
        .host
        .authenticate(registry_of(&server), auth.into_login())
        .await?;
    Ok(Json(AuthAnswer {
        status: "Login Succeeded".to_owned(),
        identity_token,
    })
    .into_response())
}

/// A server as clients write it: with scheme and path, and Docker Hub by its old address.
fn registry_of(server: &str) -> &str {
    let name = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    match name.split('/').next().unwrap_or(name) {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// The registry in front of an image name.
fn registry_of_image(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => registry_of(host),
        _ => "docker.io",
    }
}

/// The login of a request that is about one image: whoever sends it means that image's registry.
fn logins(headers: &HeaderMap, reference: &str) -> Logins {
    let header = headers.get("x-registry-auth");
    let header = header.and_then(|value| value.to_str().ok()).unwrap_or("");
    let login = AuthConfig::from_header(header).into_login();
    let mut logins = Logins::default();
    if !login.is_empty() {
        logins
            .0
            .insert(registry_of_image(reference).to_owned(), login);
    }
    logins
}

/// What a client sees of a transfer, one value after the other.
enum Event {
    Progress(ImageProgress),
    Ended(Result<(), BackendError>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Pull,
    /// Every tag of a repository, one after the other: they share most of their layers.
    PullAll,
    Push,
    /// Every tag of a repository that is here.
    PushAll,
}

impl Direction {
    fn is_push(self) -> bool {
        matches!(self, Direction::Push | Direction::PushAll)
    }
}

/// Carries a transfer out; it is given up when nobody reads the events any more.
fn begin<H: Host>(
    shared: Arc<Shared<H>>,
    request: ImageRequest,
    direction: Direction,
) -> mpsc::Receiver<Event> {
    let (events, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let (progress, mut progressed) = mpsc::unbounded_channel();
        let host = &shared.host;
        let work = async {
            match direction {
                Direction::Pull => host.ensure_image(&request, progress).await.map(drop),
                Direction::PullAll => pull_all(&**host, request, progress).await,
                Direction::Push => host.push_image(&request, progress).await,
                Direction::PushAll => push_all(&**host, request, progress).await,
            }
        };
        let told = async {
            while let Some(progress) = progressed.recv().await {
                if events.send(Event::Progress(progress)).await.is_err() {
                    break;
                }
            }
        };
        let both = async { tokio::join!(work, told).0 };
        tokio::select! {
            // Cancel safe: the work is not asked for again.
            ended = both => {
                // A client that has gone needs no last word.
                let _ = events.send(Event::Ended(ended)).await;
            }
            // Dropping the work gives it up.
            () = events.closed() => (),
            () = shared.closing.cancelled() => (),
        }
    });
    receiver
}

async fn pull_all<H: Host>(
    host: &H,
    request: ImageRequest,
    progress: mpsc::UnboundedSender<ImageProgress>,
) -> Result<(), BackendError> {
    for reference in host.remote_tags(&request).await? {
        let one = ImageRequest {
            reference,
            ..request.clone()
        };
        host.ensure_image(&one, progress.clone()).await?;
    }
    Ok(())
}

async fn push_all<H: Host>(
    host: &H,
    request: ImageRequest,
    progress: mpsc::UnboundedSender<ImageProgress>,
) -> Result<(), BackendError> {
    let filters = json!({ "reference": [request.reference] }).to_string();
    let filters = ImageFilters::parse(&filters, FiltersOf::List)?;
    let images = host.images(filters).await?;
    let tags = images.into_iter().flat_map(|image| image.repo_tags);
    let is_asked = |name: &String| {
        let repository = name.rsplit_once(':').map(|(repository, _)| repository);
        repository == Some(request.reference.as_str())
    };
    let mut names: Vec<String> = tags.filter(is_asked).collect();
    names.sort();
    if names.is_empty() {
        return Err(BackendError {
            kind: FailureKind::NotFound,
            message: format!(
                "an image does not exist locally with the tag: {}",
                request.reference
            ),
            hints: vec![
                "`wharf image ls` shows what is here, `wharf image tag` gives an image this name"
                    .to_owned(),
            ],
        });
    }
    for reference in names {
        let one = ImageRequest {
            reference,
            ..request.clone()
        };
        host.push_image(&one, progress.clone()).await?;
    }
    Ok(())
}

/// The digest by which the image of a name was pulled.
async fn digest_of<H: Host>(host: &H, reference: &str) -> Option<String> {
    let image = host.inspect_image(reference, None).await.ok()?;
    let (name, pinned) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let mut digests = image
        .repo_digests
        .iter()
        .filter_map(|name| name.split_once('@'));
    let found = digests.find(|(repository, digest)| match pinned {
        Some(pinned) => *digest == pinned,
        None => name
            .strip_prefix(repository)
            .is_some_and(|tag| !tag.contains('/')),
    });
    found.map(|(_, digest)| digest.to_owned())
}

fn events(receiver: mpsc::Receiver<Event>) -> impl Stream<Item = Event> + Send + 'static {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((event, receiver))
    })
}

/// Docker's stream for `docker pull` and `docker push`: a JSON object a line, a failure in the last.
/// What fails before there is anything to tell is an HTTP status.
async fn docker_stream<H: Host>(
    shared: Arc<Shared<H>>,
    request: ImageRequest,
    direction: Direction,
    first: Value,
) -> Result<Response, ApiError> {
    let reference = request.reference.clone();
    // Of a repository whose tags are all asked for, too.
    let is_name = move |part: &str| {
        let rest = part.strip_prefix(reference.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let reference = request.reference.clone();
    let (mut n_asked, mut n_same) = (0, 0);
    let mut receiver = begin(Arc::clone(&shared), request, direction);
    let mut early = Vec::new();
    loop {
        match receiver.recv().await {
            Some(Event::Ended(Err(error))) => return Err(error.into()),
            Some(Event::Progress(progress)) if is_name(&progress.part) => {
                early.push(Event::Progress(progress));
            }
            Some(event) => {
                early.push(event);
                break;
            }
            None => break,
        }
    }
    let told = futures_util::stream::iter(early).chain(events(receiver));
    let pulled = reference.clone();
    let told = told.then(move |event| {
        let (shared, pulled) = (Arc::clone(&shared), pulled.clone());
        async move {
            let digest = match (&event, direction) {
                (Event::Ended(Ok(())), Direction::Pull) => digest_of(&*shared.host, &pulled).await,
                _ => None,
            };
            (event, digest)
        }
    });
    let told = told.map(move |(event, digest)| match event {
        Event::Progress(progress) if is_name(&progress.part) => {
            n_asked += u64::from(progress.status == "resolving");
            n_same += u64::from(progress.status == "up to date");
            let Some(digest) = progress.status.strip_prefix("digest: ") else {
                return Vec::new();
            };
            let (tag, size) = (tag_of(&progress.part), progress.total_bytes);
            vec![
                json!({"status": format!("{tag}: digest: {digest} size: {size}")}),
                json!({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size}}),
            ]
        }
        Event::Progress(mut progress) if direction.is_push() => {
            match progress.status.as_str() {
                "complete" => "pushed".clone_into(&mut progress.status),
                "already there" => "exists".clone_into(&mut progress.status),
                _ => {}
            }
            vec![progress_line(&progress)]
        }
        Event::Progress(progress) => vec![progress_line(&progress)],
        Event::Ended(Ok(())) if direction.is_push() => Vec::new(),
        Event::Ended(Ok(())) => {
            let status = match n_same < n_asked {
                true => format!("Status: Downloaded newer image for {reference}"),
                false => format!("Status: Image is up to date for {reference}"),
            };
            let digest = digest.map(|digest| json!({"status": format!("Digest: {digest}")}));
            digest
                .into_iter()
                .chain([json!({ "status": status })])
                .collect()
        }
        Event::Ended(Err(error)) => vec![json!({
            "errorDetail": {"message": error.message},
            "error": error.message,
        })],
    });
    let lines = futures_util::stream::iter([vec![first]])
        .chain(told)
        .map(|values| {
            let mut text = Vec::new();
            for value in values {
                text.extend_from_slice(value.to_string().as_bytes());
                text.extend_from_slice(b"\r\n");
            }
            Ok::<_, Infallible>(Bytes::from(text))
        });
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(lines),
    )
        .into_response())
}

/// `POST /wharf/v1/images/pull`.
pub(super) async fn pull<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    body: Result<Json<ImageTransfer>, JsonRejection>,
) -> Result<Response, ApiError> {
    let transfer = body?.0;
    let direction = match transfer.all_tags {
        true => Direction::PullAll,
        false => Direction::Pull,
    };
    Ok(reports(shared, transfer, direction))
}

/// `POST /wharf/v1/images/push`.
pub(super) async fn push<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    body: Result<Json<ImageTransfer>, JsonRejection>,
) -> Result<Response, ApiError> {
    let transfer = body?.0;
    let direction = match transfer.all_tags {
        true => Direction::PushAll,
        false => Direction::Push,
    };
    Ok(reports(shared, transfer, direction))
}

/// `POST /wharf/v1/images/digest`.
pub(super) async fn digest<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    body: Result<Json<ImageTransfer>, JsonRejection>,
) -> Result<Json<RemoteDigest>, ApiError> {
    let Json(transfer) = body?;
    let request = ImageRequest {
        reference: transfer.reference,
        logins: transfer.logins,
        ..ImageRequest::default()
    };
    let digest = shared.host.remote_digest(&request).await?;
    Ok(Json(RemoteDigest { digest }))
}

/// `POST /wharf/v1/artifacts`.
pub(super) async fn artifact<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    body: Result<Json<ArtifactRequest>, JsonRejection>,
) -> Result<Json<Artifact>, ApiError> {
    let Json(asked) = body?;
    let request = ImageRequest {
        reference: asked.reference,
        logins: asked.logins,
        ..ImageRequest::default()
    };
    Ok(Json(shared.host.artifact(&request, &asked.kinds).await?))
}

/// `GET /distribution/{name}/json`. The router hands over everything behind `/distribution/`,
/// since a name may hold slashes.
pub(super) async fn distribution<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Some(name) = path.strip_suffix("/json") else {
        return Err(ApiError::new(FailureKind::NotFound, "page not found"));
    };
    let request = ImageRequest {
        reference: name.to_owned(),
        logins: logins(&headers, name),
        ..ImageRequest::default()
    };
    Ok(Json(shared.host.describe_remote(&request).await?).into_response())
}

fn reports<H: Host>(
    shared: Arc<Shared<H>>,
    transfer: ImageTransfer,
    direction: Direction,
) -> Response {
    let reference = transfer.reference.clone();
    let request = ImageRequest {
        reference: transfer.reference,
        pull_policy: Some("always".to_owned()),
        platform: transfer.platform,
        logins: transfer.logins,
    };
    let (working, ended) = match direction {
        Direction::Pull | Direction::PullAll => (Status::Pulling, Status::Pulled),
        Direction::Push | Direction::PushAll => (Status::Pushing, Status::Pushed),
    };
    let subject = Subject::Image(reference.clone());
    let about = |status, text: &str| Report::Progress {
        subject: subject.clone(),
        status,
        text: text.to_owned(),
    };
    let first = about(working, "");
    let last = about(ended, "");
    let failed = {
        let subject = subject.clone();
        move |text: &str| Report::Progress {
            subject: subject.clone(),
            status: Status::Error,
            text: text.to_owned(),
        }
    };
    let told = events(begin(shared, request, direction)).map(move |event| match event {
        Event::Progress(progress) => vec![Report::Image {
            reference: reference.clone(),
            progress,
        }],
        Event::Ended(Ok(())) => vec![last.clone(), Report::Done { n_steps: 1 }],
        Event::Ended(Err(error)) => vec![
            failed(&error.message),
            Report::Failed {
                error,
                kept: Vec::new(),
            },
        ],
    });
    let lines = futures_util::stream::iter([vec![first]])
        .chain(told)
        .map(|reports| {
            let mut text = Vec::new();
            for report in reports {
                let line = serde_json::to_vec(&report);
                text.extend(line.expect("reports are plain data with string keys"));
                text.push(b'\n');
            }
            Ok::<_, Infallible>(Bytes::from(text))
        });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// `POST /images/create?fromImage=…` as Docker has it.
pub(super) async fn docker_pull<H: Host>(
    shared: Arc<Shared<H>>,
    headers: &HeaderMap,
    from_image: &str,
    tag: &str,
    platform: &str,
) -> Result<Response, ApiError> {
    let from_image = familiar(from_image);
    let reference = match tag {
        "" => from_image.to_owned(),
        digest if digest.contains(':') => format!("{from_image}@{digest}"),
        tag => format!("{from_image}:{tag}"),
    };
    let request = ImageRequest {
        logins: logins(headers, &reference),
        reference,
        pull_policy: Some("always".to_owned()),
        platform: Some(platform.to_owned()).filter(|platform| !platform.is_empty()),
    };
    // Without any tag Docker fetches all; its own client always names one.
    let last = from_image.rsplit('/').next().unwrap_or_default();
    if tag.is_empty() && !last.contains([':', '@']) {
        let first = json!({"status": format!("Pulling all tags of {from_image}")});
        return docker_stream(shared, request, Direction::PullAll, first).await;
    }
    let path = path_of(from_image);
    let first = json!({"status": format!("Pulling from {path}"), "id": tag});
    docker_stream(shared, request, Direction::Pull, first).await
}

/// `POST /images/{name}/push?tag=…` as Docker has it.
pub(super) async fn docker_push<H: Host>(
    shared: Arc<Shared<H>>,
    headers: &HeaderMap,
    name: &str,
    tag: &str,
) -> Result<Response, ApiError> {
    let name = familiar(name);
    let reference = match tag {
        "" => name.to_owned(),
        tag => format!("{name}:{tag}"),
    };
    let request = ImageRequest {
        logins: logins(headers, &reference),
        reference,
        ..ImageRequest::default()
    };
    let first = json!({"status": format!("The push refers to repository [{name}]")});
    // Without any tag Docker sends all; its own client names one unless it was asked for all.
    let last = name.rsplit('/').next().unwrap_or_default();
    let direction = match tag.is_empty() && !last.contains([':', '@']) {
        true => Direction::PushAll,
        false => Direction::Push,
    };
    docker_stream(shared, request, direction, first).await
}

/// A name as it is shown: Docker Hub's without what every name there has.
fn familiar(name: &str) -> &str {
    let hosts = ["docker.io/", "index.docker.io/"];
    let rest = hosts.iter().find_map(|host| name.strip_prefix(host));
    let rest = rest.unwrap_or(name);
    rest.strip_prefix("library/").unwrap_or(rest)
}

/// A name as its own registry knows it.
fn path_of(name: &str) -> String {
    match name.split_once('/') {
        None => format!("library/{name}"),
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path.to_owned(),
        Some(_) => name.to_owned(),
    }
}

/// What stands behind the name.
fn tag_of(reference: &str) -> &str {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_docker_shows_them() {
        for (name, shown, path, tag) in [
            ("busybox", "busybox", "library/busybox", "latest"),
            (
                "docker.io/library/busybox:1",
                "busybox:1",
                "library/busybox:1",
                "1",
            ),
            ("index.docker.io/me/app", "me/app", "me/app", "latest"),
            ("library/busybox", "busybox", "library/busybox", "latest"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x", "a/b:x", "x"),
            ("ghcr.io/a/b", "ghcr.io/a/b", "a/b", "latest"),
        ] {
            assert_eq!(familiar(name), shown);
            assert_eq!(path_of(shown), path);
            assert_eq!(tag_of(shown), tag);
        }
    }
}
