//! Typed calls to an engine over its unix socket.
//!
//! Meant for one command: a current-thread runtime, one connection that is used again for each call
//! and handed over to the call that streams. Never retries and never starts an engine.

pub mod images;
mod session;
mod streams;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub use session::{ExecEvent, ExecInput, ExecOutput};
pub use streams::{Logs, Reports};

use super::wire::exec::ExecConfig;
use super::wire::frame::FrameError;
use super::wire::registry::{AuthAnswer, AuthConfig, ImageTransfer};
use super::wire::{EngineStatus, ErrorBody, LogsQuery, ProjectRequest, Verb, docker};
use crate::compose::{Project, ProjectName};
use crate::plan::{Login, ObservedContainer};
use crate::reconcile::{BackendError, FailureKind};

/// An answer that is not a stream is no longer than this, in bytes.
const ANSWER_BYTES: usize = 64 << 20;

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
        Err(refused(call, status, &text))
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

    /// Whether somebody answers at the other end: a connection may have been made with an engine
    /// that died before it was accepted.
    pub async fn ping(&self) -> Result<(), ClientError> {
        let (response, sender) = self
            .send("ping", Method::GET, "/_ping", Bytes::new(), false)
            .await?;
        collect("ping", response.into_body()).await?;
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
            Verb::Pull(options) => encode(project, options),
            Verb::Push(options) => encode(project, options),
        }
        .map_err(|source| ClientError::Encode { call, source })?;
        let path = format!("/wharf/v1/projects/{name}/{call}");
        let (response, _) = self.send(call, Method::POST, &path, body, false).await?;
        Ok(Reports::new(call, response.into_body()))
    }

    /// Has the engine show a login to a registry; returns the identity token that it is to be
    /// replaced by, or nothing.
    pub async fn authenticate(&self, registry: &str, login: &Login) -> Result<String, ClientError> {
        let call = "login";
        let body = AuthConfig {
            username: login.username.clone(),
            password: login.password.clone(),
            serveraddress: registry.to_owned(),
            identitytoken: login.identity_token.clone(),
            registrytoken: login.registry_token.clone(),
            ..AuthConfig::default()
        };
        let body =
            serde_json::to_vec(&body).map_err(|source| ClientError::Encode { call, source })?;
        let (response, sender) = self
            .send(call, Method::POST, "/auth", body.into(), false)
            .await?;
        let answer = collect(call, response.into_body()).await?;
        self.keep(sender);
        let answer: AuthAnswer = serde_json::from_slice(&answer)
            .map_err(|source| ClientError::Decode { call, source })?;
        // An engine that was shown a token sends the same one back.
        Ok(answer.identity_token).map(|token| {
            if token == login.identity_token {
                String::new()
            } else {
                token
            }
        })
    }

    /// Pulls one image; the stream ends after `Done` or `Failed`, and dropping it gives the pull up.
    pub async fn pull_image(&self, transfer: &ImageTransfer) -> Result<Reports, ClientError> {
        self.transfer("pull", transfer).await
    }

    /// Pushes one image, as [`Client::pull_image`] pulls.
    pub async fn push_image(&self, transfer: &ImageTransfer) -> Result<Reports, ClientError> {
        self.transfer("push", transfer).await
    }

    async fn transfer(
        &self,
        call: &'static str,
        transfer: &ImageTransfer,
    ) -> Result<Reports, ClientError> {
        let body =
            serde_json::to_vec(transfer).map_err(|source| ClientError::Encode { call, source })?;
        let path = format!("/wharf/v1/images/{call}");
        let (response, _) = self
            .send(call, Method::POST, &path, body.into(), false)
            .await?;
        Ok(Reports::new(call, response.into_body()))
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
        Ok(Logs::new(response.into_body()))
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
        Ok(session::open(call, TokioIo::new(connection)))
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

/// An answer that is a failure.
fn refused(call: &'static str, status: StatusCode, body: &[u8]) -> ClientError {
    ClientError::Engine(match serde_json::from_slice::<ErrorBody>(body) {
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
    })
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
        StatusCode::UNAUTHORIZED => FailureKind::Denied,
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
