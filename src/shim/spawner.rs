//! The process that forks shims: one thread, no state, nothing open but its socket.
//!
//! It exists because the engine has threads and must not fork, and because a shim that is forked
//! and not executed shares its memory with all others. It is executed anew, from the program that the
//! engine is: what the engine had on its heap when it started would be in every shim, which would
//! get pages of its own wherever it uses the space between (L9). It ends with the engine; shims do
//! not.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
#[cfg(test)]
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::runtime::seccomp::{self, Filter};
use crate::shim::protocol::Spawn;
use crate::shim::supervise;
use crate::sys::clone::{self, Side};
use crate::sys::{fd, process, signal, socket};

/// The largest packet of the protocol.
pub(super) const MAX_PACKET: usize = 64 * 1024;

/// The name by which a process knows that it is the spawner.
const NAME: &str = "wharf-spawner";

/// Starts the spawner and returns the engine's end of its socket.
///
/// `births` is a locked file. The spawner keeps it open, and so does every shim until its socket can
/// be connected to: who gets the lock afterwards knows that no shim is on its way any more.
///
/// # Errors
/// Of the socket pair or the start.
pub fn start(births: OwnedFd) -> io::Result<OwnedFd> {
    let (engine, spawner) = socket::pair()?;
    // It lives as long as the engine, which waits for all of its children at its end.
    Command::new("/proc/self/exe")
        .arg0(NAME)
        .stdin(spawner)
        .stdout(births)
        .stderr(Stdio::null())
        .spawn()?;
    Ok(engine)
}

/// Whether the program was started by [`start`]: then its standard input and output are what [`run`]
/// takes.
#[must_use]
pub fn is_spawner(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> bool {
    arguments.next().as_deref() == Some(OsStr::new(NAME)) && arguments.next().is_none()
}

/// The process that [`start`] started.
pub fn serve() -> ! {
    let kept = (
        io::stdin().as_fd().try_clone_to_owned(),
        io::stdout().as_fd().try_clone_to_owned(),
    );
    match kept {
        // The standard descriptors themselves become nothing.
        (Ok(socket), Ok(births)) => run(socket, Some(births)),
        _ => clone::exit(1),
    }
}

/// A spawner that is a fork of this process, where the program is another: a test. Returns the
/// engine's end of its socket.
///
/// # Errors
/// Of the socket pair or the fork.
#[cfg(test)]
pub fn fork() -> io::Result<OwnedFd> {
    let (engine, spawner) = socket::pair()?;
    match clone::fork()? {
        Side::Parent(_) => Ok(engine),
        Side::Child => {
            // Only the number is used further: this closes the engine's end too.
            fd::close_inherited(3, &[spawner.as_raw_fd()]);
            std::mem::forget(engine);
            run(spawner, None)
        }
    }
}

/// The default filter, compiled in a process that ends: what the compiler leaves on the heap, between
/// small things that stay, would be in every shim.
fn compile_apart() -> Option<Filter> {
    let (read, write) = fd::pipe().ok()?;
    match clone::fork().ok()? {
        Side::Child => {
            let bytes = seccomp::default_filter().to_bytes();
            let written = std::fs::File::from(write).write_all(&bytes);
            clone::exit(i32::from(written.is_err()))
        }
        Side::Parent(_) => {
            drop(write);
            let mut bytes = Vec::new();
            std::fs::File::from(read).read_to_end(&mut bytes).ok()?;
            Filter::from_bytes(&bytes)
        }
    }
}

/// Serves until the engine's end closes.
pub fn run(socket: OwnedFd, births: Option<OwnedFd>) -> ! {
    process::set_name(c"wharf-spawner");
    let _ = rustix::process::setsid();
    signal::reset();
    // Shims are nobody's to wait for here.
    signal::ignore(libc::SIGCHLD);
    let _ = fd::null_stdio();
    let _ = rustix::process::chdir("/");
    let filter = compile_apart().unwrap_or_else(seccomp::default_filter);
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
            supervise::run(&spawn, fds, filter, births);
        }
    }
}
