//! A container's links: planned from the records, made in one request each, configured from inside.
//!
//! The host's end is named after container and network, so that it is found again whatever other
//! networks the container joins or leaves. Knows nothing of names, ports or rules.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::attach::Attach;
use super::bridge;
use super::error::NetworkError;
use super::netns::Netns;
use super::record::Family;
use super::state::State;
use crate::plan::EndpointConfig;
use crate::sys::netlink::Refusal;
use crate::sys::route::{Changes, Link, LinkLocal, Mac, Port, Route, Veth};

/// Of an interface name, without the terminating zero.
const MAX_NAME_BYTES: usize = 15;
/// Where the numbers for groups of links begin, away from those that people choose.
const GROUPS: u32 = 0x7768_0000;

/// One link to make, with everything looked up.
pub struct LinkPlan {
    host_names: [String; 4],
    host_mac: Mac,
    /// Inside the container.
    name: String,
    /// Whether the user chose it.
    is_name_fixed: bool,
    mac: Mac,
    /// Bytes.
    mtu: u32,
    bridge: String,
    addresses: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    has_v6: bool,
    port: Port,
}

/// Every link of a container, in the order of its endpoints.
pub fn plan(
    tag: &str,
    state: &State,
    container: &Attach<'_>,
) -> Result<Vec<LinkPlan>, NetworkError> {
    let record = state
        .endpoints
        .get(container.id)
        .ok_or_else(|| NetworkError::NotFound(container.name.to_owned()))?;
    let mut used: Vec<String> = Vec::new();
    for endpoint in container.endpoints {
        let Some(name) = &endpoint.interface_name else {
            continue;
        };
        if name.is_empty()
            || name.len() > MAX_NAME_BYTES
            || name == "lo"
            || name.contains(['/', ':', ' '])
        {
            return Err(NetworkError::Endpoint {
                container: container.name.to_owned(),
                what: "interface_name",
                value: name.clone(),
            });
        }
        if used.contains(name) {
            return Err(NetworkError::InterfaceTwice {
                container: container.name.to_owned(),
                interface: name.clone(),
            });
        }
        used.push(name.clone());
    }
    let is_gateway = |endpoint: &EndpointConfig, family: Family| {
        state
            .gateway_endpoint(container.endpoints, family)
            .is_some_and(|(chosen, _)| std::ptr::eq(chosen, endpoint))
    };
    let is_filtered = !container.ports.is_empty() && bridge::is_filtered();
    let mut links = Vec::new();
    let mut n_automatic = 0;
    for (endpoint, lease) in container.endpoints.iter().zip(&record.leases) {
        let network = state
            .networks
            .get(&lease.network)
            .ok_or_else(|| NetworkError::NotFound(lease.network.clone()))?;
        let name = match &endpoint.interface_name {
            Some(name) => name.clone(),
            None => loop {
                let name = format!("eth{n_automatic}");
                n_automatic += 1;
                if !used.contains(&name) {
                    break name;
                }
            },
        };
        let mut addresses = Vec::new();
        let mut gateways = Vec::new();
        for family in Family::BOTH {
            let (Some(address), Some(pool)) = (lease.address(family), network.pool(family)) else {
                continue;
            };
            addresses.extend(IpNet::new(address, pool.subnet.prefix_len()));
            if is_gateway(endpoint, family) {
                gateways.push(pool.gateway);
            }
        }
        let host_names = bridge::port_names(tag, container.id, &lease.network);
        links.push(LinkPlan {
            host_mac: bridge::mac(&host_names[0]),
            host_names,
            is_name_fixed: endpoint.interface_name.is_some(),
            name,
            mac: lease.mac,
            mtu: network.mtu,
            bridge: network.bridge.clone(),
            has_v6: lease.ipv6.is_some(),
            port: Port {
                // A published port called from its own container comes back by the same port
                // if the translation happens in the bridge. Not set otherwise: it reflects
                // multicast to its sender, which upsets IPv6.
                reflects: is_filtered,
                is_isolated: bridge::is_isolating(network),
            },
            addresses,
            gateways,
        });
    }
    Ok(links)
}

