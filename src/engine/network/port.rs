//! Published ports on the host's side: reserving them, choosing free ones, naming who is in the way.
//!
//! A reservation is a bound socket that never listens: other programs get `EADDRINUSE`, and a
//! client that no rule redirects is refused at once. The sockets are for the shim to hold, so that a
//! port stays reserved while the engine is away.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::error::NetworkError;
use super::record::Published;
use crate::compose::{PortBinding, Protocol};

/// How often a port that the kernel chose for one address is tried for the other family too.
const N_TRIES: usize = 16;

/// One reserved port and the sockets that hold it.
pub struct Reservation {
    pub published: Published,
    pub sockets: Vec<OwnedFd>,
}

/// Reserves one port of the binding's range, or any if it names none.
pub fn reserve(
    binding: &PortBinding,
    holder_in_engine: impl Fn(u16) -> Option<String>,
) -> Result<Reservation, NetworkError> {
    let (first, last) = binding.published.unwrap_or((0, 0));
    let addresses = addresses(binding);
    let mut last_error = None;
    let tries: Box<dyn Iterator<Item = u16>> = if first == 0 {
        Box::new(std::iter::repeat_n(0, N_TRIES))
    } else {
        Box::new(first..=last.max(first))
    };
    for wanted in tries {
        match bind_all(&addresses, wanted, binding.protocol) {
            Ok((port, sockets)) => {
                return Ok(Reservation {
                    published: Published {
                        host_ip: binding.host_ip,
                        host_port: port,
                        container_port: binding.target,
                        protocol: binding.protocol,
                    },
                    sockets,
                });
            }
            Err((address, error)) => last_error = Some((address, wanted, error)),
        }
    }
    // At least one port was tried.
    let (address, port, source) = last_error.expect("a failed try");
    if source.kind() != io::ErrorKind::AddrInUse {
        return Err(NetworkError::Reserve {
            address,
            port,
            protocol: binding.protocol,
            source,
        });
    }
    let holder = holder_in_engine(port)
        .map(|container| format!("container {container}"))
        .or_else(|| holder(port, binding.protocol))
        .unwrap_or_else(|| "an unknown process".to_owned());
    Err(NetworkError::PortTaken {
        address,
        port,
        protocol: binding.protocol,
        holder,
    })
}

fn addresses(binding: &PortBinding) -> Vec<IpAddr> {
    match binding.host_ip {
        Some(address) if !address.is_unspecified() => vec![address],
        Some(IpAddr::V6(_)) => vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        Some(_) => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        // A reserved UDP socket would swallow packets to [::] where an unreachable port answers at
        // once, so only TCP takes both families.
        None if binding.protocol == Protocol::Tcp && has_v6() => vec![
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ],
        None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
    }
}

fn has_v6() -> bool {
    fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}

/// Binds the same port at every address.
fn bind_all(
    addresses: &[IpAddr],
    port: u16,
    protocol: Protocol,
) -> Result<(u16, Vec<OwnedFd>), (IpAddr, io::Error)> {
    let mut port = port;
    let mut sockets = Vec::new();
    for address in addresses {
        let socket =
            bind(SocketAddr::new(*address, port), protocol).map_err(|error| (*address, error))?;
        if port == 0 {
            port = rustix::net::getsockname(&socket)
                .and_then(SocketAddr::try_from)
                .map_err(|error| (*address, error.into()))?
                .port();
        }
        sockets.push(socket);
    }
    Ok((port, sockets))
}

fn bind(address: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if address.is_ipv6() {
        // Else [::] would take the IPv4 port too, which has a socket of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // No SO_REUSEADDR: with it the reservation would not keep others out.
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// The process that holds the port, as `nginx (pid 12)`.
fn holder(port: u16, protocol: Protocol) -> Option<String> {
    let tables: &[&str] = match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    let inodes: Vec<String> = tables
        .iter()
        // Of this thread, whose namespace may differ from the process's.
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|table| inodes_of_port(&table, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else {
                continue;
            };
            if inodes
                .iter()
                .any(|inode| target.as_os_str() == inode.as_str())
            {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{} (pid {pid})", name.trim()));
            }
        }
    }
    None
}

/// `socket:[inode]` of the sockets in a table of `/proc/net` that are bound to the port and not
/// connected.
fn inodes_of_port(table: &str, port: u16) -> Vec<String> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local) = fields.get(1)?.rsplit_once(':')?;
            let (_, remote) = fields.get(2)?.rsplit_once(':')?;
            let matches = u16::from_str_radix(local, 16).ok()? == port
                && u16::from_str_radix(remote, 16).ok()? == 0;
            matches.then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
        })
        .collect()
}

/// Ports of an `expose` entry: `80`, `80/udp`, `3000-3002`.
pub fn exposed(entry: &str) -> Option<(std::ops::RangeInclusive<u16>, Protocol)> {
    let (ports, protocol) = match entry.split_once('/') {
        None | Some((_, "tcp")) => (entry.split('/').next()?, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((ports, "sctp")) => (ports, Protocol::Sctp),
        Some(_) => return None,
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first..=last, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(host_ip: &str, published: Option<(u16, u16)>) -> PortBinding {
        PortBinding {
            host_ip: host_ip.parse().ok(),
            published,
            target: 80,
            protocol: Protocol::Tcp,
            name: None,
            app_protocol: None,
            mode: None,
        }
    }

    #[test]
    fn a_conflict_names_the_process_and_a_range_goes_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = reserve(&binding("127.0.0.1", Some((port, port))), |_| None)
            .err()
            .unwrap();
        let pid = std::process::id();
        assert!(
            error.to_string().contains(&format!("(pid {pid})")),
            "{error}"
        );
        if let Ok(next) = reserve(&binding("127.0.0.1", Some((port, port + 3))), |_| None) {
            assert!(next.published.host_port > port);
        }
    }

    #[test]
    fn a_reserved_port_is_refused_to_others_and_to_clients() {
        let reservation = reserve(&binding("", None), |_| None).unwrap();
        let port = reservation.published.host_port;
        assert!(port > 0);
        for address in ["127.0.0.1", "0.0.0.0"] {
            let error = std::net::TcpListener::bind((address, port)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        let error = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let holder = reserve(&binding("", Some((port, port))), |_| Some("web".into()))
            .err()
            .unwrap();
        assert!(holder.to_string().ends_with("in use by container web"));
    }

    #[test]
    fn exposed_ports_are_read() {
        assert_eq!(exposed("80"), Some((80..=80, Protocol::Tcp)));
        assert_eq!(exposed("53/udp"), Some((53..=53, Protocol::Udp)));
        assert_eq!(exposed("1-3/tcp"), Some((1..=3, Protocol::Tcp)));
        assert_eq!(exposed("x"), None);
    }
}
