//! Signal dispositions, masks and descriptors of this process.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Every signal to its default action, and none blocked: what a program expects at its start.
///
/// The runtime of this language ignores SIGPIPE, an engine may be started with more ignored, and
/// ignored signals survive `execve`.
pub fn reset() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // The kernel's `struct sigaction`: handler, flags, restorer, mask. All zero is the default
        // action. libc's own call would refuse 32 and 33, which an ancestor may have ignored too.
        let default = [0usize; 4];
        // SAFETY: the kernel reads one sigaction (four words here) and is given the size of its
        // mask; no old action is asked for. No handler of ours is lost: this process has none.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<usize>(),
                std::mem::size_of::<u64>(),
            );
        }
    }
    unblock_all();
}

/// Makes `signal` ignored in this process.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN installs no handler, so nothing of ours runs in signal context.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Empties the signal mask.
pub fn unblock_all() {
    // SAFETY: `set` is initialised by sigemptyset before it is read; no old set is asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Blocks the signals and returns a nonblocking descriptor that is readable when one arrives.
///
/// # Errors
/// Of `signalfd(2)`.
pub fn watch(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before use, and lives through all calls.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(super::fd::adopt(fd))
}

/// Takes one arrived signal off a descriptor of [`watch`].
#[must_use]
pub fn next(watched: BorrowedFd<'_>) -> Option<i32> {
    let mut info = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
    let n = rustix::io::read(watched, &mut info).ok()?;
    // The first field is the number, as an unsigned integer of the machine.
    let number = info.first_chunk::<4>().filter(|_| n == info.len())?;
    i32::try_from(u32::from_ne_bytes(*number)).ok()
}

/// Blocks every signal, so that [`wait_any`] gets them.
pub fn block_all() {
    // SAFETY: the set is filled before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for the next signal; all must be blocked.
#[must_use]
pub fn wait_any() -> i32 {
    // SAFETY: the set is filled before it is read, and `signal` is writable.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        let mut signal = 0;
        if libc::sigwait(&raw const set, &raw mut signal) == 0 {
            signal
        } else {
            0
        }
    }
}

/// `kill(2)` to one process (positive) of this pid namespace.
///
/// # Errors
/// `ESRCH`, `EPERM`.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill has no memory preconditions.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
