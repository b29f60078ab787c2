//! The packet filter: one table whose rules are written once; containers are elements of its maps.
//!
//! ```text
//! raw_prerouting   frames forged to or from 127/8            drop
//! nat_prerouting   to an address of this host                ─┐
//! nat_output       to an address of this host                ─┴▶ publish: host_ip.proto.port or
//!                                                               proto.port ─▶ container.port
//! forward          same bridge accept; internal drop; into a bridge: answers and published only
//! postrouting      hairpin, from 127/8, and outbound         masquerade
//! ```
//!
//! Accepting in this table does not overrule another table: in nf_tables a drop anywhere is final.
//! [`Firewall::foreign_drops`] names such tables.
//!
//! Knows bridges and ports by value, not networks or containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::error::NetworkError;
use super::rules;
use crate::compose::Protocol;
use crate::sys::fallback::{self, Feature};
use crate::sys::netlink::Refusal;
use crate::sys::nft::{Batch, Element, Hook, Nft, TABLE_OWNER, TABLE_PERSIST};

/// A bridge as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeRule {
    pub name: String,
    pub is_internal: bool,
    pub is_masqueraded: bool,
    /// Containers on it do not reach each other.
    pub is_isolating: bool,
}

/// A published port as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRule {
    /// `None` is every address of the host, of the container's family.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub protocol: Protocol,
    pub container: IpAddr,
    pub container_port: u16,
}

/// The maps that published ports are elements of.
pub const MAPS: [&str; 4] = ["host4", "any4", "host6", "any6"];

/// `IPPROTO_*` of a protocol.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

impl PortRule {
    /// The map and the element that stand for it.
    pub fn element(&self) -> (&'static str, Element) {
        let protocol = [protocol_number(self.protocol), 0, 0, 0];
        let port = |number: u16| {
            let [high, low] = number.to_be_bytes();
            [high, low, 0, 0]
        };
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let mut key = self.host_ip.map(octets).unwrap_or_default();
        key.extend(protocol);
        key.extend(port(self.host_port));
        let mut value = octets(self.container);
        value.extend(port(self.container_port));
        let map = match (self.container, self.host_ip) {
            (IpAddr::V4(_), Some(_)) => "host4",
            (IpAddr::V4(_), None) => "any4",
            (IpAddr::V6(_), Some(_)) => "host6",
            (IpAddr::V6(_), None) => "any6",
        };
        (map, (key, Some(value)))
    }
}

fn link_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// The table and what is in it.
pub struct Firewall {
    table: String,
    /// Opened with the first network. The table belongs to this socket.
    nft: Option<Nft>,
    is_installed: bool,
    /// The kernel let nobody own it.
    is_shared: bool,
    bridges: BTreeSet<BridgeRule>,
    guarded: BTreeSet<String>,
    /// By container id.
    ports: BTreeMap<String, Vec<PortRule>>,
}

impl Firewall {
    pub fn new(tag: &str) -> Firewall {
        Firewall {
            table: format!("wharf{tag}"),
            nft: None,
            is_installed: false,
            is_shared: false,
            bridges: BTreeSet::new(),
            guarded: BTreeSet::new(),
            ports: BTreeMap::new(),
        }
    }

