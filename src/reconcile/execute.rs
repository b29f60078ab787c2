//! A plan carried out along its graph.
//!
//! Every step is a task of its own that begins the moment its predecessors have ended. The caller
//! may drop the execution at any time (Ctrl-C): steps that have begun run to their end, no further
//! ones begin, and waits, which change nothing, are given up. After a failure everything that does
//! not depend on the failed step is still done, except waiting: what is independent of a fault is
//! right to have, and a second fault is told with the first.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use petgraph::graph::NodeIndex;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::wait::{Wanted, wait};
use super::{
    Backend, BackendError, FailureKind, ImageProgress, ImageRequest, Report, Status, Subject,
};
use crate::plan::{Action, ExecuteOptions, Logins, Plan, convert::lasting_name, labels};

/// The channel that progress goes to. A receiver that went away is nobody's loss.
pub(super) type Reports = mpsc::UnboundedSender<Report>;

/// How far a plan got.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub n_steps: usize,
    /// In order of their occurrence.
    pub failures: Vec<BackendError>,
    /// What was made and is still there.
    pub kept: Vec<String>,
}

/// Ids of images that were made present, for the label of the containers made from them.
type ImageIds = Arc<Mutex<HashMap<String, String>>>;

/// Tasks that outlive their owner: dropping a plain `JoinSet` would abort them in the middle of a
/// step and leave a container half made.
#[derive(Default)]
struct Begun(JoinSet<Result<Ended, BackendError>>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

/// How a step came to its end without a failure.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Done,
    /// A wait that was given up; who depends on it must not begin.
    GivenUp,
}

/// Carries out a plan; as many steps at once as the options say, not counting waits.
pub(super) async fn execute<B: Backend>(
    backend: &Arc<B>,
    plan: Plan,
    options: &ExecuteOptions,
    reports: &Reports,
) -> Outcome {
    let limit = options
        .parallel_limit
        .filter(|n| *n > 0)
        .unwrap_or(usize::MAX);
    let mut outcome = Outcome::default();
    let mut waits_for: HashMap<NodeIndex, usize> = HashMap::new();
    let mut ready: BTreeSet<NodeIndex> = BTreeSet::new();
    for node in plan.graph.node_indices() {
        match plan.before(node).len() {
            0 => drop(ready.insert(node)),
            n => drop(waits_for.insert(node, n)),
        }
    }
    let replaced = replaced_containers(&plan);
    let image_ids = ImageIds::default();
    let dropped = CancellationToken::new();
    let give_up = dropped.child_token();
    let _on_drop = dropped.clone().drop_guard();
    let logins = Arc::new(options.logins.clone());
    let mut begun = Begun::default();
    let mut nodes: HashMap<Id, NodeIndex> = HashMap::new();
    let mut n_working = 0;
    let mut made = Made::default();
    loop {
        let startable: Vec<NodeIndex> = ready.iter().copied().collect();
        for node in startable {
            let action = &plan.graph[node].action;
            let is_wait = matches!(action, Action::AwaitCondition { .. });
            if !is_wait && n_working >= limit {
                continue;
            }
            ready.remove(&node);
            if !is_wait {
                n_working += 1;
            }
            let step = Step {
                backend: Arc::clone(backend),
                reports: reports.clone(),
                image_ids: Arc::clone(&image_ids),
                give_up: give_up.clone(),
                dropped: dropped.clone(),
                logins: Arc::clone(&logins),
                replaced: Arc::clone(&replaced),
            };
            let task = begun.0.spawn(step.run(action.clone()));
            nodes.insert(task.id(), node);
        }
        let (id, result) = match begun.0.join_next_with_id().await {
            None => break,
            Some(Ok((id, result))) => (id, result),
            Some(Err(broken)) => (broken.id(), Err(broken_step(&broken))),
        };
        let Some(node) = nodes.remove(&id) else {
            continue;
        };
        let action = &plan.graph[node].action;
        if !matches!(action, Action::AwaitCondition { .. }) {
            n_working -= 1;
        }
        match result {
            Ok(Ended::Done) => {
                outcome.n_steps += 1;
                made.note(action);
                for next in plan.after(node) {
                    if let Some(n) = waits_for.get_mut(&next) {
                        *n -= 1;
                        if *n == 0 {
                            ready.insert(next);
                        }
                    }
                }
            }
            Ok(Ended::GivenUp) => {}
            Err(error) => {
                // Waits change nothing; the user should hear of the failure now.
                give_up.cancel();
                outcome.failures.push(error);
            }
        }
    }
    outcome.kept = made.names();
    outcome
}

