//! The engine's end of the spawner: asks it to fork shims.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

use super::shim::send;
use crate::shim::protocol::Spawn;
use crate::sys::watched;

/// The socket to the spawner process, which was started before the engine had threads.
pub struct Spawner {
    socket: AsyncFd<OwnedFd>,
}

impl Spawner {
    /// Takes over the engine's end. Must be called inside the runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Spawner> {
        let socket = watched::watch(socket)?;
        Ok(Spawner { socket })
    }

    /// Has a shim forked for the run directory. The descriptors are those that [`Spawn`] lists;
    /// our copies close when this returns, so that the engine pins nothing of a container.
    pub async fn spawn(&self, spawn: &Spawn, fds: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = serde_json::to_vec(spawn).expect("a spawn message serialises to JSON");
        send(&self.socket, &bytes, &fds).await
    }
}
