//! The client's end of an exec or attach.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ClientError;
use crate::api::wire::frame::{ExecCodec, ExecFrame, STDIN_WINDOW_BYTES};

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Begins a session on a connection that has left HTTP.
pub(super) fn open(call: &'static str, connection: Upgraded) -> (ExecInput, ExecOutput) {
    let (reader, writer) = tokio::io::split(connection);
    let window = Arc::new(Semaphore::new(STDIN_WINDOW_BYTES));
    let (frames, receiver) = mpsc::channel(16);
    let ended = CancellationToken::new();
    let frames_written = write_frames(writer, receiver);
    tokio::spawn(ended.clone().run_until_cancelled_owned(frames_written));
    let input = ExecInput {
        frames,
        window: window.clone(),
    };
    let output = ExecOutput {
        call,
        frames: FramedRead::new(reader, ExecCodec),
        window,
        _connection: ended.drop_guard(),
    };
    (input, output)
}

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
