//! The rules of the engine's table, written once. What changes are the elements of its sets.
//!
//! Knows packets and the names of sets; see `firewall` for what the sets hold.

use std::net::Ipv6Addr;

use crate::sys::nft::{
    Base, Batch, ChainKind, Conntrack, Datatype, Expression, Hook, Meta, Verdict,
};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const SOURCE_V4: u32 = 12;
const DESTINATION_V4: u32 = 16;
const CT_ESTABLISHED_RELATED: u32 = 2 | 4;
const CT_DESTINATION_NAT: u32 = 1 << 5;

/// Sets, chains and rules of an empty table.
pub fn write(batch: &mut Batch) {
    use Datatype::{Ipv4, Ipv6, LinkName, Port, Protocol};
    for name in ["bridges", "internal", "masquerade", "guarded"] {
        batch.add_set(name, &[LinkName], &[]);
    }
    batch.add_set("same", &[LinkName, LinkName], &[]);
    batch.add_set("self4", &[Ipv4, Ipv4], &[]);
    batch.add_set("self6", &[Ipv6, Ipv6], &[]);
    batch.add_set("host4", &[Ipv4, Protocol, Port], &[Ipv4, Port]);
    batch.add_set("any4", &[Protocol, Port], &[Ipv4, Port]);
    batch.add_set("host6", &[Ipv6, Protocol, Port], &[Ipv6, Port]);
    batch.add_set("any6", &[Protocol, Port], &[Ipv6, Port]);

    use ChainKind::{Filter, Nat};
    for (name, kind, hook, priority) in [
        ("raw_prerouting", Filter, Hook::Prerouting, -300),
        ("nat_prerouting", Nat, Hook::Prerouting, -100),
        ("nat_output", Nat, Hook::Output, -100),
        ("forward", Filter, Hook::Forward, 0),
        ("postrouting", Nat, Hook::Postrouting, 100),
    ] {
        batch.add_base_chain(name, kind, hook, priority, Verdict::Accept);
    }
    batch.add_chain("publish");

    // The destination is rewritten before routing could refuse 127/8 on a wire, so the refusal
    // has to come first. The loopback link always has index 1.
    for offset in [DESTINATION_V4, SOURCE_V4] {
        let mut steps = vec![
            Expression::Meta {
                key: Meta::InputIndex,
                to: 0,
            },
            Expression::NotEqual {
                register: 0,
                value: 1u32.to_ne_bytes().to_vec(),
            },
        ];
        steps.extend(loopback(offset));
        steps.push(Expression::Verdict(Verdict::Drop));
        batch.add_rule("raw_prerouting", &steps);
    }

    // An answer to ::1 is routed only if it came in by the loopback link, and there is no
    // route_localnet for IPv6: a rewritten connection would hang. Left alone it meets the socket that
    // reserves the port, and is refused at once.
    let mut steps = network_protocol(NFPROTO_IPV6).to_vec();
    steps.extend([
        Expression::Payload {
            base: Base::Network,
            offset: 24,
            length: 16,
            to: 0,
        },
        Expression::Equal {
            register: 0,
            value: Ipv6Addr::LOCALHOST.octets().to_vec(),
        },
        Expression::Verdict(Verdict::Accept),
    ]);
    batch.add_rule("nat_output", &steps);

    for chain in ["nat_prerouting", "nat_output"] {
        const RTN_LOCAL: u32 = 2;
        batch.add_rule(
            chain,
            &[
                Expression::DestinationKind { to: 0 },
                Expression::Equal {
                    register: 0,
                    value: RTN_LOCAL.to_ne_bytes().to_vec(),
                },
                Expression::Jump("publish"),
            ],
        );
    }
    for (map, family, address) in [
        ("host4", NFPROTO_IPV4, Some((DESTINATION_V4, 4))),
        ("any4", NFPROTO_IPV4, None),
        ("host6", NFPROTO_IPV6, Some((24, 16))),
        ("any6", NFPROTO_IPV6, None),
    ] {
        batch.add_rule("publish", &destination(map, family, address));
    }

    let forward = |batch: &mut Batch, steps: Vec<Expression>, verdict: Verdict| {
        let mut steps = steps;
        steps.push(Expression::Verdict(verdict));
        batch.add_rule("forward", &steps);
    };
    forward(batch, same_bridge(), Verdict::Accept);
    forward(batch, link_in(Meta::InputName, "internal"), Verdict::Drop);
    forward(batch, link_in(Meta::OutputName, "internal"), Verdict::Drop);
    let into = || link_in(Meta::OutputName, "bridges");
    let with = |mut steps: Vec<Expression>, more: Vec<Expression>| {
        steps.extend(more);
        steps
    };
    forward(
        batch,
        with(into(), conntrack(Conntrack::State, CT_ESTABLISHED_RELATED)),
        Verdict::Accept,
    );
    forward(
        batch,
        with(into(), conntrack(Conntrack::Status, CT_DESTINATION_NAT)),
        Verdict::Accept,
    );
    forward(batch, into(), Verdict::Drop);
    forward(
        batch,
        with(
            link_in(Meta::InputName, "guarded"),
            link_in(Meta::OutputName, "guarded"),
        ),
        Verdict::Drop,
    );

    let hide = |batch: &mut Batch, steps: Vec<Expression>| {
        batch.add_rule("postrouting", &with(steps, vec![Expression::Masquerade]));
    };
    // A container that reaches itself or a neighbour by a published port: without this the
    // answer would go straight back and not match.
    hide(
        batch,
        with(
            same_bridge(),
            conntrack(Conntrack::Status, CT_DESTINATION_NAT),
        ),
    );
    // Where br_netfilter is on, that packet is bridged instead of routed and its input link is
    // not known here.
    for (set, family, offset, length) in [
        ("self4", NFPROTO_IPV4, 12, 8),
        ("self6", NFPROTO_IPV6, 8, 32),
    ] {
        let mut steps = network_protocol(family).to_vec();
        steps.extend([
            Expression::Payload {
                base: Base::Network,
                offset,
                length,
                to: 0,
            },
            Expression::Lookup {
                set,
                register: 0,
                to: None,
            },
        ]);
        hide(
            batch,
            with(steps, conntrack(Conntrack::Status, CT_DESTINATION_NAT)),
        );
    }
    hide(batch, with(into(), loopback(SOURCE_V4)));
    hide(
        batch,
        with(
            link_in(Meta::InputName, "masquerade"),
            vec![
                Expression::Meta {
                    key: Meta::OutputName,
                    to: 0,
                },
                Expression::NotIn {
                    set: "bridges",
                    register: 0,
                },
            ],
        ),
    );
}

