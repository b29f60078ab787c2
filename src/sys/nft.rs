//! nf_tables by netlink: tables, chains, rules, sets and maps in atomic batches.
//!
//! A vocabulary, not a policy: which rules exist is decided by who uses it. Everything is of the
//! `inet` family. Constants are those of `linux/netfilter/nf_tables.h`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};

use super::netlink::{
    Attributes, Family, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, Refusal, Requests,
    Socket, text,
};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const SET_IS_MAP: u32 = 8;

/// Only the owning socket may change the table (5.12).
pub const TABLE_OWNER: u32 = 2;
/// An owned table stays when its owner's socket closes (6.9).
pub const TABLE_PERSIST: u32 = 4;

/// Elements of one request; the nested attribute's length has 16 bits.
const ELEMENTS_PER_REQUEST: usize = 500;
/// Bytes. A transaction is one datagram, and 5,000 ports do not fit into the default.
const SEND_BUFFER_BYTES: usize = 8 << 20;

/// The multicast group of all changes to rule sets (`NFNLGRP_NFTABLES`).
const GROUP_NFTABLES: u32 = 7;
const NFPROTO_INET: u8 = 1;
/// The family byte that asks for chains of every family.
const NFPROTO_UNSPEC: u8 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

/// What a set's key or value is made of. The numbers are how `nft list` knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datatype {
    Ipv4 = 7,
    Ipv6 = 8,
    Protocol = 12,
    Port = 13,
    LinkName = 41,
}

impl Datatype {
    /// Bytes in a key, each part padded to whole registers.
    fn bytes(self) -> u32 {
        match self {
            Datatype::Ipv4 | Datatype::Protocol | Datatype::Port => 4,
            Datatype::Ipv6 | Datatype::LinkName => 16,
        }
    }

