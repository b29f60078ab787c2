//! `wharf up` in the foreground: output, Ctrl-C, and how it ends.
//!
//! ```text
//! watching ──Ctrl-C, or a container ended and --abort-on-…──▶ stopping ──all ended──▶ exit code
//!    │                                                           │ Ctrl-C again
//!    └────────────all containers ended──▶ exit code              ▼
//!                                                             killing ──all ended──▶ 130
//! ```
//!
//! Output is shown to its last byte in every state: what a service says while it stops is often what
//! one wants to read.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;

use super::Up;
use crate::api::client::{Client, ClientError, Reports};
use crate::api::wire::frame::LogFrame;
use crate::api::wire::{KillOptions, LogsQuery, StopOptions, Verb};
use crate::cli::command::Interrupts;
use crate::cli::globals::Context;
use crate::cli::logs::Follower;
use crate::cli::output::{Failure, LogLines, LogStyle, Progress};
use crate::compose::{Project, ProjectName};
use crate::plan::Phase;
use crate::reconcile::Report;

/// When `up` ends by itself, and with which code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All containers have ended; the code is 0.
    LastExit,
    /// Any container has ended; the code is that container's.
    FirstExit,
    /// Any container has failed; the code is that container's.
    FirstFailure,
    /// Any container has ended; the code is this service's.
    ExitCodeFrom(String),
}

pub struct Watched<'a> {
    pub name: &'a ProjectName,
    /// Empty: all.
    pub services: Vec<String>,
    /// Nanoseconds since the epoch.
    pub since: u64,
    pub style: LogStyle,
    pub timeout: Option<Duration>,
    pub ending: Ending,
}

/// The services whose output is shown. Empty: all that there are, also those that come later.
pub fn services(up: &Up, project: &Project) -> Vec<String> {
    let is_quiet = |service: &str| {
        up.no_attach.iter().any(|quiet| quiet == service)
            || project
                .services
                .get(service)
                .is_some_and(|s| s.attach == Some(false))
    };
    if !up.attach.is_empty() {
        return up
            .attach
            .iter()
            .filter(|service| !is_quiet(service))
            .cloned()
            .collect();
    }
    if !up.services.is_empty() && !up.attach_dependencies {
        return up
            .services
            .iter()
            .filter(|service| !is_quiet(service))
            .cloned()
            .collect();
    }
    if !project.services.keys().any(|service| is_quiet(service)) {
        return Vec::new();
    }
    project
        .services
        .keys()
        .filter(|service| !is_quiet(service))
        .cloned()
        .collect()
}

/// What has been asked of the containers.
enum State {
    Watching,
    Stopping,
    Killing,
}

