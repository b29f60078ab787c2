//! A descriptor whose readiness the async runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Makes a descriptor nonblocking and watches it for both directions.
///
/// # Errors
/// When it cannot be polled (a regular file), or outside a runtime.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    super::fd::set_nonblocking(&fd)?;
    // SAFETY: an `OwnedFd` is a valid, open descriptor. It moves into the `AsyncFd`, which hands it
    // out by shared reference; nobody holds it mutably to replace it, because the callers of this
    // module keep the `AsyncFd` behind shared references or use only its I/O methods.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
