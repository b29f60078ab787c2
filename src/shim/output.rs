//! From the container's output to its log. The container waits for the disk, and for nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::shim::protocol::log::{Encoder, Stream};
use crate::shim::record;
use crate::sys::fd;

/// One read. As large as a pipe is by default.
const CHUNK: usize = 64 * 1024;

/// Reads before others get their turn.
const ROUNDS: usize = 16;

/// An unfinished line (a prompt) is shown after this long.
const PAUSE: Duration = Duration::from_millis(50);

/// The log file. Only this process appends to it.
#[derive(Debug)]
pub struct LogFile {
    file: OwnedFd,
    /// Encoded records of one round, and the bytes they are made from. Given back when idle.
    out: Vec<u8>,
    chunk: Vec<u8>,
    pub dropped_bytes: u64,
}

impl LogFile {
    pub fn open(path: &Path) -> io::Result<LogFile> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?;
        Ok(LogFile {
            file,
            out: Vec::new(),
            chunk: Vec::new(),
            dropped_bytes: 0,
        })
    }

    pub fn release_buffers(&mut self) {
        self.out = Vec::new();
        self.chunk = Vec::new();
    }

    fn write(&mut self) {
        let mut rest = self.out.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&self.file, rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // A full disk loses output, but never stops the container or this process.
                    // Half a record would make the rest of the file unreadable: take it back.
                    let written = (self.out.len() - rest.len()) as u64;
                    if let Ok(stat) = rustix::fs::fstat(&self.file) {
                        let size = u64::try_from(stat.st_size).unwrap_or(0);
                        let _ = rustix::fs::ftruncate(&self.file, size.saturating_sub(written));
                    }
                    self.dropped_bytes += self.out.len() as u64;
                    break;
                }
            }
        }
        self.out.clear();
    }
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
