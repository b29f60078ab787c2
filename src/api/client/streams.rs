//! Answers that come bit by bit: the reports of a command, and log frames.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use tokio_util::codec::Decoder;

use super::ClientError;
use crate::api::wire::frame::{LogCodec, LogFrame};
use crate::reconcile::Report;

/// One report is no longer than this, in bytes.
const REPORT_BYTES: usize = 16 << 20;

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
    pub(super) fn new(call: &'static str, body: Incoming) -> Reports {
        Reports {
            call,
            body: BodyStream::new(body),
            buffer: BytesMut::new(),
            searched: 0,
            is_over: false,
        }
    }

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

impl Logs {
    pub(super) fn new(body: Incoming) -> Logs {
        Logs {
            body: BodyStream::new(body),
            buffer: BytesMut::new(),
            is_over: false,
        }
    }
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