pub async fn watch(
    context: &Context,
    client: &Client,
    watched: Watched<'_>,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let query = LogsQuery {
        follow: true,
        since: Some(watched.since),
        services: watched.services.join(","),
        ..LogsQuery::default()
    };
    let mut frames = Follower::begin(context, client, watched.name, query).await?;
    let mut lines = LogLines::new(watched.style, context.output);
    let mut services: HashMap<u16, String> = HashMap::new();
    let mut state = State::Watching;
    let mut reports: Option<Reports> = None;
    let mut progress = Progress::new(context.progress, context.output);
    let mut interrupted = false;
    // The code of the container that ended everything, or of the service that was asked for.
    let mut code = 0;

    let stop = Verb::Stop(StopOptions {
        timeout: watched.timeout,
        ..StopOptions::default()
    });
    loop {
        tokio::select! {
            frame = frames.next() => {
                let Some(frame) = frame else { break };
                let frame = frame?;
                let dressed = lines.take(&frame);
                let mut written = Ok(());
                if !dressed.is_empty() {
                    progress.above(|| written = context.output.log(&dressed));
                }
                written?;
                match frame {
                    LogFrame::Opened(opened) => _ = services.insert(opened.index, opened.service),
                    LogFrame::Failed(error) => progress.warn(&error.message),
                    LogFrame::Closed(closed) => {
                        let Some(exit_code) = closed.exit_code else { continue };
                        let text = format!("{} exited with code {exit_code}\n", lines.label(closed.index));
                        let mut written = Ok(());
                        progress.above(|| written = context.output.out(text.as_bytes()));
                        written?;
                        let is_first = matches!(state, State::Watching);
                        let ends = match &watched.ending {
                            Ending::LastExit => false,
                            Ending::FirstExit => is_first,
                            Ending::FirstFailure => is_first && exit_code != 0,
                            Ending::ExitCodeFrom(service) => {
                                if services.get(&closed.index) == Some(service) {
                                    code = exit_code;
                                }
                                is_first
                            }
                        };
                        if ends {
                            if !matches!(watched.ending, Ending::ExitCodeFrom(_)) {
                                code = exit_code;
                            }
                            progress.above(|| context.output.note("Aborting on container exit..."));
                            reports = Some(client.command(watched.name, None, &stop).await?);
                            state = State::Stopping;
                        }
                    }
                    LogFrame::Record { .. } | LogFrame::End => (),
                }
            }
            report = next(&mut reports) => match report {
                Some(Ok(Report::Failed { error, .. })) => {
                    reports = None;
                    // A stop that a kill has overtaken is no failure.
                    if !matches!(state, State::Killing) {
                        return Err(error.into());
                    }
                }
                Some(Ok(report)) => progress.show(&report),
                Some(Err(error)) => return Err(error.into()),
                None => reports = None,
            },
            () = interrupts.next() => match state {
                State::Watching => {
                    interrupted = true;
                    context.output.note("\nGracefully stopping... (press Ctrl+C again to force)");
                    reports = Some(client.command(watched.name, None, &stop).await?);
                    state = State::Stopping;
                }
                State::Stopping => {
                    interrupted = true;
                    reports = Some(begin_kill(client, watched.name).await?);
                    state = State::Killing;
                }
                State::Killing => return Err(Failure::interrupted()),
            },
        }
    }
    context.output.log(&lines.finish())?;
    // The stop goes on for services whose output is not shown.
    if let Some(mut reports) = reports {
        while let Some(report) = reports.next().await {
            match report? {
                Report::Failed { error, .. } if !matches!(state, State::Killing) => {
                    return Err(error.into());
                }
                report => progress.show(&report),
            }
        }
    }
    progress.finish();
    match (interrupted, code) {
        (true, _) => Err(Failure::interrupted()),
        (false, 0) => Ok(()),
        (false, code) => Err(Failure::exit(code)),
    }
}

/// The next report of a command that runs; never ready while there is none. Cancel safe.
async fn next(reports: &mut Option<Reports>) -> Option<Result<Report, ClientError>> {
    match reports {
        Some(reports) => reports.next().await,
        None => std::future::pending().await,
    }
}

/// The stop in front of it is cancelled: it would hold the project until the last grace period.
async fn begin_kill(client: &Client, name: &ProjectName) -> Result<Reports, Failure> {
    client.cancel(name).await?;
    Ok(client
        .command(name, None, &Verb::Kill(KillOptions::default()))
        .await?)
}

/// Kills everything, and waits until the engine has done it.
pub async fn kill(context: &Context, client: &Client, name: &ProjectName) -> Result<(), Failure> {
    let mut reports = begin_kill(client, name).await?;
    let mut progress = Progress::new(context.progress, context.output);
    while let Some(report) = reports.next().await {
        progress.show(&report?);
    }
    progress.finish();
    Ok(())
}

/// The last lines of containers that failed during this `up`: most often the reason stands there.
/// It adds to a failure that is reported anyway, so that its own failures are left unsaid.
pub async fn last_words(context: &Context, client: &Client, name: &ProjectName, since: u64) {
    const N_LINES: usize = 10;
    let Ok(containers) = client.containers(Some(name), true).await else {
        return;
    };
    let mut services: Vec<&str> = containers
        .iter()
        .filter(|container| {
            matches!(
                container.phase,
                Phase::Exited | Phase::Dead | Phase::Restarting
            ) && container.exit_code.is_some_and(|code| code != 0)
                && container.finished_at.is_some_and(|at| at >= since)
        })
        .map(|container| container.label("com.docker.compose.service"))
        .collect();
    services.sort_unstable();
    services.dedup();
    if services.is_empty() {
        return;
    }
    let query = LogsQuery {
        tail: Some(N_LINES),
        since: Some(since),
        services: services.join(","),
        ..LogsQuery::default()
    };
    let Ok(mut frames) = client.logs(name, &query).await else {
        return;
    };
    let mut lines = LogLines::new(LogStyle::default(), context.output);
    while let Some(Ok(frame)) = frames.next().await {
        for (_, line) in lines.take(&frame) {
            _ = context.output.err(&line);
        }
    }
    for (_, line) in lines.finish() {
        _ = context.output.err(&line);
    }
}