fn link_error(action: &'static str, name: &str) -> impl FnOnce(Refusal) -> NetworkError + use<> {
    let object = format!("link {name}");
    move |source| NetworkError::Link {
        action,
        object,
        source,
    }
}

/// Makes the link in one request: both ends named, in their places, enslaved. Gives the name of the
/// host's end.
pub fn make(
    route: &mut Route,
    netns: &Netns,
    link: &LinkPlan,
    container: &str,
) -> Result<String, NetworkError> {
    let master = route
        .link(&link.bridge)
        .map_err(link_error("find", &link.bridge))?
        .ok_or_else(|| NetworkError::NotFound(link.bridge.clone()))?
        .index;
    for host_name in &link.host_names {
        let mut changes = Changes::default();
        changes.add_veth(&Veth {
            name: host_name,
            mac: link.host_mac,
            peer_name: &link.name,
            peer_mac: link.mac,
            mtu: link.mtu,
            master,
            peer_netns: netns.as_fd(),
        });
        match route.apply(changes) {
            Err(refusal) if refusal.raw_os_error() == libc::EEXIST => {
                // Either name may be the one that exists; only another name for this end helps.
                if has_link(netns, &link.name)? {
                    return Err(link_error("create", &link.name)(refusal));
                }
            }
            Err(refusal) => return Err(link_error("create", host_name)(refusal)),
            Ok(()) => {
                // Only now: a dead link of that name would be woken up.
                let mut changes = Changes::default();
                changes.bring_up_port(host_name, container);
                if link.port != Port::default() {
                    changes.set_port(host_name, link.port);
                }
                let brought_up = match route.apply(changes) {
                    // Another program took it off the bridge just now, and what was set is a
                    // bridge's to set: once more, from the beginning.
                    Err(refusal) if refusal.raw_os_error() == libc::EOPNOTSUPP => {
                        let mut changes = Changes::default();
                        changes.enslave(host_name, master, container);
                        changes.set_port(host_name, link.port);
                        route.apply(changes)
                    }
                    outcome => outcome,
                };
                return brought_up
                    .map(|()| host_name.clone())
                    .map_err(link_error("bring up", host_name));
            }
        }
    }
    // Every name is taken by a link that somebody keeps: the oldest gives way.
    let [oldest, ..] = &link.host_names;
    for index in indexes(route, std::slice::from_ref(oldest))? {
        delete(route, index)?;
    }
    make(route, netns, link, container)
}

fn has_link(netns: &Netns, name: &str) -> Result<bool, NetworkError> {
    netns
        .with_route(|route| route.link(name))
        .map(|found| found.is_some())
        .map_err(link_error("find", name))
}

/// The newest of the links that the host's end may be.
fn find(route: &mut Route, link: &LinkPlan) -> Result<Option<Link>, NetworkError> {
    let mut newest: Option<Link> = None;
    for name in &link.host_names {
        let found = route.link(name).map_err(link_error("find", name))?;
        if let Some(found) = found
            && newest
                .as_ref()
                .is_none_or(|known| known.index < found.index)
        {
            newest = Some(found);
        }
    }
    Ok(newest)
}

/// Makes a running container's links be these: those that exist are put back on their bridges,
/// those that are missing are made. The default route follows.
pub fn converge(
    route: &mut Route,
    netns: &Netns,
    links: Vec<LinkPlan>,
    container: &str,
) -> Result<(), NetworkError> {
    let mut inside: Vec<String> = netns
        .with_route(Route::links)
        .map_err(link_error("list", "of a container"))?
        .into_iter()
        .map(|link| link.name)
        .collect();
    for mut link in links {
        if let Some(found) = find(route, &link)? {
            restore_port(route, &link, &found, container)?;
            route_by(netns, &link, &found)?;
            continue;
        }
        let mut number = 0;
        while !link.is_name_fixed && inside.contains(&link.name) {
            link.name = format!("eth{number}");
            number += 1;
        }
        let host_name = make(route, netns, &link, container)?;
        configure(netns, &link)?;
        settle(route, netns, &link, &host_name)?;
        inside.push(link.name);
    }
    Ok(())
}