fn network_protocol(family: u8) -> [Expression; 2] {
    [
        Expression::Meta {
            key: Meta::NetworkProtocol,
            to: 0,
        },
        Expression::Equal {
            register: 0,
            value: vec![family],
        },
    ]
}

/// The IPv4 address at this offset is of 127/8.
fn loopback(offset: u32) -> Vec<Expression> {
    let mut steps = network_protocol(NFPROTO_IPV4).to_vec();
    steps.extend([
        Expression::Payload {
            base: Base::Network,
            offset,
            length: 4,
            to: 0,
        },
        Expression::Mask {
            register: 0,
            mask: vec![255, 0, 0, 0],
        },
        Expression::Equal {
            register: 0,
            value: vec![127, 0, 0, 0],
        },
    ]);
    steps
}

fn link_in(key: Meta, set: &'static str) -> Vec<Expression> {
    vec![
        Expression::Meta { key, to: 0 },
        Expression::Lookup {
            set,
            register: 0,
            to: None,
        },
    ]
}

fn same_bridge() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: Meta::InputName,
            to: 0,
        },
        Expression::Meta {
            key: Meta::OutputName,
            to: 4,
        },
        Expression::Lookup {
            set: "same",
            register: 0,
            to: None,
        },
    ]
}

fn conntrack(key: Conntrack, bits: u32) -> Vec<Expression> {
    vec![
        Expression::Conntrack { key, to: 0 },
        Expression::Mask {
            register: 0,
            mask: bits.to_ne_bytes().to_vec(),
        },
        Expression::NotEqual {
            register: 0,
            value: vec![0; 4],
        },
    ]
}

/// Looks the packet up in a map and rewrites its destination. `address` is where the destination
/// address stands, with its length, if it is part of the key.
fn destination(map: &'static str, family: u8, address: Option<(u32, u32)>) -> Vec<Expression> {
    let mut steps = network_protocol(family).to_vec();
    let mut register = 0;
    if let Some((offset, length)) = address {
        steps.push(Expression::Payload {
            base: Base::Network,
            offset,
            length,
            to: 0,
        });
        register = length / 4;
    }
    let port = if family == NFPROTO_IPV4 { 1 } else { 4 };
    steps.extend([
        Expression::Meta {
            key: Meta::TransportProtocol,
            to: register,
        },
        Expression::Payload {
            base: Base::Transport,
            offset: 2,
            length: 2,
            to: register + 1,
        },
        Expression::Lookup {
            set: map,
            register: 0,
            to: Some(0),
        },
        Expression::DestinationNat {
            family,
            address: Some(0),
            port,
        },
    ]);
    steps
}
