//! What the engine knows of networks and leases, in memory. Decides addresses; touches nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::bridge;
use super::error::NetworkError;
use super::firewall::PortRule;
use super::ipam;
use super::record::{EndpointRecord, Family, Lease, NetworkRecord, Pool, Published};
use crate::compose::Protocol;
use crate::plan::EndpointConfig;

#[derive(Default)]
pub struct State {
    /// By name.
    pub networks: BTreeMap<String, NetworkRecord>,
    /// By container id.
    pub endpoints: HashMap<String, EndpointRecord>,
    /// Containers with links, by id, with the names of their networks.
    pub attached: HashMap<String, Vec<String>>,
    /// Ports that are reserved for containers on their way, by container id: nothing in the kernel
    /// tells yet whose they are.
    pub reserved: HashMap<String, Vec<Published>>,
    /// By network and family: the address leased last.
    last: HashMap<(String, Family), IpAddr>,
}

impl State {
    pub fn new(
        networks: BTreeMap<String, NetworkRecord>,
        endpoints: HashMap<String, EndpointRecord>,
    ) -> State {
        State {
            networks,
            endpoints,
            ..State::default()
        }
    }

    /// By name, by id, or by the beginning of an id that only one network has.
    pub fn network(&self, key: &str) -> Option<&NetworkRecord> {
        if let Some(found) = self.networks.get(key) {
            return Some(found);
        }
        let mut found = self
            .networks
            .values()
            .filter(|network| !key.is_empty() && network.id.0.starts_with(key));
        let first = found.next();
        if found.next().is_some() { None } else { first }
    }

    /// Names of the containers that have links on the network.
    pub fn containers_on(&self, network: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .attached
            .iter()
            .filter(|(_, networks)| networks.iter().any(|name| name == network))
            .map(|(id, _)| self.name_of(id))
            .collect();
        names.sort();
        names
    }

    /// The container on its way that a port is reserved for.
    pub fn reserved_for(
        &self,
        host_port: u16,
        protocol: Protocol,
        host_ip: Option<IpAddr>,
    ) -> Option<&str> {
        let one = |address: Option<IpAddr>| address.filter(|address| !address.is_unspecified());
        let host_ip = one(host_ip);
        let is_it = |port: &Published| {
            let theirs = one(port.host_ip);
            port.host_port == host_port
                && port.protocol == protocol
                && (theirs.is_none() || host_ip.is_none() || theirs == host_ip)
        };
        self.reserved
            .iter()
            .find(|(_, ports)| ports.iter().any(is_it))
            .map(|(container, _)| container.as_str())
    }

    pub fn name_of(&self, container: &str) -> String {
        self.endpoints
            .get(container)
            .map_or_else(|| container.to_owned(), |record| record.name.clone())
    }

    fn holders(&self, network: &str, family: Family) -> BTreeMap<IpAddr, &str> {
        self.endpoints
            .iter()
            .flat_map(|(id, record)| record.leases.iter().map(move |lease| (id, lease)))
            .filter(|(_, lease)| lease.network == network)
            .filter_map(|(id, lease)| Some((lease.address(family)?, id.as_str())))
            .collect()
    }

    /// Leases addresses for a container on its networks: those it had, those it asks for, or new
    /// ones. Replaces its record in memory and gives the one before.
    pub fn lease(
        &mut self,
        container: &str,
        name: &str,
        endpoints: &[EndpointConfig],
    ) -> Result<Option<EndpointRecord>, NetworkError> {
        let old = self.endpoints.get(container).cloned();
        let mut leases: Vec<Lease> = Vec::new();
        for endpoint in endpoints {
            let network = self
                .network(&endpoint.network)
                .ok_or_else(|| NetworkError::NotFound(endpoint.network.clone()))?;
            let had = old.as_ref().and_then(|record| {
                record
                    .leases
                    .iter()
                    .find(|lease| lease.network == network.config.name)
            });
            let (ipv4, ipv6) = (
                self.address(container, network, Family::V4, endpoint.ipv4_address, had)?,
                self.address(container, network, Family::V6, endpoint.ipv6_address, had)?,
            );
            let mac = mac(name, endpoint, ipv4.or(ipv6))?;
            let network = network.config.name.clone();
            for (family, address) in [(Family::V4, ipv4), (Family::V6, ipv6)] {
                if let Some(address) = address.filter(|_| had.is_none()) {
                    self.last.insert((network.clone(), family), address);
                }
            }
            leases.push(Lease {
                network,
                ipv4,
                ipv6,
                mac,
            });
        }
        let ports = old
            .as_ref()
            .map(|record| record.ports.clone())
            .unwrap_or_default();
        self.endpoints.insert(
            container.to_owned(),
            EndpointRecord {
                name: name.to_owned(),
                leases,
                ports,
            },
        );
        Ok(old)
    }