    fn concatenated(parts: &[Datatype]) -> (u32, u32) {
        parts.iter().fold((0, 0), |(kind, length), part| {
            ((kind << 6) | *part as u32, length + part.bytes())
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    InputIndex = 4,
    InputName = 6,
    OutputName = 7,
    NetworkProtocol = 15,
    TransportProtocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conntrack {
    State = 0,
    Status = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Drop = 0,
    Accept = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Network = 1,
    Transport = 2,
}

/// A 32-bit register, from 0. Wider values take the ones that follow.
pub type Register = u32;

/// One step of a rule. A rule ends at the first step that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    Meta {
        key: Meta,
        to: Register,
    },
    Conntrack {
        key: Conntrack,
        to: Register,
    },
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Register,
    },
    /// The kind (`RTN_*`) of the packet's destination address.
    DestinationKind {
        to: Register,
    },
    Mask {
        register: Register,
        mask: Vec<u8>,
    },
    Equal {
        register: Register,
        value: Vec<u8>,
    },
    NotEqual {
        register: Register,
        value: Vec<u8>,
    },
    /// In the set; with `to`, the map's value goes there.
    Lookup {
        set: &'static str,
        register: Register,
        to: Option<Register>,
    },
    NotIn {
        set: &'static str,
        register: Register,
    },
    Immediate {
        to: Register,
        value: Vec<u8>,
    },
    /// New destination: an address, if there is a register for it, and a port.
    DestinationNat {
        family: u8,
        address: Option<Register>,
        port: Register,
    },
    Masquerade,
    Jump(&'static str),
    Verdict(Verdict),
}

impl Expression {
    fn encode(&self, list: &mut Requests) {
        // The first 32-bit register has number 8.
        let register = |number: Register| number + 8;
        let data = |out: &mut Requests, kind: u16, value: &[u8]| {
            out.nest(kind, |inner| inner.attribute(DATA_VALUE, value));
        };
        let mut push = |name: &str, fill: &dyn Fn(&mut Requests)| {
            list.nest(LIST_ELEMENT, |element| {
                element.text(1, name);
                element.nest(2, fill);
            });
        };
        match self {
            Expression::Meta { key, to } => push("meta", &|out| {
                out.number(1, register(*to));
                out.number(2, *key as u32);
            }),
            Expression::Conntrack { key, to } => push("ct", &|out| {
                out.number(1, register(*to));
                out.number(2, *key as u32);
            }),
            Expression::Payload {
                base,
                offset,
                length,
                to,
            } => push("payload", &|out| {
                out.number(1, register(*to));
                out.number(2, *base as u32);
                out.number(3, *offset);
                out.number(4, *length);
            }),
            Expression::DestinationKind { to } => push("fib", &|out| {
                const RESULT_ADDRESS_KIND: u32 = 3;
                const DESTINATION: u32 = 2;
                out.number(1, register(*to));
                out.number(2, RESULT_ADDRESS_KIND);
                out.number(3, DESTINATION);
            }),
            Expression::Mask { register: r, mask } => push("bitwise", &|out| {
                out.number(1, register(*r));
                out.number(2, register(*r));
                out.number(3, mask.len() as u32);
                data(out, 4, mask);
                data(out, 5, &vec![0; mask.len()]);
            }),
            Expression::Equal { register: r, value } => push("cmp", &|out| {
                out.number(1, register(*r));
                out.number(2, 0);
                data(out, 3, value);
            }),
            Expression::NotEqual { register: r, value } => push("cmp", &|out| {
                out.number(1, register(*r));
                out.number(2, 1);
                data(out, 3, value);
            }),
            Expression::Lookup {
                set,
                register: r,
                to,
            } => push("lookup", &|out| {
                out.text(1, set);
                out.number(2, register(*r));
                if let Some(to) = to {
                    out.number(3, register(*to));
                }
            }),
            Expression::NotIn { set, register: r } => push("lookup", &|out| {
                const INVERTED: u32 = 1;
                out.text(1, set);
                out.number(2, register(*r));
                out.number(5, INVERTED);
            }),
            Expression::Immediate { to, value } => push("immediate", &|out| {
                out.number(1, register(*to));
                data(out, 2, value);
            }),
            Expression::DestinationNat {
                family,
                address,
                port,
            } => push("nat", &|out| {
                const DESTINATION: u32 = 1;
                out.number(1, DESTINATION);
                out.number(2, u32::from(*family));
                if let Some(address) = address {
                    out.number(3, register(*address));
                }
                out.number(5, register(*port));
            }),
            Expression::Masquerade => push("masq", &|_| {}),
            Expression::Jump(chain) => push("immediate", &|out| {
                const JUMP: i32 = -3;
                out.number(1, 0);
                out.nest(2, |inner| {
                    inner.nest(DATA_VERDICT, |verdict| {
                        verdict.number(1, JUMP as u32);
                        verdict.text(2, chain);
                    });
                });
            }),
            Expression::Verdict(code) => push("immediate", &|out| {
                out.number(1, 0);
                out.nest(2, |inner| {
                    inner.nest(DATA_VERDICT, |verdict| verdict.number(1, *code as u32));
                });
            }),
        }
    }
}

/// A key and, in a map, its value.
pub type Element = (Vec<u8>, Option<Vec<u8>>);

/// Changes to one table that the kernel applies all or none.
pub struct Batch {
    requests: Requests,
    table: String,
    n_sets: u32,
}

impl Batch {
    pub fn new(table: &str) -> Batch {
        let mut requests = Requests::default();
        requests.begin(BATCH_BEGIN, 0, &batch_body());
        Batch {
            requests,
            table: table.to_owned(),
            n_sets: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.requests.len() == 1
    }

    fn begin(&mut self, kind: u16, flags: u16) {
        self.requests
            .begin(kind, flags | NLM_F_ACK, &[NFPROTO_INET, 0, 0, 0]);
        self.requests.text(1, &self.table);
    }

    pub fn add_table(&mut self, flags: u32) {
        self.begin(NEW_TABLE, NLM_F_CREATE);
        self.requests.number(2, flags);
    }

    pub fn delete_table(&mut self) {
        self.begin(DELETE_TABLE, 0);
    }

    pub fn add_chain(&mut self, name: &str) {
        self.begin(NEW_CHAIN, NLM_F_CREATE);
        self.requests.text(3, name);
    }

    /// A chain that packets enter at a hook; `otherwise` is for what no rule decides.
    pub fn add_base_chain(
        &mut self,
        name: &str,
        kind: ChainKind,
        hook: Hook,
        priority: i32,
        otherwise: Verdict,
    ) {
        self.add_chain(name);
        self.requests.nest(4, |out| {
            out.number(1, hook as u32);
            out.number(2, priority as u32);
        });
        self.requests.number(5, otherwise as u32);
        self.requests.text(
            7,
            match kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
            },
        );
    }

    pub fn add_rule(&mut self, chain: &str, steps: &[Expression]) {
        self.begin(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND);
        self.requests.text(2, chain);
        self.requests.nest(4, |list| {
            for step in steps {
                step.encode(list);
            }
        });
    }

    /// A set of concatenated keys, or a map if `value` has parts.
    pub fn add_set(&mut self, name: &str, key: &[Datatype], value: &[Datatype]) {
        self.n_sets += 1;
        let id = self.n_sets;
        self.begin(NEW_SET, NLM_F_CREATE);
        self.requests.text(2, name);
        let (kind, length) = Datatype::concatenated(key);
        self.requests
            .number(3, if value.is_empty() { 0 } else { SET_IS_MAP });
        self.requests.number(4, kind);
        self.requests.number(5, length);
        if !value.is_empty() {
            let (kind, length) = Datatype::concatenated(value);
            self.requests.number(6, kind);
            self.requests.number(7, length);
        }
        self.requests.number(10, id);
    }

    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, NLM_F_CREATE, set, elements);
    }

