//! Networks of containers: bridges, addresses, names, published ports and the packet filter.
//!
//! ```text
//! create/remove ─▶ ipam ─▶ store ─▶ bridge ─▶ firewall
//! attach/detach ─▶ state (leases) ─▶ port ─▶ links in the container's netns ─▶ firewall ─▶ dns
//! open          ─▶ kernel compared with the records: made again, adopted or removed
//! ```
//!
//! Everything in the kernel carries the engine's tag in its name, follows from the records, and can
//! be made again from them. Without networks the engine touches nothing: no table, no sysctl.
//!
//! Knows containers by id, name and namespace only.

mod attach;
mod bridge;
mod dns;
mod error;
mod files;
mod firewall;
mod flows;
mod flushed;
mod host;
mod ipam;
mod journal;
mod link;
mod netns;
mod news;
mod port;
mod record;
mod rules;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use crate::compose::IpamPool;
use crate::engine::Roots;
use crate::engine::store::{Batch, Store, Table};
use crate::plan::{NetworkConfig, ObservedNetwork};
use crate::sys::nft::{Element, Nft};
use crate::sys::route::{Changes, Route};

pub use attach::{Attach, Attachment};
pub use error::NetworkError;
pub use netns::Netns;
pub use record::{NetworkId, NetworkRecord, Pool};

use dns::Resolver;
use firewall::{BridgeRule, Firewall, PortRule};
use flows::Flows;
use journal::Journal;
use record::{EndpointRecord, Family, Forwarding};
use state::State;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const BRIDGE: &str = "bridge";

/// All networks of one engine. Clones share them.
#[derive(Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

/// The host's rtnetlink socket, opened when it is first needed.
type SharedRoute = Arc<Mutex<Option<Route>>>;

struct Inner {
    tag: String,
    store: Store,
    journal: Journal,
    state: Mutex<State>,
    firewall: Mutex<Firewall>,
    is_table_watched: AtomicBool,
    is_host_watched: AtomicBool,
    route: SharedRoute,
    /// Links of containers that have ended, whose namespaces have not: by index.
    lingering: Mutex<BTreeSet<u32>>,
    flows: Flows,
    resolver: Arc<Resolver>,
    /// One network is made or removed at a time, so that two cannot choose the same subnet.
    changing: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a critical section is a bug that is reported by its task; the state behind these
    // locks is corrected by the next attach, and refusing all of them would take every container
    // down with the one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_route<T>(
    route: &SharedRoute,
    work: impl FnOnce(&mut Route) -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    let mut guard = lock(route);
    if guard.is_none() {
        *guard = Some(Route::open().map_err(NetworkError::Netlink)?);
    }
    // Just filled if it was empty.
    work(guard.as_mut().expect("an open socket"))
}

impl Networks {
    /// Takes over what an earlier engine left: makes recorded networks again where they are gone,
    /// and removes bridges, links and rules of this engine's tag that no record knows.
    ///
    /// Ports of containers that were published stay so without a gap; containers that run are to be
    /// given to [`Networks::adopt`], those that died meanwhile to [`Networks::detach`].
    pub fn open(store: Store, roots: &Roots) -> Result<Networks, NetworkError> {
        Networks::open_with(store, &roots.tag(), Path::new(RESOLV_CONF))
    }

    fn open_with(store: Store, tag: &str, resolv_conf: &Path) -> Result<Networks, NetworkError> {
        let networks: BTreeMap<String, NetworkRecord> =
            store.list(Table::Networks)?.into_iter().collect();
        let endpoints = store
            .list::<EndpointRecord>(Table::Endpoints)?
            .into_iter()
            .collect();
        let opened = Networks {
            inner: Arc::new(Inner {
                tag: tag.to_owned(),
                journal: Journal::new(store.clone()),
                store,
                state: Mutex::new(State::new(networks, endpoints)),
                firewall: Mutex::new(Firewall::new(tag)),
                is_table_watched: AtomicBool::new(false),
                is_host_watched: AtomicBool::new(false),
                route: SharedRoute::default(),
                lingering: Mutex::default(),
                flows: Flows::default(),
                resolver: Arc::new(Resolver::new(resolv_conf)),
                changing: tokio::sync::Mutex::default(),
            }),
        };
        opened.converge()?;
        Ok(opened)
    }

    /// The cgroup2 directory under which all containers of the engine are. With it, names are
    /// redirected by a few programs for all containers; without it, by a table in each.
    pub fn use_cgroup(&self, path: &Path) {
        self.inner.resolver.use_cgroup(path);
    }

