//! Names inside containers: a resolver in the engine that listens in each container's namespace.
//!
//! ```text
//! container ── 127.0.0.11:53 ─▶ (BPF or NAT) ─▶ 127.0.0.11:61053 ── server ─▶ zone │ upstream
//! ```
//!
//! Names of containers are scoped to the asker's networks; everything else goes to the host's
//! servers, or to those that the container names, or nowhere from an internal network
//! (CVE-2024-29018). Answers about containers live two seconds.
//!
//! The redirection to the high port is what lets a container bind port 53 itself.

mod answer;
mod forward;
mod server;
mod zone;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use notify::{RecursiveMode, Watcher};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::files::HostResolver;
use super::netns::{Netns, RESOLVER, ResolverSockets};
use crate::sys::cgroup_bpf::PortRedirect;
use crate::sys::netns;
use crate::sys::nft::{Base, Batch, ChainKind, Expression, Hook, Meta, Nft, Verdict};
pub use answer::Outside;
pub use forward::Upstream;
pub use server::Route;
pub use zone::{Names, Zone};

const PORT: u16 = 53;
/// Questions to the outside that may be under way in all.
const MAX_FORWARDS: usize = 512;

/// What all servers share.
pub struct Shared {
    zone: RwLock<Zone>,
    host: RwLock<HostResolver>,
    forwards: Semaphore,
}

impl Shared {
    fn host_upstream(&self) -> Upstream {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner);
        Upstream {
            servers: host
                .servers
                .iter()
                .map(|address| SocketAddr::new(*address, PORT))
                .collect(),
            netns: None,
        }
    }
}

/// How 127.0.0.11:53 leads to a resolver's sockets.
enum Redirect {
    /// Programs on the cgroup that all containers are under.
    Programs(PortRedirect),
    /// A NAT table in each namespace.
    Tables,
}

/// How one container is redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirection {
    Program,
    Table,
    /// None: the resolver sits on port 53 itself.
    Direct,
}

struct Running {
    task: JoinHandle<()>,
    cookie: Option<u64>,
}

/// The names of one engine and the servers of its containers.
pub struct Resolver {
    shared: Arc<Shared>,
    running: Mutex<HashMap<String, Running>>,
    redirect: Mutex<Option<Arc<Redirect>>>,
    cgroup: Mutex<Option<PathBuf>>,
    resolv_conf: PathBuf,
    watcher: Mutex<Option<notify::RecommendedWatcher>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves its value whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resolver {
    pub fn new(resolv_conf: &Path) -> Resolver {
        Resolver {
            shared: Arc::new(Shared {
                zone: RwLock::default(),
                host: RwLock::new(read_host(resolv_conf)),
                forwards: Semaphore::new(MAX_FORWARDS),
            }),
            running: Mutex::default(),
            redirect: Mutex::default(),
            cgroup: Mutex::default(),
            resolv_conf: resolv_conf.to_owned(),
            watcher: Mutex::default(),
        }
    }

    /// The cgroup2 directory that containers are under. Without one, or where the kernel refuses
    /// programs, each container gets a NAT table of its own instead.
    pub fn use_cgroup(&self, path: &Path) {
        *lock(&self.cgroup) = Some(path.to_owned());
        *lock(&self.redirect) = None;
    }

    pub fn host(&self) -> HostResolver {
        self.shared
            .host
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn redirect(&self) -> Arc<Redirect> {
        let mut redirect = lock(&self.redirect);
        if let Some(redirect) = redirect.as_ref() {
            return redirect.clone();
        }
        let attached = lock(&self.cgroup).as_ref().map(|path| {
            File::open(path)
                .and_then(|cgroup| PortRedirect::attach(cgroup.as_fd(), RESOLVER, PORT))
                .inspect_err(|error| {
                    tracing::info!(%error, path = %path.display(), "no programs on the cgroup, using a table per container");
                })
        });
        let chosen = Arc::new(match attached {
            Some(Ok(programs)) => Redirect::Programs(programs),
            Some(Err(_)) | None => Redirect::Tables,
        });
        *redirect = Some(chosen.clone());
        chosen
    }

    /// Follows the host's servers from now on. Idempotent.
    fn watch_host(&self) {
        let mut watcher = lock(&self.watcher);
        if watcher.is_some() {
            return;
        }
        *watcher = watch(&self.shared, &self.resolv_conf)
            .inspect_err(|error| {
                tracing::warn!(%error, "changes of the host's resolv.conf are not followed");
            })
            .ok();
    }

    /// Prepares the way to the resolver inside the namespace. Blocks.
    pub fn redirect_netns(&self, netns: &Netns) -> io::Result<(ResolverSockets, Redirection)> {
        let sockets = netns.take_sockets()?;
        if let (Redirect::Programs(programs), Some(cookie)) =
            (self.redirect().as_ref(), sockets.cookie)
        {
            match programs.insert(cookie, sockets.port) {
                Ok(()) => return Ok((sockets, Redirection::Program)),
                Err(error) => tracing::warn!(%error, "cannot redirect names by program"),
            }
        }
        let port = sockets.port;
        match netns::within(netns.as_fd(), move || install_table(port)) {
            Ok(()) => Ok((sockets, Redirection::Table)),
            Err(error) => {
                tracing::info!(%error, "no NAT in the container, its resolver takes port 53");
                drop(sockets);
                let direct = netns::within(netns.as_fd(), || ResolverSockets::open(PORT))?;
                Ok((direct, Redirection::Direct))
            }
        }
    }

    /// Makes the container's names known and answers it from now on.
    pub fn start(
        &self,
        container: &str,
        sockets: ResolverSockets,
        places: Vec<Names>,
        route: Route,
        outside: Outside,
    ) {
        if matches!(route, Route::Host) {
            self.watch_host();
        }
        self.zone(|zone| zone.insert(container, places));
        let cookie = sockets.cookie;
        let server = Arc::new(server::Server::new(
            self.shared.clone(),
            container,
            route,
            outside,
        ));
        let name = container.to_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = server::serve(server, sockets).await {
                tracing::warn!(%error, container = name, "the resolver of a container ended");
            }
        });
        let old = lock(&self.running).insert(container.to_owned(), Running { task, cookie });
        if let Some(old) = old {
            old.task.abort();
        }
    }

