//! Binary frames: log records one way, and the duplex of an exec.
//!
//! All numbers are big-endian.
//!
//! ```text
//! log:   u8 stream │ u8 flags │ u16 container │ u32 length │ u64 time, ns │ payload
//! exec:  u8 kind   │ 3 × 0                    │ u32 length │ payload
//! ```
//!
//! The container of a log frame is an index that an `Opened` frame (stream 0) has announced. The
//! payload is bytes, never text: what containers write is theirs.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Decoder, Encoder};

use crate::reconcile::BackendError;

/// The longest payload that is taken from the other side, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

const LOG_HEADER_BYTES: usize = 16;
const EXEC_HEADER_BYTES: usize = 8;
/// The record is not the end of its line.
const FLAG_PARTIAL: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is longer than the limit of {MAX_PAYLOAD_BYTES}")]
    TooLong(usize),
    #[error("unknown kind of frame {0}")]
    UnknownKind(u8),
    #[error("the payload of a frame of kind {kind} cannot be read")]
    Payload { kind: u8, source: PayloadError },
    #[error("the connection failed")]
    Transport(#[from] std::io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("expected {expected} bytes, got {got}")]
    Size { expected: usize, got: usize },
    #[error(transparent)]
    Text(#[from] std::str::Utf8Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A container whose records follow under `index`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub index: u16,
    pub id: String,
    /// Full name, as in `demo-web-1`.
    pub name: String,
    /// What a prefix shows: `web-1`, or the full name where the file fixes one.
    pub label: String,
    pub service: String,
}

/// The records of a container are over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub index: u16,
    /// `None` when the container still runs (no `follow`), was removed, or never ran.
    pub exit_code: Option<i32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LogFrame {
    Opened(Opened),
    Record {
        index: u16,
        stream: OutputStream,
        /// Nanoseconds since the epoch.
        time_ns: u64,
        /// No line end follows: the next record of this stream goes on with the line.
        partial: bool,
        bytes: Bytes,
    },
    Closed(Closed),
    /// The records of one container, or all, could not be read.
    Failed(BackendError),
    /// The last frame of a stream that is whole. One that ends without it was cut off, by the
    /// engine's end or death, and can be taken up again from the time of the last record.
    End,
}

#[derive(Debug, Default)]
pub struct LogCodec;

impl LogFrame {
    const OPENED: u8 = 0;
    const STDOUT: u8 = 1;
    const STDERR: u8 = 2;
    const CLOSED: u8 = 3;
    const FAILED: u8 = 4;
    const END: u8 = 5;

    /// Appends the frame to `to`.
    pub fn encode(&self, to: &mut BytesMut) {
        match self {
            LogFrame::Opened(opened) => {
                put_log(to, Self::OPENED, 0, opened.index, 0, &json(opened))
            }
            LogFrame::Closed(closed) => {
                put_log(to, Self::CLOSED, 0, closed.index, 0, &json(closed))
            }
            LogFrame::Failed(error) => put_log(to, Self::FAILED, 0, 0, 0, &json(error)),
            LogFrame::End => put_log(to, Self::END, 0, 0, 0, &[]),
            LogFrame::Record {
                index,
                stream,
                time_ns,
                partial,
                bytes,
            } => {
                let kind = match stream {
                    OutputStream::Stdout => Self::STDOUT,
                    OutputStream::Stderr => Self::STDERR,
                };
                // A record can be as long as its log driver allows; the wire's limit is ours alone.
                let mut chunks = bytes.chunks(MAX_PAYLOAD_BYTES).peekable();
                if chunks.peek().is_none() {
                    put_log(to, kind, u8::from(*partial), *index, *time_ns, &[]);
                }
                while let Some(chunk) = chunks.next() {
                    let goes_on = *partial || chunks.peek().is_some();
                    put_log(to, kind, u8::from(goes_on), *index, *time_ns, chunk);
                }
            }
        }
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs with string keys always serialise")
}

fn put_log(to: &mut BytesMut, kind: u8, flags: u8, index: u16, time_ns: u64, payload: &[u8]) {
    to.reserve(LOG_HEADER_BYTES + payload.len());
    to.put_u8(kind);
    to.put_u8(flags);
    to.put_u16(index);
    to.put_u32(payload.len() as u32);
    to.put_u64(time_ns);
    to.put_slice(payload);
}

/// The payload length of the frame at the head of `from`, or `None` if more bytes are needed.
fn frame_length(from: &[u8], header_bytes: usize) -> Result<Option<usize>, FrameError> {
    let Some(field) = from.get(4..8) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([field[0], field[1], field[2], field[3]]) as usize;
    if length > MAX_PAYLOAD_BYTES {
        return Err(FrameError::TooLong(length));
    }
    Ok((from.len() >= header_bytes + length).then_some(length))
}

impl Decoder for LogCodec {
    type Item = LogFrame;
    type Error = FrameError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<LogFrame>, FrameError> {
        let Some(length) = frame_length(from, LOG_HEADER_BYTES)? else {
            return Ok(None);
        };
        let kind = from.get_u8();
        let flags = from.get_u8();
        let index = from.get_u16();
        from.advance(4);
        let time_ns = from.get_u64();
        let bytes = from.split_to(length).freeze();
        let broken = |source: serde_json::Error| FrameError::Payload {
            kind,
            source: source.into(),
        };
        let record = |stream| LogFrame::Record {
            index,
            stream,
            time_ns,
            partial: flags & FLAG_PARTIAL != 0,
            bytes: bytes.clone(),
        };
        Ok(Some(match kind {
            LogFrame::OPENED => LogFrame::Opened(serde_json::from_slice(&bytes).map_err(broken)?),
            LogFrame::STDOUT => record(OutputStream::Stdout),
            LogFrame::STDERR => record(OutputStream::Stderr),
            LogFrame::CLOSED => LogFrame::Closed(serde_json::from_slice(&bytes).map_err(broken)?),
            LogFrame::END => LogFrame::End,
            LogFrame::FAILED => LogFrame::Failed(serde_json::from_slice(&bytes).map_err(broken)?),
            unknown => return Err(FrameError::UnknownKind(unknown)),
        }))
    }
}

/// Stdin bytes that a client may have under way before the engine answers [`ExecFrame::StdinTaken`].
///
/// The window keeps a process that does not read its stdin from blocking the signals behind it,
/// with bounded memory on both ends (HAZARDS S50, L32).
pub const STDIN_WINDOW_BYTES: usize = 256 << 10;

/// One frame of an exec's duplex; the first four go to the engine, the others come from it.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecFrame {
    Stdin(Bytes),
    StdinEof,
    /// `(columns, rows)`.
    Resize(u16, u16),
    /// By name or number.
    Signal(String),
    Stdout(Bytes),
    Stderr(Bytes),
    /// So many bytes of stdin have reached the process, or were thrown away because it closed it.
    StdinTaken(u32),
    /// The last frame: the process ended with this code.
    Exited(i32),
    /// The last frame: the session broke.
    Failed(BackendError),
}

#[derive(Debug, Default)]
pub struct ExecCodec;

impl ExecFrame {
    const STDIN: u8 = 0;
    const STDOUT: u8 = 1;
    const STDERR: u8 = 2;
    const STDIN_EOF: u8 = 3;
    const RESIZE: u8 = 4;
    const SIGNAL: u8 = 5;
    const EXITED: u8 = 6;
    const FAILED: u8 = 7;
    const STDIN_TAKEN: u8 = 8;
}

impl Encoder<ExecFrame> for ExecCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: ExecFrame, to: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            ExecFrame::Stdin(bytes) => put_exec(to, ExecFrame::STDIN, &bytes),
            ExecFrame::Stdout(bytes) => put_exec(to, ExecFrame::STDOUT, &bytes),
            ExecFrame::Stderr(bytes) => put_exec(to, ExecFrame::STDERR, &bytes),
            ExecFrame::StdinEof => put_exec(to, ExecFrame::STDIN_EOF, &[]),
            ExecFrame::Resize(columns, rows) => {
                let mut size = [0; 4];
                size[..2].copy_from_slice(&columns.to_be_bytes());
                size[2..].copy_from_slice(&rows.to_be_bytes());
                put_exec(to, ExecFrame::RESIZE, &size);
            }
            ExecFrame::Signal(name) => put_exec(to, ExecFrame::SIGNAL, name.as_bytes()),
            ExecFrame::Exited(code) => put_exec(to, ExecFrame::EXITED, &code.to_be_bytes()),
            ExecFrame::StdinTaken(n) => put_exec(to, ExecFrame::STDIN_TAKEN, &n.to_be_bytes()),
            ExecFrame::Failed(error) => put_exec(to, ExecFrame::FAILED, &json(&error)),
        }
        Ok(())
    }
}

