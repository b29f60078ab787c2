//! Links, addresses and routes: rtnetlink in the few words that container networks need.
//!
//! Messages are built by `rtnetlink` and `netlink-packet-route`, but sent without their event loop:
//! this is called inside namespaces on threads that live for microseconds. Several go out in one
//! `sendmsg`. Knows the kernel's objects only, not which of them are ours.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    BridgeStpState, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::netlink::{
    Family, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Refusal, Requests,
    Socket,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
const BR_STATE_DISABLED: u8 = 0;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_FLUSH: u16 = 24;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// Forwarding delay of a bridge counts in hundredths of a second.
const NO_DELAY: u32 = 0;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;

/// A link's hardware address.
pub type Mac = [u8; 6];

/// A link as the kernel lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
    pub is_up: bool,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub master: Option<u32>,
    /// Index of a veth's other end, in that end's namespace.
    pub peer: Option<u32>,
    /// Number that links share which are changed together; 0 unless somebody set it.
    pub group: u32,
}

/// A veth pair to make: one end here and enslaved, the other in a container.
#[derive(Debug)]
pub struct Veth<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    /// Bytes; both ends.
    pub mtu: u32,
    /// Index of the bridge.
    pub master: u32,
    pub peer_netns: BorrowedFd<'a>,
}

/// A bridge's treatment of one port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// Frames may leave by the port that they came in by.
    pub reflects: bool,
    /// No frames pass between this and other isolated ports.
    pub is_isolated: bool,
}

/// Hears of one kind of change in one network namespace.
pub struct News {
    socket: Socket,
    kind: u16,
}

impl News {
    fn subscribe(groups: &[u32], kind: u16) -> io::Result<News> {
        let mut socket = Socket::open(Family::Route)?;
        for group in groups {
            socket.subscribe(*group)?;
        }
        Ok(News { socket, kind })
    }

    /// Of every route that is added in the calling thread's namespace.
    ///
    /// # Errors
    /// Of `socket(2)` and the subscription.
    pub fn of_new_routes() -> io::Result<News> {
        News::subscribe(&[RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE], RTM_NEWROUTE)
    }

    /// Of every link that goes, or leaves its bridge: that is announced as the end of a port.
    ///
    /// # Errors
    /// As [`News::of_new_routes`].
    pub fn of_links_gone() -> io::Result<News> {
        News::subscribe(&[RTNLGRP_LINK], RTM_DELLINK)
    }

    /// Of every address that is removed.
    ///
    /// # Errors
    /// As [`News::of_new_routes`].
    pub fn of_addresses_gone() -> io::Result<News> {
        News::subscribe(&[RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR], RTM_DELADDR)
    }

