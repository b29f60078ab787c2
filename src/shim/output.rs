//! From the container's output to its log. The container waits for the disk, and for nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::shim::protocol::log::{self, Encoder, Stream};
use crate::shim::protocol::parts::{self, Rotation};
use crate::shim::record;
use crate::sys::fd;

/// One read. As large as a pipe is by default.
const CHUNK: usize = 64 * 1024;

/// Reads before others get their turn.
const ROUNDS: usize = 16;

/// An unfinished line (a prompt) is shown after this long.
const PAUSE: Duration = Duration::from_millis(50);

/// The log. Only this process writes to it.
#[derive(Debug)]
pub struct LogFile {
    base: PathBuf,
    rotation: Option<Rotation>,
    /// Number of the oldest part that may be there.
    oldest: u64,
    /// Number of the part that is written to.
    number: u64,
    file: OwnedFd,
    /// Of that part.
    size_bytes: u64,
    /// Encoded records of one round, and the bytes they are made from. Given back when idle.
    out: Vec<u8>,
    chunk: Vec<u8>,
    pub dropped_bytes: u64,
}

impl LogFile {
    /// Goes on where the last writer ended; in a new part if that one `is_torn`.
    pub fn open(base: &Path, rotation: Option<Rotation>, is_torn: bool) -> io::Result<LogFile> {
        let existing = parts::list(base)?;
        let newest = existing.last().copied();
        let number = newest.map_or(0, |newest| newest + u64::from(is_torn));
        let (file, size_bytes) = open_part(base, number)?;
        let mut log = LogFile {
            base: base.to_owned(),
            rotation,
            oldest: existing.first().copied().unwrap_or(number),
            number,
            file,
            size_bytes,
            out: Vec::new(),
            chunk: Vec::new(),
            dropped_bytes: 0,
        };
        log.delete_oldest();
        Ok(log)
    }

    pub fn release_buffers(&mut self) {
        self.out = Vec::new();
        self.chunk = Vec::new();
    }

    /// Appends the records, each whole in one part.
    fn write(&mut self) {
        let records = std::mem::take(&mut self.out);
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let mut fitting = self.fitting(rest);
            if fitting == 0 && !self.go_on_in_next_part() {
                // Better a part that is too large than output that is lost.
                fitting = rest.len();
            }
            let (now, later) = rest.split_at(fitting);
            self.append(now);
            rest = later;
        }
        self.out = records;
        self.out.clear();
    }

    /// How many bytes of whole records the part has room for; an empty part for one at least.
    fn fitting(&self, records: &[u8]) -> usize {
        let room = match self.rotation {
            Some(rotation) => rotation.max_bytes.saturating_sub(self.size_bytes),
            None => u64::MAX,
        };
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if records.len() <= room {
            return records.len();
        }
        let mut end = 0;
        // Our own encoding: whole records, without a mistake.
        while let Ok(Some((_, size))) = log::decode(records.get(end..).unwrap_or_default()) {
            if end + size > room && (end > 0 || self.size_bytes > 0) {
                break;
            }
            end += size;
        }
        end
    }

    fn append(&mut self, records: &[u8]) {
        let mut rest = records;
        while !rest.is_empty() {
            match rustix::io::write(&self.file, rest) {
                Ok(n) => {
                    self.size_bytes += n as u64;
                    rest = rest.get(n..).unwrap_or_default();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // A full disk loses output, but never stops the container or this process.
                    // Half a record would make the rest of the file unreadable: take it back.
                    let written = (records.len() - rest.len()) as u64;
                    self.size_bytes = self.size_bytes.saturating_sub(written);
                    let _ = rustix::fs::ftruncate(&self.file, self.size_bytes);
                    self.dropped_bytes += records.len() as u64;
                    return;
                }
            }
        }
    }

    /// `false` when no file can be made.
    fn go_on_in_next_part(&mut self) -> bool {
        let Ok((file, size_bytes)) = open_part(&self.base, self.number + 1) else {
            return false;
        };
        self.file = file;
        self.size_bytes = size_bytes;
        self.number += 1;
        self.delete_oldest();
        true
    }

    fn delete_oldest(&mut self) {
        let Some(rotation) = self.rotation else {
            return;
        };
        while self.number - self.oldest >= u64::from(rotation.max_parts.max(1)) {
            // One that is gone is what was wanted; readers that have it open keep it.
            let _ = std::fs::remove_file(parts::path(&self.base, self.oldest));
            self.oldest += 1;
        }
    }
}

/// The part's file, and its size in bytes.
fn open_part(base: &Path, number: u64) -> io::Result<(OwnedFd, u64)> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let path = parts::path(base, number);
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    let size = rustix::fs::fstat(&file)?.st_size;
    Ok((file, u64::try_from(size).unwrap_or(0)))
}

/// Whether a source goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing is left to read for now.
    Empty,
    /// There may be more.
    More,
    /// No writer is left.
    Ended,
}

/// A pipe's reading end, or a terminal's master.
#[derive(Debug)]
pub struct Output {
    source: OwnedFd,
    encoder: Encoder,
    /// A terminal's reader is a person, who wants to see each letter.
    is_terminal: bool,
    last_read: Instant,
}

impl Output {
    pub fn pipe(source: OwnedFd, stream: Stream) -> io::Result<Output> {
        fd::set_nonblocking(&source)?;
        Ok(Output {
            source,
            encoder: Encoder::new(stream),
            is_terminal: false,
            last_read: Instant::now(),
        })
    }

    /// The description is shared with attached clients, so it stays blocking: a read follows a poll
    /// that said that it would not wait.
    pub fn terminal(master: OwnedFd) -> Output {
        Output {
            source: master,
            encoder: Encoder::new(Stream::Stdout),
            is_terminal: true,
            last_read: Instant::now(),
        }
    }

    /// When an unfinished line has to be written out.
    pub fn deadline(&self) -> Option<Instant> {
        self.encoder.has_pending().then(|| self.last_read + PAUSE)
    }

    pub fn flush_due(&mut self, log: &mut LogFile, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.encoder.flush(true, record::now(), &mut log.out);
            log.write();
        }
    }

    /// Moves what is there into the log.
    pub fn pump(&mut self, log: &mut LogFile) -> Pumped {
        log.chunk.resize(CHUNK, 0);
        for _ in 0..ROUNDS {
            if self.is_terminal && !self.is_readable() {
                return Pumped::Empty;
            }
            let n = match rustix::io::read(&self.source, &mut log.chunk[..]) {
                Ok(0) => return self.end(log),
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => return Pumped::Empty,
                Err(rustix::io::Errno::INTR) => continue,
                // EIO is how a terminal says that its last user is gone.
                Err(_) => return self.end(log),
            };
            let time = record::now();
            self.last_read = Instant::now();
            let bytes = log.chunk.get(..n).unwrap_or_default();
            self.encoder.push(bytes, time, &mut log.out);
            if self.is_terminal {
                self.encoder.flush(true, time, &mut log.out);
            }
            log.write();
        }
        Pumped::More
    }

    /// Writes out what is left of an unfinished line.
    pub fn end(&mut self, log: &mut LogFile) -> Pumped {
        self.encoder.flush(false, record::now(), &mut log.out);
        log.write();
        Pumped::Ended
    }

    fn is_readable(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.source, PollFlags::IN)];
        matches!(
            poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0
                })
            ),
            Ok(1..)
        )
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}