    /// Makes the kernel match the records; to be called again when something from outside has
    /// damaged bridges or rules. Links of running containers are kept.
    pub fn converge(&self) -> Result<(), NetworkError> {
        let tag = &self.inner.tag;
        let networks: Vec<NetworkRecord> =
            lock(&self.inner.state).networks.values().cloned().collect();
        with_route(&self.inner.route, |route| {
            self.adopt_links(route)?;
            for network in &networks {
                bridge::converge(route, network)?;
            }
            Ok(())
        })?;
        let mut firewall = lock(&self.inner.firewall);
        if networks.is_empty() {
            // An engine without networks has to start where there is no nf_tables, or no right to
            // it; the first network says what is missing.
            if let Err(error) = firewall.remove() {
                tracing::debug!(%error, "cannot look for a left-over table");
            }
            return Ok(());
        }
        let ports = self.published_now(&format!("wharf{tag}"))?;
        let known: Forwarding = self.forwarding()?;
        let rules = networks.iter().map(rule).collect();
        let guarded: BTreeSet<String> = known.guarded.iter().cloned().collect();
        firewall.replace(rules, guarded, ports)?;
        self.watch_table(&firewall);
        self.watch_host();
        for network in networks.iter().filter(|network| !network.config.internal) {
            self.forward(&mut firewall, network)?;
        }
        Ok(())
    }

    /// From the first time on that others could remove our table.
    fn watch_table(&self, firewall: &Firewall) {
        if firewall.is_exposed() && !self.inner.is_table_watched.swap(true, Ordering::Relaxed) {
            flushed::watch(Arc::downgrade(&self.inner));
        }
    }

    /// From the first network on.
    fn watch_host(&self) {
        if !self.inner.is_host_watched.swap(true, Ordering::Relaxed) {
            news::watch(&Arc::downgrade(&self.inner));
        }
    }