/// Sets the default routes that lead by a link that exists.
fn route_by(netns: &Netns, link: &LinkPlan, host_end: &Link) -> Result<(), NetworkError> {
    let (Some(index), false) = (host_end.peer, link.gateways.is_empty()) else {
        return Ok(());
    };
    let mut changes = Changes::default();
    for gateway in &link.gateways {
        changes.add_default_route(index, *gateway);
    }
    netns
        .with_route(|route| route.apply(changes))
        .map_err(link_error("route by", &link.name))
}

/// Puts an existing host end back on its bridge.
fn restore_port(
    route: &mut Route,
    link: &LinkPlan,
    found: &Link,
    container: &str,
) -> Result<(), NetworkError> {
    let master = route
        .link(&link.bridge)
        .map_err(link_error("find", &link.bridge))?
        .ok_or_else(|| NetworkError::NotFound(link.bridge.clone()))?
        .index;
    if found.master == Some(master) && found.is_up {
        return Ok(());
    }
    let mut changes = Changes::default();
    changes.enslave(&found.name, master, container);
    changes.set_port(&found.name, link.port);
    route
        .apply(changes)
        .map_err(link_error("restore", &found.name))
}

/// A host's end of a link that is in use, as it should be.
pub struct PortPlan {
    names: [String; 4],
    bridge: String,
    /// Its id.
    container: String,
    port: Port,
}

/// The host's ends of all containers' links.
pub fn ports(tag: &str, state: &State) -> Vec<PortPlan> {
    let is_filtered = bridge::is_filtered();
    let mut ports = Vec::new();
    for (id, networks) in &state.attached {
        let has_ports = state
            .endpoints
            .get(id)
            .is_some_and(|record| !record.ports.is_empty());
        for network in networks.iter().filter_map(|name| state.networks.get(name)) {
            ports.push(PortPlan {
                names: bridge::port_names(tag, id, &network.config.name),
                bridge: network.bridge.clone(),
                container: id.clone(),
                port: Port {
                    reflects: has_ports && is_filtered,
                    is_isolated: bridge::is_isolating(network),
                },
            });
        }
    }
    ports
}

/// Puts ports on their bridges that are on none, and tells how many there were.
pub fn put_back(route: &mut Route, ports: &[PortPlan]) -> Result<usize, NetworkError> {
    let links = route.links().map_err(link_error("list", "of the host"))?;
    let mut changes = Changes::default();
    let mut n_put_back = 0;
    for port in ports {
        let newest = links
            .iter()
            .filter(|link| port.names.contains(&link.name))
            .max_by_key(|link| link.index);
        let bridge = links.iter().find(|link| link.name == port.bridge);
        if let (Some(link), Some(bridge)) = (newest, bridge)
            && link.master.is_none()
        {
            changes.enslave(&link.name, bridge.index, &port.container);
            changes.set_port(&link.name, port.port);
            n_put_back += 1;
        }
    }
    if n_put_back > 0 {
        route
            .apply(changes)
            .map_err(link_error("restore", "of a container"))?;
    }
    Ok(n_put_back)
}

/// Inside the container.
pub fn configure(netns: &Netns, link: &LinkPlan) -> Result<(), NetworkError> {
    netns.with_route(|route| {
        let index = inner_index(route, link)?;
        let mut changes = Changes::default();
        for address in &link.addresses {
            changes.add_address(index, *address);
        }
        let link_local = if link.has_v6 {
            LinkLocal::On
        } else {
            LinkLocal::Off
        };
        changes.set_up(index, link_local);
        for gateway in &link.gateways {
            changes.add_default_route(index, *gateway);
        }
        route
            .apply(changes)
            .map_err(link_error("configure", &link.name))
    })
}

/// Sees to it that frames pass when this returns, and that neighbours know who has the address now.
///
/// Both ends are up, but the kernel acts on that in the background: the bridge opens the port, and
/// each end its queue, up to seconds later on a busy machine, and a first packet lost by then costs
/// its sender a second. Asking for a link makes the kernel act at once.
pub fn settle(
    route: &mut Route,
    netns: &Netns,
    link: &LinkPlan,
    host_name: &str,
) -> Result<(), NetworkError> {
    route
        .link(host_name)
        .map_err(link_error("find", host_name))?;
    netns.with_route(|route| {
        let index = inner_index(route, link)?;
        let mut changes = Changes::default();
        changes.announce(index, link.mac);
        route
            .apply(changes)
            .map_err(link_error("announce", &link.name))
    })
}

