//! What can go wrong with networks, in words that name the object.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::compose::Protocol;
use crate::engine::store::StoreError;
use crate::sys::netlink::Refusal;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network {0} not found")]
    NotFound(String),
    #[error("network {0} exists with a different configuration")]
    Differs(String),
    #[error("network {network} has active endpoints: {}", containers.join(", "))]
    InUse {
        network: String,
        containers: Vec<String>,
    },
    #[error("network driver {driver} is not supported; possible are bridge, host and none")]
    Unsupported { driver: String },
    #[error("network {network} has an invalid {option}: {value:?}")]
    Option {
        network: String,
        option: &'static str,
        value: String,
    },
    #[error("subnet {subnet} of network {network} overlaps with {other}")]
    Overlap {
        network: String,
        subnet: IpNet,
        other: String,
    },
    #[error(
        "network {network} finds no free subnet: all candidates overlap with routes of this host"
    )]
    NoSubnet { network: String },
    #[error("{what} {address} is not in subnet {subnet} of network {network}")]
    Outside {
        network: String,
        what: &'static str,
        address: IpAddr,
        subnet: IpNet,
    },
    #[error("network {network} has no subnet for address {address}")]
    NoSubnetFor { network: String, address: IpAddr },
    #[error("address {address} of subnet {subnet} is in use by {holder}")]
    AddressTaken {
        address: IpAddr,
        subnet: IpNet,
        holder: String,
    },
    #[error("no free address left in {subnet} of network {network}: {n_leased} are leased")]
    Exhausted {
        network: String,
        subnet: IpNet,
        n_leased: usize,
    },
    #[error("container {container} has an invalid {what}: {value:?}")]
    Endpoint {
        container: String,
        what: &'static str,
        value: String,
    },
    #[error("container {container} has two interfaces named {interface}")]
    InterfaceTwice {
        container: String,
        interface: String,
    },
    #[error("port {address}:{port}/{protocol} is already in use by {holder}")]
    PortTaken {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        holder: String,
    },
    #[error("cannot reserve port {address}:{port}/{protocol}")]
    Reserve {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        source: io::Error,
    },
    #[error("cannot {action} {object}")]
    Link {
        action: &'static str,
        object: String,
        source: Refusal,
    },
    #[error("cannot make a network namespace")]
    MakeNetns(#[source] io::Error),
    #[error("cannot enter network namespace {path}")]
    EnterNetns { path: PathBuf, source: io::Error },
    #[error("cannot open a netlink socket")]
    Netlink(#[source] io::Error),
    #[error("cannot {action} nftables table {table}")]
    Firewall {
        action: &'static str,
        table: String,
        source: Refusal,
    },
    #[error("cannot set {path}")]
    Sysctl { path: PathBuf, source: io::Error },
    #[error("cannot start the resolver of container {container}")]
    Resolver {
        container: String,
        source: io::Error,
    },
    #[error("cannot redirect names in cgroup {path}")]
    Redirect { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot prepare published ports")]
    Flows(#[source] Arc<NetworkError>),
    #[error("cannot record addresses")]
    Commit(#[source] Arc<StoreError>),
    #[error("the work on container {container} was cut off")]
    CutOff { container: String },
}
