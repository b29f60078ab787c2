//! Commands on a project, and what the engine knows of it.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::Shared;
use super::error::ApiError;
use crate::api::Host;
use crate::api::wire::{
    DownOptions, KillOptions, ProjectRequest, PullOptions, PushOptions, RestartOptions,
    StartOptions, StopOptions, UpOptions, Verb,
};
use crate::compose::{Project, ProjectName};
use crate::reconcile::{BackendError, FailureKind, Report};

type ProjectBody<O> = Result<Json<ProjectRequest<O>>, JsonRejection>;

macro_rules! verbs {
    ($($handler:ident: $options:ty => $verb:path;)*) => {$(
        pub(super) async fn $handler<H: Host>(
            State(shared): State<Arc<Shared<H>>>,
            Path(name): Path<String>,
            body: ProjectBody<$options>,
        ) -> Result<Response, ApiError> {
            let Json(request) = body?;
            command(shared, &name, request.project, $verb(request.options))
        }
    )*};
}

verbs! {
    up: UpOptions => Verb::Up;
    down: DownOptions => Verb::Down;
    stop: StopOptions => Verb::Stop;
    start: StartOptions => Verb::Start;
    restart: RestartOptions => Verb::Restart;
    kill: KillOptions => Verb::Kill;
    pull: PullOptions => Verb::Pull;
    push: PushOptions => Verb::Push;
}

pub(super) fn project_name(name: &str) -> Result<ProjectName, ApiError> {
    ProjectName::new(name).map_err(|error| ApiError::new(FailureKind::Invalid, error.to_string()))
}

/// Starts the verb in a task of its own and answers with its reports. A client that goes away stops
/// nothing: a half-made project is worse than a finished one. `cancel` is how a user gives up.
fn command<H: Host>(
    shared: Arc<Shared<H>>,
    name: &str,
    desired: Option<Project>,
    verb: Verb,
) -> Result<Response, ApiError> {
    let name = project_name(name)?;
    match (&desired, &verb) {
        (None, Verb::Up(_) | Verb::Pull(_) | Verb::Push(_)) => {
            let message = format!("{} needs a project", verb.as_str());
            return Err(ApiError::new(FailureKind::Invalid, message));
        }
        (Some(project), _) if project.name != name => {
            return Err(ApiError::new(
                FailureKind::Invalid,
                format!(
                    "the body describes project {}, the path names {name}",
                    project.name
                ),
            ));
        }
        _ => {}
    }
    let (reports, receiver) = mpsc::unbounded_channel();
    tokio::spawn(transaction(shared, name, desired, verb, reports));
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let report = receiver.recv().await?;
        let mut line =
            serde_json::to_vec(&report).expect("reports are plain data with string keys");
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), receiver))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

async fn transaction<H: Host>(
    shared: Arc<Shared<H>>,
    name: ProjectName,
    desired: Option<Project>,
    verb: Verb,
    reports: mpsc::UnboundedSender<Report>,
) {
    // A receiver that is gone is a client that went away, which is its right.
    let report = |report| _ = reports.send(report);
    let turn = match verb {
        // A signal makes and removes nothing, and is often what a stuck command waits for.
        Verb::Kill(_) => None,
        _ => {
            let begin = shared.transactions.begin(&name, verb.as_str(), |current| {
                report(Report::Warning {
                    text: format!(
                        "another command ({current}) is running on project {name}, waiting \
                             for it"
                    ),
                });
            });
            Some(begin.await)
        }
    };
    let cancelled = turn
        .as_ref()
        .map_or_else(Default::default, |turn| turn.cancelled.clone());
    let work = shared
        .host
        .clone()
        .reconcile(name, desired, verb, reports.clone());
    let failed = |kind, message: &str| Report::Failed {
        error: BackendError {
            kind,
            message: message.to_owned(),
            hints: Vec::new(),
        },
        kept: Vec::new(),
    };
    tokio::select! {
        // Polled first, so that work that has just ended is not called cancelled.
        biased;
        ended = AssertUnwindSafe(work).catch_unwind() => if ended.is_err() {
            report(failed(FailureKind::Internal, "the engine hit a bug in this command"));
        },
        // Dropping the work leaves what is made so far: every step is create-or-adopt.
        () = cancelled.cancelled() => {
            report(failed(FailureKind::Conflict, "the command was cancelled"));
        }
    }
}

pub(super) async fn cancel<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let name = project_name(&name)?;
    if shared.transactions.cancel(&name) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::new(
            FailureKind::NotFound,
            format!("no command is running on project {name}"),
        ))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    all: bool,
}

pub(super) async fn containers<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(name): Path<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let name = project_name(&name)?;
    let containers = shared.host.list(Some(&name), query.all).await?;
    Ok(Json(containers).into_response())
}

pub(super) async fn all_containers<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    Ok(Json(shared.host.list(None, query.all).await?).into_response())
}

pub(super) async fn status<H: Host>(State(shared): State<Arc<Shared<H>>>) -> Response {
    Json(shared.host.status().await).into_response()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ShutdownQuery {
    stop_containers: bool,
}

pub(super) async fn shutdown<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    query: Result<Query<ShutdownQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let Query(query) = query?;
    shared.host.shutdown(query.stop_containers);
    Ok(StatusCode::NO_CONTENT)
}