fn put_exec(to: &mut BytesMut, kind: u8, payload: &[u8]) {
    // Nothing but stream bytes can be long, and a stream may be cut anywhere.
    let mut chunks = payload.chunks(MAX_PAYLOAD_BYTES);
    let first = chunks.next().unwrap_or_default();
    for chunk in std::iter::once(first).chain(chunks) {
        to.reserve(EXEC_HEADER_BYTES + chunk.len());
        to.put_u8(kind);
        to.put_slice(&[0; 3]);
        to.put_u32(chunk.len() as u32);
        to.put_slice(chunk);
    }
}

impl Decoder for ExecCodec {
    type Item = ExecFrame;
    type Error = FrameError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<ExecFrame>, FrameError> {
        let Some(length) = frame_length(from, EXEC_HEADER_BYTES)? else {
            return Ok(None);
        };
        let kind = from[0];
        from.advance(EXEC_HEADER_BYTES);
        let bytes = from.split_to(length).freeze();
        let word = || -> Result<[u8; 4], FrameError> {
            bytes.as_ref().try_into().map_err(|_| FrameError::Payload {
                kind,
                source: PayloadError::Size {
                    expected: 4,
                    got: bytes.len(),
                },
            })
        };
        Ok(Some(match kind {
            ExecFrame::STDIN => ExecFrame::Stdin(bytes),
            ExecFrame::STDOUT => ExecFrame::Stdout(bytes),
            ExecFrame::STDERR => ExecFrame::Stderr(bytes),
            ExecFrame::STDIN_EOF => ExecFrame::StdinEof,
            ExecFrame::RESIZE => {
                let [a, b, c, d] = word()?;
                ExecFrame::Resize(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            }
            ExecFrame::SIGNAL => {
                let name = std::str::from_utf8(&bytes).map_err(|source| FrameError::Payload {
                    kind,
                    source: source.into(),
                })?;
                ExecFrame::Signal(name.to_owned())
            }
            ExecFrame::EXITED => ExecFrame::Exited(i32::from_be_bytes(word()?)),
            ExecFrame::STDIN_TAKEN => ExecFrame::StdinTaken(u32::from_be_bytes(word()?)),
            ExecFrame::FAILED => {
                let error =
                    serde_json::from_slice(&bytes).map_err(|source| FrameError::Payload {
                        kind,
                        source: source.into(),
                    })?;
                ExecFrame::Failed(error)
            }
            unknown => return Err(FrameError::UnknownKind(unknown)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec_round_trip(frame: ExecFrame) -> Vec<ExecFrame> {
        let mut buffer = BytesMut::new();
        ExecCodec.encode(frame, &mut buffer).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = ExecCodec.decode(&mut buffer).unwrap() {
            frames.push(frame);
        }
        assert!(buffer.is_empty());
        frames
    }

    #[test]
    fn exec_frames_survive_the_wire() {
        for frame in [
            ExecFrame::Stdin(Bytes::from_static(b"\0\xff\x1b")),
            ExecFrame::StdinEof,
            ExecFrame::Resize(211, 57),
            ExecFrame::Signal("SIGWINCH".into()),
            ExecFrame::Stdout(Bytes::new()),
            ExecFrame::Stderr(Bytes::from_static(b"e")),
            ExecFrame::StdinTaken(u32::MAX),
            ExecFrame::Exited(-1),
        ] {
            assert_eq!(exec_round_trip(frame.clone()), [frame]);
        }
    }

    #[test]
    fn long_streams_are_cut_not_refused() {
        let bytes = Bytes::from(vec![7; MAX_PAYLOAD_BYTES + 1]);
        let frames = exec_round_trip(ExecFrame::Stdout(bytes));
        let lengths: Vec<usize> = frames
            .iter()
            .map(|frame| match frame {
                ExecFrame::Stdout(bytes) => bytes.len(),
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        assert_eq!(lengths, [MAX_PAYLOAD_BYTES, 1]);
    }

    #[test]
    fn a_hostile_length_is_refused_before_it_is_buffered() {
        let mut buffer = BytesMut::from(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(
            ExecCodec.decode(&mut buffer),
            Err(FrameError::TooLong(_))
        ));
        assert!(matches!(
            LogCodec.decode(&mut buffer),
            Err(FrameError::TooLong(_))
        ));
    }

    #[test]
    fn log_frames_arrive_whole_however_they_are_cut() {
        let frames = [
            LogFrame::Opened(Opened {
                index: 3,
                id: "ab".into(),
                name: "demo-web-1".into(),
                label: "web-1".into(),
                service: "web".into(),
            }),
            LogFrame::Record {
                index: 3,
                stream: OutputStream::Stderr,
                time_ns: u64::MAX - 1,
                partial: true,
                bytes: Bytes::from_static(b"\x00\xfe\n"),
            },
            LogFrame::Closed(Closed {
                index: 3,
                exit_code: Some(137),
            }),
            LogFrame::End,
        ];
        let mut wire = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut wire));
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            seen.extend(LogCodec.decode(&mut buffer).unwrap());
        }
        assert_eq!(seen, frames);
    }
}
