//! A container's life on its networks: attach before its process starts, detach after it is dead.
//!
//! ```text
//! lease ─▶ reserve ports ─▶ ┬ links, addresses, routes (blocking) ┬ ─▶ publish ─▶ names
//!                           └ record on disk (shared commit)      ┘
//! ```
//!
//! A failure undoes the steps before it. Every step is create-or-adopt under names that follow from
//! the container's id, so a repeated attach finds its own traces.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use ipnet::IpNet;

use super::bridge;
use super::dns::{self, Names, Outside};
use super::error::NetworkError;
use super::files;
use super::firewall::protocol_number;
use super::netns::Netns;
use super::port;
use super::record::{EndpointRecord, Lease, Published};
use super::state::{self, State};
use super::{Networks, lock};
use crate::compose::PortBinding;
use crate::plan::{EndpointConfig, ObservedEndpoint, ObservedPort};
use crate::sys::conntrack::Conntrack;
use crate::sys::netlink::Refusal;
use crate::sys::route::{Changes, LinkLocal, Mac, Port, Route, Veth};

/// A container that is to be on networks.
#[derive(Clone, Copy)]
pub struct Attach<'a> {
    /// 64 hex digits.
    pub id: &'a str,
    pub name: &'a str,
    pub hostname: &'a str,
    pub domainname: Option<&'a str>,
    pub netns: &'a Netns,
    /// The first is `eth0`.
    pub endpoints: &'a [EndpointConfig],
    pub ports: &'a [PortBinding],
    pub expose: &'a [String],
    pub dns: &'a [IpAddr],
    pub dns_search: &'a [String],
    pub dns_opt: &'a [String],
    pub extra_hosts: &'a [(String, String)],
}

/// What came of it.
pub struct Attachment {
    pub endpoints: Vec<ObservedEndpoint>,
    pub ports: Vec<ObservedPort>,
    /// Sockets that keep the published ports from others for as long as a process holds them.
    pub reservations: Vec<OwnedFd>,
    pub hosts_file: String,
    pub resolv_conf: String,
}

/// One link to make, with everything looked up.
struct LinkPlan {
    host_name: String,
    host_mac: Mac,
    name: String,
    mac: Mac,
    /// Bytes.
    mtu: u32,
    bridge: String,
    addresses: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    has_v6: bool,
    port: Port,
}

/// Of an interface name, without the terminating zero.
const MAX_NAME_BYTES: usize = 15;
const SHORT_ID_CHARS: usize = 12;
/// How long a dead container's links may wait for their namespace to end.
const LINGERING: Duration = Duration::from_secs(1);

impl Networks {
    /// Puts a container on its networks. On failure nothing is left of it but, if it had one
    /// before, its lease.
    pub async fn attach(&self, container: &Attach<'_>) -> Result<Attachment, NetworkError> {
        let (links, old, record) = {
            let mut state = lock(&self.inner.state);
            let old = state.lease(container.id, container.name, container.endpoints)?;
            match self.plan_links(&state, container) {
                Ok(links) => {
                    let record = state.endpoints[container.id].clone();
                    (links, old, record)
                }
                Err(error) => {
                    state.restore(container.id, old);
                    return Err(error);
                }
            }
        };
        let reserved = match self.reserve(container) {
            Ok(reserved) => reserved,
            Err(error) => {
                lock(&self.inner.state).restore(container.id, old);
                return Err(error);
            }
        };
        let (ports, reservations): (Vec<Published>, Vec<Vec<OwnedFd>>) = reserved
            .into_iter()
            .map(|reservation| (reservation.published, reservation.sockets))
            .unzip();
        let record = EndpointRecord { ports, ..record };
        lock(&self.inner.state)
            .endpoints
            .insert(container.id.to_owned(), record.clone());

        let is_new = old.as_ref() != Some(&record);
        let persisted = async {
            if is_new {
                let record = record.clone();
                self.inner.journal.write(container.id, Some(record)).await?;
            }
            Ok::<(), NetworkError>(())
        };
        let (linked, persisted) = tokio::join!(
            self.make_links(container.id, container.netns, links),
            persisted
        );
        let outcome = match linked.and(persisted) {
            Ok(()) => self.expose(container, &record).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.undo(container, old, is_new).await;
            return Err(error);
        }
        let reservations = reservations.into_iter().flatten().collect();
        Ok(self.attachment(container, &record, reservations))
    }