fn inner_index(route: &mut Route, link: &LinkPlan) -> Result<u32, NetworkError> {
    let found = route
        .link(&link.name)
        .map_err(link_error("find", &link.name))?;
    found
        .map(|found| found.index)
        .ok_or_else(|| NetworkError::NotFound(link.name.clone()))
}

pub fn delete(route: &mut Route, index: u32) -> Result<(), NetworkError> {
    let mut changes = Changes::default();
    changes.delete_link_by_index(index);
    match route.apply(changes) {
        // Gone with its namespace.
        Err(refusal) if refusal.raw_os_error() == libc::ENODEV => Ok(()),
        outcome => outcome.map_err(link_error("delete", &format!("number {index}"))),
    }
}

/// Deletes a bridge with all ports that are still on it.
///
/// A port outlives its container for as long as anything holds the container's namespace: a
/// connection that waits for a peer who is gone does so for minutes.
pub fn delete_bridge(route: &mut Route, name: &str) -> Result<(), NetworkError> {
    let failed = |action| link_error(action, name);
    let links = route.links().map_err(failed("list the ports of"))?;
    let Some(bridge) = links.iter().find(|link| link.name == name) else {
        return Ok(());
    };
    let doomed: Vec<u32> = links
        .iter()
        .filter(|link| link.index == bridge.index || link.master == Some(bridge.index))
        .map(|link| link.index)
        .collect();
    delete_together(route, &links, &doomed).map_err(failed("delete"))
}

/// Deletes the links with these indexes, those that exist.
pub fn delete_all(route: &mut Route, indexes: &[u32]) -> Result<(), NetworkError> {
    let links = route.links().map_err(link_error("list", "links"))?;
    delete_together(route, &links, indexes).map_err(link_error("delete", "left-over links"))
}

/// One grace period of the kernel for all of them. `links`: everything that exists.
fn delete_together(route: &mut Route, links: &[Link], doomed: &[u32]) -> Result<(), Refusal> {
    let doomed: Vec<u32> = links
        .iter()
        .map(|link| link.index)
        .filter(|index| doomed.contains(index))
        .collect();
    let Some(first) = doomed.first() else {
        return Ok(());
    };
    // A number that nobody uses, since whatever is in the group goes. An index is not given twice, so
    // engines that do this at the same time begin to look at different ones.
    let group = (GROUPS ^ first..=u32::MAX)
        .find(|group| links.iter().all(|link| link.group != *group))
        .expect("there are more numbers than links");
    for index in &doomed {
        let mut changes = Changes::default();
        changes.set_group(*index, group);
        gone_is_fine(route.apply(changes))?;
    }
    let mut changes = Changes::default();
    changes.delete_group(group);
    gone_is_fine(route.apply(changes))
}

/// Links go by themselves with their namespace.
fn gone_is_fine(outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    match outcome {
        Err(refusal) if refusal.raw_os_error() == libc::ENODEV => Ok(()),
        outcome => outcome,
    }
}

/// Takes those of the links that exist out of service, so that a namespace that is slow to die does
/// not answer for an address that its container has again; gives their indexes.
pub fn silence(route: &mut Route, names: &[String]) -> Result<Vec<u32>, NetworkError> {
    let found = indexes(route, names)?;
    for index in &found {
        let mut changes = Changes::default();
        changes.disable_port(*index);
        match route.apply(changes) {
            // Gone meanwhile, or off its bridge.
            Err(refusal)
                if matches!(
                    refusal.raw_os_error(),
                    libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP
                ) => {}
            outcome => outcome.map_err(link_error("silence", &format!("number {index}")))?,
        }
    }
    Ok(found)
}

/// Those of the links that exist.
pub fn indexes(route: &mut Route, names: &[String]) -> Result<Vec<u32>, NetworkError> {
    let mut found = Vec::new();
    for name in names {
        let link = route.link(name).map_err(link_error("find", name))?;
        found.extend(link.map(|link| link.index));
    }
    Ok(found)
}
