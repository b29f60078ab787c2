//! The only place that writes to the user's terminal.
//!
//! Results go to stdout, everything about how they came to be goes to stderr. A reader that has
//! gone (EPIPE) is a quiet end, never a panic.

mod colors;
mod escape;
mod failure;
mod log_lines;
mod progress;
mod rows;
mod sizes;
mod table;
mod template;

use std::io::{self, IsTerminal, Write};

pub use colors::{Ansi, Palette};
pub use escape::visible;
pub use failure::{Failure, Kind};
pub use log_lines::{LogLines, LogStyle};
pub use progress::{Progress, ProgressMode, TICK};
pub use rows::Rows;
pub use sizes::{long_size, short_size};
pub use table::Table;
pub use template::Template;

/// Where a command's output goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output {
    pub ansi: Ansi,
    pub status: StatusStream,
}

/// Where progress is shown; `COMPOSE_STATUS_STDOUT` moves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatusStream {
    #[default]
    Stderr,
    Stdout,
}

impl Output {
    /// Writes a result.
    ///
    /// # Errors
    /// `BrokenPipe` when nobody reads any more, `System` when the disk behind stdout is full.
    pub fn out(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::system("cannot write to stdout", &error))
    }

    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut line = Vec::with_capacity(text.len() + 1);
        line.extend_from_slice(text.as_bytes());
        line.push(b'\n');
        self.out(&line)
    }

    /// Writes a container's bytes to stderr.
    pub fn err(&self, bytes: &[u8]) -> Result<(), Failure> {
        io::stderr()
            .lock()
            .write_all(bytes)
            .map_err(|error| Failure::system("cannot write to stderr", &error))
    }

    /// Says something about the command. Nothing is lost when nobody listens.
    pub fn note(&self, text: &str) {
        _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Tells about progress. Nothing is lost when nobody listens.
    pub fn status(&self, text: &str) {
        match self.status {
            StatusStream::Stderr => self.note(text),
            StatusStream::Stdout => _ = writeln!(io::stdout().lock(), "{text}"),
        }
    }

    pub fn is_status_terminal(&self) -> bool {
        match self.status {
            StatusStream::Stderr => io::stderr().is_terminal(),
            StatusStream::Stdout => io::stdout().is_terminal(),
        }
    }

    /// A question, with the cursor left behind it.
    pub fn prompt(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        // Nobody who could answer is there when this fails, and reading says so.
        _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
    }

    pub fn warn(&self, text: &str) {
        let (on, off) = self.ansi.stderr().warning();
        self.note(&format!("{on}warning:{off} {}", visible(text)));
    }

    /// The last words of a command that failed.
    pub fn fail(&self, failure: &Failure) {
        for line in failure.lines() {
            let palette = self.ansi.stderr();
            let (on, off) = match line.starts_with("error:") {
                true => palette.error(),
                false => palette.hint(),
            };
            let (word, rest) = line.split_once(':').unwrap_or((&line, ""));
            self.note(&format!("{on}{word}:{off}{rest}"));
        }
    }
}