fn broken_step(broken: &tokio::task::JoinError) -> BackendError {
    BackendError {
        kind: FailureKind::Internal,
        message: format!("a step of the plan broke down: {broken}"),
        hints: vec!["this is a bug; `wharf engine logs` has the details".to_owned()],
    }
}

/// Containers whose end is part of a replacement, which is reported as a whole.
fn replaced_containers(plan: &Plan) -> Arc<HashSet<String>> {
    let replaced = plan.graph.node_weights().filter_map(|s| match &s.action {
        Action::CreateContainer {
            replaces: Some(old),
            ..
        } => Some(old.clone()),
        _ => None,
    });
    Arc::new(replaced.collect())
}

/// What an execution has made and not removed again.
#[derive(Debug, Default)]
struct Made(Vec<(&'static str, String)>);

impl Made {
    fn note(&mut self, action: &Action) {
        let (kind, name) = action.subject();
        match action {
            Action::CreateNetwork(_) | Action::CreateVolume(_) | Action::CreateContainer { .. } => {
                self.0.push((kind, name.to_owned()));
            }
            Action::RenameContainer { from, to, .. } => {
                for (_, made) in self.0.iter_mut().filter(|(_, made)| made == from) {
                    made.clone_from(to);
                }
            }
            Action::RemoveNetwork { .. }
            | Action::RemoveVolume { .. }
            | Action::RemoveContainer { .. } => {
                self.0.retain(|(k, made)| *k != kind || made != name);
            }
            _ => {}
        }
    }

    fn names(self) -> Vec<String> {
        let named = self.0.into_iter();
        named.map(|(kind, name)| format!("{kind} {name}")).collect()
    }
}

/// One step and all that it needs.
struct Step<B> {
    backend: Arc<B>,
    reports: Reports,
    image_ids: ImageIds,
    give_up: CancellationToken,
    /// The whole execution is given up.
    dropped: CancellationToken,
    logins: Arc<Logins>,
    replaced: Arc<HashSet<String>>,
}

impl<B: Backend> Step<B> {
    fn tell(&self, subject: Subject, status: Status, text: impl Into<String>) {
        let _ = self.reports.send(Report::Progress {
            subject,
            status,
            text: text.into(),
        });
    }

    /// The first and the last word around an action.
    async fn around(
        &self,
        subject: Subject,
        first: Status,
        last: Status,
        action: impl Future<Output = Result<(), BackendError>>,
    ) -> Result<Ended, BackendError> {
        self.tell(subject.clone(), first, "");
        match action.await {
            Ok(()) => {
                self.tell(subject, last, "");
                Ok(Ended::Done)
            }
            Err(error) => {
                self.tell(subject, Status::Error, &error.message);
                Err(error)
            }
        }
    }

    async fn run(self, action: Action) -> Result<Ended, BackendError> {
        let backend = &*self.backend;
        let container = |name: &str| Subject::Container(name.to_owned());
        match &action {
            Action::EnsureImage {
                reference,
                pull_policy,
                platform,
                ..
            } => {
                let request = ImageRequest {
                    reference: reference.clone(),
                    pull_policy: pull_policy.clone(),
                    platform: platform.clone(),
                    logins: Logins::clone(&self.logins),
                };
                self.ensure_image(&request).await
            }
            Action::PullImage {
                reference,
                pull_policy,
                platform,
                required,
                ..
            } => {
                let request = ImageRequest {
                    reference: reference.clone(),
                    pull_policy: Some(pull_policy.clone()),
                    platform: platform.clone(),
                    logins: Logins::clone(&self.logins),
                };
                let pulled = self.ensure_image(&request).await;
                self.unless_optional(pulled, *required)
            }
            Action::PushImage {
                reference,
                required,
                ..
            } => {
                let request = ImageRequest {
                    reference: reference.clone(),
                    logins: Logins::clone(&self.logins),
                    ..ImageRequest::default()
                };
                let pushed = self.push_image(&request).await;
                self.unless_optional(pushed, *required)
            }
            Action::CreateNetwork(config) => {
                let subject = Subject::Network(config.name.clone());
                let work = backend.create_network(config);
                self.around(subject, Status::Creating, Status::Created, work)
                    .await
            }
            Action::RemoveNetwork { name } => {
                let subject = Subject::Network(name.clone());
                let work = async { absent_is_fine(backend.remove_network(name).await) };
                self.around(subject, Status::Removing, Status::Removed, work)
                    .await
            }
            Action::CreateVolume(config) => {
                let subject = Subject::Volume(config.name.clone());
                let work = backend.create_volume(config);
                self.around(subject, Status::Creating, Status::Created, work)
                    .await
            }
            Action::RemoveVolume { name } => {
                let subject = Subject::Volume(name.clone());
                let work = async { absent_is_fine(backend.remove_volume(name).await) };
                self.around(subject, Status::Removing, Status::Removed, work)
                    .await
            }
            Action::CreateContainer {
                config,
                replaces,
                inherit_volumes,
                ..
            } => {
                self.create_container(config, replaces.as_deref(), *inherit_volumes)
                    .await
            }
            Action::RenameContainer { from, to, .. } => {
                match backend.rename_container(from, to).await {
                    Ok(()) => {
                        self.tell(container(to), Status::Recreated, "");
                        Ok(Ended::Done)
                    }
                    Err(error) => {
                        self.tell(container(to), Status::Error, &error.message);
                        Err(error)
                    }
                }
            }
            Action::StartContainer {
                container: name, ..
            } => {
                let work = backend.start_container(name);
                self.around(container(name), Status::Starting, Status::Started, work)
                    .await
            }
            Action::StopContainer {
                container: name,
                timeout,
                ..
            } => {
                let work = async { absent_is_fine(backend.stop_container(name, *timeout).await) };
                if self.replaced.contains(name) {
                    return self.quietly(container(name), work).await;
                }
                self.around(container(name), Status::Stopping, Status::Stopped, work)
                    .await
            }
            Action::RestartContainer {
                container: name,
                timeout,
                ..
            } => {
                let work = async {
                    backend.stop_container(name, *timeout).await?;
                    backend.start_container(name).await
                };
                self.around(container(name), Status::Restarting, Status::Started, work)
                    .await
            }
            Action::KillContainer {
                container: name,
                signal,
                ..
            } => {
                let work = async { absent_is_fine(backend.kill_container(name, signal).await) };
                self.around(container(name), Status::Killing, Status::Killed, work)
                    .await
            }
            Action::RemoveContainer {
                container: name,
                volumes,
                force,
                ..
            } => {
                let work = async {
                    absent_is_fine(backend.remove_container(name, *volumes, *force).await)
                };
                if self.replaced.contains(name) {
                    return self.quietly(container(name), work).await;
                }
                self.around(container(name), Status::Removing, Status::Removed, work)
                    .await
            }
            Action::AwaitCondition { .. } => self.await_condition(&action).await,
        }
    }

    /// A part of a replacement: only its failure is told.
    async fn quietly(
        &self,
        subject: Subject,
        action: impl Future<Output = Result<(), BackendError>>,
    ) -> Result<Ended, BackendError> {
        let result = action.await;
        if let Err(error) = &result {
            self.tell(subject, Status::Error, &error.message);
        }
        result.map(|()| Ended::Done)
    }

    /// What may fail is told as a warning.
    fn unless_optional(
        &self,
        result: Result<Ended, BackendError>,
        required: bool,
    ) -> Result<Ended, BackendError> {
        match result {
            Err(error) if !required => {
                let text = error.message;
                let _ = self.reports.send(Report::Warning { text });
                Ok(Ended::Done)
            }
            result => result,
        }
    }

    /// Passes the progress of an image on, after a first word, while the work goes on. Other steps
    /// run to their end when a command is given up; this one may take minutes and leaves nothing
    /// half made, so it ends.
    async fn told<T>(
        &self,
        reference: &str,
        first: Status,
        work: impl Future<Output = Result<T, BackendError>>,
        mut progressed: mpsc::UnboundedReceiver<ImageProgress>,
    ) -> (Option<Result<T, BackendError>>, bool) {
        let told = async {
            let mut is_told = false;
            while let Some(progress) = progressed.recv().await {
                if !is_told {
                    is_told = true;
                    self.tell(Subject::Image(reference.to_owned()), first, "");
                }
                let _ = self.reports.send(Report::Image {
                    reference: reference.to_owned(),
                    progress,
                });
            }
            is_told
        };
        let work = self.dropped.run_until_cancelled(work);
        // The sender goes away with the work, which ends the other half.
        tokio::join!(work, told)
    }

    async fn ensure_image(&self, request: &ImageRequest) -> Result<Ended, BackendError> {
        let reference = &request.reference;
        let subject = Subject::Image(reference.clone());
        let (progress, progressed) = mpsc::unbounded_channel();
        let ensured = self.backend.ensure_image(request, progress);
        let (ensured, was_pulling) = self
            .told(reference, Status::Pulling, ensured, progressed)
            .await;
        match ensured {
            None => Ok(Ended::GivenUp),
            Some(Ok(id)) => {
                if was_pulling {
                    self.tell(subject, Status::Pulled, "");
                }
                self.image_ids
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(reference.clone(), id);
                Ok(Ended::Done)
            }
            Some(Err(error)) => {
                self.tell(subject, Status::Error, &error.message);
                Err(error)
            }
        }
    }

    async fn push_image(&self, request: &ImageRequest) -> Result<Ended, BackendError> {
        let reference = &request.reference;
        let subject = Subject::Image(reference.clone());
        self.tell(subject.clone(), Status::Pushing, "");
        let (progress, progressed) = mpsc::unbounded_channel();
        let pushed = self.backend.push_image(request, progress);
        let (pushed, _) = self
            .told(reference, Status::Pushing, pushed, progressed)
            .await;
        match pushed {
            None => Ok(Ended::GivenUp),
            Some(Ok(())) => {
                self.tell(subject, Status::Pushed, "");
                Ok(Ended::Done)
            }
            Some(Err(error)) => {
                self.tell(subject, Status::Error, &error.message);
                Err(error)
            }
        }
    }

    async fn create_container(
        &self,
        config: &crate::plan::ContainerConfig,
        replaces: Option<&str>,
        inherit_volumes: bool,
    ) -> Result<Ended, BackendError> {
        let mut config = config.clone();
        let ids = self.image_ids.lock();
        let image_id = ids
            .unwrap_or_else(PoisonError::into_inner)
            .get(&config.image)
            .cloned();
        // The plan could not know the id of an image that was not there yet.
        if let Some(id) = image_id {
            config.labels.insert(labels::IMAGE.to_owned(), id);
        }
        let inherit = replaces.filter(|_| inherit_volumes);
        let work = async {
            let created = self.backend.create_container(&config, inherit).await;
            created.map(drop)
        };
        match replaces {
            None => {
                let subject = Subject::Container(config.name.clone());
                self.around(subject, Status::Creating, Status::Created, work)
                    .await
            }
            Some(_) => {
                let lasting = lasting_name(&config.name).unwrap_or(&config.name);
                let subject = Subject::Container(lasting.to_owned());
                self.tell(subject.clone(), Status::Recreate, "");
                self.quietly(subject, work).await
            }
        }
    }

    async fn await_condition(&self, action: &Action) -> Result<Ended, BackendError> {
        let Action::AwaitCondition {
            service,
            containers,
            condition,
            required,
            timeout,
        } = action
        else {
            return Ok(Ended::Done);
        };
        for name in containers {
            self.tell(Subject::Container(name.clone()), Status::Waiting, "");
        }
        let wanted = Wanted::from(*condition);
        let tell = |name: &str, status| self.tell(Subject::Container(name.to_owned()), status, "");
        let waiting = wait(&*self.backend, service, containers, wanted, *timeout, tell);
        let waited = tokio::select! {
            // Losing this branch loses nothing: a wait has no effect.
            waited = waiting => waited,
            // A token stays cancelled; it can be asked again.
            () = self.give_up.cancelled() => return Ok(Ended::GivenUp),
        };
        match waited {
            Ok(()) => Ok(Ended::Done),
            Err(error) if !*required => {
                let _ = self.reports.send(Report::Warning {
                    text: format!("optional dependency {service:?} failed to start: {error}"),
                });
                Ok(Ended::Done)
            }
            Err(error) => {
                if let Some(name) = error.container() {
                    let subject = Subject::Container(name.to_owned());
                    self.tell(subject, Status::Error, error.to_string());
                }
                Err(error.into_backend_error(service))
            }
        }
    }
}

/// What was to be taken away and is not there has been taken away.
fn absent_is_fine(result: Result<(), BackendError>) -> Result<(), BackendError> {
    match result {
        Err(error) if error.kind == FailureKind::NotFound => Ok(()),
        other => other,
    }
}
