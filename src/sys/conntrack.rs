//! The kernel's connection table: forgetting flows that belong to something gone.
//!
//! Knows flows as address tuples, not whose they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::{Attributes, Family, NLM_F_ACK, NLM_F_DUMP, Refusal, Requests, Socket};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

/// A flow as its first packet came and as its answers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub original: Tuple,
    pub reply: Tuple,
}

/// The connection table of one network namespace.
///
/// Keep it open: closing a netfilter socket waits until the kernel has freed whatever was removed
/// from nf_tables, which takes an RCU grace period.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Of the calling thread's namespace.
    pub fn open() -> io::Result<Conntrack> {
        Ok(Conntrack {
            socket: Socket::open(Family::Netfilter)?,
        })
    }

    /// Forgets every flow that `is_stale` picks; gives their number. One dump of the whole table.
    pub fn forget(&mut self, is_stale: impl Fn(&Flow) -> bool) -> Result<usize, Refusal> {
        let mut stale = Requests::default();
        let mut requests = Requests::default();
        // No family: both.
        requests.begin(GET, NLM_F_DUMP, &[0; 4]);
        self.socket.query(requests, |_, message| {
            let Some((&[family, ..], body)) = message.split_first_chunk::<4>() else {
                return;
            };
            let part = |wanted: u16| {
                Attributes(body)
                    .find(|(kind, _)| *kind == wanted)
                    .map(|(_, value)| value)
            };
            let flow = part(TUPLE_ORIGINAL)
                .and_then(tuple)
                .zip(part(TUPLE_REPLY).and_then(tuple))
                .map(|(original, reply)| Flow { original, reply });
            if flow.is_some_and(|flow| is_stale(&flow)) {
                stale.begin(DELETE, NLM_F_ACK, &[family, 0, 0, 0]);
                // With its id, so that a new flow of the same tuple is left alone.
                for kind in [TUPLE_ORIGINAL, ID, ZONE] {
                    if let Some(value) = part(kind) {
                        let nested = if kind == TUPLE_ORIGINAL { 0x8000 } else { 0 };
                        stale.attribute(kind | nested, value);
                    }
                }
            }
        })?;
        let count = stale.len();
        match self.socket.transact(stale) {
            // It ended by itself meanwhile.
            Err(refusal) if refusal.raw_os_error() == libc::ENOENT => Ok(count),
            Err(refusal) => Err(refusal),
            Ok(()) => Ok(count),
        }
    }
}

fn tuple(value: &[u8]) -> Option<Tuple> {
    let mut source = None;
    let mut destination = None;
    let mut protocol = 0;
    let mut source_port = 0;
    let mut destination_port = 0;
    let v4 = |value: &[u8]| {
        <[u8; 4]>::try_from(value)
            .ok()
            .map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    let v6 = |value: &[u8]| {
        <[u8; 16]>::try_from(value)
            .ok()
            .map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
    };
    let port = |value: &[u8]| {
        <[u8; 2]>::try_from(value)
            .map(u16::from_be_bytes)
            .unwrap_or_default()
    };
    for (kind, part) in Attributes(value) {
        for (inner, value) in Attributes(part) {
            match (kind, inner) {
                (1, 1) => source = v4(value),
                (1, 2) => destination = v4(value),
                (1, 3) => source = v6(value),
                (1, 4) => destination = v6(value),
                (2, 1) => protocol = value.first().copied()?,
                (2, 2) => source_port = port(value),
                (2, 3) => destination_port = port(value),
                _ => {}
            }
        }
    }
    Some(Tuple {
        source: source?,
        destination: destination?,
        protocol,
        source_port,
        destination_port,
    })
}
