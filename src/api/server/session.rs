//! Exec and attach: an HTTP request that becomes a framed duplex.
//!
//! ```text
//! client ──Stdin, StdinEof, Resize, Signal──▶ inbound ──▶ stdin, controls ──▶ process
//! client ◀──Stdout, Stderr, StdinTaken, Exited── outbound ◀── output, exit ──┘
//! ```
//!
//! The two directions never wait for each other. A client that goes away ends the session and
//! frees all of it; what becomes of the process then is the host's affair.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_util::codec::{FramedRead, FramedWrite};

use super::Shared;
use super::error::ApiError;
use crate::api::wire::exec::ExecConfig;
use crate::api::wire::frame::{ExecCodec, ExecFrame, FrameError, OutputStream, STDIN_WINDOW_BYTES};
use crate::api::{Host, Session, SessionControl, SessionOutput};
use crate::reconcile::{BackendError, FailureKind};

/// Command lines and environments are bounded by the kernel's own ARG_MAX of 2 MiB.
const BODY_BYTES: usize = 4 << 20;

pub(super) async fn exec<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(container): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = take_upgrade(&mut request);
    let body = to_bytes(request.into_body(), BODY_BYTES)
        .await
        .map_err(|error| {
            ApiError::new(FailureKind::Invalid, format!("unreadable body: {error}"))
        })?;
    let config: ExecConfig = serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(FailureKind::Invalid, format!("invalid body: {error}")))?;
    if config.argv.is_empty() {
        return Err(ApiError::new(FailureKind::Invalid, "no command to run"));
    }
    if config.detach {
        shared.host.exec(&container, config).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let upgrade = upgrade.ok_or_else(needs_upgrade)?;
    let session = shared.host.exec(&container, config).await?;
    Ok(switch(shared, upgrade, session))
}

pub(super) async fn attach<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(container): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = take_upgrade(&mut request).ok_or_else(needs_upgrade)?;
    let session = shared.host.attach(&container).await?;
    Ok(switch(shared, upgrade, session))
}

fn needs_upgrade() -> ApiError {
    ApiError::new(
        FailureKind::Invalid,
        "a session needs the headers Connection: Upgrade and Upgrade: tcp",
    )
}

fn take_upgrade(request: &mut Request) -> Option<OnUpgrade> {
    let asks = |headers: &HeaderMap| {
        headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"tcp"))
    };
    asks(request.headers())
        .then(|| request.extensions_mut().remove::<OnUpgrade>())
        .flatten()
}

fn switch<H: Host>(shared: Arc<Shared<H>>, upgrade: OnUpgrade, session: Session) -> Response {
    let closing = shared.closing.clone();
    tokio::spawn(async move {
        let connection = match upgrade.await {
            Ok(connection) => TokioIo::new(connection),
            Err(error) => {
                tracing::debug!(%error, "the client left before its session began");
                return;
            }
        };
        tokio::select! {
            () = duplex(connection, session) => (),
            () = closing.cancelled() => (),
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp")
        .body(Body::empty())
        .expect("constant headers are valid")
}

async fn duplex<S: AsyncRead + AsyncWrite>(connection: S, session: Session) {
    let (reader, writer) = tokio::io::split(connection);
    let Session {
        stdin,
        output,
        controls,
        exit,
    } = session;
    let (stdin_sender, stdin_receiver) = mpsc::unbounded_channel();
    // Bytes of stdin that are done with, since the session began.
    let (taken_sender, taken) = watch::channel(0u64);
    let exit = async {
        exit.await.unwrap_or_else(|_| {
            Err(BackendError {
                kind: FailureKind::Internal,
                message: "the engine lost sight of the process".to_owned(),
                hints: Vec::new(),
            })
        })
    };
    let feed = feed(stdin, stdin_receiver, taken_sender);
    let inbound = inbound(reader, stdin_sender, controls, taken.clone());
    let outbound = outbound(writer, output, exit, taken);
    let ended = tokio::select! {
        ended = outbound => ended,
        ended = async { tokio::join!(inbound, feed).0 } => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "session ended early"
        );
    }
}

/// Client to process. Ends when the client goes away or breaks the protocol.
async fn inbound(
    reader: impl AsyncRead + Unpin,
    stdin: mpsc::UnboundedSender<Bytes>,
    controls: mpsc::Sender<SessionControl>,
    taken: watch::Receiver<u64>,
) -> Result<(), FrameError> {
    let mut frames = FramedRead::new(reader, ExecCodec);
    let mut stdin = Some(stdin);
    let mut received = 0u64;
    while let Some(frame) = frames.next().await {
        match frame? {
            ExecFrame::Stdin(bytes) => {
                received += bytes.len() as u64;
                // The window bounds the channel; a client that ignores it is cut off.
                let under_way = received - *taken.borrow();
                if under_way > STDIN_WINDOW_BYTES as u64 {
                    return Err(FrameError::TooLong(under_way as usize));
                }
                if let Some(stdin) = &stdin {
                    _ = stdin.send(bytes);
                }
            }
            ExecFrame::StdinEof => stdin = None,
            // A full or closed channel: the process is ending, or drowning in resizes.
            ExecFrame::Resize(columns, rows) => {
                _ = controls.try_send(SessionControl::Resize(columns, rows));
            }
            ExecFrame::Signal(signal) => _ = controls.send(SessionControl::Signal(signal)).await,
            other => {
                tracing::debug!(?other, "a frame that only the engine sends");
            }
        }
    }
    Ok(())
}

/// Writes stdin as fast as the process takes it, then closes it.
async fn feed(
    mut stdin: std::pin::Pin<Box<dyn AsyncWrite + Send>>,
    mut chunks: mpsc::UnboundedReceiver<Bytes>,
    taken: watch::Sender<u64>,
) {
    let mut is_open = true;
    while let Some(chunk) = chunks.recv().await {
        // A process that closed its stdin is no failure: the rest is thrown away, as a shell does.
        is_open = is_open && stdin.write_all(&chunk).await.is_ok() && stdin.flush().await.is_ok();
        taken.send_modify(|total| *total += chunk.len() as u64);
    }
    _ = stdin.shutdown().await;
}

/// Process to client. Ends with the process.
async fn outbound(
    writer: impl AsyncWrite + Unpin,
    mut output: futures_util::stream::BoxStream<'static, SessionOutput>,
    exit: impl Future<Output = Result<i32, BackendError>>,
    mut taken: watch::Receiver<u64>,
) -> Result<(), FrameError> {
    let mut frames = FramedWrite::new(writer, ExecCodec);
    let mut told = 0u64;
    loop {
        let frame = tokio::select! {
            // Cancel safe: an item is taken only when it is handed out.
            item = output.next() => match item {
                Some(SessionOutput { stream: OutputStream::Stdout, bytes }) => {
                    ExecFrame::Stdout(bytes)
                }
                Some(SessionOutput { stream: OutputStream::Stderr, bytes }) => {
                    ExecFrame::Stderr(bytes)
                }
                None => break,
            },
            // Cancel safe: the channel keeps the newest total.
            Ok(()) = taken.changed() => {
                let total = *taken.borrow_and_update();
                let news = (total - told) as u32;
                told = total;
                ExecFrame::StdinTaken(news)
            }
        };
        frames.send(frame).await?;
    }
    let last = match exit.await {
        Ok(code) => ExecFrame::Exited(code),
        Err(error) => ExecFrame::Failed(error),
    };
    frames.send(last).await?;
    frames.close().await
}