    fn address(
        &self,
        container: &str,
        network: &NetworkRecord,
        family: Family,
        wanted: Option<IpAddr>,
        had: Option<&Lease>,
    ) -> Result<Option<IpAddr>, NetworkError> {
        let name = &network.config.name;
        let Some(pool) = network.pool(family) else {
            return match wanted {
                Some(address) => Err(NetworkError::NoSubnetFor {
                    network: name.clone(),
                    address,
                }),
                None => Ok(None),
            };
        };
        let holders = self.holders(name, family);
        if let Some(address) = wanted {
            check_wanted(name, pool, address)?;
            return match holders.get(&address) {
                Some(holder) if *holder != container => Err(NetworkError::AddressTaken {
                    address,
                    subnet: pool.subnet,
                    holder: format!("container {}", self.name_of(holder)),
                }),
                _ => Ok(Some(address)),
            };
        }
        let old = had.and_then(|lease| lease.address(family));
        if let Some(address) = old.filter(|address| ipam::is_usable(pool, *address)) {
            return Ok(Some(address));
        }
        let leased: BTreeSet<IpAddr> = holders.keys().copied().collect();
        let last = self.last.get(&(name.clone(), family)).copied();
        let last = last.or_else(|| leased.last().copied());
        match ipam::take(pool, &leased, last) {
            Some(address) => Ok(Some(address)),
            None => Err(NetworkError::Exhausted {
                network: name.clone(),
                subnet: pool.range,
                n_leased: leased.len(),
            }),
        }
    }

    /// Puts back what [`State::lease`] replaced.
    pub fn restore(&mut self, container: &str, old: Option<EndpointRecord>) {
        match old {
            Some(old) => self.endpoints.insert(container.to_owned(), old),
            None => self.endpoints.remove(container),
        };
    }

    /// The container's lease on the network through which published ports lead: that of the highest
    /// gateway priority that is not internal, then the first by name, as for the default route.
    pub fn gateway_endpoint<'a>(
        &self,
        endpoints: &'a [EndpointConfig],
        family: Family,
    ) -> Option<(&'a EndpointConfig, &NetworkRecord)> {
        endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint, self.network(&endpoint.network)?)))
            .filter(|(_, network)| !network.config.internal && network.pool(family).is_some())
            .max_by(|(a, network_a), (b, network_b)| {
                a.gw_priority
                    .cmp(&b.gw_priority)
                    .then_with(|| network_b.config.name.cmp(&network_a.config.name))
            })
    }

    /// The table's elements for a container's ports.
    pub fn port_rules(
        &self,
        container: &str,
        endpoints: &[EndpointConfig],
        ports: &[Published],
    ) -> Vec<PortRule> {
        let Some(record) = self.endpoints.get(container) else {
            return Vec::new();
        };
        let address = |family: Family| {
            let (_, network) = self.gateway_endpoint(endpoints, family)?;
            let lease = record
                .leases
                .iter()
                .find(|lease| lease.network == network.config.name)?;
            lease.address(family)
        };
        rules(ports, Family::BOTH.map(address))
    }
}

/// One rule per port and family; a port on one host address has that address's family only.
pub fn rules(ports: &[Published], containers: [Option<IpAddr>; 2]) -> Vec<PortRule> {
    let mut rules = Vec::new();
    for port in ports {
        for container in containers.into_iter().flatten() {
            if port
                .host_ip
                .is_some_and(|host| host.is_ipv4() != container.is_ipv4())
            {
                continue;
            }
            rules.push(PortRule {
                host_ip: port.host_ip.filter(|host| !host.is_unspecified()),
                host_port: port.host_port,
                protocol: port.protocol,
                container,
                container_port: port.container_port,
            });
        }
    }
    rules
}

fn check_wanted(network: &str, pool: &Pool, address: IpAddr) -> Result<(), NetworkError> {
    if !pool.subnet.contains(&address) {
        return Err(NetworkError::Outside {
            network: network.to_owned(),
            what: "address",
            address,
            subnet: pool.subnet,
        });
    }
    // An auxiliary address is kept from automatic choice only; asking for it is allowed.
    if address == pool.gateway {
        return Err(NetworkError::AddressTaken {
            address,
            subnet: pool.subnet,
            holder: "the gateway".to_owned(),
        });
    }
    Ok(())
}

fn mac(
    container: &str,
    endpoint: &EndpointConfig,
    address: Option<IpAddr>,
) -> Result<[u8; 6], NetworkError> {
    let Some(text) = &endpoint.mac_address else {
        // From the address: whoever gets it next has the same, so no neighbour is misled.
        return Ok(match address {
            Some(IpAddr::V4(v4)) => {
                let [a, b, c, d] = v4.octets();
                [0x02, 0x42, a, b, c, d]
            }
            other => bridge::mac(&format!("{other:?} {container}")),
        });
    };
    parse_mac(text).ok_or_else(|| NetworkError::Endpoint {
        container: container.to_owned(),
        what: "mac_address",
        value: text.clone(),
    })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Vec<u8> = text
        .split([':', '-'])
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    // A link cannot have a multicast address.
    <[u8; 6]>::try_from(parts)
        .ok()
        .filter(|mac| mac[0] & 1 == 0)
}

/// As `02:42:0a:b0:00:02`.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