    /// Takes over a container that runs already, after an engine restart: its links stay as they
    /// are, its names and ports are made to hold again. The reservations are with its shim.
    pub async fn adopt(&self, container: &Attach<'_>) -> Result<Attachment, NetworkError> {
        let record = lock(&self.inner.state)
            .endpoints
            .get(container.id)
            .cloned()
            .ok_or_else(|| NetworkError::CutOff {
                container: container.name.to_owned(),
            })?;
        // A bridge that was made again has lost its ports.
        let links = self.plan_links(&lock(&self.inner.state), container)?;
        let route = self.inner.route.clone();
        let id = container.id.to_owned();
        tokio::task::spawn_blocking(move || {
            super::with_route(&route, |route| {
                for link in &links {
                    restore_port(route, link, &id)?;
                }
                Ok(())
            })
        })
        .await
        .map_err(|_panicked| NetworkError::CutOff {
            container: container.name.to_owned(),
        })??;
        self.expose(container, &record).await?;
        Ok(self.attachment(container, &record, Vec::new()))
    }

    /// Takes a dead container off its networks; its addresses stay its own. Never fails half-way:
    /// every step is tried, and the first failure is returned.
    pub async fn detach(&self, container: &str) -> Result<(), NetworkError> {
        let t0 = std::time::Instant::now();
        self.inner.resolver.stop(container).await;
        let t1 = t0.elapsed();
        let unpublished = lock(&self.inner.firewall).publish(container, Vec::new());
        let t2 = t0.elapsed();
        let (addresses, ports, n_links) = {
            let mut state = lock(&self.inner.state);
            let n_links = state
                .attached
                .remove(container)
                .map_or(0, |networks| networks.len());
            match state.endpoints.get(container) {
                Some(record) => (addresses(record), record.ports.clone(), n_links),
                None => (Vec::new(), Vec::new(), n_links),
            }
        };
        if n_links == 0 {
            return unpublished;
        }
        let names: Vec<String> = (0..n_links)
            .map(|index| bridge::port_name(&self.inner.tag, container, index))
            .collect();
        let route = self.inner.route.clone();
        let inner = self.inner.clone();
        let work = tokio::task::spawn_blocking(move || {
            let lingering = super::with_route(&route, |route| indexes(route, &names));
            let forgotten = forget_flows(&inner.conntrack, &addresses, &ports);
            forgotten.and(lingering)
        });
        let lingering = work.await.map_err(|_panicked| NetworkError::CutOff {
            container: container.to_owned(),
        })?;
        eprintln!("T {t1:?} {t2:?} {:?}", t0.elapsed());
        let cleaned = lingering.map(|links| self.watch_links_die(links));
        unpublished.and(cleaned)
    }

