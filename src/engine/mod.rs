//! The daemon's resources: containers, images, networks, volumes, their records and recovery.
//!
//! Implements `reconcile::Backend` in process.
//! Reaches containers only through `shim::protocol`, the kernel only through `sys`.

mod backend;
mod boot_order;
mod cgroup;
mod clock;
pub mod container;
mod disk;
mod error;
pub mod image;
mod names;
pub mod network;
mod recover;
mod roots;
mod shared;
pub mod store;
pub mod volume;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

pub use clock::now;
pub use disk::{DiskUsage, VolumeUsage};
pub use error::{EngineError, chain};
pub use roots::Roots;
use shared::Shared;

use crate::reconcile::ContainerChange;
use container::{Container, ContainerId};

/// How long an engine that ends waits for a shim's answer.
const GOODBYE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// One engine; clones share it.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    containers: Arc<RwLock<HashMap<ContainerId, Container>>>,
    closing: CancellationToken,
    /// Nanoseconds since the epoch.
    started_at: u64,
}

impl Engine {
    /// Opens the stores, adopts what runs, removes what is left over, and starts what a restart
    /// policy wants started. `spawner` is the socket to the process that forks shims.
    pub async fn open(roots: Roots, spawner: OwnedFd) -> Result<Engine, EngineError> {
        let shared = Arc::new(Shared::open(roots, spawner)?);
        let engine = Engine {
            shared,
            containers: Arc::default(),
            closing: CancellationToken::new(),
            started_at: clock::now(),
        };
        engine.recover().await?;
        Ok(engine)
    }

    /// Cancelled when the engine is to end.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Nanoseconds since the epoch.
    pub fn started_at(&self) -> u64 {
        self.started_at
    }

    pub fn roots(&self) -> &Roots {
        &self.shared.roots
    }

    /// Every container, oldest first.
    pub fn containers(&self) -> Vec<Container> {
        let mut all: Vec<_> = self.read().values().cloned().collect();
        all.sort_by_cached_key(|container| container.view().record.created_at);
        all
    }

    /// A container by name, id, or an id's unambiguous beginning.
    pub fn container(&self, name: &str) -> Result<Container, EngineError> {
        let containers = self.read();
        if let Some(id) = self.shared.names.find(name)
            && let Some(container) = containers.get(&id)
        {
            return Ok(container.clone());
        }
        let mut matching = containers
            .values()
            .filter(|container| !name.is_empty() && container.id.as_str().starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(container), None) => Ok(container.clone()),
            _ => Err(EngineError::NoSuchContainer {
                name: name.to_owned(),
            }),
        }
    }

    /// Ends on purpose: nothing that belongs to no container is left, and no shim starts the engine
    /// again.
    pub async fn close(&self) {
        if let Err(error) = self.shared.networks.close().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "links of stopped containers stay"
            );
        }
        self.say_goodbye().await;
    }

    /// Tells every shim that this engine leaves on purpose, so that none starts it again.
    async fn say_goodbye(&self) {
        let mut goodbyes = tokio::task::JoinSet::new();
        for container in self.containers() {
            if let Some(shim) = container.view().shim.clone() {
                goodbyes.spawn(async move {
                    let said = shim.call(crate::shim::protocol::Call::Goodbye);
                    // A shim that does not answer finds the word when it looks, before the end of
                    // the connection (L8).
                    let _ = tokio::time::timeout(GOODBYE_PATIENCE, said).await;
                });
            }
        }
        goodbyes.join_all().await;
    }

    /// Stops every container, all at once, each with its own grace period.
    pub async fn stop_all(&self) {
        let mut stops = tokio::task::JoinSet::new();
        for container in self.containers() {
            stops.spawn(async move {
                if let Err(error) = container.stop(None).await {
                    tracing::warn!(container = %container.view().record.config.name, error = &error as &dyn std::error::Error, "cannot stop");
                }
            });
        }
        stops.join_all().await;
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<ContainerId, Container>> {
        // Each writer does one map operation; a panic elsewhere leaves nothing half-done.
        self.containers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<ContainerId, Container>> {
        self.containers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A subscription to every change of containers.
    pub fn changes(&self) -> broadcast::Receiver<ContainerChange> {
        self.shared.changes.subscribe()
    }
}
