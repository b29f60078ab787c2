//! The engine as the routes see it.
//!
//! Converts the engine's descriptors to streams.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::wire::EngineStatus;
use super::wire::exec::ExecConfig;
use super::wire::frame::OutputStream;
use super::{Host, LogLine, LogQuery, LogStream, Session, SessionControl, SessionOutput};
use crate::compose::ProjectName;
use crate::engine::container::{
    self, ExecSession, ExecSignaller, ExecStdio, Terminal, parse_signal,
};
use crate::engine::{Engine, EngineError};
use crate::plan::{Login, ObservedContainer, Phase, labels};
use crate::reconcile::{BackendError, FailureKind};

/// Bytes read from a process at once.
const CHUNK: usize = 32 * 1024;
/// Chunks that wait for a slow client before its process has to.
const BACKLOG: usize = 16;

impl Host for Engine {
    async fn authenticate(&self, registry: &str, login: Login) -> Result<(), BackendError> {
        self.authenticate_to(registry, &login)
            .await
            .map_err(|error| BackendError {
                // Here it is the user who is not known, and nothing that is not there.
                kind: match error.kind {
                    FailureKind::NotFound => FailureKind::Denied,
                    kind => kind,
                },
                ..error
            })
    }

    async fn list(
        &self,
        project: Option<&ProjectName>,
        all: bool,
    ) -> Result<Vec<ObservedContainer>, BackendError> {
        let is_up = |phase| matches!(phase, Phase::Running | Phase::Paused | Phase::Restarting);
        let mut containers: Vec<_> = self
            .containers()
            .iter()
            .map(|container| container.view().observed())
            .filter(|c| project.is_none_or(|name| c.label(labels::PROJECT) == name.as_str()))
            .filter(|c| all || is_up(c.phase))
            .collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream, BackendError> {
        let lines = self.container(container)?.logs(container::LogQuery {
            follow: query.follow,
            tail: query.tail,
            since: query.since,
            until: query.until,
        });
        let lines = stream::unfold(lines, |mut lines| async move {
            let line = lines.recv().await?;
            Some((line.map(log_line).map_err(BackendError::from), lines))
        });
        Ok(lines.boxed())
    }

    async fn exec(&self, container: &str, config: ExecConfig) -> Result<Session, BackendError> {
        let container = self.container(container)?;
        let session = container
            .exec(&container::ExecConfig {
                argv: config.argv,
                tty: config.tty,
                stdin: config.stdin,
                detach: config.detach,
                user: config.user,
                working_dir: config.workdir,
                environment: config.env,
                privileged: config.privileged,
                size: config.size,
                apart: false,
            })
            .await?;
        let name = container.view().record.config.name.clone();
        connect(session, &name).map_err(BackendError::from)
    }

    async fn attach(&self, container: &str) -> Result<Session, BackendError> {
        let container = self.container(container)?;
        let name = container.view().record.config.name.clone();
        let query = container::LogQuery {
            follow: true,
            since: Some(crate::engine::now()),
            ..Default::default()
        };
        let lines = container.logs(query);
        let output = stream::unfold(lines, |mut lines| async move {
            let line = lines.recv().await?.ok()?;
            let stream = if line.is_stderr {
                OutputStream::Stderr
            } else {
                OutputStream::Stdout
            };
            let mut bytes = line.bytes;
            if !line.partial {
                bytes.push(b'\n');
            }
            Some((
                SessionOutput {
                    stream,
                    bytes: bytes.into(),
                },
                lines,
            ))
        });
        let input = container.attach_stdin().await?;
        let is_tty = container.view().record.config.tty;
        let failed = |source| EngineError::File {
            action: "attach to",
            path: name,
            source,
        };
        let (stdin, terminal): (Pin<Box<dyn AsyncWrite + Send>>, _) = match input {
            Some(master) if is_tty => {
                let terminal = Terminal::new(master).map_err(failed)?;
                (Box::pin(terminal.clone()), Some(terminal))
            }
            Some(stdin) => (
                Box::pin(pipe::Sender::from_owned_fd(stdin).map_err(failed)?),
                None,
            ),
            None => (Box::pin(tokio::io::sink()), None),
        };
        let (controls, mut received) = mpsc::channel(BACKLOG);
        let (mut exit_sender, exit) = oneshot::channel();
        tokio::spawn(async move {
            let mut view = container.watch();
            let mut has_left = false;
            loop {
                tokio::select! {
                    // Cancel-safe: a channel's recv loses nothing.
                    control = received.recv(), if !has_left => match control {
                        Some(SessionControl::Resize(columns, rows)) => {
                            // The terminal may be gone; then so is the need.
                            let _ = terminal.as_ref().map(|t| t.resize((columns, rows)));
                        }
                        Some(SessionControl::Signal(signal)) => {
                            if let Ok(signal) = parse_signal(&signal) {
                                // It may have ended meanwhile, which the view tells.
                                let _ = container.kill(signal).await;
                            }
                        }
                        // A client that sends no more may still read.
                        None => has_left = true,
                    },
                    // Cancel-safe: nothing is taken. The session is gone, and its terminal with it.
                    () = exit_sender.closed() => return,
                    // Cancel-safe: the view keeps its value.
                    changed = view.changed() => {
                        let now = view.borrow_and_update().clone();
                        if changed.is_err() || !now.is_running() {
                            let code = now.record.exit.as_ref().map_or(137, |exit| exit.code);
                            let _ = exit_sender.send(Ok(code));
                            return;
                        }
                    }
                }
            }
        });
        Ok(Session {
            stdin,
            output: output.boxed(),
            controls,
            exit,
        })
    }

    async fn status(&self) -> EngineStatus {
        let views: Vec<_> = self
            .containers()
            .iter()
            .map(|container| container.view())
            .collect();
        let roots = self.roots();
        EngineStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            data_root: roots.data.clone(),
            run_root: roots.run.clone(),
            socket: roots.socket.clone(),
            n_containers: views.len(),
            n_running: views.iter().filter(|view| view.is_running()).count(),
            started_at: self.started_at(),
            features: Vec::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.containers().iter().all(|container| {
            let view = container.view();
            // A shim means that a process lives, whatever the view has not heard of yet.
            !view.is_running() && view.phase != Phase::Restarting && view.shim.is_none()
        })
    }

    fn shutdown(&self, stop_containers: bool) {
        let engine = self.clone();
        tokio::spawn(async move {
            if stop_containers {
                engine.stop_all().await;
            }
            engine.closing().cancel();
        });
    }
}

fn log_line(line: container::LogLine) -> LogLine {
    LogLine {
        stream: if line.is_stderr {
            OutputStream::Stderr
        } else {
            OutputStream::Stdout
        },
        time_ns: line.time_ns,
        partial: line.partial,
        bytes: line.bytes.into(),
    }
}

type Output = BoxStream<'static, SessionOutput>;

/// Makes streams of an exec's descriptors, and a task that waits for its end.
fn connect(mut session: ExecSession, container: &str) -> Result<Session, EngineError> {
    let failed = |source| EngineError::File {
        action: "connect to a process in",
        path: container.to_owned(),
        source,
    };
    let ended = CancellationToken::new();
    let stdio = std::mem::replace(&mut session.stdio, ExecStdio::Detached);
    let (stdin, output, terminal): (Pin<Box<dyn AsyncWrite + Send>>, Output, _) = match stdio {
        ExecStdio::Detached => (Box::pin(tokio::io::sink()), stream::empty().boxed(), None),
        ExecStdio::Terminal(master) => {
            let terminal = Terminal::new(master).map_err(failed)?;
            let (sender, output) = mpsc::channel(BACKLOG);
            tokio::spawn(pump(
                terminal.clone(),
                OutputStream::Stdout,
                sender,
                ended.clone(),
            ));
            (Box::pin(terminal.clone()), receive(output), Some(terminal))
        }
        ExecStdio::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            let reader = |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd).map_err(failed);
            let (stdout, stderr) = (reader(stdout)?, reader(stderr)?);
            let (sender, output) = mpsc::channel(BACKLOG);
            tokio::spawn(pump(
                stdout,
                OutputStream::Stdout,
                sender.clone(),
                ended.clone(),
            ));
            tokio::spawn(pump(stderr, OutputStream::Stderr, sender, ended.clone()));
            let stdin: Pin<Box<dyn AsyncWrite + Send>> = match stdin {
                Some(fd) => Box::pin(pipe::Sender::from_owned_fd(fd).map_err(failed)?),
                None => Box::pin(tokio::io::sink()),
            };
            (stdin, receive(output), None)
        }
    };
    let (controls, received) = mpsc::channel(BACKLOG);
    let (exit_sender, exit) = oneshot::channel();
    tokio::spawn(control(session.signaller(), terminal, received));
    tokio::spawn(async move {
        let code = session.wait().await;
        ended.cancel();
        // The client may have gone; nobody else waits for the code.
        let _ = exit_sender.send(Ok(code));
    });
    Ok(Session {
        stdin,
        output,
        controls,
        exit,
    })
}