    /// Forgets the container's names and closes its sockets.
    pub async fn stop(&self, container: &str) {
        self.zone(|zone| zone.remove(container));
        let running = lock(&self.running).remove(container);
        let Some(running) = running else {
            return;
        };
        if let Some(Redirect::Programs(programs)) = lock(&self.redirect).as_deref()
            && let Some(cookie) = running.cookie
            && let Err(error) = programs.remove(cookie)
        {
            // The namespace's number is never used again, so the left-over does no harm.
            tracing::debug!(%error, container, "cannot remove a redirection");
        }
        running.task.abort();
        // Waits for the sockets to be closed: they would pin the namespace. An aborted task ends
        // with an error that says nothing new.
        let _aborted = running.task.await;
    }

    /// Changes what the containers' names are.
    pub fn zone<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        change(
            &mut self
                .shared
                .zone
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// Servers that a container names, asked from within its namespace.
pub fn own_servers(netns: &Netns, servers: &[IpAddr]) -> io::Result<Upstream> {
    let fd: OwnedFd = netns.as_fd().try_clone_to_owned()?;
    Ok(Upstream {
        servers: servers
            .iter()
            .map(|address| SocketAddr::new(*address, PORT))
            .collect(),
        netns: Some(Arc::new(fd)),
    })
}

fn read_host(path: &Path) -> HostResolver {
    let text = fs::read_to_string(path).unwrap_or_default();
    HostResolver::parse(&text)
}

/// Reads the file again whenever a directory on the way to it changes: it is replaced by rename, or
/// is a link to a file that is.
fn watch(shared: &Arc<Shared>, path: &Path) -> notify::Result<notify::RecommendedWatcher> {
    let (shared, watched) = (Arc::downgrade(shared), path.to_owned());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an access too.
        let is_change = event.is_ok_and(|event| !event.kind.is_access());
        if let (true, Some(shared)) = (is_change, shared.upgrade()) {
            let host = read_host(&watched);
            *shared.host.write().unwrap_or_else(PoisonError::into_inner) = host;
        }
    })?;
    let mut directories: Vec<PathBuf> = Vec::new();
    for file in [Some(path.to_owned()), fs::canonicalize(path).ok()]
        .into_iter()
        .flatten()
    {
        if let Some(directory) = file.parent()
            && !directories.iter().any(|known| known == directory)
        {
            directories.push(directory.to_owned());
        }
    }
    for directory in directories {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// In the calling thread's namespace: packets to 127.0.0.11:53 go to the port instead.
fn install_table(port: u16) -> io::Result<()> {
    const TABLE: &str = "wharf_dns";
    const NFPROTO_IPV4: u8 = 2;
    let mut batch = Batch::new(TABLE);
    // Twice, so that what an earlier engine left is replaced.
    batch.add_table(0);
    batch.delete_table();
    batch.add_table(0);
    batch.add_base_chain(
        "output",
        ChainKind::Nat,
        Hook::Output,
        -100,
        Verdict::Accept,
    );
    for protocol in [6, 17] {
        batch.add_rule(
            "output",
            &[
                Expression::Meta {
                    key: Meta::NetworkProtocol,
                    to: 0,
                },
                Expression::Equal {
                    register: 0,
                    value: vec![NFPROTO_IPV4],
                },
                Expression::Payload {
                    base: Base::Network,
                    offset: 16,
                    length: 4,
                    to: 0,
                },
                Expression::Equal {
                    register: 0,
                    value: RESOLVER.octets().to_vec(),
                },
                Expression::Meta {
                    key: Meta::TransportProtocol,
                    to: 0,
                },
                Expression::Equal {
                    register: 0,
                    value: vec![protocol],
                },
                Expression::Payload {
                    base: Base::Transport,
                    offset: 2,
                    length: 2,
                    to: 0,
                },
                Expression::Equal {
                    register: 0,
                    value: PORT.to_be_bytes().to_vec(),
                },
                Expression::Immediate {
                    to: 0,
                    value: port.to_be_bytes().to_vec(),
                },
                Expression::DestinationNat {
                    family: NFPROTO_IPV4,
                    address: None,
                    port: 0,
                },
            ],
        );
    }
    let mut nft = Nft::open()?;
    nft.commit(batch).map_err(|refusal| refusal.errno)
}