    /// Links die with the namespace, whose teardown the kernel batches: 50 in the time that deleting
    /// two by hand takes. Only what somebody still holds after a while is deleted, by index, so that
    /// links of the same name made meanwhile are safe.
    fn watch_links_die(&self, links: Vec<u32>) {
        if links.is_empty() {
            return;
        }
        let route = self.inner.route.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGERING).await;
            let deleted = tokio::task::spawn_blocking(move || {
                super::with_route(&route, |route| {
                    for index in links {
                        delete_link(route, index)?;
                    }
                    Ok(())
                })
            });
            if let Ok(Err(error)) = deleted.await {
                tracing::warn!(%error, "links of a stopped container stay");
            }
        });
    }

    /// Gives up a removed container's addresses.
    pub async fn release(&self, container: &str) -> Result<(), NetworkError> {
        let known = lock(&self.inner.state).endpoints.remove(container);
        match known {
            Some(_) => self.inner.journal.write(container, None).await,
            None => Ok(()),
        }
    }

    /// The container's own name becomes another, for those who ask and in the records.
    pub async fn rename(&self, container: &str, new_name: &str) -> Result<(), NetworkError> {
        let record = {
            let mut state = lock(&self.inner.state);
            let Some(record) = state.endpoints.get_mut(container) else {
                return Ok(());
            };
            record.name = new_name.to_owned();
            record.clone()
        };
        self.inner.resolver.zone(|zone| {
            let Some(places) = zone.places(container) else {
                return;
            };
            let mut places = places.to_vec();
            for place in &mut places {
                if let Some(own) = place.names.first_mut() {
                    *own = new_name.to_owned();
                }
            }
            zone.insert(container, places);
        });
        self.inner.journal.write(container, Some(record)).await
    }

    fn plan_links(
        &self,
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
        let is_gateway = |endpoint: &EndpointConfig, is_v6: bool| {
            state
                .gateway_endpoint(container.endpoints, is_v6)
                .is_some_and(|(chosen, _)| std::ptr::eq(chosen, endpoint))
        };
        let is_filtered = !container.ports.is_empty() && bridge::is_filtered();
        let mut links = Vec::new();
        let mut n_automatic = 0;
        for (index, (endpoint, lease)) in container.endpoints.iter().zip(&record.leases).enumerate()
        {
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
            for (is_v6, address) in [(false, lease.ipv4), (true, lease.ipv6)] {
                let (Some(address), Some(pool)) = (address, network.pool(is_v6)) else {
                    continue;
                };
                addresses.extend(IpNet::new(address, pool.subnet.prefix_len()));
                if is_gateway(endpoint, is_v6) {
                    gateways.push(pool.gateway);
                }
            }
            let host_name = bridge::port_name(&self.inner.tag, container.id, index);
            links.push(LinkPlan {
                host_mac: bridge::mac(&host_name),
                host_name,
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

    fn reserve(&self, container: &Attach<'_>) -> Result<Vec<port::Reservation>, NetworkError> {
        let has_gateway = {
            let state = lock(&self.inner.state);
            [false, true].map(|is_v6| state.gateway_endpoint(container.endpoints, is_v6).is_some())
        };
        // From an internal network nothing is published, as in Docker.
        if has_gateway == [false, false] {
            return Ok(Vec::new());
        }
        container
            .ports
            .iter()
            .map(|binding| {
                port::reserve(binding, |port| {
                    let firewall = lock(&self.inner.firewall);
                    let holder = firewall
                        .holder(port, binding.protocol, binding.host_ip)?
                        .to_owned();
                    drop(firewall);
                    Some(lock(&self.inner.state).name_of(&holder))
                })
            })
            .collect()
    }

    async fn make_links(
        &self,
        container: &str,
        netns: &Netns,
        links: Vec<LinkPlan>,
    ) -> Result<(), NetworkError> {
        if links.is_empty() {
            return Ok(());
        }
        let (route, netns, id) = (
            self.inner.route.clone(),
            netns.clone(),
            container.to_owned(),
        );
        tokio::task::spawn_blocking(move || {
            super::with_route(&route, |route| {
                for link in &links {
                    make_link(route, &netns, link, &id)?;
                }
                Ok(())
            })?;
            // In the container's own namespace and by its own socket, beside other containers.
            for link in &links {
                configure(&netns, link)?;
            }
            Ok(())
        })
        .await
        .map_err(|_panicked| NetworkError::CutOff {
            container: container.to_owned(),
        })?
    }

    /// Ports and names: what others see of a container whose links are up.
    async fn expose(
        &self,
        container: &Attach<'_>,
        record: &EndpointRecord,
    ) -> Result<(), NetworkError> {
        let rules = {
            let mut state = lock(&self.inner.state);
            let networks = record
                .leases
                .iter()
                .map(|lease| lease.network.clone())
                .collect();
            state.attached.insert(container.id.to_owned(), networks);
            state.port_rules(container.id, container.endpoints, &record.ports)
        };
        let has_udp = rules
            .iter()
            .any(|rule| rule.protocol == crate::compose::Protocol::Udp);
        if !rules.is_empty() {
            lock(&self.inner.firewall).publish(container.id, rules)?;
        }
        if has_udp {
            // A client that kept sending while nobody listened has a flow that leads nowhere.
            let (inner, ports) = (self.inner.clone(), record.ports.clone());
            tokio::task::spawn_blocking(move || forget_flows(&inner.conntrack, &[], &ports))
                .await
                .map_err(|_panicked| NetworkError::CutOff {
                    container: container.name.to_owned(),
                })??;
        }
        if container.endpoints.is_empty() {
            return Ok(());
        }
        let failed = |source| NetworkError::Resolver {
            container: container.name.to_owned(),
            source,
        };
        let (resolver, netns) = (self.inner.resolver.clone(), container.netns.clone());
        let (sockets, redirection) =
            tokio::task::spawn_blocking(move || resolver.redirect_netns(&netns))
                .await
                .map_err(|error| failed(std::io::Error::other(error)))?
                .map_err(failed)?;
        tracing::debug!(container = container.name, ?redirection, "resolver ready");
        let is_internal = {
            let state = lock(&self.inner.state);
            container.endpoints.iter().all(|endpoint| {
                state
                    .network(&endpoint.network)
                    .is_some_and(|network| network.config.internal)
            })
        };
        let route = if !container.dns.is_empty() {
            dns::Route::Own(dns::own_servers(container.netns, container.dns).map_err(failed)?)
        } else if is_internal {
            dns::Route::Closed
        } else {
            dns::Route::Host
        };
        let has_ndots = container.dns_opt.iter().any(|option| {
            option
                .strip_prefix("ndots:")
                .is_some_and(|number| number != "0")
        });
        let outside = match &route {
            dns::Route::Closed => Outside::Closed,
            _ if has_ndots => Outside::OnlyDotted,
            _ => Outside::Open,
        };
        let places = places(container, &record.leases);
        self.inner
            .resolver
            .start(container.id, sockets, places, route, outside);
        Ok(())
    }

    /// After a failed attach. What cannot be undone is logged: the caller gets the first cause.
    async fn undo(&self, container: &Attach<'_>, old: Option<EndpointRecord>, is_new: bool) {
        {
            // So that detach looks for all links, made or not.
            let mut state = lock(&self.inner.state);
            let networks = container
                .endpoints
                .iter()
                .map(|endpoint| endpoint.network.clone())
                .collect();
            state.attached.insert(container.id.to_owned(), networks);
        }
        if let Err(error) = self.detach(container.id).await {
            tracing::warn!(%error, container = container.name, "cannot undo a failed attach");
        }
        lock(&self.inner.state).restore(container.id, old.clone());
        if is_new && let Err(error) = self.inner.journal.write(container.id, old).await {
            tracing::warn!(%error, container = container.name, "cannot undo a lease");
        }
    }

    fn attachment(
        &self,
        container: &Attach<'_>,
        record: &EndpointRecord,
        reservations: Vec<OwnedFd>,
    ) -> Attachment {
        let state = lock(&self.inner.state);
        let endpoints = record
            .leases
            .iter()
            .map(|lease| ObservedEndpoint {
                network: lease.network.clone(),
                network_id: state
                    .networks
                    .get(&lease.network)
                    .map(|network| network.id.0.clone())
                    .unwrap_or_default(),
                ipv4: lease.ipv4,
                ipv6: lease.ipv6,
                mac: Some(state::format_mac(lease.mac)),
            })
            .collect();
        let host_gateway = state
            .gateway_endpoint(container.endpoints, false)
            .map(|(_, network)| network)
            .or_else(|| {
                let first = record.leases.first()?;
                state.networks.get(&first.network)
            })
            .and_then(|network| network.pools.first())
            .map(|pool| pool.gateway);
        drop(state);
        let host = self.inner.resolver.host();
        let resolv_conf = if container.endpoints.is_empty() {
            files::plain_resolv_conf(
                &host,
                container.dns,
                container.dns_search,
                container.dns_opt,
            )
        } else {
            files::resolv_conf(&host, container.dns_search, container.dns_opt)
        };
        Attachment {
            endpoints,
            ports: observed_ports(record, container.expose),
            reservations,
            hosts_file: files::hosts(&files::Hosts {
                hostname: container.hostname,
                domainname: container.domainname,
                addresses: &addresses(record),
                extra_hosts: container.extra_hosts,
                host_gateway,
            }),
            resolv_conf,
        }
    }
}

fn addresses(record: &EndpointRecord) -> Vec<IpAddr> {
    record
        .leases
        .iter()
        .flat_map(|lease| [lease.ipv4, lease.ipv6])
        .flatten()
        .collect()
}

fn observed_ports(record: &EndpointRecord, expose: &[String]) -> Vec<ObservedPort> {
    let mut ports: Vec<ObservedPort> = record
        .ports
        .iter()
        .map(|port| ObservedPort {
            host_ip: port.host_ip,
            host_port: Some(port.host_port),
            container_port: port.container_port,
            protocol: port.protocol,
        })
        .collect();
    for (range, protocol) in expose.iter().filter_map(|entry| port::exposed(entry)) {
        for container_port in range {
            let is_known = ports
                .iter()
                .any(|port| port.container_port == container_port && port.protocol == protocol);
            if !is_known {
                ports.push(ObservedPort {
                    host_ip: None,
                    host_port: None,
                    container_port,
                    protocol,
                });
            }
        }
    }
    ports
}

/// What the container is called on each network.
fn places(container: &Attach<'_>, leases: &[Lease]) -> Vec<Names> {
    let short_id = container.id.get(..SHORT_ID_CHARS).unwrap_or(container.id);
    container
        .endpoints
        .iter()
        .zip(leases)
        .map(|(endpoint, lease)| {
            let mut names = vec![container.name.to_owned()];
            names.extend(endpoint.aliases.iter().cloned());
            names.push(short_id.to_owned());
            if !container.hostname.is_empty() {
                names.push(container.hostname.to_owned());
            }
            if let Some(domain) = container.domainname.filter(|domain| !domain.is_empty()) {
                names.push(format!("{}.{domain}", container.hostname));
            }
            Names {
                network: lease.network.clone(),
                addresses: [lease.ipv4, lease.ipv6].into_iter().flatten().collect(),
                names,
                links: endpoint.links.clone(),
            }
        })
        .collect()
}

fn link_error(action: &'static str, name: &str) -> impl FnOnce(Refusal) -> NetworkError + use<> {
    let object = format!("link {name}");
    move |source| NetworkError::Link {
        action,
        object,
        source,
    }
}

fn make_link(
    route: &mut Route,
    netns: &Netns,
    link: &LinkPlan,
    container: &str,
) -> Result<(), NetworkError> {
    let master = route
        .link(&link.bridge)
        .map_err(link_error("find", &link.bridge))?
        .ok_or_else(|| NetworkError::NotFound(link.bridge.clone()))?
        .index;
    let veth = Veth {
        name: &link.host_name,
        mac: link.host_mac,
        peer_name: &link.name,
        peer_mac: link.mac,
        mtu: link.mtu,
        master,
        peer_netns: netns.as_fd(),
        alias: container,
    };
    let add = |changes: &mut Changes| {
        changes.add_veth(&veth);
        if link.port != Port::default() {
            changes.set_port(&link.host_name, link.port);
        }
    };
    let mut changes = Changes::default();
    add(&mut changes);
    match route.apply(changes) {
        // Left over from an attach that was cut off; its other end is in a namespace that nobody
        // uses.
        Err(refusal) if refusal.raw_os_error() == libc::EEXIST => {
            let mut changes = Changes::default();
            changes.delete_link(&link.host_name);
            add(&mut changes);
            route.apply(changes)
        }
        outcome => outcome,
    }
    .map_err(link_error("create", &link.host_name))
}

/// Puts an existing host end back on its bridge.
fn restore_port(route: &mut Route, link: &LinkPlan, container: &str) -> Result<(), NetworkError> {
    let Some(found) = route
        .link(&link.host_name)
        .map_err(link_error("find", &link.host_name))?
    else {
        return Ok(());
    };
    let master = route
        .link(&link.bridge)
        .map_err(link_error("find", &link.bridge))?
        .ok_or_else(|| NetworkError::NotFound(link.bridge.clone()))?
        .index;
    if found.master == Some(master) && found.is_up {
        return Ok(());
    }
    let mut changes = Changes::default();
    changes.enslave(&link.host_name, master, container);
    changes.set_port(&link.host_name, link.port);
    route
        .apply(changes)
        .map_err(link_error("restore", &link.host_name))
}

/// Inside the container. Addresses come before the link goes up, because going up announces them.
fn configure(netns: &Netns, link: &LinkPlan) -> Result<(), NetworkError> {
    netns.with_route(|route| {
        let index = route
            .link(&link.name)
            .map_err(link_error("find", &link.name))?
            .ok_or_else(|| NetworkError::NotFound(link.name.clone()))?
            .index;
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

fn delete_link(route: &mut Route, index: u32) -> Result<(), NetworkError> {
    let mut changes = Changes::default();
    changes.delete_link_by_index(index);
    match route.apply(changes) {
        // Gone with its namespace.
        Err(refusal) if refusal.raw_os_error() == libc::ENODEV => Ok(()),
        outcome => outcome.map_err(link_error("delete", &format!("number {index}"))),
    }
}

/// Those of the links that exist.
fn indexes(route: &mut Route, names: &[String]) -> Result<Vec<u32>, NetworkError> {
    let mut found = Vec::new();
    for name in names {
        let link = route.link(name).map_err(link_error("find", name))?;
        found.extend(link.map(|link| link.index));
    }
    Ok(found)
}

/// Forgets flows from and to the addresses, and UDP flows to the host ports: they would go on to a
/// container that is gone.
fn forget_flows(
    conntrack: &Mutex<Option<Conntrack>>,
    addresses: &[IpAddr],
    ports: &[Published],
) -> Result<(), NetworkError> {
    let mut guard = lock(conntrack);
    let conntrack = match &mut *guard {
        Some(open) => open,
        empty => empty.insert(Conntrack::open().map_err(NetworkError::Netlink)?),
    };
    let forgotten = conntrack.forget(|flow| {
        let is_of_container = addresses.iter().any(|address| {
            [
                flow.original.source,
                flow.original.destination,
                flow.reply.source,
            ]
            .contains(address)
        });
        let is_of_port = ports.iter().any(|port| {
            let protocol = protocol_number(port.protocol);
            flow.original.protocol == protocol
                && port.protocol == crate::compose::Protocol::Udp
                && flow.original.destination_port == port.host_port
        });
        is_of_container || is_of_port
    });
    forgotten.map(drop).map_err(|source| NetworkError::Link {
        action: "forget",
        object: "the connections of a container".to_owned(),
        source,
    })
}