fn receive(output: mpsc::Receiver<SessionOutput>) -> Output {
    stream::unfold(output, |mut output| async move {
        let chunk = output.recv().await?;
        Some((chunk, output))
    })
    .boxed()
}

async fn control(
    process: ExecSignaller,
    terminal: Option<Terminal>,
    mut received: mpsc::Receiver<SessionControl>,
) {
    while let Some(control) = received.recv().await {
        match control {
            SessionControl::Resize(columns, rows) => {
                // The terminal may be gone; then so is the need.
                let _ = terminal
                    .as_ref()
                    .map(|terminal| terminal.resize((columns, rows)));
            }
            SessionControl::Signal(signal) => {
                if let Ok(signal) = parse_signal(&signal) {
                    // It may have ended meanwhile; its exit code says so.
                    let _ = process.signal(signal).await;
                }
            }
        }
    }
}

/// Moves a process's output to the client until the process ends, then what it left in the pipe.
///
/// Not until end of file: a child that the process left behind may hold the pipe for ever
/// (CVE-2026-53495, HAZARDS S50). When the client goes away the output is read on and dropped, so
/// that the process does not die of a broken pipe.
async fn pump(
    mut reader: impl AsyncRead + AsFd + Unpin,
    stream: OutputStream,
    to: mpsc::Sender<SessionOutput>,
    ended: CancellationToken,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = tokio::select! {
            biased;
            // Cancel-safe: a read that is not ready has taken nothing.
            n = reader.read(&mut buffer) => n.unwrap_or(0),
            () = ended.cancelled() => break,
        };
        if n == 0 {
            return;
        }
        let bytes = Bytes::copy_from_slice(&buffer[..n]);
        // See above: a client that is gone does not stop the reading.
        let _ = to.send(SessionOutput { stream, bytes }).await;
    }
    // What the runtime knows about readiness may lag behind the end that we were told of: now the
    // kernel itself says what is left. The descriptor does not block.
    while let Ok(n @ 1..) = rustix::io::read(&reader, &mut buffer[..]) {
        let bytes = Bytes::copy_from_slice(&buffer[..n]);
        let _ = to.send(SessionOutput { stream, bytes }).await;
    }
}
