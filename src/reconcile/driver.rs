//! The project commands: observe, plan, execute, and check what `--wait` asks for.
//!
//! The caller holds the project's transaction (one command at a time per project), which makes the
//! observation good until the plan is carried out. The stream of reports ends with `Done` or
//! `Failed`, whatever happens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::execute::{Outcome, Reports, execute};
use super::wait::{Wanted, wait};
use super::{Backend, BackendError, Failure, FailureKind, Report, Status, Subject};
use crate::compose::Project;
use crate::plan::{
    self, DownOptions, ExecuteOptions, KillOptions, Observed, Plan, PlanError, PullOptions,
    PushOptions, Reach, RemoveOptions, RestartOptions, RunOptions, StartOptions, StopOptions,
    UpOptions,
};

/// Brings the machine to what the project says; returns the number of steps that it took.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn up<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &UpOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let result = try_up(&backend, project, options, &reports).await;
    conclude(result, &reports)
}

async fn try_up<B: Backend>(
    backend: &Arc<B>,
    project: &Project,
    options: &UpOptions,
    reports: &Reports,
) -> Result<usize, Failure> {
    let run = &options.execute;
    // A newer image decides about the fate of containers, so it comes before the observation. It
    // changes no container and does not count as a step.
    let images = plan::refresh_images(project, options)?;
    if !images.is_empty() {
        carry_out(backend, images, run, reports).await?;
    }
    let observed = backend.observe(&project.name).await?;
    let plan = plan::up(project, &observed, options)?;
    let n_steps = carry_out(backend, plan, run, reports).await?;
    if n_steps > 0 {
        for text in backend.warnings(&project.name).await {
            let _ = reports.send(Report::Warning { text });
        }
    }
    if options.wait && options.start && !run.plan_only {
        let reach = if options.no_deps {
            Reach::NamedOnly
        } else {
            Reach::Dependencies
        };
        let services = &options.services;
        check(
            backend,
            project,
            services,
            reach,
            options.wait_timeout,
            reports,
        )
        .await?;
    }
    Ok(n_steps)
}

/// Makes a one-off container of a service, when what it depends on is ready.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn run<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &RunOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let make = |observed: &Observed| plan::run(project, observed, options);
    let result = run_once(&backend, project, make, &options.execute, &reports).await;
    conclude(result, &reports)
}

/// Takes the project off the machine.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn down<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &DownOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let make = |observed: &Observed| plan::down(project, observed, options);
    let mut result = run_once(&backend, project, make, &options.execute, &reports).await;
    if let (Ok(n_steps), Some(which)) = (&mut result, options.rmi)
        && !options.execute.plan_only
    {
        // Only now: while its containers are there an image is in use.
        let images = plan::removable_images(project, which);
        match remove_images(&*backend, &images, &reports).await {
            Ok(n_removed) => *n_steps += n_removed,
            Err(error) => result = Err(error.into()),
        }
    }
    conclude(result, &reports)
}

/// Removes what can be removed; an image that somebody else uses is no failure.
async fn remove_images<B: Backend>(
    backend: &B,
    images: &[String],
    reports: &Reports,
) -> Result<usize, BackendError> {
    let mut n_removed = 0;
    for image in images {
        let tell = |status, text: &str| {
            let _ = reports.send(Report::Progress {
                subject: Subject::Image(image.clone()),
                status,
                text: text.to_owned(),
            });
        };
        match backend.remove_image(image).await {
            Ok(()) => {
                tell(Status::Removed, "");
                n_removed += 1;
            }
            Err(error) if error.kind == FailureKind::NotFound => {}
            Err(error) if error.kind == FailureKind::Conflict => {
                tell(Status::Skipped, "it is still in use");
            }
            Err(error) => {
                tell(Status::Error, &error.message);
                return Err(error);
            }
        }
    }
    Ok(n_removed)
}

/// Stops containers, dependents first.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn stop<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &StopOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let make = |observed: &Observed| plan::stop(project, observed, options);
    let result = run_once(&backend, project, make, &options.execute, &reports).await;
    conclude(result, &reports)
}

/// Starts existing containers, dependencies first.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps and of `--wait`.
pub async fn start<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &StartOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let make = |observed: &Observed| plan::start(project, observed, options);
    let mut result = run_once(&backend, project, make, &options.execute, &reports).await;
    if result.is_ok() && options.wait && !options.execute.plan_only {
        let (services, timeout) = (&options.services, options.wait_timeout);
        let reach = Reach::Dependencies;
        let checked = check(&backend, project, services, reach, timeout, &reports).await;
        result = checked.and(result);
    }
    conclude(result, &reports)
}

