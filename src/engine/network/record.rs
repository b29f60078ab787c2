//! What the store remembers of networks and endpoints.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::compose::Protocol;
use crate::plan::NetworkConfig;

/// Which of the two internet protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// A network's id: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(pub String);

/// A network as it was made. Its key in the store is the network's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: NetworkId,
    pub config: NetworkConfig,
    /// Name of the bridge on the host.
    pub bridge: String,
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// At most one of each family.
    pub pools: Vec<Pool>,
    /// Nanoseconds since the epoch.
    pub created_at: u64,
}

impl NetworkRecord {
    pub fn pool(&self, family: Family) -> Option<&Pool> {
        self.pools
            .iter()
            .find(|pool| Family::of(pool.subnet.addr()) == family)
    }
}

/// One subnet with everything decided that the configuration left open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: IpNet,
    /// Where automatic addresses come from; within the subnet.
    pub range: IpNet,
    pub gateway: IpAddr,
    pub reserved: Vec<IpAddr>,
}

/// Everything on the network that is a container's. Its key in the store is the container's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The container's name.
    pub name: String,
    pub leases: Vec<Lease>,
    /// Ports of the last start.
    pub ports: Vec<Published>,
}

/// A container's addresses on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub network: String,
    pub ipv4: Option<IpAddr>,
    pub ipv6: Option<IpAddr>,
    pub mac: [u8; 6],
}

impl Lease {
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

/// A host port that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// As the user wrote it: `None` is every address of the host, `0.0.0.0` and `::` are every one
    /// of that family.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// What was changed on the host so that packets are forwarded; the key is [`Forwarding::KEY`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    /// Whether `net.ipv4.ip_forward` was off.
    pub was_off_v4: bool,
    /// Whether `net.ipv6.conf.all.forwarding` was off.
    pub was_off_v6: bool,
    /// Links that did not forward to each other before, and still must not.
    pub guarded: Vec<String>,
}

impl Forwarding {
    pub const KEY: &'static str = "network.forwarding";
}
