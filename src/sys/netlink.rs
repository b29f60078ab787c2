//! Netlink as a transport: framing, attributes, acknowledgements, dumps.
//!
//! Blocking and in order: the kernel works a request off inside `sendmsg`, so several requests go
//! out in one buffer and their acknowledgements are there when the call returns. Knows neither
//! links nor firewall rules; `route`, `nft` and `conntrack` speak through it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket as RawSocket, SocketAddr};

/// The families of netlink that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Route,
    Netfilter,
}

/// What the kernel answered to one request of a transaction.
#[derive(Debug, thiserror::Error)]
#[error("{errno}{}", explanation.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
pub struct Refusal {
    /// Which request of the transaction, from 0.
    pub index: usize,
    pub errno: io::Error,
    /// The kernel's extended acknowledgement, if it sent one.
    pub explanation: Option<String>,
}

impl Refusal {
    fn transport(errno: io::Error) -> Refusal {
        Refusal {
            index: 0,
            errno,
            explanation: None,
        }
    }

    pub fn raw_os_error(&self) -> i32 {
        self.errno.raw_os_error().unwrap_or(0)
    }
}

pub const NLM_F_REQUEST: u16 = 1;
pub const NLM_F_ACK: u16 = 4;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
pub const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Requests that are sent in one buffer. Each begins with [`Requests::begin`].
#[derive(Default)]
pub struct Requests {
    buffer: Vec<u8>,
    starts: Vec<usize>,
}

impl Requests {
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Starts a request; attributes that follow belong to it.
    pub fn begin(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.finish();
        self.starts.push(self.buffer.len());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        // Sequence number and port id; the first is filled in when sending.
        self.buffer.extend_from_slice(&[0; 8]);
        self.buffer.extend_from_slice(body);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }

