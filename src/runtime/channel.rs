//! What the set-up tells its parent: packets on a socket pair whose child end `execve` closes.
//!
//! A packet is `tag u8, kind u8, number i32 (little endian), text`. It is made by hand, because it
//! is sent between `fork` and `execve`, where less is better.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use crate::runtime::failure::{Failure, Kind, os_text};
use crate::sys::shared::Word;
use crate::sys::{fd, socket};

/// One packet from the child.
#[derive(Debug)]
pub enum Report {
    /// The terminal's master side.
    Console(OwnedFd),
    /// The process that will execute the program is another one (exec).
    Forked(i32),
    Failed(Failure),
    /// The child's end is closed: it has executed the program, or is dead.
    Closed,
    /// No packet for now.
    Nothing,
}

const TAG_CONSOLE: u8 = 1;
const TAG_FORKED: u8 = 2;
const TAG_FAILED: u8 = 3;
const MAX_PACKET: usize = 4096;

/// The parent's end.
#[derive(Debug)]
pub struct Parent {
    socket: OwnedFd,
    last_word: Rc<Word>,
}

/// The child's end.
#[derive(Debug)]
pub struct Child {
    socket: OwnedFd,
    /// Kind and error number of a failure. A filter may deny even the send of the report (S19);
    /// it cannot deny a store.
    last_word: Rc<Word>,
}

/// # Errors
/// Of `socketpair(2)`.
pub fn pair() -> io::Result<(Parent, Child)> {
    let (parent, child) = socket::pair()?;
    // The shim never waits on one child; the child has nothing else to do.
    fd::set_nonblocking(&parent)?;
    let last_word = Rc::new(Word::new()?);
    Ok((
        Parent {
            socket: parent,
            last_word: Rc::clone(&last_word),
        },
        Child {
            socket: child,
            last_word,
        },
    ))
}

impl Parent {
    /// Lets the child begin.
    ///
    /// # Errors
    /// `EPIPE` when it is dead already.
    pub fn go(&self) -> io::Result<()> {
        socket::send(&self.socket, b"g", &[])
    }

    /// Receives one packet.
    ///
    /// # Errors
    /// Of the receive, or `InvalidData`.
    pub fn receive(&self) -> io::Result<Report> {
        let mut buffer = [0; MAX_PACKET];
        let (n, fds) = match socket::receive(&self.socket, &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Report::Nothing),
            received => received?,
        };
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let Some((head, text)) = buffer
            .get(..n)
            .and_then(|packet| packet.split_at_checked(6))
        else {
            return if n == 0 {
                Ok(self.closed())
            } else {
                Err(bad())
            };
        };
        let [tag, kind, number @ ..] = head else {
            return Err(bad());
        };
        let number = i32::from_le_bytes(number.try_into().map_err(|_| bad())?);
        match *tag {
            TAG_CONSOLE => fds.into_iter().next().map(Report::Console).ok_or_else(bad),
            TAG_FORKED => Ok(Report::Forked(number)),
            TAG_FAILED => {
                self.last_word.set(0);
                Ok(Report::Failed(Failure {
                    kind: Kind::from_number(*kind),
                    message: String::from_utf8_lossy(text).into_owned(),
                    errno: number,
                }))
            }
            _ => Err(bad()),
        }
    }
}

impl Parent {
    /// The end of the channel: what could not be said is in the shared word, once.
    fn closed(&self) -> Report {
        let word = self.last_word.get();
        if word == 0 {
            return Report::Closed;
        }
        self.last_word.set(0);
        let [errno_low, errno_high, kind, _] = word.to_le_bytes();
        let errno = i32::from(u16::from_le_bytes([errno_low, errno_high]));
        let text = os_text(&io::Error::from_raw_os_error(errno));
        Report::Failed(Failure {
            kind: Kind::from_number(kind),
            message: format!("start the program under its filter: {text}"),
            errno,
        })
    }
}

impl AsFd for Parent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Child {
    /// Closes everything of the engine's but this end and the standard streams. Whoever may trace in
    /// the container sees the process from its first moment in the pid namespace, undumpable or not,
    /// and could take its descriptors (S33).
    pub fn close_all_others(&self) {
        fd::close_inherited(3, &[self.socket.as_raw_fd()]);
    }

    /// Waits until the parent says go; `false` when it has died instead.
    #[must_use]
    pub fn wait(&self) -> bool {
        let mut buffer = [0; 1];
        matches!(socket::receive(&self.socket, &mut buffer), Ok((1, _)))
    }

    /// Whether the parent is gone.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(1..))
            && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
    }

    /// # Errors
    /// Of the send.
    pub fn console(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        socket::send(&self.socket, &[TAG_CONSOLE, 0, 0, 0, 0, 0], &[master])
    }

    /// # Errors
    /// Of the send.
    pub fn forked(&self, pid: i32) -> io::Result<()> {
        let [a, b, c, d] = pid.to_le_bytes();
        socket::send(&self.socket, &[TAG_FORKED, 0, a, b, c, d], &[])
    }

    /// Reports the failure. There is nobody to tell when that fails too.
    pub fn failed(&self, failure: &Failure) {
        let [a, b, c, d] = failure.errno.to_le_bytes();
        self.last_word
            .set(i32::from_le_bytes([a, b, failure.kind as u8, 0]));
        let mut packet = vec![TAG_FAILED, failure.kind as u8, a, b, c, d];
        packet.extend(failure.message.bytes().take(MAX_PACKET - 6));
        let _ = socket::send(&self.socket, &packet, &[]);
    }
}