    /// Reads what has arrived. Whether the change may have happened since the last call: messages
    /// that were lost count.
    pub fn take(&mut self) -> bool {
        let mut found = false;
        let kind = self.kind;
        let lost = self.socket.drain(|other| found |= other == kind);
        found || lost.is_err()
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Changes that are sent together. The kernel stops at none of them; the first refusal is reported.
#[derive(Default)]
pub struct Changes {
    requests: Requests,
}

impl Changes {
    fn push(&mut self, kind: u16, flags: u16, body: &impl Emitable) {
        let mut bytes = vec![0; body.buffer_len()];
        body.emit(&mut bytes);
        self.requests.begin(kind, flags | NLM_F_ACK, &bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// A bridge, down. STP is off and ports forward at once.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) {
        let message = LinkBridge::new(name)
            // Without an address of its own a bridge takes the lowest one of its ports, and
            // changes it when that port goes.
            .address(mac.to_vec())
            .mtu(mtu)
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(NO_DELAY)
            .build();
        self.push(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message);
    }

    /// Both ends in one request, down; create-and-move would take the global lock twice.
    pub fn add_veth(&mut self, veth: &Veth<'_>) {
        let peer = LinkUnspec::new_with_name(veth.peer_name)
            .address(veth.peer_mac.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(veth.peer_netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(veth.name)
            .address(veth.mac.to_vec())
            .mtu(veth.mtu)
            .controller(veth.master)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.push(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message);
    }

    /// Settings of a link as a bridge's port.
    pub fn set_port(&mut self, name: &str, port: Port) {
        let message = LinkUnspec::new_with_name(name).build();
        // Settings of a port are taken by this request only, although the link exists.
        self.push(RTM_NEWLINK, 0, &message);
        self.requests.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(IFLA_BRPORT_MODE, &[u8::from(port.reflects)]);
                data.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(port.is_isolated)]);
            });
        });
    }

    /// Takes a bridge's port out of service: no frames, nothing learned. At once, where taking the
    /// link down or away would wait for a grace period.
    pub fn disable_port(&mut self, index: u32) {
        // By the bridge family: a change of the link itself makes the bridge look at the carrier and
        // put the port back into service.
        let message = LinkUnspec::new_with_index(index)
            .interface_family(AddressFamily::Bridge)
            .build();
        self.push(RTM_SETLINK, 0, &message);
        self.requests.nest(IFLA_PROTINFO, |data| {
            data.attribute(IFLA_BRPORT_STATE, &[BR_STATE_DISABLED]);
            data.attribute(IFLA_BRPORT_FLUSH, &[]);
        });
    }

    /// Gives a link the hardware address it has: it announces its addresses to its neighbours.
    pub fn announce(&mut self, index: u32, mac: Mac) {
        let message = LinkUnspec::new_with_index(index)
            .address(mac.to_vec())
            .build();
        self.push(RTM_SETLINK, 0, &message);
    }

    /// Puts an existing link on a bridge, and up.
    pub fn enslave(&mut self, name: &str, master: u32, alias: &str) {
        let message = LinkUnspec::new_with_name(name).controller(master).build();
        self.push(RTM_SETLINK, 0, &message);
        self.bring_up_port(name, alias);
    }

    /// Brings the near end of a pair up. A request of its own, because the alias and the address mode
    /// are ignored when a link is made.
    pub fn bring_up_port(&mut self, name: &str, alias: &str) {
        let message = LinkUnspec::new_with_name(name).alias(alias).up().build();
        self.push(RTM_SETLINK, 0, &message);
        self.no_link_local();
    }

    /// Appends to the request begun last: the link makes itself no IPv6 address.
    fn no_link_local(&mut self) {
        self.requests.nest(IFLA_AF_SPEC, |families| {
            families.nest(libc::AF_INET6 as u16, |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
    }

    pub fn set_alias(&mut self, index: u32, alias: &str) {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        self.push(RTM_SETLINK, 0, &message);
    }

    /// Brings a link up; with [`LinkLocal::Off`] it gets no `fe80::` address of its own.
    pub fn set_up(&mut self, index: u32, with_link_local: LinkLocal) {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.push(RTM_SETLINK, 0, &message);
        if with_link_local == LinkLocal::Off {
            self.no_link_local();
        }
    }

    pub fn delete_link(&mut self, name: &str) {
        let message = LinkUnspec::new_with_name(name).build();
        self.push(RTM_DELLINK, 0, &message);
    }

    pub fn delete_link_by_index(&mut self, index: u32) {
        let message = LinkUnspec::new_with_index(index).build();
        self.push(RTM_DELLINK, 0, &message);
    }

    pub fn set_group(&mut self, index: u32, group: u32) {
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::Group(group));
        self.push(RTM_SETLINK, 0, &message);
    }

    /// Deletes every link of a group. The kernel waits for one grace period for all of them, where
    /// deletions one by one wait for one each.
    pub fn delete_group(&mut self, group: u32) {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        self.push(RTM_DELLINK, 0, &message);
    }

    /// Adds an address, or takes it over if the link has it already.
    ///
    /// IPv6 addresses skip duplicate detection: the engine hands each out once, and a service that
    /// binds at once must not fail for the second that detection takes.
    pub fn add_address(&mut self, index: u32, address: IpNet) {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.attributes = vec![
            AddressAttribute::Address(address.addr()),
            AddressAttribute::Local(address.addr()),
        ];
        match address {
            IpNet::V4(v4) => {
                message.header.family = AddressFamily::Inet;
                message
                    .attributes
                    .push(AddressAttribute::Broadcast(v4.broadcast()));
            }
            IpNet::V6(_) => {
                message.header.family = AddressFamily::Inet6;
                message.header.flags = AddressHeaderFlags::Nodad;
                message
                    .attributes
                    .push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        self.push(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &message);
    }

    /// A default route through the gateway.
    pub fn add_default_route(&mut self, index: u32, gateway: IpAddr) {
        let message = match gateway {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(v4)
                .output_interface(index)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(v6)
                .output_interface(index)
                .build(),
        };
        self.push(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message);
    }
}

/// Whether a link makes itself an `fe80::` address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLocal {
    On,
    Off,
}

/// An rtnetlink socket of one network namespace.
pub struct Route {
    socket: Socket,
}

impl Route {
    /// Of the calling thread's namespace.
    pub fn open() -> io::Result<Route> {
        Ok(Route {
            socket: Socket::open(Family::Route)?,
        })
    }

    pub fn apply(&mut self, changes: Changes) -> Result<(), Refusal> {
        self.socket.transact(changes.requests)
    }

    pub fn links(&mut self) -> Result<Vec<Link>, Refusal> {
        let mut requests = Requests::default();
        begin(
            &mut requests,
            RTM_GETLINK,
            NLM_F_DUMP,
            &LinkMessage::default(),
        );
        let mut links = Vec::new();
        self.socket.query(requests, |kind, body| {
            if kind == RTM_NEWLINK {
                links.extend(link(body));
            }
        })?;
        Ok(links)
    }

    /// The link of that name, `None` if there is none.
    ///
    /// Since 6.8 the kernel first acts on a carrier that has just come up, which it else does when it
    /// finds the time: until then a link drops what it is to send.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Refusal> {
        let message = LinkUnspec::new_with_name(name).build();
        let mut requests = Requests::default();
        begin(&mut requests, RTM_GETLINK, 0, &message);
        let mut found = None;
        let outcome = self.socket.query(requests, |kind, body| {
            if kind == RTM_NEWLINK {
                found = link(body);
            }
        });
        match outcome {
            Ok(()) => Ok(found),
            Err(refusal) if refusal.raw_os_error() == libc::ENODEV => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Every address with the index of its link.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, Refusal> {
        let mut requests = Requests::default();
        begin(
            &mut requests,
            RTM_GETADDR,
            NLM_F_DUMP,
            &AddressMessage::default(),
        );
        let mut found = Vec::new();
        self.socket.query(requests, |_, body| {
            let Ok(message) = AddressMessage::parse(body) else {
                return;
            };
            // On a point-to-point link `Address` is the other side's.
            let mut own = None;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => own = Some(*address),
                    AddressAttribute::Address(address) if own.is_none() => own = Some(*address),
                    _ => {}
                }
            }
            if let Some(net) =
                own.and_then(|address| IpNet::new(address, message.header.prefix_len).ok())
            {
                found.push((message.header.index, net));
            }
        })?;
        Ok(found)
    }

    /// The destinations of all unicast routes of all tables, default routes included, with the index
    /// of the link that leads there; one of several is none.
    pub fn routes(&mut self) -> Result<Vec<(Option<u32>, IpNet)>, Refusal> {
        let mut requests = Requests::default();
        begin(
            &mut requests,
            RTM_GETROUTE,
            NLM_F_DUMP,
            &RouteMessage::default(),
        );
        let mut found = Vec::new();
        self.socket.query(requests, |_, body| {
            let Ok(message) = RouteMessage::parse(body) else {
                return;
            };
            if message.header.kind != RouteType::Unicast {
                return;
            }
            let mut destination = match message.header.address_family {
                AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                _ => return,
            };
            let mut link = None;
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => link = Some(*index),
                    RouteAttribute::Destination(RouteAddress::Inet(v4)) => {
                        destination = IpAddr::V4(*v4);
                    }
                    RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                        destination = IpAddr::V6(*v6);
                    }
                    _ => {}
                }
            }
            if let Ok(net) = IpNet::new(destination, message.header.destination_prefix_length) {
                found.push((link, net));
            }
        })?;
        Ok(found)
    }
}

fn begin(requests: &mut Requests, kind: u16, flags: u16, body: &impl Emitable) {
    let mut bytes = vec![0; body.buffer_len()];
    body.emit(&mut bytes);
    requests.begin(kind, flags, &bytes);
}

fn link(body: &[u8]) -> Option<Link> {
    let message = LinkMessage::parse(body).ok()?;
    let mut link = Link {
        index: message.header.index,
        is_up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Group(group) => link.group = group,
            _ => {}
        }
    }
    Some(link)
}
