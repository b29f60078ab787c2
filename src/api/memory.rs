//! An engine in memory, for the tests of the API: containers are records, output is what a test says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use super::wire::exec::ExecConfig;
use super::wire::frame::OutputStream;
use super::wire::{EngineStatus, Verb};
use super::{Host, LogLine, LogQuery, LogStream, Session, SessionControl, SessionOutput};
use crate::compose::{Project, ProjectName};
use crate::plan::{
    ContainerConfig, Login, NetworkConfig, Observed, ObservedContainer, Phase, VolumeConfig,
};
use crate::reconcile::{
    Backend, BackendError, ContainerChange, FailureKind, ImageProgress, ImageRequest, Report,
    Status, Subject,
};

pub struct Memory {
    pub containers: Mutex<Vec<ObservedContainer>>,
    pub images: Mutex<Vec<super::wire::image::ImageSummary>>,
    /// Records by container id; a follower waits on `written`.
    pub output: Mutex<HashMap<String, Vec<LogLine>>>,
    pub written: Notify,
    changes: broadcast::Sender<ContainerChange>,
    /// `up` of a project with the service `gate` waits here before it is done.
    pub gate: Notify,
    pub n_commands_ended: AtomicUsize,
    /// Sessions whose parts have all been dropped by the server.
    pub n_sessions_freed: Arc<AtomicUsize>,
    pub is_shut_down: AtomicBool,
    me: Weak<Memory>,
}

pub fn container(project: &str, service: &str, number: u32) -> ObservedContainer {
    let label = |key: &str, value: &str| (format!("com.docker.compose.{key}"), value.to_owned());
    let name = format!("{project}-{service}-{number}");
    ObservedContainer {
        id: format!("{:0<64}", hex::encode(&name)),
        name,
        image: "busybox".into(),
        image_id: "sha256:1".into(),
        labels: [
            label("project", project),
            label("service", service),
            label("container-number", &number.to_string()),
        ]
        .into(),
        phase: Phase::Running,
        health: None,
        exit_code: None,
        oom_killed: false,
        error: String::new(),
        manually_stopped: false,
        restart_count: 0,
        created_at: 1_000_000_000,
        started_at: Some(2_000_000_000),
        finished_at: None,
        pid: Some(7),
        command: "sleep 1d".into(),
        networks: Vec::new(),
        volumes: Vec::new(),
        ports: Vec::new(),
    }
}

pub fn line(stream: OutputStream, time_ns: u64, bytes: &'static [u8]) -> LogLine {
    LogLine {
        stream,
        time_ns,
        partial: false,
        bytes: Bytes::from_static(bytes),
    }
}

impl Memory {
    pub fn new(containers: Vec<ObservedContainer>) -> Arc<Memory> {
        Arc::new_cyclic(|me| Memory {
            containers: Mutex::new(containers),
            images: Mutex::default(),
            output: Mutex::default(),
            written: Notify::new(),
            changes: broadcast::channel(16).0,
            gate: Notify::new(),
            n_commands_ended: AtomicUsize::new(0),
            n_sessions_freed: Arc::default(),
            is_shut_down: AtomicBool::new(false),
            me: me.clone(),
        })
    }

    pub fn write(&self, container: &ObservedContainer, line: LogLine) {
        let mut output = self.output.lock().unwrap();
        output.entry(container.id.clone()).or_default().push(line);
        self.written.notify_waiters();
    }

    pub fn exit(&self, container: &ObservedContainer, code: i32) {
        let mut containers = self.containers.lock().unwrap();
        let found = containers
            .iter_mut()
            .find(|c| c.id == container.id)
            .unwrap();
        found.phase = Phase::Exited;
        found.exit_code = Some(code);
        self.written.notify_waiters();
        self.tell(container);
    }

    pub fn add(&self, container: ObservedContainer) {
        self.containers.lock().unwrap().push(container.clone());
        self.tell(&container);
    }

    fn tell(&self, container: &ObservedContainer) {
        _ = self.changes.send(ContainerChange {
            id: container.id.clone(),
            name: container.name.clone(),
        });
    }

    fn find(&self, name: &str) -> Result<ObservedContainer, BackendError> {
        let containers = self.containers.lock().unwrap();
        let found = containers.iter().find(|c| c.name == name || c.id == name);
        found.cloned().ok_or_else(|| BackendError {
            kind: FailureKind::NotFound,
            message: format!("no such container: {name}"),
            hints: vec!["`wharf ps -a` lists those that exist".into()],
        })
    }
}