    /// Removes links of our tag that belong to nothing recorded, and notes those that do.
    fn adopt_links(&self, route: &mut Route) -> Result<(), NetworkError> {
        let tag = &self.inner.tag;
        let mut state = lock(&self.inner.state);
        let mut ours: BTreeMap<String, String> = BTreeMap::new();
        for (id, record) in &state.endpoints {
            for lease in &record.leases {
                for name in bridge::port_names(tag, id, &lease.network) {
                    ours.insert(name, id.clone());
                }
            }
        }
        let bridges: BTreeSet<String> = state
            .networks
            .values()
            .map(|network| network.bridge.clone())
            .collect();
        let links = route.links().map_err(|source| NetworkError::Link {
            action: "list",
            object: "links".to_owned(),
            source,
        })?;
        let mut changes = Changes::default();
        for link in links {
            // The lengths keep engines apart whose tag is a beginning of another's.
            let is_port = link.name.starts_with(&bridge::port_prefix(tag))
                && link.name.len() == bridge::port_prefix(tag).len() + 8;
            let is_bridge = link.name.starts_with(&bridge::prefix(tag))
                && link.name.len() == bridge::prefix(tag).len() + 8;
            match ours.get(&link.name) {
                Some(id) => {
                    let networks = state.endpoints[id]
                        .leases
                        .iter()
                        .map(|lease| lease.network.clone())
                        .collect();
                    state.attached.insert(id.clone(), networks);
                }
                None if is_port || (is_bridge && !bridges.contains(&link.name)) => {
                    changes.delete_link(&link.name);
                }
                None => {}
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        match route.apply(changes) {
            // It went by itself meanwhile.
            Err(refusal) if refusal.raw_os_error() == libc::ENODEV => Ok(()),
            outcome => outcome.map_err(|source| NetworkError::Link {
                action: "remove",
                object: "left-over links".to_owned(),
                source,
            }),
        }
    }

    /// The recorded ports that the kernel's table has now, by container.
    fn published_now(&self, table: &str) -> Result<BTreeMap<String, Vec<PortRule>>, NetworkError> {
        let mut nft = Nft::open().map_err(NetworkError::Netlink)?;
        let mut present: BTreeSet<(&'static str, Element)> = BTreeSet::new();
        for map in firewall::MAPS {
            match nft.elements(table, map) {
                Ok(elements) => present.extend(elements.into_iter().map(|element| (map, element))),
                Err(refusal) if refusal.raw_os_error() == libc::ENOENT => {}
                Err(source) => {
                    return Err(NetworkError::Firewall {
                        action: "read",
                        table: table.to_owned(),
                        source,
                    });
                }
            }
        }
        let state = lock(&self.inner.state);
        let mut published = BTreeMap::new();
        for (id, record) in &state.endpoints {
            // The record does not say which of its addresses the ports led to.
            let rules: BTreeSet<PortRule> = record
                .leases
                .iter()
                .flat_map(|lease| state::rules(&record.ports, [lease.ipv4, lease.ipv6]))
                .filter(|rule| present.contains(&rule.element()))
                .collect();
            if !rules.is_empty() {
                published.insert(id.clone(), rules.into_iter().collect());
            }
        }
        Ok(published)
    }

    fn forwarding(&self) -> Result<Forwarding, NetworkError> {
        let known = self
            .inner
            .store
            .get::<Forwarding>(Table::Meta, Forwarding::KEY)?;
        Ok(known.unwrap_or_default())
    }

    /// Turns forwarding on for a network, with everything else on the host kept as closed as it was.
    fn forward(
        &self,
        firewall: &mut Firewall,
        network: &NetworkRecord,
    ) -> Result<(), NetworkError> {
        let known = self.forwarding()?;
        let needs_v6 = network.pool(Family::V6).is_some();
        let changed = with_route(&self.inner.route, |route| {
            host::forward(route, &self.inner.tag, needs_v6, &known)
        })?;
        let Some(forwarding) = changed else {
            return Ok(());
        };
        self.inner
            .store
            .put(Table::Meta, Forwarding::KEY, &forwarding)?;
        firewall.guard(&forwarding.guarded)?;
        host::switch_on(&forwarding)
    }

    /// Makes a network; one that exists with the same configuration is given as it is.
    pub async fn create(&self, config: &NetworkConfig) -> Result<NetworkId, NetworkError> {
        let _turn = self.inner.changing.lock().await;
        if let Some(known) = lock(&self.inner.state).networks.get(&config.name) {
            return if known.config == *config {
                Ok(known.id.clone())
            } else {
                Err(NetworkError::Differs(config.name.clone()))
            };
        }
        let (networks, config) = (self.clone(), config.clone());
        let name = config.name.clone();
        tokio::task::spawn_blocking(move || networks.make(config))
            .await
            .map_err(|_panicked| NetworkError::CutOff { container: name })?
    }

    fn make(&self, config: NetworkConfig) -> Result<NetworkId, NetworkError> {
        if !config.driver.is_empty() && config.driver != BRIDGE && config.driver != "default" {
            return Err(NetworkError::Unsupported {
                driver: config.driver,
            });
        }
        let record = self.decide(config)?;
        let name = record.config.name.clone();
        // The intent first: whatever happens from here on, the next engine finishes or removes it.
        self.inner.store.put(Table::Networks, &name, &record)?;
        let made = with_route(&self.inner.route, |route| bridge::converge(route, &record))
            .and_then(|_index| {
                let mut firewall = lock(&self.inner.firewall);
                firewall.add_bridge(rule(&record))?;
                self.watch_table(&firewall);
                self.watch_host();
                if record.config.internal {
                    return Ok(());
                }
                self.forward(&mut firewall, &record)
            });
        if let Err(error) = made {
            if let Err(second) = self.unmake(&record) {
                tracing::warn!(error = %second, network = name, "cannot undo a failed network");
            }
            return Err(error);
        }
        let id = record.id.clone();
        lock(&self.inner.state).networks.insert(name, record);
        Ok(id)
    }

    /// Everything that the configuration leaves open.
    fn decide(&self, config: NetworkConfig) -> Result<NetworkRecord, NetworkError> {
        let name = config.name.clone();
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| NetworkError::Netlink(std::io::Error::other(error)))?;
        let id = NetworkId(hex::encode(random));
        let mut taken = with_route(&self.inner.route, |route| {
            host::taken(route, &self.inner.resolver.host())
        })?;
        for network in lock(&self.inner.state).networks.values() {
            for pool in &network.pools {
                taken
                    .addresses
                    .push((format!("network {}", network.config.name), pool.subnet));
            }
        }
        let nets: Vec<IpNet> = taken
            .addresses
            .iter()
            .map(|(_, net)| *net)
            .chain(taken.reached.iter().copied())
            .collect();
        // Neither family asked for is an older client that knows of none.
        let wants_v4 = config.enable_ipv4 || !config.enable_ipv6;
        let mut pools = Vec::new();
        for (is_wanted, family) in [(wants_v4, Family::V4), (config.enable_ipv6, Family::V6)] {
            if !is_wanted {
                continue;
            }
            let configured = config.ipam.iter().find(|pool| family_of(pool) == family);
            let subnet = match configured.and_then(|pool| pool.subnet) {
                Some(subnet) => {
                    let subnet = subnet.trunc();
                    if let Some(other) = ipam::collision(&subnet, &taken.addresses) {
                        return Err(NetworkError::Overlap {
                            network: name,
                            subnet,
                            other: other.to_owned(),
                        });
                    }
                    subnet
                }
                None if family == Family::V6 => ipam::automatic_v6(&name, &nets)?,
                None => ipam::automatic_v4(&name, &nets)?,
            };
            pools.push(ipam::resolve(&name, subnet, configured)?);
        }
        let created_at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos() as u64;
        Ok(NetworkRecord {
            bridge: bridge::name(&self.inner.tag, &id, &config)?,
            mac: bridge::mac(&id.0),
            mtu: bridge::mtu(&config)?,
            id,
            pools,
            created_at,
            config,
        })
    }

    /// Removes a network by name or id. Refused while containers are on it; leases of containers
    /// that do not run do not count.
    pub async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let _turn = self.inner.changing.lock().await;
        let record = {
            let state = lock(&self.inner.state);
            let record = state
                .network(name)
                .cloned()
                .ok_or_else(|| NetworkError::NotFound(name.to_owned()))?;
            let containers = state.containers_on(&record.config.name);
            if !containers.is_empty() {
                return Err(NetworkError::InUse {
                    network: record.config.name,
                    containers,
                });
            }
            record
        };
        let (networks, name) = (self.clone(), record.config.name.clone());
        tokio::task::spawn_blocking(move || {
            networks.unmake(&record)?;
            lock(&networks.inner.state)
                .networks
                .remove(&record.config.name);
            Ok(())
        })
        .await
        .map_err(|_panicked| NetworkError::CutOff { container: name })?
    }

    /// Bridge, rules, forwarding, and the record last.
    fn unmake(&self, record: &NetworkRecord) -> Result<(), NetworkError> {
        let was_last = lock(&self.inner.state)
            .networks
            .keys()
            .all(|name| *name == record.config.name);
        with_route(&self.inner.route, |route| {
            link::delete_bridge(route, &record.bridge)
        })?;
        let mut batch = Batch::default();
        batch.remove(Table::Networks, &record.config.name);
        if was_last {
            let known = self.forwarding()?;
            if known != Forwarding::default() {
                // Before the guard falls with the table.
                with_route(&self.inner.route, |route| host::switch_off(route, &known))?;
                batch.remove(Table::Meta, Forwarding::KEY);
            }
        }
        lock(&self.inner.firewall).remove_bridge(&record.bridge)?;
        self.inner.store.commit(batch)?;
        Ok(())
    }

    pub fn list(&self) -> Vec<ObservedNetwork> {
        let state = lock(&self.inner.state);
        state
            .networks
            .values()
            .map(|network| observed(&state, network))
            .collect()
    }

    /// By name or id.
    pub fn get(&self, name: &str) -> Option<ObservedNetwork> {
        let state = lock(&self.inner.state);
        state.network(name).map(|network| observed(&state, network))
    }

    /// By name or id: with configuration, subnets and bridge.
    pub fn record(&self, name: &str) -> Option<NetworkRecord> {
        lock(&self.inner.state).network(name).cloned()
    }

    /// What on this host will keep packets from containers although this engine lets them through,
    /// as sentences for the user.
    pub fn warnings(&self) -> Result<Vec<String>, NetworkError> {
        let networks = lock(&self.inner.state).networks.clone();
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        let drops = lock(&self.inner.firewall).foreign_drops()?;
        let mut warnings: Vec<String> = drops
            .into_iter()
            .map(|chain| {
                format!(
                    "nftables chain {chain:?} drops forwarded packets by default: containers \
                     reach the outside and published ports only as far as it allows"
                )
            })
            .collect();
        warnings.extend(with_route(&self.inner.route, |route| {
            host::intruders(route, networks.values())
        })?);
        Ok(warnings)
    }
}

fn family_of(pool: &IpamPool) -> Family {
    let address = pool
        .subnet
        .map(|net| net.addr())
        .or(pool.gateway)
        .or(pool.ip_range.map(|net| net.addr()));
    // A pool without any address only says "automatic", and that of the first family.
    address.map_or(Family::V4, Family::of)
}

fn rule(network: &NetworkRecord) -> BridgeRule {
    BridgeRule {
        name: network.bridge.clone(),
        is_internal: network.config.internal,
        is_masqueraded: bridge::is_masqueraded(network),
        is_isolating: bridge::is_isolating(network),
    }
}

fn observed(state: &State, network: &NetworkRecord) -> ObservedNetwork {
    ObservedNetwork {
        id: network.id.0.clone(),
        name: network.config.name.clone(),
        driver: BRIDGE.to_owned(),
        labels: network.config.labels.clone(),
        containers: state.containers_on(&network.config.name),
    }
}
