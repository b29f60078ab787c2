//! Network namespaces, entered only on threads made for it.
//!
//! A thread that has entered a namespace ends there; it is never given back to a pool, because a
//! failure to return would leave some later task in a container's network.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::thread::UnshareFlags;

/// Runs `work` on a fresh thread in a fresh network namespace; gives the namespace as well.
///
/// The namespace lives as long as a descriptor, socket or process holds it.
pub fn with_new<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    on_thread(move || {
        // SAFETY: `unshare_unsafe` asks that no other thread relies on the shared state that is
        // given up: the namespace of a thread is its own, and this thread was made for this call.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        let netns = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
        Ok((netns, work()?))
    })
}

/// Runs `work` on a fresh thread inside the namespace.
pub fn within<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_thread(move || {
        rustix::thread::move_into_link_name_space(
            netns,
            Some(rustix::thread::LinkNameSpaceType::Network),
        )?;
        work()
    })
}

/// The namespace that a path such as `/proc/<pid>/ns/net` names.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// The number by which BPF programs know the namespace of a socket.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `getsockopt` wants an open descriptor (borrowed for the call), a buffer that may be
    // written for `length` bytes (`cookie`, eight bytes) and a valid length; both live on the
    // stack for the whole call.
    let code = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if code == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Since 5.14; `libc` does not name it for every target.
const SO_NETNS_COOKIE: libc::c_int = 71;

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)?
            .join()
            // The work is ours; if it panics the bug is to be seen, not turned into an error.
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
