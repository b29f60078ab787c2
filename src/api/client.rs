//! Typed calls to an engine over its unix socket.
//!
//! Meant for one command: a current-thread runtime, one connection that is used again for each call
//! and handed over to the call that streams. Never retries and never starts an engine.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, Stream, StreamExt};
use http_body_util::{BodyExt, BodyStream, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::codec::{Decoder, FramedRead, FramedWrite};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::exec::ExecConfig;
use super::wire::frame::{
    ExecCodec, ExecFrame, FrameError, LogCodec, LogFrame, STDIN_WINDOW_BYTES,
};
use super::wire::{EngineStatus, ErrorBody, LogsQuery, ProjectRequest, Verb, docker};
use crate::compose::{Project, ProjectName};
use crate::plan::ObservedContainer;
use crate::reconcile::{BackendError, FailureKind, Report};

/// An answer that is not a stream is no longer than this, in bytes.
const ANSWER_BYTES: usize = 64 << 20;
/// One report is no longer than this, in bytes.
const REPORT_BYTES: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to the engine at {}", .socket.display())]
    Connect {
        socket: PathBuf,
        source: std::io::Error,
    },
    #[error("the connection to the engine failed during {call}")]
    Transport {
        call: &'static str,
        source: hyper::Error,
    },
    #[error("the request of {call} cannot be written down")]
    Encode {
        call: &'static str,
        source: serde_json::Error,
    },
    #[error("the engine's answer to {call} cannot be read")]
    Decode {
        call: &'static str,
        source: serde_json::Error,
    },
    #[error("the engine's answer to {call} is too long")]
    TooLong { call: &'static str },
    #[error("the engine's stream of {call} broke")]
    Frame {
        call: &'static str,
        source: FrameError,
    },
    /// The engine ended, or was killed, in the middle.
    #[error("the engine went away during {call}")]
    Gone { call: &'static str },
    #[error(transparent)]
    Engine(#[from] BackendError),
}

/// A client of the engine behind one socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    idle: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// Connects; needs a running tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody listens.
    pub async fn connect(socket: &Path) -> Result<Client, ClientError> {
        let client = Client {
            socket: socket.to_owned(),
            idle: Mutex::new(None),
        };
        let sender = client.dial("connect").await?;
        client.keep(sender);
        Ok(client)
    }

    /// Takes over a connection that somebody else has made, with the way to make more.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn from_stream(socket: &Path, stream: UnixStream) -> Result<Client, ClientError> {
        let sender = handshake(stream, "connect").await?;
        Ok(Client {
            socket: socket.to_owned(),
            idle: Mutex::new(Some(sender)),
        })
    }

    async fn dial(&self, call: &'static str) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Connect {
                    socket: self.socket.clone(),
                    source,
                })?;
        handshake(stream, call).await
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// Sends a request and waits for the head of the answer; failures of the engine become errors.
    async fn send(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), ClientError> {
        let kept = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut sender = match kept {
            Some(sender) if sender.is_ready() => sender,
            _ => self.dial(call).await?,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            // Docker's clients send this name; a unix socket has none of its own.
            .header(HOST, "wharf");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if upgrade {
            request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "tcp");
        }
        let request = request
            .body(Full::new(body))
            .expect("paths are made of escaped names and constants");
        let response = sender
            .send_request(request)
            .await
            .map_err(|source| ClientError::Transport { call, source })?;
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok((response, sender));
        }
        let status = response.status();
        let text = collect(call, response.into_body()).await?;
        Err(ClientError::Engine(
            match serde_json::from_slice::<ErrorBody>(&text) {
                Ok(body) => BackendError {
                    kind: body.kind.unwrap_or(kind_of(status)),
                    message: body.message,
                    hints: body.hints,
                },
                Err(_) => BackendError {
                    kind: kind_of(status),
                    message: format!("{call}: the engine answered {status}"),
                    hints: Vec::new(),
                },
            },
        ))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        call: &'static str,
        path: &str,
    ) -> Result<T, ClientError> {
        let (response, sender) = self
            .send(call, Method::GET, path, Bytes::new(), false)
            .await?;
        let body = collect(call, response.into_body()).await?;
        self.keep(sender);
        serde_json::from_slice(&body).map_err(|source| ClientError::Decode { call, source })
    }

    async fn post_empty(&self, call: &'static str, path: &str) -> Result<(), ClientError> {
        let (response, sender) = self
            .send(call, Method::POST, path, Bytes::new(), false)
            .await?;
        collect(call, response.into_body()).await?;
        self.keep(sender);
        Ok(())
    }

    pub async fn version(&self) -> Result<docker::Version, ClientError> {
        self.get("version", "/version").await
    }

    pub async fn status(&self) -> Result<EngineStatus, ClientError> {
        self.get("status", "/wharf/v1/status").await
    }

    /// Asks the engine to end; its containers run on unless `stop_containers`.
    pub async fn shutdown(&self, stop_containers: bool) -> Result<(), ClientError> {
        let path = format!("/wharf/v1/shutdown?stop_containers={stop_containers}");
        self.post_empty("shutdown", &path).await
    }

    /// The containers of one project, or of all.
    pub async fn containers(
        &self,
        project: Option<&ProjectName>,
        all: bool,
    ) -> Result<Vec<ObservedContainer>, ClientError> {
        let path = match project {
            Some(name) => format!("/wharf/v1/projects/{name}/containers?all={all}"),
            None => format!("/wharf/v1/containers?all={all}"),
        };
        self.get("the list of containers", &path).await
    }

    /// Starts a verb; the stream ends after `Done` or `Failed`.
    pub async fn command(
        &self,
        name: &ProjectName,
        project: Option<Project>,
        verb: &Verb,
    ) -> Result<Reports, ClientError> {
        let call = verb.as_str();
        let body = match verb {
            Verb::Up(options) => encode(project, options),
            Verb::Down(options) => encode(project, options),
            Verb::Stop(options) => encode(project, options),
            Verb::Start(options) => encode(project, options),
            Verb::Restart(options) => encode(project, options),
            Verb::Kill(options) => encode(project, options),
        }
        .map_err(|source| ClientError::Encode { call, source })?;
        let path = format!("/wharf/v1/projects/{name}/{call}");
        let (response, _) = self.send(call, Method::POST, &path, body, false).await?;
        Ok(Reports {
            call,
            body: BodyStream::new(response.into_body()),
            buffer: BytesMut::new(),
            searched: 0,
            is_over: false,
        })
    }

    /// Gives up the command that runs on a project, whoever began it. True if there was one.
    pub async fn cancel(&self, name: &ProjectName) -> Result<bool, ClientError> {
        match self
            .post_empty("cancel", &format!("/wharf/v1/projects/{name}/cancel"))
            .await
        {
            Ok(()) => Ok(true),
            Err(ClientError::Engine(error)) if error.kind == FailureKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The output of a project's containers.
    pub async fn logs(&self, name: &ProjectName, query: &LogsQuery) -> Result<Logs, ClientError> {
        let call = "logs";
        let mut path = format!("/wharf/v1/projects/{name}/logs?follow={}", query.follow);
        let mut number = |key: &str, value: Option<u64>| {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={value}"));
            }
        };
        number("tail", query.tail.map(|n| n as u64));
        number("since", query.since);
        number("until", query.until);
        number("index", query.index.map(u64::from));
        if !query.services.is_empty() {
            path.push_str("&services=");
            escape(&query.services, &mut path);
        }
        let (response, _) = self
            .send(call, Method::GET, &path, Bytes::new(), false)
            .await?;
        Ok(Logs {
            body: BodyStream::new(response.into_body()),
            buffer: BytesMut::new(),
            is_over: false,
        })
    }

    /// Starts a process without staying connected to it.
    pub async fn exec_detached(
        &self,
        container: &str,
        config: &ExecConfig,
    ) -> Result<(), ClientError> {
        debug_assert!(config.detach);
        let (path, body) = exec_request(container, config)?;
        let (response, sender) = self.send("exec", Method::POST, &path, body, false).await?;
        collect("exec", response.into_body()).await?;
        self.keep(sender);
        Ok(())
    }

    /// Starts a process and becomes its terminal, or its pipes.
    pub async fn exec(
        &self,
        container: &str,
        config: &ExecConfig,
    ) -> Result<(ExecInput, ExecOutput), ClientError> {
        let (path, body) = exec_request(container, config)?;
        self.session("exec", &path, body).await
    }

    /// Connects to the main process of a container.
    pub async fn attach(&self, container: &str) -> Result<(ExecInput, ExecOutput), ClientError> {
        let mut path = "/wharf/v1/containers/".to_owned();
        escape(container, &mut path);
        path.push_str("/attach");
        self.session("attach", &path, Bytes::new()).await
    }

    async fn session(
        &self,
        call: &'static str,
        path: &str,
        body: Bytes,
    ) -> Result<(ExecInput, ExecOutput), ClientError> {
        let (response, _) = self.send(call, Method::POST, path, body, true).await?;
        let connection = hyper::upgrade::on(response)
            .await
            .map_err(|source| ClientError::Transport { call, source })?;
        let (reader, writer) = tokio::io::split(TokioIo::new(connection));
        let window = Arc::new(Semaphore::new(STDIN_WINDOW_BYTES));
        let (frames, receiver) = mpsc::channel(16);
        let ended = CancellationToken::new();
        let frames_written = write_frames(writer, receiver);
        tokio::spawn(ended.clone().run_until_cancelled_owned(frames_written));
        Ok((
            ExecInput {
                frames,
                window: window.clone(),
            },
            ExecOutput {
                call,
                frames: FramedRead::new(reader, ExecCodec),
                window,
                _connection: ended.drop_guard(),
            },
        ))
    }
}

