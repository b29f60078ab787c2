//! Tells when a route comes that leads into a network's range (N12).
//!
//! A range is chosen away from everything that the host reaches then; a VPN that is switched on
//! afterwards does not know of it. The kernel announces every new route, so nothing is asked for
//! while nothing changes. Whoever runs `up` next is told as well.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::{Inner, host, lock, with_route};
use crate::sys::route::NewRoutes;
use crate::sys::watched;

/// Routes come in groups: a link that comes up has several, a VPN dozens.
const QUIET: Duration = Duration::from_secs(1);

/// Starts to watch; ends with the networks. The caller is in the network namespace and the runtime
/// that are meant.
pub(super) fn watch(networks: Weak<Inner>) {
    let subscribed = || -> io::Result<(NewRoutes, AsyncFd<OwnedFd>)> {
        let routes = NewRoutes::subscribe()?;
        let readiness = watched::watch(routes.as_fd().try_clone_to_owned()?)?;
        Ok((routes, readiness))
    };
    match subscribed() {
        Ok((routes, readiness)) => {
            tokio::spawn(listen(networks, routes, readiness));
        }
        Err(error) => {
            tracing::warn!(%error, "routes that come later into a network's range are told of at the next `up`");
        }
    }
}

async fn listen(networks: Weak<Inner>, mut routes: NewRoutes, readiness: AsyncFd<OwnedFd>) {
    let mut told = BTreeSet::new();
    while let Ok(mut ready) = readiness.readable().await {
        // Before reading: what arrives from here on makes it ready again.
        ready.clear_ready();
        if !routes.take() {
            if networks.strong_count() == 0 {
                return;
            }
            continue;
        }
        tokio::time::sleep(QUIET).await;
        routes.take();
        let Some(inner) = networks.upgrade() else {
            return;
        };
        let Ok(found) = tokio::task::spawn_blocking(move || look(&inner)).await else {
            continue;
        };
        for sentence in found.difference(&told) {
            tracing::warn!("{sentence}");
        }
        // A route that went and comes back is told of again.
        told = found;
    }
}

fn look(inner: &Inner) -> BTreeSet<String> {
    let networks = lock(&inner.state).networks.clone();
    let found = with_route(&inner.route, |route| {
        host::intruders(route, networks.values())
    });
    found
        .unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot look for routes into the networks' ranges");
            Vec::new()
        })
        .into_iter()
        .collect()
}
