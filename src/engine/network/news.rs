//! What other programs do to the host's links and routes, and what is done about it.
//!
//! The kernel announces every change, so nothing is asked for while nothing changes.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::{Inner, bridge, host, link, lock, with_route};
use crate::sys::route::News;
use crate::sys::watched;

/// Routes come in groups: a link that comes up has several, a VPN dozens.
const ROUTES_QUIET: Duration = Duration::from_secs(1);
/// Long enough for a program to be done with a link; containers are out of reach for so long.
const LINKS_QUIET: Duration = Duration::from_millis(50);

/// Starts to watch; ends with the networks. The caller is in the network namespace and the runtime
/// that are meant.
pub(super) fn watch(networks: &Weak<Inner>) {
    let mut told = BTreeSet::new();
    listen(
        networks,
        News::of_new_routes(),
        ROUTES_QUIET,
        move |inner| {
            let found = intruders(inner);
            for sentence in found.difference(&told) {
                tracing::warn!("{sentence}");
            }
            // A route that went and comes back is told of again.
            told = found;
        },
    );
    listen(networks, News::of_links_gone(), LINKS_QUIET, heal);
    listen(networks, News::of_addresses_gone(), LINKS_QUIET, heal);
}

fn listen(
    networks: &Weak<Inner>,
    news: io::Result<News>,
    quiet: Duration,
    mut react: impl FnMut(&Inner) + Send + 'static,
) {
    let subscribed = news.and_then(|news| {
        let readiness: AsyncFd<OwnedFd> = watched::watch(news.as_fd().try_clone_to_owned()?)?;
        Ok((news, readiness))
    });
    let (mut news, readiness) = match subscribed {
        Ok(subscribed) => subscribed,
        Err(error) => {
            tracing::warn!(%error, "what other programs do to links and routes is not noticed");
            return;
        }
    };
    let networks = networks.clone();
    tokio::spawn(async move {
        while let Ok(mut ready) = readiness.readable().await {
            // Before reading: what arrives from here on makes it ready again.
            ready.clear_ready();
            if news.take() {
                tokio::time::sleep(quiet).await;
                news.take();
                let Some(inner) = networks.upgrade() else {
                    return;
                };
                // What is being made or removed just now is not to be mended.
                let _turn = inner.changing.lock().await;
                react(&inner);
            }
        }
    });
}

/// A range is chosen away from everything that the host reaches then; a VPN that is switched on
/// afterwards does not know of it (N12). Whoever runs `up` next is told as well.
fn intruders(inner: &Inner) -> BTreeSet<String> {
    let networks = lock(&inner.state).networks.clone();
    let found = with_route(&inner.route, |route| {
        host::intruders(route, networks.values())
    });
    let found = found.unwrap_or_else(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "cannot look for routes into the networks' ranges");
        Vec::new()
    });
    found.into_iter().collect()
}

/// Makes bridges again that are gone or have lost their addresses, and puts ports back on them that
/// are on none (N5). systemd-networkd with a `[Match]` for every link does both to ours; once for
/// each link, so that putting it right is the end of it.
fn heal(inner: &Inner) {
    let (networks, ports) = {
        let state = lock(&inner.state);
        (state.networks.clone(), link::ports(&inner.tag, &state))
    };
    let done = with_route(&inner.route, |route| {
        let n_bridges = bridge::heal(route, networks.values())?;
        Ok((n_bridges, link::put_back(route, &ports)?))
    });
    match done {
        Ok((0, 0)) => {}
        Ok((n_bridges, n_ports)) => tracing::warn!(
            "another program changed {n_bridges} bridges, and took {n_ports} links of containers \
             off theirs; all is as it was. Tell it to leave links alone that are named wh* and wv* \
             (systemd-networkd: [Match] Name=wh* wv*, [Link] Unmanaged=yes, in a file that comes \
             first)"
        ),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "cannot mend what another program did to networks");
        }
    }
}
