//! Waiting until containers meet a condition (W1–W3, W5).
//!
//! Nothing is polled: a change of a container is an event. The subscription is older than the first
//! look, so no transition falls between them; a receiver that lagged looks at everything again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::{Backend, BackendError, FailureKind, Status};
use crate::compose::Condition;
use crate::plan::{Health, ObservedContainer, Phase, duration};

/// What containers have to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Healthy where there is a health check, else running.
    RunningOrHealthy,
    Healthy,
    Completed,
}

impl From<Condition> for Wanted {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::ServiceStarted => Wanted::RunningOrHealthy,
            Condition::ServiceHealthy => Wanted::Healthy,
            Condition::ServiceCompletedSuccessfully => Wanted::Completed,
        }
    }
}

/// Why a condition will not come true, in Compose's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WaitError {
    #[error("container {container} exited ({code})")]
    Exited { container: String, code: i32 },
    #[error("container {container} is unhealthy")]
    Unhealthy { container: String },
    #[error("container {container} has no healthcheck configured")]
    NoHealthcheck { container: String },
    #[error("service {service:?} didn't complete successfully: exit {code}")]
    NotCompleted {
        service: String,
        container: String,
        code: i32,
    },
    #[error("application not healthy after {}", duration(*.after))]
    Timeout { after: Duration },
    #[error("the engine stopped telling about containers")]
    NoMoreEvents,
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl WaitError {
    /// The container at fault, where it is one.
    pub fn container(&self) -> Option<&str> {
        match self {
            WaitError::Exited { container, .. }
            | WaitError::Unhealthy { container }
            | WaitError::NoHealthcheck { container }
            | WaitError::NotCompleted { container, .. } => Some(container),
            WaitError::Timeout { .. } | WaitError::NoMoreEvents | WaitError::Backend(_) => None,
        }
    }

    /// The form in which it leaves this room, with what to do about it.
    pub fn into_backend_error(self, service: &str) -> BackendError {
        let message = self.to_string();
        let hints = match self {
            WaitError::Backend(error) => return error,
            WaitError::Exited { .. } | WaitError::NotCompleted { .. } => {
                vec![format!("see what it said with `wharf logs {service}`")]
            }
            WaitError::Unhealthy { container } => vec![
                format!("see what it said with `wharf logs {service}`"),
                format!(
                    "see what its health check said with `wharf container inspect {container}`"
                ),
            ],
            WaitError::NoHealthcheck { .. } => vec![format!(
                "give service {service} a `healthcheck:`, or depend on it with `service_started`"
            )],
            WaitError::Timeout { .. } => vec![
                format!("see what it said with `wharf logs {service}`"),
                "wait longer with `--wait-timeout`".to_owned(),
            ],
            WaitError::NoMoreEvents => Vec::new(),
        };
        BackendError {
            kind: FailureKind::Internal,
            message,
            hints,
        }
    }
}

/// What one look at a container says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Met(Status),
    /// Met for the whole service, whatever its other containers do.
    MetForAll,
    NotYet,
}

fn judge(
    service: &str,
    container: &ObservedContainer,
    wanted: Wanted,
) -> Result<Verdict, WaitError> {
    let name = || container.name.clone();
    let code = container.exit_code.unwrap_or(0);
    match (container.phase, wanted) {
        (Phase::Exited | Phase::Dead, Wanted::Completed) => {
            if code == 0 && container.phase == Phase::Exited {
                Ok(Verdict::MetForAll)
            } else {
                Err(WaitError::NotCompleted {
                    service: service.to_owned(),
                    container: name(),
                    code,
                })
            }
        }
        (_, Wanted::Completed) => Ok(Verdict::NotYet),
        (Phase::Exited | Phase::Dead | Phase::Removing, _) => Err(WaitError::Exited {
            container: name(),
            code,
        }),
        // The engine is about to start it again, or a user to continue it.
        (Phase::Created | Phase::Restarting | Phase::Paused, _) => Ok(Verdict::NotYet),
        (Phase::Running, _) => match (container.health, wanted) {
            (Some(Health::Healthy), _) | (None, Wanted::RunningOrHealthy) => {
                Ok(Verdict::Met(Status::Healthy))
            }
            (Some(Health::Starting), _) => Ok(Verdict::NotYet),
            (Some(Health::Unhealthy), _) => Err(WaitError::Unhealthy { container: name() }),
            (None, _) => Err(WaitError::NoHealthcheck { container: name() }),
        },
    }
}

/// Returns when the containers of one service meet the condition, or cannot any more. Tells of each
/// container that meets it.
pub(super) async fn wait<B: Backend>(
    backend: &B,
    service: &str,
    containers: &[String],
    wanted: Wanted,
    timeout: Option<Duration>,
    mut tell: impl FnMut(&str, Status),
) -> Result<(), WaitError> {
    let waiting = watch(backend, service, containers, wanted, &mut tell);
    match timeout {
        None => waiting.await,
        Some(after) => tokio::time::timeout(after, waiting)
            .await
            .unwrap_or(Err(WaitError::Timeout { after })),
    }
}

async fn watch<B: Backend>(
    backend: &B,
    service: &str,
    containers: &[String],
    wanted: Wanted,
    tell: &mut impl FnMut(&str, Status),
) -> Result<(), WaitError> {
    let mut changes = backend.subscribe();
    // By name, with the id once it is known: an event may name a container by an older name.
    let mut open: HashMap<&str, String> = containers
        .iter()
        .map(|name| (name.as_str(), String::new()))
        .collect();
    let mut to_look_at: Vec<&str> = containers.iter().map(String::as_str).collect();
    loop {
        for name in to_look_at.drain(..) {
            let container = backend.inspect(name).await?;
            match judge(service, &container, wanted)? {
                Verdict::NotYet => {
                    open.insert(name, container.id);
                }
                Verdict::Met(status) => {
                    open.remove(name);
                    tell(name, status);
                }
                Verdict::MetForAll => {
                    open.clear();
                    tell(name, Status::Exited);
                    return Ok(());
                }
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        match changes.recv().await {
            Ok(change) => {
                let concerned = open
                    .iter()
                    .find(|(name, id)| **name == change.name || **id == change.id);
                to_look_at.extend(concerned.map(|(name, _)| *name));
            }
            Err(RecvError::Lagged(_)) => to_look_at.extend(open.keys()),
            Err(RecvError::Closed) => return Err(WaitError::NoMoreEvents),
        }
    }
}