async fn handshake(
    stream: UnixStream,
    call: &'static str,
) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ClientError::Transport { call, source })?;
    // Whoever waits for an answer is told of a failure; nobody else needs to know.
    tokio::spawn(async move { _ = connection.with_upgrades().await });
    Ok(sender)
}

fn encode<O: Serialize>(project: Option<Project>, options: &O) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(&ProjectRequest { project, options }).map(Bytes::from)
}

fn exec_request(container: &str, config: &ExecConfig) -> Result<(String, Bytes), ClientError> {
    let mut path = "/wharf/v1/containers/".to_owned();
    escape(container, &mut path);
    path.push_str("/exec");
    let body = serde_json::to_vec(config).map_err(|source| ClientError::Encode {
        call: "exec",
        source,
    })?;
    Ok((path, Bytes::from(body)))
}

/// Percent-encodes what is not unreserved (RFC 3986, section 2.3).
fn escape(text: &str, to: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                to.push(char::from(byte));
            }
            _ => to.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn kind_of(status: StatusCode) -> FailureKind {
    match status {
        StatusCode::NOT_FOUND => FailureKind::NotFound,
        StatusCode::CONFLICT => FailureKind::Conflict,
        StatusCode::NOT_IMPLEMENTED => FailureKind::Unsupported,
        status if status.is_client_error() => FailureKind::Invalid,
        _ => FailureKind::Internal,
    }
}

