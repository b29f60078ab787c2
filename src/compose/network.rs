//! Networks, a service's place on them, and published ports.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A top-level network in canonical form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The engine's name for it: `<project>_<key>` unless the file names it or it is external.
    pub name: String,
    pub external: bool,
    /// `None` is the default driver, `bridge`.
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub ipam: Vec<IpamPool>,
    pub ipam_driver: Option<String>,
    pub ipam_options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// One address pool of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamPool {
    pub subnet: Option<IpNet>,
    /// The part of the subnet that automatic addresses are taken from.
    #[serde(default)]
    pub ip_range: Option<IpNet>,
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Reserved addresses, by name.
    #[serde(default)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// A service's place on one network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    pub aliases: Vec<String>,
    pub ipv4_address: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub link_local_ips: Vec<IpAddr>,
    pub mac_address: Option<String>,
    pub interface_name: Option<String>,
    /// The network with the highest number gives the default gateway.
    pub gw_priority: i64,
    /// Networks are attached in falling order of this number, then by name.
    pub priority: i64,
    pub driver_opts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// One published container port; ranges are expanded pairwise by the loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// `None` is every address of the host.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// First and last host port to choose from; `None` lets the kernel choose.
    #[serde(default)]
    pub published: Option<(u16, u16)>,
    pub target: u16,
    pub protocol: Protocol,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub app_protocol: Option<String>,
    /// `ingress` or `host`; one machine treats both alike.
    #[serde(default)]
    pub mode: Option<String>,
}
