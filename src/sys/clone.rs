//! New processes. The callers are single-threaded by construction, so that the child may use the
//! allocator; nothing here runs in the engine once its runtime has threads.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::process::Pid;

/// libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of the split this is.
#[derive(Debug)]
pub enum Side<T> {
    Child,
    Parent(T),
}

/// A child as its parent holds it.
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// `fork(2)` through libc, whose allocator stays usable in the child.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub fn fork() -> io::Result<Side<Pid>> {
    // SAFETY: fork has no memory preconditions. In a process with several threads the child has
    // only the calling one; glibc and musl keep the allocator consistent across it, and the only
    // caller with threads is a test's harness.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(positive(pid)?)),
    }
}

/// `clone3(2)` without shared memory: a fork with new namespaces, a pidfd, and a cgroup to begin
/// its life in (Linux 5.7).
///
/// # Errors
/// Of `clone3(2)`.
pub fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side<Child>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` is plain integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the given size and outlives the call; `pidfd` is
    // writable. Without CLONE_VM the child runs on a copy of this stack, so returning twice is a
    // fork, and this process has one thread (module rule), so no lock is left taken in the copy.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            std::mem::size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(Child {
            pid: positive(pid as libc::pid_t)?,
            pidfd: super::fd::adopt(pidfd),
        })),
    }
}

/// `clone(2)` of a sibling: the caller's parent becomes the parent of the new process too.
///
/// The old call, because the usual system call filters answer `ENOSYS` to `clone3` and this runs
/// with the container's filter loaded.
///
/// # Errors
/// Of `clone(2)`.
pub fn clone_sibling() -> io::Result<Side<Pid>> {
    // SAFETY: no stack (0) and no CLONE_VM: the child goes on with a copy of this one, as a fork.
    // The remaining pointers are unused without their flags. One thread (module rule).
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            (libc::CLONE_PARENT | libc::SIGCHLD) as libc::c_ulong,
            0usize,
            0usize,
            0usize,
            0usize,
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(positive(pid as libc::pid_t)?)),
    }
}

/// Ends the process without running anything on the way out.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

fn positive(pid: libc::pid_t) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
