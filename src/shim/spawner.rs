//! The process that forks shims: one thread, no state, nothing open but its socket.
//!
//! It exists because the engine has threads and must not fork, and because a shim that is forked
//! and not executed shares its memory with all others. It ends with the engine; shims do not.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::runtime::seccomp;
use crate::shim::protocol::Spawn;
use crate::shim::supervise;
use crate::sys::clone::{self, Side};
use crate::sys::{fd, process, signal, socket};

/// The largest packet of the protocol.
pub(super) const MAX_PACKET: usize = 64 * 1024;

/// Forks the spawner and returns the engine's end of its socket. Call it before any thread.
///
/// # Errors
/// Of the socket pair or the fork.
pub fn fork() -> io::Result<OwnedFd> {
    let (engine, spawner) = socket::pair()?;
    match clone::fork()? {
        Side::Parent(_) => Ok(engine),
        Side::Child => {
            // Only the number is used further: this closes the engine's end too.
            fd::close_inherited(3, &[spawner.as_raw_fd()]);
            std::mem::forget(engine);
            run(spawner)
        }
    }
}

/// Serves until the engine's end closes.
pub fn run(socket: OwnedFd) -> ! {
    process::set_name(c"wharf-spawner");
    let _ = rustix::process::setsid();
    signal::reset();
    // Shims are nobody's to wait for here.
    signal::ignore(libc::SIGCHLD);
    let _ = fd::null_stdio();
    let _ = rustix::process::chdir("/");
    let filter = seccomp::default_filter();
    // What is free here is free in every shim.
    process::trim_heap();
    process::trim_stack();
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let (n, fds) = match socket::receive(&socket, &mut buffer) {
            Ok((n, fds)) if n > 0 => (n, fds),
            _ => clone::exit(0),
        };
        let packet = buffer.get(..n).unwrap_or_default();
        let Ok(spawn) = serde_json::from_slice::<Spawn>(packet) else {
            // The control descriptor closes here, which tells the engine.
            continue;
        };
        if let Ok(Side::Child) = clone::fork() {
            drop(socket);
            drop(buffer);
            supervise::run(&spawn, fds, filter);
        }
    }
}
