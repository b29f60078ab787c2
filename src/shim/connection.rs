//! The engine's connection: requests in, replies and events out, never a wait.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::shim::protocol::{Message, Request};
use crate::shim::spawner::MAX_PACKET;
use crate::sys::{fd, socket};

/// An engine that lets more messages than this wait is not reading.
const MAX_WAITING: usize = 1024;

#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// The engine said that it leaves on purpose.
    pub goodbye: bool,
}

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    Request(Box<Request>, Vec<OwnedFd>),
    /// Nothing more for now, or a packet that says nothing to this version.
    Nothing,
    Closed,
}

impl Connection {
    pub fn new(socket: OwnedFd) -> io::Result<Connection> {
        fd::set_nonblocking(&socket)?;
        Ok(Connection {
            socket,
            waiting: VecDeque::new(),
            goodbye: false,
        })
    }

    /// Queues behind what waits; an error means that the connection is of no more use.
    pub fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) -> io::Result<()> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        self.waiting.push_back((serde_json::to_vec(message)?, fds));
        self.flush()
    }

    pub fn flush(&mut self) -> io::Result<()> {
        while let Some((packet, fds)) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match socket::send(&self.socket, packet, &fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn receive(&self) -> Incoming {
        let mut buffer = vec![0; MAX_PACKET];
        match socket::receive(&self.socket, &mut buffer) {
            Ok((0, _)) => Incoming::Closed,
            Ok((n, fds)) => match serde_json::from_slice(buffer.get(..n).unwrap_or_default()) {
                Ok(request) => Incoming::Request(Box::new(request), fds),
                Err(_) => Incoming::Nothing,
            },
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::InvalidData
                ) =>
            {
                Incoming::Nothing
            }
            Err(_) => Incoming::Closed,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