/// Restarts containers, dependencies first.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn restart<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &RestartOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let make = |observed: &Observed| plan::restart(project, observed, options);
    let result = run_once(&backend, project, make, &options.execute, &reports).await;
    conclude(result, &reports)
}

/// Sends a signal to running containers.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn kill<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &KillOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let make = |observed: &Observed| plan::kill(project, observed, options);
    let result = run_once(&backend, project, make, &options.execute, &reports).await;
    conclude(result, &reports)
}

/// Removes stopped containers.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn remove<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &RemoveOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let make = |observed: &Observed| plan::remove(project, observed, options);
    let result = run_once(&backend, project, make, &options.execute, &reports).await;
    conclude(result, &reports)
}

/// Fetches the images of services.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn pull<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &PullOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let result = match plan::pull(project, options) {
        Ok(plan) => carry_out(&backend, plan, &options.execute, &reports).await,
        Err(error) => Err(error.into()),
    };
    conclude(result, &reports)
}

/// Hands the images that services build to their registries.
///
/// # Errors
///
/// What the planner refused, or the failures of the steps.
pub async fn push<B: Backend>(
    backend: Arc<B>,
    project: &Project,
    options: &PushOptions,
    reports: Reports,
) -> Result<usize, Failure> {
    let result = match plan::push(project, options) {
        Ok(plan) => carry_out(&backend, plan, &options.execute, &reports).await,
        Err(error) => Err(error.into()),
    };
    conclude(result, &reports)
}

async fn run_once<B: Backend>(
    backend: &Arc<B>,
    project: &Project,
    make: impl FnOnce(&Observed) -> Result<Plan, PlanError>,
    options: &ExecuteOptions,
    reports: &Reports,
) -> Result<usize, Failure> {
    let observed = backend.observe(&project.name).await?;
    let plan = make(&observed)?;
    carry_out(backend, plan, options, reports).await
}

async fn carry_out<B: Backend>(
    backend: &Arc<B>,
    plan: Plan,
    options: &ExecuteOptions,
    reports: &Reports,
) -> Result<usize, Failure> {
    if options.plan_only {
        let text = plan.explain();
        let _ = reports.send(Report::Plan { text });
        return Ok(0);
    }
    for text in &plan.warnings {
        let _ = reports.send(Report::Warning { text: text.clone() });
    }
    for name in &plan.running {
        let _ = reports.send(Report::Progress {
            subject: Subject::Container(name.clone()),
            status: Status::Running,
            text: String::new(),
        });
    }
    if plan.is_empty() {
        return Ok(0);
    }
    let Outcome {
        n_steps,
        failures,
        kept,
    } = execute(backend, plan, options, reports).await;
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(n_steps),
        Some(error) => Err(Failure {
            error,
            others: failures.collect(),
            kept,
        }),
    }
}

/// `--wait`: every service at once; the first that cannot be as wanted decides.
async fn check<B: Backend>(
    backend: &Arc<B>,
    project: &Project,
    services: &[String],
    reach: Reach,
    timeout: Option<Duration>,
    reports: &Reports,
) -> Result<(), Failure> {
    let observed = backend.observe(&project.name).await?;
    let targets = plan::wait_targets(project, &observed, services, reach)?;
    let tell = |name: &str, status| {
        let _ = reports.send(Report::Progress {
            subject: Subject::Container(name.to_owned()),
            status,
            text: String::new(),
        });
    };
    let waits = targets.iter().map(|target| async move {
        let wanted = if target.completion {
            Wanted::Completed
        } else {
            Wanted::RunningOrHealthy
        };
        for name in &target.containers {
            tell(name, Status::Waiting);
        }
        let (service, containers) = (&target.service, &target.containers);
        wait(&**backend, service, containers, wanted, timeout, tell)
            .await
            .map_err(|error| {
                if let Some(name) = error.container() {
                    let _ = reports.send(Report::Progress {
                        subject: Subject::Container(name.to_owned()),
                        status: Status::Error,
                        text: error.to_string(),
                    });
                }
                error.into_backend_error(service)
            })
    });
    try_join_all(waits).await?;
    Ok(())
}

fn conclude(result: Result<usize, Failure>, reports: &Reports) -> Result<usize, Failure> {
    let last = match &result {
        Ok(n_steps) => Report::Done { n_steps: *n_steps },
        Err(failure) => Report::Failed {
            error: failure.error.clone(),
            kept: failure.kept.clone(),
        },
    };
    let _ = reports.send(last);
    result
}
