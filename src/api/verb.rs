//! From a request to the reconciler: which function carries a verb out, on which project.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::wire::Verb;
use crate::compose::{Project, ProjectName};
use crate::plan::project_from_labels;
use crate::reconcile::{self, Backend, Report};

/// Carries out one verb. Without a desired project the labels of what exists tell what there is.
pub async fn carry_out<B: Backend>(
    backend: Arc<B>,
    name: ProjectName,
    desired: Option<Project>,
    verb: Verb,
    reports: mpsc::UnboundedSender<Report>,
) {
    let project = match desired {
        Some(project) => project,
        None => match backend.observe(&name).await {
            Ok(observed) => project_from_labels(&name, &observed),
            Err(error) => {
                // A receiver that is gone is a client that went away.
                _ = reports.send(Report::Failed {
                    error,
                    kept: Vec::new(),
                });
                return;
            }
        },
    };
    let result = match verb {
        Verb::Up(options) => reconcile::up(backend, &project, &options, reports).await,
        Verb::Down(options) => reconcile::down(backend, &project, &options, reports).await,
        Verb::Stop(options) => reconcile::stop(backend, &project, &options, reports).await,
        Verb::Start(options) => reconcile::start(backend, &project, &options, reports).await,
        Verb::Restart(options) => reconcile::restart(backend, &project, &options, reports).await,
        Verb::Kill(options) => reconcile::kill(backend, &project, &options, reports).await,
        Verb::Pull(options) => reconcile::pull(backend, &project, &options, reports).await,
        Verb::Push(options) => reconcile::push(backend, &project, &options, reports).await,
    };
    match result {
        Ok(n_steps) => tracing::info!(project = %name, n_steps, "command done"),
        // Told to the client already, as the last report; the log is for who comes later.
        Err(failure) => tracing::warn!(project = %name, %failure, "command failed"),
    }
}
