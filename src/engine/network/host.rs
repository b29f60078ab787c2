//! What the host has already, and the switches that forwarding needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::bridge;
use super::error::NetworkError;
use super::files::HostResolver;
use super::ipam;
use super::record::{Forwarding, NetworkRecord, Pool};
use crate::sys::netlink::Refusal;
use crate::sys::route::Route;

const FORWARD_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

fn failed(refusal: Refusal) -> NetworkError {
    NetworkError::Link {
        action: "list",
        object: "addresses and routes".to_owned(),
        source: refusal,
    }
}

/// Which addresses the host has to do with.
pub struct Taken {
    /// On its links, with what they belong to. No network may overlap with these.
    pub addresses: Vec<(String, IpNet)>,
    /// Behind a route, or a name server. Automatic subnets stay away; a user who names such a
    /// subnet is obeyed.
    pub reached: Vec<IpNet>,
}

/// Of all links and routing tables, as they are now.
pub fn taken(route: &mut Route, host: &HostResolver) -> Result<Taken, NetworkError> {
    let links = route.links().map_err(failed)?;
    let addresses = route
        .addresses()
        .map_err(failed)?
        .into_iter()
        .map(|(index, address)| {
            let link = links
                .iter()
                .find(|link| link.index == index)
                .map_or("a link", |link| link.name.as_str());
            (format!("an address of {link}"), address.trunc())
        })
        .collect();
    let reached = route
        .routes()
        .map_err(failed)?
        .into_iter()
        .map(|(_, net)| net)
        .filter(ipam::is_taken)
        .chain(host.servers.iter().copied().map(IpNet::from))
        .collect();
    Ok(Taken { addresses, reached })
}

/// What the host has come to reach by other links although it is in a subnet that was chosen for one
/// of these networks: sentences for the user. A user who named a subnet knows what it is.
pub fn intruders<'a>(
    route: &mut Route,
    networks: impl Iterator<Item = &'a NetworkRecord>,
) -> Result<Vec<String>, NetworkError> {
    let links = route.links().map_err(failed)?;
    let name = |index: Option<u32>| {
        let found = links.iter().find(|link| Some(link.index) == index);
        found.map_or("a link", |link| link.name.as_str())
    };
    let addresses = route.addresses().map_err(failed)?;
    let reached: Vec<(&str, IpNet)> = addresses
        .into_iter()
        .map(|(index, net)| (name(Some(index)), net.trunc()))
        .chain(
            route
                .routes()
                .map_err(failed)?
                .into_iter()
                .filter(|(_, net)| ipam::is_taken(net))
                .map(|(index, net)| (name(index), net)),
        )
        .collect();
    let mut sentences = Vec::new();
    for network in networks {
        let is_chosen = |pool: &&Pool| {
            let configured = network.config.ipam.iter();
            !configured
                .filter_map(|wanted| wanted.subnet)
                .any(|subnet| subnet.trunc() == pool.subnet)
        };
        for pool in network.pools.iter().filter(is_chosen) {
            let intruder = reached
                .iter()
                .find(|(link, net)| *link != network.bridge && ipam::overlaps(net, &pool.subnet));
            if let Some((link, net)) = intruder {
                sentences.push(format!(
                    "network {} has {}, and since it was made the host reaches {net} by {link}: \
                     what of that is in the network's range is not reached any more; `down` and \
                     `up` choose another range",
                    network.config.name, pool.subnet
                ));
            }
        }
    }
    Ok(sentences)
}

/// Turns forwarding on where it is off; gives what was changed, for the record and for the way
/// back. `known` is what was recorded before.
pub fn forward(
    route: &mut Route,
    tag: &str,
    needs_v6: bool,
    known: &Forwarding,
) -> Result<Option<Forwarding>, NetworkError> {
    let is_off = |path: &str| fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
    let turn_v4 = is_off(FORWARD_V4);
    let turn_v6 = needs_v6 && is_off(FORWARD_V6);
    if !turn_v4 && !turn_v6 {
        return Ok(None);
    }
    let guarded: BTreeSet<String> = route
        .links()
        .map_err(failed)?
        .into_iter()
        .map(|link| link.name)
        .filter(|name| name != "lo" && !name.starts_with(&bridge::prefix(tag)))
        .filter(|name| !name.starts_with(&bridge::port_prefix(tag)))
        .chain(known.guarded.iter().cloned())
        .collect();
    Ok(Some(Forwarding {
        was_off_v4: known.was_off_v4 || turn_v4,
        was_off_v6: known.was_off_v6 || turn_v6,
        guarded: guarded.into_iter().collect(),
    }))
}

/// Sets the switches; to be called when the links are guarded.
pub fn switch_on(forwarding: &Forwarding) -> Result<(), NetworkError> {
    if forwarding.was_off_v4 {
        bridge::write(Path::new(FORWARD_V4), "1")?;
    }
    if forwarding.was_off_v6 {
        // A host that forwards ignores router advertisements unless told twice, and would lose its
        // own default route.
        for link in &forwarding.guarded {
            let accept: PathBuf = ["/proc/sys/net/ipv6/conf", link, "accept_ra"]
                .iter()
                .collect();
            if fs::read_to_string(&accept).is_ok_and(|value| value.trim() == "1") {
                bridge::write(&accept, "2")?;
            }
        }
        bridge::write(Path::new(FORWARD_V6), "1")?;
    }
    Ok(())
}

/// Puts the switches back, unless there are links by now that somebody else may forward for.
pub fn switch_off(route: &mut Route, forwarding: &Forwarding) -> Result<(), NetworkError> {
    let is_ours_alone = route
        .links()
        .map_err(failed)?
        .iter()
        .all(|link| link.name == "lo" || forwarding.guarded.contains(&link.name));
    if !is_ours_alone {
        return Ok(());
    }
    if forwarding.was_off_v4 {
        bridge::write(Path::new(FORWARD_V4), "0")?;
    }
    if forwarding.was_off_v6 {
        bridge::write(Path::new(FORWARD_V6), "0")?;
    }
    Ok(())
}
