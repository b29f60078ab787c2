//! One bridge per network: its name, its settings, and making it again when it is gone.
//!
//! Knows links and sysctls; containers are somebody else's.

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::error::NetworkError;
use super::record::{Family, NetworkId, NetworkRecord};
use crate::sys::netlink::Refusal;
use crate::sys::route::{Changes, LinkLocal, Mac, Route};

/// Bytes; what Ethernet carries.
const DEFAULT_MTU: u32 = 1500;
const OPTION_NAME: &str = "com.docker.network.bridge.name";
const OPTION_MTU: [&str; 2] = ["com.docker.network.driver.mtu", "mtu"];
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";
/// Of an interface name, without the terminating zero.
const MAX_NAME_BYTES: usize = 15;

/// Begins the name of every bridge that is not named by its options.
pub fn prefix(tag: &str) -> String {
    format!("wh{tag}")
}

/// Begins the name of every host end of a container's link.
pub fn port_prefix(tag: &str) -> String {
    format!("wv{tag}")
}

fn digest(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..4])
}

/// The bridge's name: what the options say, else one derived from the network's id.
pub fn name(
    tag: &str,
    id: &NetworkId,
    record: &crate::plan::NetworkConfig,
) -> Result<String, NetworkError> {
    let Some(name) = record.driver_opts.get(OPTION_NAME) else {
        return Ok(format!("{}{}", prefix(tag), digest(&id.0)));
    };
    let is_valid = !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !matches!(name.as_str(), "." | "..")
        && !name.contains(['/', ':'])
        && !name.contains(char::is_whitespace);
    if is_valid {
        Ok(name.clone())
    } else {
        Err(NetworkError::Option {
            network: record.name.clone(),
            option: OPTION_NAME,
            value: name.clone(),
        })
    }
}

/// Names for the host end of a container's link to a network, the first that is free is taken.
///
/// When a container restarts, its last link may still be dying with its namespace. Deleting that by
/// hand would hold the kernel's link lock for a grace period; the next name costs nothing.
pub fn port_names(tag: &str, container: &str, network: &str) -> [String; 4] {
    let digest = digest(&format!("{container} {network}"));
    ["0", "1", "2", "3"].map(|turn| format!("{}{}{turn}", port_prefix(tag), &digest[..7]))
}

/// A fixed, locally administered address that follows from a name.
///
/// udev's `MACAddressPolicy=persistent` leaves links alone whose address was set explicitly.
pub fn mac(text: &str) -> Mac {
    let digest = Sha256::digest(text.as_bytes());
    [0x0e, digest[0], digest[1], digest[2], digest[3], digest[4]]
}

/// Bytes.
pub fn mtu(config: &crate::plan::NetworkConfig) -> Result<u32, NetworkError> {
    let Some((option, value)) = OPTION_MTU
        .iter()
        .find_map(|option| Some((*option, config.driver_opts.get(*option)?)))
    else {
        return Ok(DEFAULT_MTU);
    };
    value
        .parse()
        .ok()
        .filter(|mtu| (68..=65535).contains(mtu))
        .ok_or_else(|| NetworkError::Option {
            network: config.name.clone(),
            option,
            value: value.clone(),
        })
}

/// Whether outbound packets get the host's address.
pub fn is_masqueraded(record: &NetworkRecord) -> bool {
    !record.config.internal
        && record
            .config
            .driver_opts
            .get(OPTION_MASQUERADE)
            .is_none_or(|value| value != "false" && value != "0")
}

/// Whether containers on the bridge are kept from each other.
pub fn is_isolating(record: &NetworkRecord) -> bool {
    record
        .config
        .driver_opts
        .get(OPTION_ICC)
        .is_some_and(|value| value == "false" || value == "0")
}

/// Whether the host's packet filter sees bridged frames too (br_netfilter).
pub fn is_filtered() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|value| value.trim() == "1")
}

