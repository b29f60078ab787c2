//! Serves the API on a listening unix socket.
//!
//! Owns connections, the order of commands on a project, and the end of streams at shutdown. Knows
//! an engine only as a [`Host`]. A handler that panics answers 500 and takes nothing else with it.

mod docker;
mod error;
mod images;
mod logs;
mod project;
mod registry;
mod route;
mod session;
mod transaction;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Host;
use transaction::Transactions;

/// How long requests in flight may take to end after a shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// What every handler is given.
pub(super) struct Shared<H> {
    host: Arc<H>,
    transactions: Transactions,
    /// Cancelled at shutdown: streams end, sessions close.
    closing: CancellationToken,
}

/// Serves until `shutdown` is cancelled, then ends all streams and waits a few seconds for requests
/// in flight. Commands on projects that still run by then go on in their own tasks.
///
/// With an `idle_timeout` it also returns when for that long (at most twice that) nobody was
/// connected, no command ran, and the host had nothing to look after. No client that could connect
/// is turned away then.
///
/// The socket's file is gone when this returns.
///
/// # Errors
/// When the listener fails for good; a connection's failure is that connection's own.
pub async fn serve<H: Host>(
    host: Arc<H>,
    listener: UnixListener,
    shutdown: CancellationToken,
    idle_timeout: Option<Duration>,
) -> std::io::Result<()> {
    let shared = Arc::new(Shared {
        host,
        transactions: Transactions::default(),
        closing: shutdown.clone(),
    });
    let door = Door::of(&listener);
    let router = route::router(shared.clone());
    let connections = TaskTracker::new();
    let take = |stream: UnixStream| {
        let router = router.clone();
        let closing = shutdown.clone();
        connections.spawn(async move {
            let service = service_fn(move |mut request: hyper::Request<_>| {
                strip_version(request.uri_mut());
                router.clone().oneshot(request)
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                // Cancel safe: on the other branch the same connection is polled to its end.
                ended = connection.as_mut() => ended,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.as_mut().await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended early");
            }
        });
    };
    let mut idle_at = idle_timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let stream = tokio::select! {
            // Cancel safe: a timer is made anew from its deadline.
            () = until(idle_at) => {
                let is_idle = connections.is_empty()
                    && shared.transactions.is_empty()
                    && shared.host.is_idle();
                idle_at = idle_timeout.map(|timeout| Instant::now() + timeout);
                if !is_idle {
                    continue;
                }
                door.close();
                // Whoever is in the queue came before the door was closed, and is served.
                match waiting(&listener)? {
                    Some(stream) => {
                        door.open();
                        stream
                    }
                    None => {
                        tracing::info!("nothing runs and nobody is connected: ending");
                        break;
                    }
                }
            }
            // Cancel safe: an accept that is dropped has taken no connection from the queue.
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_transient(&error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
            // Cancel safe: the token keeps its state.
            () = shutdown.cancelled() => break,
        };
        idle_at = idle_timeout.map(|timeout| Instant::now() + timeout);
        take(stream);
    }
    door.remove();
    // Who found the file a moment ago may only be on the way into the queue. From here on the kernel
    // refuses them, and they start another engine; who made it is served.
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Read)?;
    while let Some(stream) = waiting(&listener)? {
        take(stream);
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!("requests were still running at shutdown");
    }
    Ok(())
}

/// A connection that is in the queue already. Asked of the kernel, because the runtime may not have
/// heard of it yet.
fn waiting(listener: &UnixListener) -> std::io::Result<Option<UnixStream>> {
    use rustix::io::Errno;
    use rustix::net::SocketFlags;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    match rustix::net::accept_with(listener, flags) {
        Ok(stream) => UnixStream::from_std(stream.into()).map(Some),
        // The second one: nobody is there, and nobody can come any more.
        Err(Errno::AGAIN | Errno::INVAL) => Ok(None),
        Err(error) if is_transient(&error.into()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The socket's file: while it is in its place, clients can connect.
///
/// A file that is moved away stays the listener's, so what was closed can be opened again without a
/// new socket; a client that finds no file starts an engine, which finds this one alive.
struct Door {
    /// `None`: the socket has no name, or is not ours to move.
    path: Option<PathBuf>,
}

impl Door {
    fn of(listener: &UnixListener) -> Door {
        let address = listener.local_addr().ok();
        Door {
            path: address.and_then(|address| Some(address.as_pathname()?.to_owned())),
        }
    }

    fn closed(path: &std::path::Path) -> PathBuf {
        path.with_extension("closed")
    }

    fn close(&self) {
        self.change(|path| std::fs::rename(path, Door::closed(path)));
    }

    fn open(&self) {
        self.change(|path| std::fs::rename(Door::closed(path), path));
    }

    fn remove(&self) {
        self.change(|path| {
            let closed = std::fs::remove_file(Door::closed(path));
            std::fs::remove_file(path).or(closed)
        });
    }

    fn change(&self, change: impl FnOnce(&std::path::Path) -> std::io::Result<()>) {
        if let Some(path) = &self.path
            && let Err(error) = change(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(socket = %path.display(), %error, "cannot change the socket's file");
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Running out of descriptors or memory passes; so does a client that gave up in the queue.
fn is_transient(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::AGAIN
        )
    )
}

/// Takes Docker's `/v1.NN` off the path; every version has the same routes.
fn strip_version(uri: &mut Uri) {
    let Some(rest) = uri.path_and_query().and_then(|whole| {
        let rest = whole.as_str().strip_prefix("/v1.")?;
        let slash = rest.find('/')?;
        rest[..slash]
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| rest[slash..].to_owned())
    }) else {
        return;
    };
    if let Ok(stripped) = rest.parse() {
        *uri = stripped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_prefixes_are_stripped_and_nothing_else() {
        for (path, stripped) in [
            ("/v1.47/containers/json?all=1", "/containers/json?all=1"),
            ("/v1.24/_ping", "/_ping"),
            ("/_ping", "/_ping"),
            ("/v1.x/_ping", "/v1.x/_ping"),
            ("/v1.47", "/v1.47"),
            ("/wharf/v1/status", "/wharf/v1/status"),
        ] {
            let mut uri: Uri = path.parse().unwrap();
            strip_version(&mut uri);
            assert_eq!(uri.to_string(), stripped);
        }
    }
}
