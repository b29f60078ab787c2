//! The user's terminal: raw mode that is always given back, its size, and its keys.

use std::io::{self, IsTerminal, Read};

use bytes::Bytes;
use rustix::termios::{self, OptionalActions, Termios};
use tokio::sync::mpsc;

use super::output::Failure;

/// Whether a person sits at both ends.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// `(columns, rows)`; `None` when stdout is no terminal or does not know.
pub fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Raw mode of the terminal behind stdin, ended when this is dropped: on return, on error, and when
/// a panic unwinds.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    pub fn enter() -> Result<RawMode, Failure> {
        let failed = |errno: rustix::io::Errno| {
            Failure::system("cannot switch the terminal to raw mode", &errno.into())
        };
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        // DRAIN, not FLUSH: what was typed ahead belongs to the program in the container.
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that has gone.
        _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// A terminal that does not show what is typed, until this is dropped.
#[derive(Debug)]
pub struct Silent {
    before: Termios,
}

impl Silent {
    pub fn enter() -> Result<Silent, Failure> {
        let failed =
            |errno: rustix::io::Errno| Failure::system("cannot hide what is typed", &errno.into());
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(termios::LocalModes::ECHO);
        termios::tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Silent { before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that has gone.
        _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// Reads stdin on a thread of its own: a read that waits for a key cannot be cancelled, and must not
/// hold up the end of the command. The channel closes at the end of the input.
pub fn stdin_chunks() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    if sender
                        .blocking_send(Bytes::copy_from_slice(&buffer[..n]))
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                // A terminal that hung up reads as an error; it is an end like any other.
                Err(_) => return,
            }
        }
    });
    receiver
}