async fn collect(call: &'static str, mut body: Incoming) -> Result<Bytes, ClientError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ClientError::Transport { call, source })?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > ANSWER_BYTES {
                return Err(ClientError::TooLong { call });
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.freeze())
}

/// The reports of a running command, as they come.
pub struct Reports {
    call: &'static str,
    body: BodyStream<Incoming>,
    buffer: BytesMut,
    /// Bytes of the buffer that are known to hold no line end.
    searched: usize,
    is_over: bool,
}

impl Reports {
    /// The next report; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Report, ClientError>> {
        if self.is_over {
            return None;
        }
        let next = self.read().await;
        self.is_over = matches!(
            next,
            Err(_) | Ok(Report::Done { .. } | Report::Failed { .. })
        );
        Some(next)
    }

    async fn read(&mut self) -> Result<Report, ClientError> {
        let call = self.call;
        loop {
            let unsearched = &self.buffer[self.searched..];
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                return serde_json::from_slice(&line)
                    .map_err(|source| ClientError::Decode { call, source });
            }
            self.searched = self.buffer.len();
            if self.searched > REPORT_BYTES {
                return Err(ClientError::TooLong { call });
            }
            match self.body.next().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(source)) => return Err(ClientError::Transport { call, source }),
                // A command that has ended says so; silence is an engine that died.
                None => return Err(ClientError::Gone { call }),
            }
        }
    }
}