    fn finish(&mut self) {
        if let Some(&start) = self.starts.last() {
            let length = (self.buffer.len() - start) as u32;
            self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.pad();
    }

    /// A big-endian number, as netfilter wants them.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Requests)) {
        let start = self.buffer.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        inner(self);
        let length = (self.buffer.len() - start) as u16;
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A netlink socket of the calling thread's network namespace.
pub struct Socket {
    inner: RawSocket,
    sequence: u32,
}

impl Socket {
    pub fn open(family: Family) -> io::Result<Socket> {
        let mut inner = RawSocket::new(match family {
            Family::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Family::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
        })?;
        inner.bind_auto()?;
        inner.connect(&SocketAddr::new(0, 0))?;
        // Acknowledgements without a copy of the request, but with the kernel's own words.
        inner.set_cap_ack(true)?;
        inner.set_ext_ack(true)?;
        Ok(Socket { inner, sequence: 1 })
    }

    /// Asks for the messages that the kernel sends to everybody about a matter, and to read without
    /// waiting.
    ///
    /// # Errors
    /// `EINVAL` for a group that the family does not have.
    pub fn subscribe(&mut self, group: u32) -> io::Result<()> {
        self.inner.set_non_blocking(true)?;
        self.inner.add_membership(group)
    }

    /// Reads all that has arrived, and gives the kind of each message to `each`.
    ///
    /// # Errors
    /// `ENOBUFS` when messages were lost; those that follow can be read.
    pub fn drain(&mut self, mut each: impl FnMut(u16)) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(64 << 10);
        loop {
            buffer.clear();
            match self.inner.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => Messages(&buffer).for_each(|message| each(message.kind)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends all requests and reads the acknowledgement of each; the first refusal is returned.
    pub fn transact(&mut self, mut requests: Requests) -> Result<(), Refusal> {
        if requests.is_empty() {
            return Ok(());
        }
        let first = self.send(&mut requests)?;
        let mut refusal: Option<Refusal> = None;
        let mut buffer = Vec::with_capacity(64 << 10);
        loop {
            buffer.clear();
            match self.inner.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Refusal::transport(error)),
            }
            for message in Messages(&buffer) {
                let Some(found) = message.refusal(first) else {
                    continue;
                };
                if refusal
                    .as_ref()
                    .is_none_or(|known| found.index < known.index)
                {
                    refusal = Some(found);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends one request and gives the body of every message of the answer to `each`.
    ///
    /// With `NLM_F_DUMP` reads to the end of the dump; else reads what the kernel answers at once.
    pub fn query(
        &mut self,
        mut request: Requests,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Refusal> {
        request.finish();
        let flags = u16::from_ne_bytes([request.buffer[6], request.buffer[7]]);
        let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let first = self.send(&mut request)?;
        let mut buffer = Vec::with_capacity(64 << 10);
        loop {
            buffer.clear();
            let wait = if is_dump { 0 } else { libc::MSG_DONTWAIT };
            match self.inner.recv(&mut buffer, wait) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Refusal::transport(error)),
            }
            for message in Messages(&buffer) {
                // Left-overs of an earlier dump that was given up.
                if message.sequence != first {
                    continue;
                }
                if let Some(refusal) = message.refusal(first) {
                    return Err(refusal);
                }
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {}
                    kind => each(kind, message.body),
                }
            }
        }
    }

    fn send(&mut self, requests: &mut Requests) -> Result<u32, Refusal> {
        requests.finish();
        let first = self.sequence;
        for (index, start) in requests.starts.iter().enumerate() {
            let sequence = first.wrapping_add(index as u32);
            requests.buffer[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        self.sequence = first.wrapping_add(requests.starts.len() as u32);
        loop {
            match self.inner.send(&requests.buffer, 0) {
                Ok(_) => return Ok(first),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Refusal::transport(error)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `borrow_raw` wants the descriptor to stay open for the borrow's lifetime: it
        // belongs to `self.inner`, which the borrow of `self` keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    fn refusal(&self, first: u32) -> Option<Refusal> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        if code >= 0 {
            return None;
        }
        let mut explanation = None;
        if self.kind == NLMSG_ERROR && self.flags & NLM_F_ACK_TLVS != 0 {
            let mut skip = 4 + HEADER_BYTES;
            if self.flags & NLM_F_CAPPED == 0 {
                let length = u32::from_ne_bytes(self.body.get(4..8)?.try_into().ok()?) as usize;
                skip = 4 + length.next_multiple_of(4);
            }
            let tail = self.body.get(skip..).unwrap_or_default();
            for (kind, value) in Attributes(tail) {
                if kind == NLMSGERR_ATTR_MSG {
                    explanation = Some(text(value).to_owned());
                }
            }
        }
        Some(Refusal {
            index: self.sequence.wrapping_sub(first) as usize,
            errno: io::Error::from_raw_os_error(-code),
            explanation,
        })
    }
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER_BYTES)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let body = self.0.get(HEADER_BYTES..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            body,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes in a message's body, without the flag bits of their kinds.
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let header = self.0.get(..4)?;
        let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A string attribute without its terminating zero; empty if it is not UTF-8.
pub fn text(value: &[u8]) -> &str {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_read_back() {
        let mut requests = Requests::default();
        requests.begin(7, 0, &[1, 2, 3, 4]);
        requests.text(1, "ab");
        requests.nest(2, |inner| inner.number(3, 9));
        requests.finish();
        let messages: Vec<_> = Messages(&requests.buffer).collect();
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].kind, 7);
        let attributes: Vec<_> = Attributes(&messages[0].body[4..]).collect();
        assert_eq!(attributes[0], (1, &b"ab\0"[..]));
        assert_eq!(attributes[1].0, 2);
        let inner: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!(inner, [(3, &[0, 0, 0, 9][..])]);
    }

    #[test]
    fn a_truncated_answer_ends_the_iteration() {
        assert_eq!(Messages(&[9, 0, 0]).count(), 0);
        assert_eq!(
            Messages(&[255, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]).count(),
            0
        );
        assert_eq!(Attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(Attributes(&[1, 0, 1, 0, 1]).count(), 0);
    }
}
