//! Descriptors of this process: which exist, where they stand, what survives `execve`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

/// Reading end, writing end; neither survives `execve`.
///
/// # Errors
/// Of `pipe2(2)`.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// `/dev/null`, for reading and writing.
///
/// # Errors
/// Of the open.
pub fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Makes reads and writes return `EAGAIN` rather than wait.
///
/// # Errors
/// Of `fcntl(2)`.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

/// Puts the three descriptors on 0, 1 and 2, where they survive `execve`.
///
/// # Errors
/// Of `dup(2)`.
pub fn install_stdio(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> io::Result<()> {
    // One of the sources may itself stand on 0–2 and be overwritten by an earlier step, so all are
    // first moved out of the way.
    let mut high = [const { None::<OwnedFd> }; 3];
    for (slot, fd) in high.iter_mut().zip([stdin, stdout, stderr]) {
        *slot = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
    }
    for (target, fd) in high.iter().flatten().enumerate() {
        // SAFETY: dup2 takes two descriptor numbers. The first is open (just duplicated), the
        // second is 0, 1 or 2: no `OwnedFd` of this program stands for those, so none is closed
        // under its owner.
        let done = unsafe { libc::dup2(fd.as_raw_fd(), target as RawFd) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Marks every descriptor from 3 on to be closed by `execve`.
///
/// # Errors
/// Of `close_range(2)`; before Linux 5.11 the descriptors are marked one by one.
pub fn cloexec_from_3() -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC changes flags only, and closes nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        if let Some(fd) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<RawFd>().ok())
            && fd > 2
        {
            // SAFETY: F_SETFD on a number that is not open fails with EBADF and does nothing.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Closes every descriptor from `first` on, except those in `keep`.
///
/// For the first moments of a forked process, which carries on with nothing of its parent: values
/// that own a closed descriptor must be forgotten, never dropped or used.
pub fn close_inherited(first: u32, keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    keep.sort_unstable();
    let mut from = first;
    for fd in keep {
        if fd < from {
            continue;
        }
        if fd > from {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the caller (see `close_inherited`) gives up every descriptor in the range; closing
    // numbers that are not open is no error for close_range.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    if done != 0 {
        // Before Linux 5.9.
        let end = last.min(65_536);
        for fd in first..=end {
            // SAFETY: as above.
            unsafe { libc::close(fd as RawFd) };
        }
    }
}

/// Puts `/dev/null` on 0, 1 and 2.
///
/// # Errors
/// Of opening `/dev/null` or of `dup(2)`.
pub fn null_stdio() -> io::Result<()> {
    let null = null()?;
    install_stdio(null.as_fd(), null.as_fd(), null.as_fd())
}

/// A second descriptor of the same open file, never 0, 1 or 2, which `execve` closes.
///
/// # Errors
/// Of `dup(2)`.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Adopts a descriptor that arrived as a number (from `clone3`, or a test).
pub(super) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: only called inside `sys` with a number that the kernel has just returned and that
    // nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