/// Makes the bridge, or takes over the one that exists, and gives its index.
pub fn converge(route: &mut Route, record: &NetworkRecord) -> Result<u32, NetworkError> {
    let failed = |action: &'static str| {
        let object = format!("bridge {}", record.bridge);
        move |source: Refusal| NetworkError::Link {
            action,
            object,
            source,
        }
    };
    let mut changes = Changes::default();
    changes.add_bridge(&record.bridge, record.mac, record.mtu);
    match route.apply(changes) {
        Ok(()) => {}
        Err(refusal) if refusal.raw_os_error() == libc::EEXIST => {}
        Err(refusal) => return Err(failed("create")(refusal)),
    }
    let link = route
        .link(&record.bridge)
        .map_err(failed("find"))?
        .ok_or_else(|| NetworkError::NotFound(record.config.name.clone()))?;
    settings(record)?;
    let mut changes = Changes::default();
    changes.set_alias(link.index, &record.config.name);
    let mut has_v6 = LinkLocal::Off;
    for pool in &record.pools {
        if let Ok(address) = IpNet::new(pool.gateway, pool.subnet.prefix_len()) {
            changes.add_address(link.index, address);
        }
        if matches!(pool.subnet, IpNet::V6(_)) {
            has_v6 = LinkLocal::On;
        }
    }
    changes.set_up(link.index, has_v6);
    route.apply(changes).map_err(failed("configure"))?;
    Ok(link.index)
}

/// Makes those bridges again that are not there, or do not have their addresses, and tells how many
/// there were.
pub fn heal<'a>(
    route: &mut Route,
    records: impl Iterator<Item = &'a NetworkRecord>,
) -> Result<usize, NetworkError> {
    let list = |source| NetworkError::Link {
        action: "list",
        object: "links and addresses".to_owned(),
        source,
    };
    let links = route.links().map_err(list)?;
    let addresses = route.addresses().map_err(list)?;
    let mut n_healed = 0;
    for record in records {
        let link = links.iter().find(|link| link.name == record.bridge);
        let is_whole = link.is_some_and(|link| {
            link.is_up
                && record.pools.iter().all(|pool| {
                    addresses
                        .iter()
                        .any(|(index, net)| *index == link.index && net.addr() == pool.gateway)
                })
        });
        if !is_whole {
            converge(route, record)?;
            n_healed += 1;
        }
    }
    Ok(n_healed)
}

/// Sysctls of the bridge, set before it goes up.
fn settings(record: &NetworkRecord) -> Result<(), NetworkError> {
    let conf = |family: &str, key: &str| -> PathBuf {
        ["/proc/sys/net", family, "conf", &record.bridge, key]
            .iter()
            .collect()
    };
    if Path::new("/proc/sys/net/ipv6").exists() {
        // A container must not be able to give the host a default route (CVE-2020-13401).
        write(&conf("ipv6", "accept_ra"), "0")?;
        write(&conf("ipv6", "accept_redirects"), "0")?;
    }
    // Nor to lead the host's own traffic elsewhere. With forwarding on, the host's switch for all
    // links has to agree before a redirect counts, so this one is enough.
    write(&conf("ipv4", "accept_redirects"), "0")?;
    if !record.config.internal && record.pool(Family::V4).is_some() {
        // Lets answers to 127.0.0.1 back in. Forged packets are dropped by the table's first chain.
        write(&conf("ipv4", "route_localnet"), "1")?;
    }
    Ok(())
}

/// Sets a sysctl, unless it has that value already.
pub fn write(path: &Path, value: &str) -> Result<(), NetworkError> {
    let is_set = fs::read_to_string(path).is_ok_and(|now| now.trim() == value);
    if is_set {
        return Ok(());
    }
    fs::write(path, value).map_err(|source| NetworkError::Sysctl {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_an_interface_name() {
        let config = crate::plan::NetworkConfig::default();
        let name = name("beef", &NetworkId("a".repeat(64)), &config).unwrap();
        assert!(
            name.starts_with("whbeef") && name.len() <= MAX_NAME_BYTES,
            "{name}"
        );
        let port = &port_names("beef", &"c".repeat(64), "demo_default")[3];
        assert!(port.len() <= MAX_NAME_BYTES, "{port}");
        assert_eq!(mac("x")[0] & 3, 2, "locally administered, not multicast");
    }
}
