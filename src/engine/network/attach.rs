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
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::bridge;
use super::dns::{self, Names, Outside};
use super::error::NetworkError;
use super::files;
use super::flows::Stale;
use super::link;
use super::netns::Netns;
use super::port;
use super::record::{EndpointRecord, Family, Lease, Published};
use super::state;
use super::{Networks, lock};
use crate::compose::PortBinding;
use crate::plan::{EndpointConfig, ObservedEndpoint, ObservedPort};

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
            match link::plan(&self.inner.tag, &state, container) {
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
        {
            let mut state = lock(&self.inner.state);
            let id = container.id.to_owned();
            state.endpoints.insert(id.clone(), record.clone());
            state.reserved.insert(id, record.ports.clone());
        }

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
        lock(&self.inner.state).reserved.remove(container.id);
        if let Err(error) = outcome {
            self.undo(container, old, is_new).await;
            return Err(error);
        }
        let reservations = reservations.into_iter().flatten().collect();
        Ok(self.attachment(container, &record, reservations))
    }

    /// Makes a running container be on exactly these networks: after an engine restart, after its
    /// links were damaged from outside, or because it joins or leaves a network. What it has already
    /// is left alone. Ports are those of its start; their reservations are with its shim.
    pub async fn adopt(&self, container: &Attach<'_>) -> Result<Attachment, NetworkError> {
        let (links, left, old, record) = {
            let mut state = lock(&self.inner.state);
            let old = state.lease(container.id, container.name, container.endpoints)?;
            let links = match link::plan(&self.inner.tag, &state, container) {
                Ok(links) => links,
                Err(error) => {
                    state.restore(container.id, old);
                    return Err(error);
                }
            };
            let record = state.endpoints[container.id].clone();
            let left: Vec<String> = old
                .iter()
                .flat_map(|old| &old.leases)
                .map(|lease| &lease.network)
                .filter(|network| !record.leases.iter().any(|lease| lease.network == **network))
                .flat_map(|network| bridge::port_names(&self.inner.tag, container.id, network))
                .collect();
            (links, left, old, record)
        };
        if old.as_ref() != Some(&record) {
            let journaled = self
                .inner
                .journal
                .write(container.id, Some(record.clone()))
                .await;
            if let Err(error) = journaled {
                lock(&self.inner.state).restore(container.id, old);
                return Err(error);
            }
        }
        let (route, netns) = (self.inner.route.clone(), container.netns.clone());
        let id = container.id.to_owned();
        tokio::task::spawn_blocking(move || {
            super::with_route(&route, |route| {
                for index in link::indexes(route, &left)? {
                    link::delete(route, index)?;
                }
                link::converge(route, &netns, links, &id)
            })
        })
        .await
        .map_err(|_panicked| NetworkError::CutOff {
            container: container.name.to_owned(),
        })??;
        // Its place may have become internal, or the reverse, so it starts anew.
        self.inner.resolver.stop(container.id).await;
        self.expose(container, &record).await?;
        Ok(self.attachment(container, &record, Vec::new()))
    }

    /// Takes a dead container off its networks; its addresses stay its own. Never fails half-way:
    /// every step is tried, and the first failure is returned.
    pub async fn detach(&self, container: &str) -> Result<(), NetworkError> {
        self.inner.resolver.stop(container).await;
        let unpublished = lock(&self.inner.firewall).publish(container, Vec::new());
        let (stale, networks) = {
            let mut state = lock(&self.inner.state);
            let networks = state.attached.remove(container).unwrap_or_default();
            let stale = state
                .endpoints
                .get(container)
                .map(|record| Stale {
                    addresses: addresses(record),
                    ports: record.ports.clone(),
                })
                .unwrap_or_default();
            (stale, networks)
        };
        if networks.is_empty() {
            return unpublished;
        }
        let names: Vec<String> = networks
            .iter()
            .flat_map(|network| bridge::port_names(&self.inner.tag, container, network))
            .collect();
        let flows = self.inner.flows.clone();
        tokio::spawn(async move {
            if let Err(error) = flows.forget(stale).await {
                tracing::warn!(%error, "connections of a stopped container stay");
            }
        });
        let route = self.inner.route.clone();
        let lingering = tokio::task::spawn_blocking(move || {
            super::with_route(&route, |route| link::silence(route, &names))
        })
        .await
        .map_err(|_panicked| NetworkError::CutOff {
            container: container.to_owned(),
        })?;
        let cleaned = lingering.map(|links| self.watch_links_die(links));
        unpublished.and(cleaned)
    }

    /// Links die with the namespace, whose teardown the kernel batches. Only what somebody still
    /// holds after a while is deleted, by index, so that links of the same name made meanwhile are
    /// safe.
    fn watch_links_die(&self, links: Vec<u32>) {
        if links.is_empty() {
            return;
        }
        lock(&self.inner.lingering).extend(&links);
        let networks = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            tokio::time::sleep(LINGERING).await;
            // An engine that has ended took care of them.
            let Some(inner) = networks.upgrade() else {
                return;
            };
            let networks = Networks { inner };
            if let Err(error) = networks.delete_lingering(Some(links)).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "links of a stopped container stay"
                );
            }
        });
    }

    /// Deletes what is left of containers that have ended. To be called before the engine ends:
    /// nobody else comes back for it.
    pub async fn close(&self) -> Result<(), NetworkError> {
        self.delete_lingering(None).await
    }

    /// `None`: all of them.
    async fn delete_lingering(&self, links: Option<Vec<u32>>) -> Result<(), NetworkError> {
        let due: Vec<u32> = {
            let mut lingering = lock(&self.inner.lingering);
            match links {
                Some(links) => links
                    .into_iter()
                    .filter(|link| lingering.remove(link))
                    .collect(),
                None => std::mem::take(&mut *lingering).into_iter().collect(),
            }
        };
        if due.is_empty() {
            return Ok(());
        }
        let route = self.inner.route.clone();
        tokio::task::spawn_blocking(move || {
            super::with_route(&route, |route| link::delete_all(route, &due))
        })
        .await
        .map_err(|_panicked| NetworkError::CutOff {
            container: "stopped containers".to_owned(),
        })?
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

    fn reserve(&self, container: &Attach<'_>) -> Result<Vec<port::Reservation>, NetworkError> {
        let has_gateway = {
            let state = lock(&self.inner.state);
            Family::BOTH.map(|family| {
                state
                    .gateway_endpoint(container.endpoints, family)
                    .is_some()
            })
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
                    let (protocol, host_ip) = (binding.protocol, binding.host_ip);
                    let published = lock(&self.inner.firewall)
                        .holder(port, protocol, host_ip)
                        .map(str::to_owned);
                    let state = lock(&self.inner.state);
                    let holder = match &published {
                        Some(holder) => holder,
                        None => state.reserved_for(port, protocol, host_ip)?,
                    };
                    Some(state.name_of(holder))
                })
            })
            .collect()
    }

    async fn make_links(
        &self,
        container: &str,
        netns: &Netns,
        links: Vec<link::LinkPlan>,
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
            let host_names = super::with_route(&route, |route| {
                links
                    .iter()
                    .map(|link| link::make(route, &netns, link, &id))
                    .collect::<Result<Vec<String>, _>>()
            })?;
            // In the container's own namespace and by its own socket, beside other containers.
            for link in &links {
                link::configure(&netns, link)?;
            }
            super::with_route(&route, |route| {
                for (link, host_name) in links.iter().zip(&host_names) {
                    link::settle(route, &netns, link, host_name)?;
                }
                Ok(())
            })
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
            let stale = Stale {
                addresses: Vec::new(),
                ports: record.ports.clone(),
            };
            self.inner
                .flows
                .forget(stale)
                .await
                .map_err(NetworkError::Flows)?;
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
            let networks = state
                .endpoints
                .get(container.id)
                .into_iter()
                .flat_map(|record| &record.leases)
                .map(|lease| lease.network.clone())
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
            .gateway_endpoint(container.endpoints, Family::V4)
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
