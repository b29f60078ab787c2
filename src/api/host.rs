//! What the routes need of an engine beyond reconciliation's `Backend`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, oneshot};

use super::images::ImageHost;
use super::wire::exec::ExecConfig;
use super::wire::frame::OutputStream;
use super::wire::{EngineStatus, Verb};
use crate::compose::{Project, ProjectName};
use crate::plan::{Login, ObservedContainer};
use crate::reconcile::{Backend, BackendError, Report};

/// An engine as the API serves it. Containers are named by name, id, or unambiguous id prefix.
pub trait Host: Backend + ImageHost {
    /// Carries out one verb on one project, reporting as it goes; the last report is `Done` or
    /// `Failed`. The reconciler does it, unless a host knows better. The server has made sure that no
    /// other verb runs on this project, and drops the future when a user cancels the command.
    fn reconcile(
        self: Arc<Self>,
        name: ProjectName,
        desired: Option<Project>,
        verb: Verb,
        reports: mpsc::UnboundedSender<Report>,
    ) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        super::verb::carry_out(self, name, desired, verb, reports)
    }

    /// Has a registry check a login.
    fn authenticate(
        &self,
        registry: &str,
        login: Login,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Containers of one project or of all, by name; without `all` only those that run, are paused
    /// or restart.
    fn list(
        &self,
        project: Option<&ProjectName>,
        all: bool,
    ) -> impl Future<Output = Result<Vec<ObservedContainer>, BackendError>> + Send;

    /// The records of a container's output, oldest first. With `follow` the stream ends when the
    /// container has ended and will not be restarted, and every record has been handed out.
    fn logs(
        &self,
        container: &str,
        query: LogQuery,
    ) -> impl Future<Output = Result<LogStream, BackendError>> + Send;

    /// Starts a process in a running container. With `detach` nobody looks at the session.
    fn exec(
        &self,
        container: &str,
        config: ExecConfig,
    ) -> impl Future<Output = Result<Session, BackendError>> + Send;

    /// Connects to the main process of a running container, from now on.
    fn attach(&self, container: &str)
    -> impl Future<Output = Result<Session, BackendError>> + Send;

    fn status(&self) -> impl Future<Output = EngineStatus> + Send;

    /// Whether no container runs, or is to be started again without anybody's command.
    fn is_idle(&self) -> bool;

    /// Begins to end the engine; returns at once. Containers run on unless `stop_containers`.
    fn shutdown(&self, stop_containers: bool);
}

/// Records of one container's output.
pub type LogStream = BoxStream<'static, Result<LogLine, BackendError>>;

/// Which records of a container's output are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    pub follow: bool,
    /// At most this many lines from the end, before following.
    pub tail: Option<usize>,
    /// Nanoseconds since the epoch, inclusive.
    pub since: Option<u64>,
    /// Nanoseconds since the epoch, exclusive.
    pub until: Option<u64>,
}

/// One record: a line without its line end, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub stream: OutputStream,
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// The record ends without a line end.
    pub partial: bool,
    pub bytes: Bytes,
}

/// A client's connection to a process in a container.
pub struct Session {
    /// Shut down or dropped, it is the process's end of file (where the process has a stdin).
    pub stdin: Pin<Box<dyn AsyncWrite + Send>>,
    /// Ends once the process has ended and what it wrote has been handed out. With a terminal
    /// everything is `Stdout`.
    pub output: BoxStream<'static, SessionOutput>,
    /// Bounded; a closed channel means that the process has ended.
    pub controls: mpsc::Sender<SessionControl>,
    /// 0–255, 128 + signal when a signal ended it.
    pub exit: oneshot::Receiver<Result<i32, BackendError>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOutput {
    pub stream: OutputStream,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionControl {
    /// `(columns, rows)`.
    Resize(u16, u16),
    /// By name or number.
    Signal(String),
}