    /// Refused as a whole if one of them is not there.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_REQUEST) {
            self.begin(kind, flags);
            self.requests.text(2, set);
            self.requests.nest(3, |list| {
                for (key, value) in chunk {
                    list.nest(LIST_ELEMENT, |element| {
                        element.nest(1, |inner| inner.attribute(DATA_VALUE, key));
                        if let Some(value) = value {
                            element.nest(2, |inner| inner.attribute(DATA_VALUE, value));
                        }
                    });
                }
            });
        }
    }
}

fn batch_body() -> [u8; 4] {
    let [high, low] = (SUBSYSTEM >> 8).to_be_bytes();
    [0, 0, high, low]
}

/// A table as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    pub name: String,
    pub flags: u32,
    /// Port id of the owning socket; `None` when nobody owns it.
    pub owner: Option<u32>,
}

/// A base chain as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// `NFPROTO_*` of the table.
    pub family: u8,
    pub table: String,
    pub name: String,
    /// `None` for a chain that is only jumped to.
    pub hook: Option<u32>,
    pub drops_by_default: bool,
}

/// A netfilter socket of one network namespace. Tables made with [`TABLE_OWNER`] belong to it.
pub struct Nft {
    socket: Socket,
}

/// Hears of every table that is removed from one network namespace.
pub struct Removals {
    socket: Socket,
}

impl Removals {
    /// Of the calling thread's namespace.
    ///
    /// # Errors
    /// Of `socket(2)` and the subscription.
    pub fn subscribe() -> io::Result<Removals> {
        let mut socket = Socket::open(Family::Netfilter)?;
        socket.subscribe(GROUP_NFTABLES)?;
        Ok(Removals { socket })
    }

    /// Reads what has arrived. Whether a table, any table, may have been removed since the last
    /// call: messages that were lost count.
    pub fn take(&mut self) -> bool {
        let mut found = false;
        let lost = self.socket.drain(|kind| found |= kind == DELETE_TABLE);
        found || lost.is_err()
    }
}