    fn nft(&mut self) -> Result<&mut Nft, NetworkError> {
        if self.nft.is_none() {
            self.nft = Some(Nft::open().map_err(NetworkError::Netlink)?);
        }
        // Just filled if it was empty.
        Ok(self.nft.as_mut().expect("an open socket"))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(Refusal) -> NetworkError + use<> {
        let table = self.table.clone();
        move |source| NetworkError::Firewall {
            action,
            table,
            source,
        }
    }

    /// Removes a table that an earlier engine left behind, if there is one.
    pub fn remove(&mut self) -> Result<(), NetworkError> {
        let failed = self.failed("remove");
        self.is_installed = false;
        self.ports.clear();
        self.bridges.clear();
        self.guarded.clear();
        if self.adopt()? {
            let mut batch = Batch::new(&self.table);
            batch.delete_table();
            self.nft()?.commit(batch).map_err(failed)?;
        }
        // Gives the socket back too: an engine without networks holds nothing.
        self.nft = None;
        Ok(())
    }

    /// Whether the table exists; if nobody owns it, it belongs to this socket from now on.
    fn adopt(&mut self) -> Result<bool, NetworkError> {
        let name = self.table.clone();
        let failed = self.failed("look for");
        let tables = self.nft()?.tables().map_err(failed)?;
        let Some(found) = tables.into_iter().find(|table| table.name == name) else {
            return Ok(false);
        };
        if found.owner.is_none() && found.flags & TABLE_OWNER != 0 {
            let mut batch = Batch::new(&name);
            batch.add_table(found.flags | TABLE_OWNER | TABLE_PERSIST);
            let failed = self.failed("take over");
            self.nft()?.commit(batch).map_err(failed)?;
        }
        Ok(true)
    }

    /// Makes the table be exactly this, in one transaction: what was there before is replaced.
    pub fn replace(
        &mut self,
        bridges: BTreeSet<BridgeRule>,
        guarded: BTreeSet<String>,
        ports: BTreeMap<String, Vec<PortRule>>,
    ) -> Result<(), NetworkError> {
        let exists = self.adopt()?;
        self.bridges = bridges;
        self.guarded = guarded;
        self.ports = ports;
        let build = |flags: u32, firewall: &Firewall| {
            let mut batch = Batch::new(&firewall.table);
            if exists {
                batch.delete_table();
            }
            batch.add_table(flags);
            rules::write(&mut batch);
            for bridge in &firewall.bridges {
                bridge_elements(bridge, &mut |set, elements| {
                    batch.add_elements(set, elements)
                });
            }
            let guarded: Vec<Element> = firewall
                .guarded
                .iter()
                .map(|name| (link_key(name), None))
                .collect();
            batch.add_elements("guarded", &guarded);
            for (map, elements) in by_map(firewall.ports.values().flatten()) {
                batch.add_elements(map, &elements);
            }
            batch
        };
        let flags = if fallback::is_forced(Feature::NftOwner) {
            0
        } else {
            TABLE_OWNER | TABLE_PERSIST
        };
        let first = build(flags, self);
        let mut is_shared = flags == 0;
        let outcome = match self.nft()?.commit(first) {
            // Kernels before 6.9 do not keep an owned table, those before 5.12 own none; rather a
            // table that others may flush than one that vanishes with the engine.
            Err(refusal)
                if flags != 0
                    && matches!(refusal.raw_os_error(), libc::EOPNOTSUPP | libc::EINVAL) =>
            {
                is_shared = true;
                let shared = build(0, self);
                self.nft()?.commit(shared)
            }
            outcome => outcome,
        };
        outcome.map_err(self.failed("write"))?;
        self.is_installed = true;
        self.is_shared = is_shared;
        Ok(())
    }

    /// Changes the installed table, and what this remembers of it. Where tables have no owner
    /// (before Linux 6.9) others may have flushed it: then the whole table is written again.
    fn change(
        &mut self,
        action: &'static str,
        batch: Batch,
        remember: impl FnOnce(&mut Firewall),
    ) -> Result<(), NetworkError> {
        let failed = self.failed(action);
        match self.nft()?.commit(batch) {
            Ok(()) => {
                remember(self);
                Ok(())
            }
            Err(refusal) if refusal.raw_os_error() == libc::ENOENT => {
                let before = (
                    self.bridges.clone(),
                    self.guarded.clone(),
                    self.ports.clone(),
                );
                remember(self);
                let restored = self.restore();
                if restored.is_err() {
                    (self.bridges, self.guarded, self.ports) = before;
                }
                restored
            }
            Err(refusal) => Err(failed(refusal)),
        }
    }

    /// Whether others can remove the table: see [`Firewall::heal`].
    pub fn is_exposed(&self) -> bool {
        self.is_installed && self.is_shared
    }

    /// Writes the table anew if it should be there and is not.
    pub fn heal(&mut self) -> Result<(), NetworkError> {
        if !self.is_installed || self.adopt()? {
            return Ok(());
        }
        tracing::warn!(
            table = self.table,
            "somebody removed our table; it is restored"
        );
        self.restore()
    }

    /// Writes the whole table anew from memory.
    fn restore(&mut self) -> Result<(), NetworkError> {
        self.replace(
            self.bridges.clone(),
            self.guarded.clone(),
            self.ports.clone(),
        )
    }

    pub fn add_bridge(&mut self, bridge: BridgeRule) -> Result<(), NetworkError> {
        if !self.is_installed {
            self.bridges.insert(bridge);
            return self.restore();
        }
        let mut batch = Batch::new(&self.table);
        bridge_elements(&bridge, &mut |set, elements| {
            batch.add_elements(set, elements)
        });
        self.change("add a bridge to", batch, |firewall| {
            firewall.bridges.insert(bridge);
        })
    }

    /// Forgets a bridge; with the last one the whole table goes.
    pub fn remove_bridge(&mut self, name: &str) -> Result<(), NetworkError> {
        let Some(bridge) = self
            .bridges
            .iter()
            .find(|bridge| bridge.name == name)
            .cloned()
        else {
            return Ok(());
        };
        if self.bridges.len() == 1 {
            return self.remove();
        }
        let mut batch = Batch::new(&self.table);
        bridge_elements(&bridge, &mut |set, elements| {
            batch.delete_elements(set, elements);
        });
        self.change("remove a bridge from", batch, |firewall| {
            firewall.bridges.remove(&bridge);
        })
    }

    /// The links that must not forward to each other although forwarding is on.
    pub fn guard(&mut self, names: &[String]) -> Result<(), NetworkError> {
        let fresh: Vec<Element> = names
            .iter()
            .filter(|name| !self.guarded.contains(*name))
            .map(|name| (link_key(name), None))
            .collect();
        self.guarded.extend(names.iter().cloned());
        if !self.is_installed || fresh.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(&self.table);
        batch.add_elements("guarded", &fresh);
        self.change("guard links by", batch, |_| {})
    }

    /// Publishes all ports of a container in one transaction, in place of those it had.
    pub fn publish(&mut self, container: &str, rules: Vec<PortRule>) -> Result<(), NetworkError> {
        let old = self.ports.get(container).cloned().unwrap_or_default();
        if old == rules {
            return Ok(());
        }
        let mut batch = Batch::new(&self.table);
        for (map, elements) in by_map(old.iter()) {
            let keys: Vec<Element> = elements.into_iter().map(|(key, _)| (key, None)).collect();
            batch.delete_elements(map, &keys);
        }
        for (map, elements) in by_map(rules.iter()) {
            batch.add_elements(map, &elements);
        }
        self.change("publish ports by", batch, |firewall| {
            if rules.is_empty() {
                firewall.ports.remove(container);
            } else {
                firewall.ports.insert(container.to_owned(), rules);
            }
        })
    }

    /// The container that has published the port already.
    /// An unspecified address overlaps with each.
    pub fn holder(
        &self,
        host_port: u16,
        protocol: Protocol,
        host_ip: Option<IpAddr>,
    ) -> Option<&str> {
        let host_ip = host_ip.filter(|host| !host.is_unspecified());
        self.ports
            .iter()
            .find(|(_, rules)| {
                rules.iter().any(|rule| {
                    rule.host_port == host_port
                        && rule.protocol == protocol
                        && (rule.host_ip.is_none() || host_ip.is_none() || rule.host_ip == host_ip)
                })
            })
            .map(|(container, _)| container.as_str())
    }

    /// Tables of others, as `family table chain`, that drop forwarded packets by default. Such a
    /// drop wins over this table.
    pub fn foreign_drops(&mut self) -> Result<Vec<String>, NetworkError> {
        let failed = self.failed("look beside");
        let own = self.table.clone();
        let chains = self.nft()?.chains().map_err(failed)?;
        Ok(chains
            .into_iter()
            .filter(|chain| {
                chain.table != own
                    && chain.drops_by_default
                    && chain.hook == Some(Hook::Forward as u32)
            })
            .map(|chain| {
                let family = match chain.family {
                    1 => "inet",
                    2 => "ip",
                    7 => "bridge",
                    10 => "ip6",
                    _ => "other",
                };
                format!("{family} {} {}", chain.table, chain.name)
            })
            .collect())
    }
}

fn bridge_elements(bridge: &BridgeRule, each: &mut dyn FnMut(&'static str, &[Element])) {
    let key = link_key(&bridge.name);
    each("bridges", &[(key.clone(), None)]);
    if !bridge.is_isolating {
        each("same", &[([key.clone(), key.clone()].concat(), None)]);
    }
    if bridge.is_internal {
        each("internal", &[(key.clone(), None)]);
    }
    if bridge.is_masqueraded {
        each("masquerade", &[(key, None)]);
    }
}

fn by_map<'a>(rules: impl Iterator<Item = &'a PortRule>) -> BTreeMap<&'static str, Vec<Element>> {
    let mut maps: BTreeMap<&'static str, BTreeSet<Element>> = BTreeMap::new();
    for rule in rules {
        let (map, element) = rule.element();
        maps.entry(map).or_default().insert(element);
        let (set, address) = match rule.container {
            IpAddr::V4(v4) => ("self4", v4.octets().to_vec()),
            IpAddr::V6(v6) => ("self6", v6.octets().to_vec()),
        };
        let pair = [address.clone(), address].concat();
        maps.entry(set).or_default().insert((pair, None));
    }
    maps.into_iter()
        .map(|(map, elements)| (map, elements.into_iter().collect()))
        .collect()
}
