//! The record format of a container's log file.
//!
//! ```text
//! 0        4       5      6         8              16
//! | len u32 | stream | flags | 0 u16 | time ns u64 | payload, len bytes |      little endian
//! ```
//!
//! A record holds one line with its newline. A line that is longer than [`MAX_LINE`], or that the
//! program has not finished when it pauses, is split: all parts but the last have
//! [`PARTIAL`]. So the payloads of one stream, put together, are exactly the bytes written.
//! The writer appends whole records; a crash can leave a torn one at the end.

use crate::sys::bytes;

/// Size of a record's head.
pub const HEADER: usize = 16;

/// The longest payload.
pub const MAX_LINE: usize = 16 * 1024;

/// Flag: the line goes on in the stream's next record.
pub const PARTIAL: u8 = 1;

/// Which output a record is of. A terminal has only `Stdout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stream {
    Stdout = 1,
    Stderr = 2,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub stream: Stream,
    pub partial: bool,
    /// Nanoseconds since the epoch: when the shim read the line's end.
    pub time: u64,
    pub payload: &'a [u8],
}

/// What is wrong with a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("log record of {0} bytes, more than a line can have")]
    Length(u32),
    #[error("log record of the unknown stream {0}")]
    Stream(u8),
}

/// Appends one record to a buffer.
pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let len = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[
        record.stream as u8,
        u8::from(record.partial) * PARTIAL,
        0,
        0,
    ]);
    out.extend_from_slice(&record.time.to_le_bytes());
    out.extend_from_slice(record.payload);
}

/// Cuts a stream's bytes into records.
#[derive(Debug)]
pub struct Encoder {
    stream: Stream,
    /// The beginning of a line whose end has not been read.
    pending: Vec<u8>,
}

impl Encoder {
    #[must_use]
    pub fn new(stream: Stream) -> Encoder {
        Encoder {
            stream,
            pending: Vec::new(),
        }
    }

    /// Whether a line is unfinished.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes bytes as they were read at `time`, and appends the records that they complete.
    pub fn push(&mut self, mut input: &[u8], time: u64, out: &mut Vec<u8>) {
        while !input.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let window = input.get(..room.min(input.len())).unwrap_or(input);
            let newline = bytes::find(b'\n', window);
            let take = newline.map_or(window.len(), |at| at + 1);
            let (part, rest) = input.split_at(take);
            input = rest;
            if newline.is_none() && take < room {
                self.pending.extend_from_slice(part);
                return;
            }
            let partial = newline.is_none();
            if self.pending.is_empty() {
                encode(
                    &Record {
                        stream: self.stream,
                        partial,
                        time,
                        payload: part,
                    },
                    out,
                );
            } else {
                self.pending.extend_from_slice(part);
                self.emit(partial, time, out);
            }
        }
    }

    /// Writes out an unfinished line: the program pauses in it, or (`partial` false) has ended.
    pub fn flush(&mut self, partial: bool, time: u64, out: &mut Vec<u8>) {
        if self.has_pending() {
            self.emit(partial, time, out);
        }
    }

    fn emit(&mut self, partial: bool, time: u64, out: &mut Vec<u8>) {
        encode(
            &Record {
                stream: self.stream,
                partial,
                time,
                payload: &self.pending,
            },
            out,
        );
        // Given back rather than kept: a quiet container should cost nothing.
        self.pending = Vec::new();
    }
}

/// Reads records from pieces of a file as they come; a torn tail simply waits for more.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
}

impl Decoder {
    #[must_use]
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Adds bytes of the file, in order.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole record; `None` until more bytes are pushed.
    ///
    /// # Errors
    /// When the bytes are no log. The decoder then stays where it is.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, LogError> {
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let Some((record, size)) = decode(rest)? else {
            return Ok(None);
        };
        self.at += size;
        Ok(Some(record))
    }

    /// Bytes that are no whole record yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buffer.len() - self.at
    }
}

/// The record at the beginning of `bytes` and its size in the file, without copying.
///
/// # Errors
/// As [`Decoder::next_record`].
pub fn decode(bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, LogError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, stream, flags, _, _, time @ ..] = *head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    if len as usize > MAX_LINE {
        return Err(LogError::Length(len));
    }
    let stream = match stream {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        other => return Err(LogError::Stream(other)),
    };
    let Some(payload) = rest.get(..len as usize) else {
        return Ok(None);
    };
    let partial = flags & PARTIAL != 0;
    let record = Record {
        stream,
        partial,
        time: u64::from_le_bytes(time),
        payload,
    };
    Ok(Some((record, HEADER + len as usize)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<(Stream, bool, Vec<u8>)> {
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        let mut records = Vec::new();
        while let Some(record) = decoder.next_record().unwrap() {
            records.push((record.stream, record.partial, record.payload.to_vec()));
        }
        records
    }

    #[test]
    fn lines_are_records_and_the_rest_waits() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(Stream::Stdout);
        encoder.push(b"one\ntwo\nthr", 7, &mut out);
        assert_eq!(all(&out).len(), 2);
        encoder.push(b"ee\n", 8, &mut out);
        encoder.push(b"end", 9, &mut out);
        encoder.flush(false, 9, &mut out);
        let lines: Vec<_> = all(&out)
            .into_iter()
            .map(|(_, partial, line)| (partial, line))
            .collect();
        let expected: [&[u8]; 4] = [b"one\n", b"two\n", b"three\n", b"end"];
        assert_eq!(lines, expected.map(|line| (false, line.to_vec())));
    }

    #[test]
    fn long_lines_are_split() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(Stream::Stderr);
        let mut line = vec![b'x'; MAX_LINE * 2];
        line.push(b'\n');
        encoder.push(&line, 1, &mut out);
        let sizes: Vec<_> = all(&out)
            .iter()
            .map(|(_, partial, line)| (*partial, line.len()))
            .collect();
        assert_eq!(sizes, [(true, MAX_LINE), (true, MAX_LINE), (false, 1)]);
    }

    #[test]
    fn a_torn_tail_is_no_record_and_garbage_is_an_error() {
        let mut out = Vec::new();
        encode(
            &Record {
                stream: Stream::Stdout,
                partial: false,
                time: 3,
                payload: b"whole\n",
            },
            &mut out,
        );
        for cut in 0..out.len() {
            assert_eq!(decode(out.get(..cut).unwrap()), Ok(None));
        }
        assert_eq!(decode(&[0xff; 32]), Err(LogError::Length(u32::MAX)));
        assert_eq!(decode(&[0; 32]), Err(LogError::Stream(0)));
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(pieces in proptest::collection::vec((any::<bool>(), "[a\n]{0,40}"), 0..40),
                                 step in 1usize..64) {
            let mut out = Vec::new();
            let mut encoders = [Encoder::new(Stream::Stdout), Encoder::new(Stream::Stderr)];
            let mut written = [Vec::new(), Vec::new()];
            for (second, piece) in &pieces {
                let at = usize::from(*second);
                encoders[at].push(piece.as_bytes(), 1, &mut out);
                written[at].extend_from_slice(piece.as_bytes());
            }
            for encoder in &mut encoders {
                encoder.flush(false, 2, &mut out);
            }
            let mut decoder = Decoder::new();
            let mut read = [Vec::new(), Vec::new()];
            for bytes in out.chunks(step) {
                decoder.push(bytes);
                while let Some(record) = decoder.next_record().unwrap() {
                    read[usize::from(record.stream == Stream::Stderr)].extend_from_slice(record.payload);
                }
            }
            prop_assert_eq!(decoder.remaining(), 0);
            prop_assert_eq!(read, written);
        }
    }
}
