//! Processes held by descriptor: a pidfd cannot come to mean another process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// 0–255, or 128 + signal.
    pub code: i32,
    pub signal: Option<i32>,
}

/// # Errors
/// `ESRCH` when no such process exists.
pub fn open(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Takes the status of an ended child; `None` while it runs.
///
/// # Errors
/// `ECHILD` when it is not our child (any more).
pub fn try_wait(pidfd: impl AsFd) -> io::Result<Option<Ended>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options)?;
    Ok(status.map(
        |status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended {
                code: code & 0xff,
                signal: None,
            },
            (None, signal) => Ended {
                code: 128 + signal.unwrap_or(0),
                signal,
            },
        },
    ))
}

/// Sends any signal number, realtime ones included; a process that has ended is no error.
///
/// # Errors
/// `EPERM`, `EINVAL`.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal with a null siginfo takes only the descriptor and a number.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    if done == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Joins namespaces (`CLONE_NEW*` bits) of the process behind a pidfd, or of a namespace descriptor.
///
/// # Errors
/// Of `setns(2)`.
pub fn join(fd: impl AsFd, namespaces: i32) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags. CLONE_NEWNS needs a process that shares its
    // file system state with nobody: the callers are single-threaded children.
    let done = unsafe { libc::setns(fd.as_fd().as_raw_fd(), namespaces) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reaps children that ended and are not `known`: orphans that were given to this subreaper.
pub fn reap_strangers(known: impl Fn(i32) -> bool) {
    let peek_at = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // The same zombie is shown again until it is taken, so the first known one ends the round: its
    // own pidfd is readable and brings us back.
    while let Some((pid, trap)) = peek(peek_at) {
        if let Some(signal) = trap {
            if release_tracee(pid, signal).is_err() {
                return;
            }
            continue;
        }
        if known(pid) {
            return;
        }
        let Some(pid) = Pid::from_raw(pid) else {
            return;
        };
        let take = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if rustix::process::waitid(WaitId::Pid(pid), take).is_err() {
            return;
        }
    }
}

/// The next child with news, and the signal at which it stopped if it is one that wants to be traced.
fn peek(options: WaitIdOptions) -> Option<(i32, Option<i32>)> {
    // SAFETY: siginfo_t is plain data for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable and large enough.
    let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options.bits() as i32) };
    if done != 0 {
        return None;
    }
    // SAFETY: waitid fills the SIGCHLD part of the union, and leaves si_pid 0 when nothing waits.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let trap = (info.si_code == libc::CLD_TRAPPED).then_some(status & 0x7f);
    (pid > 0).then_some((pid, trap))
}

/// A child that asked to be traced (`PTRACE_TRACEME`) has us for a tracer, who never asked: it would
/// stop for good at its first signal. It goes on untraced, with that signal.
fn release_tracee(pid: i32, signal: i32) -> io::Result<()> {
    // The kernel's own SIGTRAP, at an execve, is meant for a tracer; it would kill.
    let signal = if signal == libc::SIGTRAP { 0 } else { signal };
    // SAFETY: PTRACE_DETACH reads no memory: the address is ignored, the data is a signal number.
    // `pid` is a stopped tracee of ours, not yet reaped, so the number is still its.
    let done = unsafe {
        libc::ptrace(
            libc::PTRACE_DETACH,
            pid,
            std::ptr::null_mut::<libc::c_void>(),
            signal as usize as *mut libc::c_void,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