/// Log frames, as they come. A stream that is cut off ends with [`ClientError::Gone`] or
/// [`ClientError::Transport`].
pub struct Logs {
    body: BodyStream<Incoming>,
    buffer: BytesMut,
    is_over: bool,
}

impl Stream for Logs {
    type Item = Result<LogFrame, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let call = "logs";
        if self.is_over {
            return Poll::Ready(None);
        }
        loop {
            match LogCodec.decode(&mut self.buffer) {
                Ok(Some(LogFrame::End)) => {
                    self.is_over = true;
                    return Poll::Ready(None);
                }
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => (),
                Err(source) => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(ClientError::Frame { call, source })));
                }
            }
            match std::task::ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(source)) => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(ClientError::Transport { call, source })));
                }
                None => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(ClientError::Gone { call })));
                }
            }
        }
    }
}

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// One writer for all frames: a frame is written whole, whoever sends it.
async fn write_frames(writer: WriteHalf<Upgraded>, mut frames: mpsc::Receiver<ExecFrame>) {
    let mut writer = FramedWrite::new(writer, ExecCodec);
    while let Some(frame) = frames.recv().await {
        if writer.send(frame).await.is_err() {
            // The reading side tells why.
            return;
        }
    }
    // Held open until the output is dropped: closing it would say that the client has gone, and output may still come.
    std::future::pending::<()>().await;
}

/// The sending side of a session. Sending to a session that has ended does nothing.
#[derive(Clone)]
pub struct ExecInput {
    frames: mpsc::Sender<ExecFrame>,
    window: Arc<Semaphore>,
}

impl ExecInput {
    /// Waits while the process does not take its stdin.
    pub async fn stdin(&self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let n = bytes.len().min(STDIN_WINDOW_BYTES / 2);
            let Ok(permits) = self.window.acquire_many(n as u32).await else {
                return;
            };
            // Given back by `StdinTaken`.
            permits.forget();
            self.send(ExecFrame::Stdin(bytes.split_to(n))).await;
        }
    }

    pub async fn stdin_eof(&self) {
        self.send(ExecFrame::StdinEof).await;
    }

    /// `(columns, rows)`.
    pub async fn resize(&self, (columns, rows): (u16, u16)) {
        self.send(ExecFrame::Resize(columns, rows)).await;
    }

    pub async fn signal(&self, signal: &str) {
        self.send(ExecFrame::Signal(signal.to_owned())).await;
    }

    async fn send(&self, frame: ExecFrame) {
        _ = self.frames.send(frame).await;
    }
}

/// The receiving side of a session.
pub struct ExecOutput {
    call: &'static str,
    frames: FramedRead<ReadHalf<Upgraded>, ExecCodec>,
    window: Arc<Semaphore>,
    /// Dropped with the output: closes the other half, too.
    _connection: DropGuard,
}

/// What comes out of a session; `Exited` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    Exited(i32),
}

impl ExecOutput {
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the engine ends before the process does.
    pub async fn next(&mut self) -> Result<ExecEvent, ClientError> {
        let call = self.call;
        loop {
            let frame = match self.frames.next().await {
                Some(Ok(frame)) => frame,
                Some(Err(source)) => return Err(ClientError::Frame { call, source }),
                None => return Err(ClientError::Gone { call }),
            };
            match frame {
                ExecFrame::Stdout(bytes) => return Ok(ExecEvent::Stdout(bytes)),
                ExecFrame::Stderr(bytes) => return Ok(ExecEvent::Stderr(bytes)),
                ExecFrame::Exited(code) => return Ok(ExecEvent::Exited(code)),
                ExecFrame::Failed(error) => return Err(ClientError::Engine(error)),
                ExecFrame::StdinTaken(n) => self.window.add_permits(n as usize),
                // An engine newer than this client may say more.
                _ => (),
            }
        }
    }
}