/// The API never asks a backend for single steps; the reconciler, which these tests replace, does.
fn not_asked<T>() -> Result<T, BackendError> {
    Err(BackendError {
        kind: FailureKind::Unsupported,
        message: "not part of this engine".into(),
        hints: Vec::new(),
    })
}

impl Backend for Memory {
    async fn observe(&self, _: &ProjectName) -> Result<Observed, BackendError> {
        not_asked()
    }
    async fn inspect(&self, container: &str) -> Result<ObservedContainer, BackendError> {
        self.find(container)
    }
    async fn ensure_image(
        &self,
        _: &ImageRequest,
        _: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<String, BackendError> {
        not_asked()
    }
    async fn push_image(
        &self,
        _: &ImageRequest,
        _: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<(), BackendError> {
        not_asked()
    }
    async fn create_network(&self, _: &NetworkConfig) -> Result<(), BackendError> {
        not_asked()
    }
    async fn remove_network(&self, _: &str) -> Result<(), BackendError> {
        not_asked()
    }
    async fn create_volume(&self, _: &VolumeConfig) -> Result<(), BackendError> {
        not_asked()
    }
    async fn remove_image(&self, _: &str) -> Result<(), BackendError> {
        not_asked()
    }
    async fn remove_volume(&self, _: &str) -> Result<(), BackendError> {
        not_asked()
    }
    async fn create_container(
        &self,
        _: &ContainerConfig,
        _: Option<&str>,
    ) -> Result<String, BackendError> {
        not_asked()
    }
    async fn rename_container(&self, _: &str, _: &str) -> Result<(), BackendError> {
        not_asked()
    }
    async fn start_container(&self, _: &str) -> Result<(), BackendError> {
        not_asked()
    }
    async fn stop_container(&self, _: &str, _: Option<Duration>) -> Result<(), BackendError> {
        not_asked()
    }
    async fn kill_container(&self, _: &str, _: &str) -> Result<(), BackendError> {
        not_asked()
    }
    async fn remove_container(&self, _: &str, _: bool, _: bool) -> Result<(), BackendError> {
        not_asked()
    }
    fn subscribe(&self) -> broadcast::Receiver<ContainerChange> {
        self.changes.subscribe()
    }
}

impl Host for Memory {
    async fn reconcile(
        self: Arc<Self>,
        name: ProjectName,
        desired: Option<Project>,
        verb: Verb,
        reports: mpsc::UnboundedSender<Report>,
    ) {
        let services: Vec<String> = match (&desired, &verb) {
            (Some(project), _) => project.services.keys().cloned().collect(),
            (None, Verb::Stop(options)) => options.services.clone(),
            (None, _) => Vec::new(),
        };
        assert!(
            !services.iter().any(|s| s == "bug"),
            "a bug in the reconciler"
        );
        for service in &services {
            for status in [Status::Starting, Status::Started] {
                _ = reports.send(Report::Progress {
                    subject: Subject::Container(format!("{name}-{service}-1")),
                    status,
                    text: String::new(),
                });
            }
        }
        if services.iter().any(|s| s == "gate") {
            self.gate.notified().await;
        }
        self.n_commands_ended.fetch_add(1, Ordering::SeqCst);
        _ = reports.send(Report::Done {
            n_steps: services.len(),
        });
    }

    async fn authenticate(&self, _: &str, _: Login) -> Result<(), BackendError> {
        not_asked()
    }

    async fn list(
        &self,
        project: Option<&ProjectName>,
        all: bool,
    ) -> Result<Vec<ObservedContainer>, BackendError> {
        let containers = self.containers.lock().unwrap();
        let of_project = |c: &&ObservedContainer| {
            project.is_none_or(|name| c.label("com.docker.compose.project") == name.as_str())
        };
        Ok(containers
            .iter()
            .filter(of_project)
            .filter(|c| all || c.phase == Phase::Running)
            .cloned()
            .collect())
    }

    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream, BackendError> {
        let container = self.find(container)?;
        let lines = self
            .output
            .lock()
            .unwrap()
            .get(&container.id)
            .cloned()
            .unwrap_or_default();
        let skipped = query.tail.map_or(0, |n| lines.len().saturating_sub(n));
        let wanted = move |line: &LogLine| {
            query.since.is_none_or(|t| line.time_ns >= t)
                && query.until.is_none_or(|t| line.time_ns < t)
        };
        let n_seen = lines.len();
        let stored = futures_util::stream::iter(
            lines
                .into_iter()
                .skip(skipped)
                .filter(wanted)
                .map(Ok)
                .collect::<Vec<_>>(),
        );
        if !query.follow || container.phase != Phase::Running {
            return Ok(stored.boxed());
        }
        let this = self.me.upgrade().unwrap();
        let rest = futures_util::stream::unfold(n_seen, move |n_seen| {
            let (id, this) = (container.id.clone(), this.clone());
            async move {
                loop {
                    let written = this.written.notified();
                    let next = this
                        .output
                        .lock()
                        .unwrap()
                        .get(&id)
                        .and_then(|lines| lines.get(n_seen).cloned());
                    if let Some(line) = next {
                        return Some((Ok(line), n_seen + 1));
                    }
                    if this.find(&id).is_ok_and(|c| c.phase == Phase::Exited) {
                        return None;
                    }
                    written.await;
                }
            }
        });
        Ok(stored.chain(rest).boxed())
    }

    /// Programs by name: `cat` copies stdin, `deaf` never reads it and dies of a signal, `controls`
    /// says what it is told until its stdin ends, `missing` cannot be started.
    async fn exec(&self, container: &str, config: ExecConfig) -> Result<Session, BackendError> {
        self.find(container)?;
        let program = config.argv[0].clone();
        if program == "missing" {
            return Err(BackendError {
                kind: FailureKind::StartFailed { exit_code: 127 },
                message: "missing: executable file not found in $PATH".into(),
                hints: Vec::new(),
            });
        }
        let (stdin, mut process_stdin) = tokio::io::duplex(64);
        let (output, receiver) = mpsc::channel(4);
        let (controls, mut orders) = mpsc::channel(16);
        let (exit, exited) = oneshot::channel();
        let freed = Freed(self.n_sessions_freed.clone());
        tokio::spawn(async move {
            let code = match program.as_str() {
                "cat" => {
                    let mut buffer = [0; 4096];
                    loop {
                        match process_stdin.read(&mut buffer).await {
                            Ok(0) | Err(_) => break 0,
                            Ok(n) => {
                                let bytes = Bytes::copy_from_slice(&buffer[..n]);
                                let chunk = SessionOutput {
                                    stream: OutputStream::Stdout,
                                    bytes,
                                };
                                if output.send(chunk).await.is_err() {
                                    break 141;
                                }
                            }
                        }
                    }
                }
                "deaf" => loop {
                    match orders.recv().await {
                        Some(SessionControl::Signal(_)) => break 130,
                        Some(SessionControl::Resize(..)) => (),
                        None => break 129,
                    }
                },
                "controls" => loop {
                    let mut byte = [0];
                    tokio::select! {
                        Some(order) = orders.recv() => {
                            let bytes = Bytes::from(format!("{order:?}\n"));
                            let chunk = SessionOutput { stream: OutputStream::Stderr, bytes };
                            _ = output.send(chunk).await;
                        }
                        Ok(0) = process_stdin.read(&mut byte) => break 3,
                    }
                },
                other => panic!("no program {other} in the tests' engine"),
            };
            drop(output);
            _ = exit.send(Ok(code));
        });
        let stream =
            futures_util::stream::unfold((receiver, freed), |(mut receiver, freed)| async {
                let chunk = receiver.recv().await?;
                Some((chunk, (receiver, freed)))
            });
        Ok(Session {
            stdin: Box::pin(stdin),
            output: stream.boxed(),
            controls,
            exit: exited,
        })
    }

    async fn attach(&self, container: &str) -> Result<Session, BackendError> {
        let argv = vec!["cat".to_owned()];
        self.exec(
            container,
            ExecConfig {
                argv,
                ..ExecConfig::default()
            },
        )
        .await
    }

    async fn status(&self) -> EngineStatus {
        EngineStatus {
            version: "0.0.1".into(),
            pid: 42,
            data_root: "/data".into(),
            run_root: "/run".into(),
            socket: "/run/wharf.sock".into(),
            n_containers: self.containers.lock().unwrap().len(),
            n_running: 0,
            started_at: 1,
            features: vec![("overlay".into(), "yes".into())],
        }
    }

    fn is_idle(&self) -> bool {
        self.containers.lock().unwrap().is_empty()
    }

    fn shutdown(&self, _: bool) {
        self.is_shut_down.store(true, Ordering::SeqCst);
    }
}

struct Freed(Arc<AtomicUsize>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
