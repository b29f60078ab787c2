//! Brings the table back when somebody else has removed it.
//!
//! From Linux 6.9 on the table has an owner, and nobody else can touch it. Before, `nft flush
//! ruleset` (every reload of the nftables service) takes it along, and with it published ports and
//! isolation. The kernel tells everybody who asks of every change; a removed table is what we ask
//! about, so the containers are out of reach for about a millisecond.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;

use tokio::io::unix::AsyncFd;

use super::{Inner, lock};
use crate::sys::nft::Removals;
use crate::sys::watched;

/// Starts to watch; ends with the networks. The caller has seen that the table has no owner, and is
/// in the network namespace and the runtime that are meant.
pub(super) fn watch(networks: Weak<Inner>) {
    let subscribed = || -> io::Result<(Removals, AsyncFd<OwnedFd>)> {
        let removals = Removals::subscribe()?;
        let readiness = watched::watch(removals.as_fd().try_clone_to_owned()?)?;
        Ok((removals, readiness))
    };
    match subscribed() {
        Ok((removals, readiness)) => {
            tokio::spawn(listen(networks, removals, readiness));
        }
        Err(error) => {
            tracing::warn!(%error, "a flushed rule set will stay so until the next change");
        }
    }
}

async fn listen(networks: Weak<Inner>, mut removals: Removals, readiness: AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = readiness.readable().await {
        // Before reading: what arrives from here on makes it ready again.
        ready.clear_ready();
        let is_removed = removals.take();
        let Some(inner) = networks.upgrade() else {
            return;
        };
        // Our own removals come by as well; the firewall knows what should be there.
        if is_removed && let Err(error) = lock(&inner.firewall).heal() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot restore the firewall's table"
            );
        }
    }
}
