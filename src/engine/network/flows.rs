//! Forgetting the connections of containers that are gone, many containers to one look.
//!
//! Looking through the kernel's table costs milliseconds however little is in it, so whoever comes
//! while a look is under way shares the next one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::NetworkError;
use super::firewall::protocol_number;
use super::record::Published;
use crate::compose::Protocol;
use crate::sys::conntrack::{Conntrack, Flow};

/// Flows that lead nowhere: of addresses whose container is gone, and UDP flows to host ports whose
/// translation has changed (a client that goes on sending keeps the old one alive).
#[derive(Debug, Clone, Default)]
pub struct Stale {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Published>,
}

impl Stale {
    fn is(&self, flow: &Flow) -> bool {
        let is_of_container = self.addresses.iter().any(|address| {
            [
                flow.original.source,
                flow.original.destination,
                flow.reply.source,
            ]
            .contains(address)
        });
        // By the host's port: the container's may differ.
        let is_of_port = self.ports.iter().any(|port| {
            port.protocol == Protocol::Udp
                && flow.original.protocol == protocol_number(port.protocol)
                && flow.original.destination_port == port.host_port
        });
        is_of_container || is_of_port
    }
}

type Answer = tokio::sync::oneshot::Sender<Result<(), Arc<NetworkError>>>;

#[derive(Default)]
struct Inner {
    /// Opened with the first look, and kept: see [`Conntrack`].
    conntrack: Mutex<Option<Conntrack>>,
    pending: Mutex<Vec<(Stale, Answer)>>,
}

/// The host's connections.
#[derive(Clone, Default)]
pub struct Flows {
    inner: Arc<Inner>,
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl Flows {
    /// Returns when the kernel has forgotten them.
    pub async fn forget(&self, stale: Stale) -> Result<(), Arc<NetworkError>> {
        let (answer, mut waiting) = tokio::sync::oneshot::channel();
        self.inner
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((stale, answer));
        let turn = self.looking.clone().lock_owned().await;
        if let Ok(outcome) = waiting.try_recv() {
            return outcome;
        }
        let inner = self.inner.clone();
        // If the look panics, the answer's sender is dropped and says so.
        let _looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            inner.look();
        })
        .await;
        waiting.await.unwrap_or_else(|_dropped| {
            Err(Arc::new(NetworkError::CutOff {
                container: "connections".to_owned(),
            }))
        })
    }
}

impl Inner {
    fn look(&self) {
        let pending =
            std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = self
            .forget(|flow| pending.iter().any(|(stale, _)| stale.is(flow)))
            .map_err(Arc::new);
        for (_, answer) in pending {
            // Whoever was cancelled does not listen.
            let _unheard = answer.send(outcome.clone());
        }
    }

    fn forget(&self, is_stale: impl Fn(&Flow) -> bool) -> Result<(), NetworkError> {
        let mut guard = self
            .conntrack
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let conntrack = match &mut *guard {
            Some(open) => open,
            empty => empty.insert(Conntrack::open().map_err(NetworkError::Netlink)?),
        };
        let n_forgotten = conntrack
            .forget(is_stale)
            .map_err(|source| NetworkError::Link {
                action: "forget",
                object: "connections of stopped containers".to_owned(),
                source,
            })?;
        tracing::debug!(n_forgotten, "connections forgotten");
        Ok(())
    }
}