impl AsFd for Removals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Nft {
    /// Of the calling thread's namespace.
    pub fn open() -> io::Result<Nft> {
        let socket = Socket::open(Family::Netfilter)?;
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER_BYTES).is_err() {
            // In a user namespace the host's limit holds: as much of it as there is.
            setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
        }
        Ok(Nft { socket })
    }

    pub fn commit(&mut self, mut batch: Batch) -> Result<(), Refusal> {
        if batch.is_empty() {
            return Ok(());
        }
        batch.requests.begin(BATCH_END, 0, &batch_body());
        self.socket.transact(batch.requests)
    }

    /// All tables of the `inet` family.
    pub fn tables(&mut self) -> Result<Vec<TableInfo>, Refusal> {
        let mut requests = Requests::default();
        requests.begin(GET_TABLE, NLM_F_DUMP, &[NFPROTO_INET, 0, 0, 0]);
        let mut tables = Vec::new();
        self.socket.query(requests, |_, body| {
            let mut table = TableInfo {
                name: String::new(),
                flags: 0,
                owner: None,
            };
            for (kind, value) in Attributes(body.get(4..).unwrap_or_default()) {
                match kind {
                    1 => table.name = text(value).to_owned(),
                    2 => table.flags = number(value),
                    7 => table.owner = Some(number(value)),
                    _ => {}
                }
            }
            tables.push(table);
        })?;
        Ok(tables)
    }

    /// The chains of every table of every family.
    pub fn chains(&mut self) -> Result<Vec<ChainInfo>, Refusal> {
        let mut requests = Requests::default();
        requests.begin(GET_CHAIN, NLM_F_DUMP, &[NFPROTO_UNSPEC, 0, 0, 0]);
        let mut chains = Vec::new();
        self.socket.query(requests, |_, body| {
            let mut chain = ChainInfo {
                family: body.first().copied().unwrap_or_default(),
                table: String::new(),
                name: String::new(),
                hook: None,
                drops_by_default: false,
            };
            for (kind, value) in Attributes(body.get(4..).unwrap_or_default()) {
                match kind {
                    1 => chain.table = text(value).to_owned(),
                    3 => chain.name = text(value).to_owned(),
                    4 => {
                        chain.hook = Attributes(value)
                            .find(|(kind, _)| *kind == 1)
                            .map(|(_, value)| number(value));
                    }
                    5 => chain.drops_by_default = number(value) == Verdict::Drop as u32,
                    _ => {}
                }
            }
            chains.push(chain);
        })?;
        Ok(chains)
    }

    /// How many rules the table has.
    pub fn n_rules(&mut self, table: &str) -> Result<usize, Refusal> {
        let mut requests = Requests::default();
        requests.begin(GET_RULE, NLM_F_DUMP, &[NFPROTO_INET, 0, 0, 0]);
        requests.text(1, table);
        let mut count = 0;
        self.socket.query(requests, |_, body| {
            // Kernels before 4.7 ignore the filter.
            if Attributes(body.get(4..).unwrap_or_default())
                .any(|(kind, value)| kind == 1 && text(value) == table)
            {
                count += 1;
            }
        })?;
        Ok(count)
    }

    /// The elements of a set or map.
    pub fn elements(&mut self, table: &str, set: &str) -> Result<Vec<Element>, Refusal> {
        let mut requests = Requests::default();
        requests.begin(GET_ELEMENT, NLM_F_DUMP, &[NFPROTO_INET, 0, 0, 0]);
        requests.text(1, table);
        requests.text(2, set);
        let mut elements = Vec::new();
        let value_of = |data: &[u8]| {
            Attributes(data)
                .find(|(kind, _)| *kind == DATA_VALUE)
                .map(|(_, value)| value.to_vec())
        };
        self.socket.query(requests, |_, body| {
            let lists = Attributes(body.get(4..).unwrap_or_default())
                .filter(|(kind, _)| *kind == 3)
                .flat_map(|(_, list)| Attributes(list));
            for (_, element) in lists {
                let part = |wanted: u16| {
                    Attributes(element)
                        .find(|(kind, _)| *kind == wanted)
                        .and_then(|(_, data)| value_of(data))
                };
                if let Some(key) = part(1) {
                    elements.push((key, part(2)));
                }
            }
        })?;
        Ok(elements)
    }
}

fn number(value: &[u8]) -> u32 {
    value
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_be_bytes)
        .unwrap_or_default()
}
