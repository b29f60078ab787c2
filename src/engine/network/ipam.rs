//! Addresses: which subnet a network gets, and which address a container.
//!
//! Pure: what the host uses already is handed in. Automatic subnets come from corners of the private
//! ranges that routers, VPNs, Docker and Kubernetes rarely use, and none that overlaps with an
//! address, a route or a resolver of the host is taken. Which candidate is tried first follows from
//! the network's name, so that a network that is made again gets its old subnet back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::error::NetworkError;
use super::record::Pool;
use crate::compose::IpamPool;

/// Ranges for automatic subnets in order of preference, as (base, prefix length).
///
/// The first is free of every default known: Docker takes 172.17–31 and 192.168, Kubernetes 10.96,
/// 10.244 and 10.42, Podman 10.88, LXD 10.0–10.x at random, Tailscale 100.64. The others are for
/// hosts where all of 10/8 is routed away.
const RANGES: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 176, 0, 0), 12),
    (Ipv4Addr::new(172, 16, 0, 0), 16),
    (Ipv4Addr::new(192, 168, 128, 0), 17),
];
const SUBNET_PREFIX: u8 = 24;

/// Routes wider than this do not say that the addresses are in use: a VPN that takes over the
/// default route installs 0.0.0.0/1 and 128.0.0.0/1, or a handful of other wide halves.
const WIDEST_TAKEN_PREFIX: u8 = 5;

/// Whether a route of the host means that its addresses are taken.
pub fn is_taken(route: &IpNet) -> bool {
    route.prefix_len() > WIDEST_TAKEN_PREFIX
}

pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn number(name: &str, salt: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(salt.as_bytes())
        .chain_update([0])
        .chain_update(name.as_bytes())
        .finalize();
    // A digest has 32 bytes.
    u64::from_be_bytes(std::array::from_fn(|index| digest[index]))
}

/// A free /24 for the network.
pub fn automatic_v4(network: &str, taken: &[IpNet]) -> Result<IpNet, NetworkError> {
    for (base, prefix) in RANGES {
        let n_subnets = 1u64 << (SUBNET_PREFIX - prefix);
        let first = number(network, "v4") % n_subnets;
        for step in 0..n_subnets {
            let offset = ((first + step) % n_subnets) << (32 - SUBNET_PREFIX);
            let address = Ipv4Addr::from(u32::from(base) + offset as u32);
            let candidate = IpNet::V4(Ipv4Net::new_assert(address, SUBNET_PREFIX));
            if !taken.iter().any(|net| overlaps(net, &candidate)) {
                return Ok(candidate);
            }
        }
    }
    Err(NetworkError::NoSubnet {
        network: network.to_owned(),
    })
}

/// A free /64 of the unique local range (RFC 4193).
pub fn automatic_v6(network: &str, taken: &[IpNet]) -> Result<IpNet, NetworkError> {
    for attempt in 0..16 {
        let bits = number(network, &format!("v6 {attempt}"));
        // fd, 40 bits of site, 16 bits of subnet.
        let top = 0xfd00_0000_0000_0000 | (bits >> 8);
        let address = Ipv6Addr::from(u128::from(top) << 64);
        let candidate = IpNet::V6(Ipv6Net::new_assert(address, 64));
        if !taken.iter().any(|net| overlaps(net, &candidate)) {
            return Ok(candidate);
        }
    }
    Err(NetworkError::NoSubnet {
        network: network.to_owned(),
    })
}

/// Fills in what a pool's configuration leaves open, and checks what it says.
pub fn resolve(
    network: &str,
    subnet: IpNet,
    config: Option<&IpamPool>,
) -> Result<Pool, NetworkError> {
    let subnet = subnet.trunc();
    let range = config.and_then(|pool| pool.ip_range).unwrap_or(subnet);
    let inside = |what: &'static str, address: IpAddr| {
        if subnet.contains(&address) {
            Ok(address)
        } else {
            Err(NetworkError::Outside {
                network: network.to_owned(),
                what,
                address,
                subnet,
            })
        }
    };
    inside("ip_range", range.network())?;
    if range.prefix_len() < subnet.prefix_len() {
        inside("ip_range", range.broadcast())?;
    }
    let gateway = match config.and_then(|pool| pool.gateway) {
        Some(gateway) => inside("gateway", gateway)?,
        None => next(subnet.network()),
    };
    let mut reserved = Vec::new();
    for address in config
        .into_iter()
        .flat_map(|pool| pool.aux_addresses.values())
    {
        reserved.push(inside("aux_address", *address)?);
    }
    Ok(Pool {
        subnet,
        range: range.trunc(),
        gateway,
        reserved,
    })
}

