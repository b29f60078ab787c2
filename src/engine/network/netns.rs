//! A container's network namespace, with the sockets that the engine needs inside it.
//!
//! Nothing is mounted: the namespace lives by descriptors and processes and dies with the last of
//! them. Whoever keeps a [`Netns`] keeps the container's links.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::NetworkError;
use crate::sys::netns;
use crate::sys::route::{Changes, LinkLocal, Route};

/// Where containers find their resolver.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Where the resolver really listens. Above the kernel's ephemeral range, so that no outgoing
/// connection takes it, and not 53, so that a container can bind 0.0.0.0:53.
const LISTEN_PORT: u16 = 61053;

/// Listening sockets of a resolver, made inside a namespace.
pub struct ResolverSockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    pub port: u16,
    /// The kernel's number of the namespace, if it tells one (5.14).
    pub cookie: Option<u64>,
}

impl ResolverSockets {
    /// In the calling thread's namespace.
    pub fn open(port: u16) -> io::Result<ResolverSockets> {
        let udp = UdpSocket::bind(SocketAddrV4::new(RESOLVER, port))?;
        let port = udp.local_addr()?.port();
        let tcp = TcpListener::bind(SocketAddrV4::new(RESOLVER, port))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let cookie = netns::cookie(&udp).ok();
        Ok(ResolverSockets {
            udp,
            tcp,
            port,
            cookie,
        })
    }
}

struct Inner {
    fd: OwnedFd,
    route: Mutex<Route>,
    sockets: Mutex<Option<ResolverSockets>>,
}

/// A handle; clones share the namespace.
#[derive(Clone)]
pub struct Netns {
    inner: Arc<Inner>,
}

impl Netns {
    /// A new namespace with `lo` up. Takes about half a millisecond, on a thread of its own.
    pub async fn create() -> Result<Netns, NetworkError> {
        blocking(|| netns::with_new(prepare))
            .await
            .map_err(NetworkError::MakeNetns)
            .map(|(fd, contents)| Netns::assemble(fd, contents))
    }

    /// The namespace of a running container, by a path such as `/proc/<pid>/ns/net`.
    pub async fn open(path: &Path) -> Result<Netns, NetworkError> {
        let owned = path.to_owned();
        blocking(move || {
            let fd = netns::open(&owned)?;
            let contents = netns::within(fd.as_fd(), || Ok((Route::open()?, open_sockets()?)))?;
            Ok((fd, contents))
        })
        .await
        .map_err(|source| NetworkError::EnterNetns {
            path: PathBuf::from(path),
            source,
        })
        .map(|(fd, contents)| Netns::assemble(fd, contents))
    }

    fn assemble(fd: OwnedFd, (route, sockets): (Route, ResolverSockets)) -> Netns {
        Netns {
            inner: Arc::new(Inner {
                fd,
                route: Mutex::new(route),
                sockets: Mutex::new(Some(sockets)),
            }),
        }
    }

    pub(super) fn with_route<T>(&self, work: impl FnOnce(&mut Route) -> T) -> T {
        // A panic in between leaves at worst an answer unread, which the next query skips.
        work(
            &mut self
                .inner
                .route
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The resolver's sockets; opened again if an attach that failed has dropped them. Blocks.
    pub(super) fn take_sockets(&self) -> io::Result<ResolverSockets> {
        let taken = self
            .inner
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match taken {
            Some(sockets) => Ok(sockets),
            None => netns::within(self.as_fd(), open_sockets),
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

/// What every new namespace needs, from inside.
fn prepare() -> io::Result<(Route, ResolverSockets)> {
    let mut route = Route::open()?;
    let mut changes = Changes::default();
    changes.set_up(1, LinkLocal::On);
    route.apply(changes).map_err(|refusal| refusal.errno)?;
    // Neighbours that remember the address's last owner are corrected when a link comes up.
    for path in [
        "/proc/sys/net/ipv4/conf/default/arp_notify",
        "/proc/sys/net/ipv6/conf/default/ndisc_notify",
    ] {
        match fs::write(path, "1") {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok((route, open_sockets()?))
}

fn open_sockets() -> io::Result<ResolverSockets> {
    match ResolverSockets::open(LISTEN_PORT) {
        // The container's own program sits there already.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => ResolverSockets::open(0),
        outcome => outcome,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