/// The host or another network that a wanted subnet collides with.
pub fn collision<'a>(subnet: &IpNet, others: &'a [(String, IpNet)]) -> Option<&'a str> {
    others
        .iter()
        .find(|(_, other)| overlaps(subnet, other))
        .map(|(name, _)| name.as_str())
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4).wrapping_add(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).wrapping_add(1))),
    }
}

/// Whether an address of the subnet may be a container's at all.
pub fn is_usable(pool: &Pool, address: IpAddr) -> bool {
    let is_edge = match pool.subnet {
        // A /31 and a /32 have neither network nor broadcast address (RFC 3021).
        IpNet::V4(net) => {
            net.prefix_len() < 31 && (address == net.network() || address == net.broadcast())
        }
        IpNet::V6(net) => address == net.network(),
    };
    pool.subnet.contains(&address)
        && !is_edge
        && address != pool.gateway
        && !pool.reserved.contains(&address)
}

/// The next free address after `last`, so that a freed one rests until the range has been walked.
///
/// Neighbours and connection tables may still remember a freed address's old owner.
pub fn take(pool: &Pool, leased: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<IpAddr> {
    let first = pool.range.network();
    let end = pool.range.broadcast();
    let start = match last {
        Some(last) if pool.range.contains(&last) && last != end => next(last),
        _ => first,
    };
    // More than this many addresses cannot be taken, however wide the range is.
    let limit = leased.len() + pool.reserved.len() + 4;
    let mut candidate = start;
    for _ in 0..=limit {
        if is_usable(pool, candidate) && !leased.contains(&candidate) {
            return Some(candidate);
        }
        candidate = if candidate == end {
            first
        } else {
            next(candidate)
        };
        if candidate == start {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str) -> Pool {
        resolve("n", subnet.parse().unwrap(), None).unwrap()
    }

    #[test]
    fn automatic_subnets_avoid_what_the_host_uses_and_come_back_for_the_same_name() {
        let first = automatic_v4("demo_default", &[]).unwrap();
        assert_eq!(first, automatic_v4("demo_default", &[]).unwrap());
        let second = automatic_v4("demo_default", &[first]).unwrap();
        assert!(!overlaps(&first, &second));
        // A VPN that routes all of 10/8.
        let third = automatic_v4("demo_default", &["10.0.0.0/8".parse().unwrap()]).unwrap();
        assert!(third.to_string().starts_with("172.16."), "{third}");
        let everything: Vec<IpNet> = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        assert!(matches!(
            automatic_v4("n", &everything),
            Err(NetworkError::NoSubnet { .. })
        ));
    }

    #[test]
    fn a_full_tunnel_vpn_does_not_count_as_taken() {
        for (route, taken) in [
            ("0.0.0.0/0", false),
            ("0.0.0.0/1", false),
            ("128.0.0.0/1", false),
            ("10.0.0.0/8", true),
            ("100.64.0.0/10", true),
            ("192.0.2.0/24", true),
            ("::/0", false),
            ("fd00::/8", true),
        ] {
            assert_eq!(is_taken(&route.parse().unwrap()), taken, "{route}");
        }
    }

    #[test]
    fn addresses_rotate_and_a_freed_one_rests() {
        let pool = pool("10.9.0.0/29");
        let mut leased = BTreeSet::new();
        let mut last = None;
        let mut order = Vec::new();
        while let Some(address) = take(&pool, &leased, last) {
            leased.insert(address);
            last = Some(address);
            order.push(address.to_string());
        }
        assert_eq!(
            order,
            ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]
        );
        for address in ["10.9.0.2", "10.9.0.4"] {
            leased.remove(&address.parse::<IpAddr>().unwrap());
        }
        last = Some("10.9.0.3".parse().unwrap());
        assert_eq!(
            take(&pool, &leased, last),
            Some("10.9.0.4".parse().unwrap()),
            "the one freed before the last is not the next"
        );
    }

    #[test]
    fn a_wide_range_with_reserved_addresses_is_walked_without_counting_it() {
        let mut pool = pool("fd00:1::/64");
        pool.reserved = vec!["fd00:1::2".parse().unwrap()];
        assert_eq!(
            take(&pool, &BTreeSet::new(), None),
            Some("fd00:1::3".parse().unwrap())
        );
    }

    #[test]
    fn what_lies_outside_the_subnet_is_refused_by_name() {
        let config = IpamPool {
            subnet: None,
            ip_range: None,
            gateway: Some("10.8.0.1".parse().unwrap()),
            aux_addresses: Default::default(),
        };
        let error = resolve("n", "10.9.0.0/24".parse().unwrap(), Some(&config)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gateway 10.8.0.1 is not in subnet 10.9.0.0/24 of network n"
        );
    }
}
