//! Pseudo terminals. The slave is always taken from the master's descriptor, never by path.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// `f_type` of devpts.
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// A new master of the devpts instance whose root directory is given.
///
/// # Errors
/// `InvalidInput` when what stands there is not the multiplexer of a devpts: a container can put
/// anything at the path (CVE-2025-52565).
pub fn open_master(devpts: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let probe = rustix::fs::openat2(
        devpts,
        "ptmx",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    let stat = rustix::fs::fstat(&probe)?;
    let is_ptmx = rustix::fs::major(stat.st_rdev) == 5 && rustix::fs::minor(stat.st_rdev) == 2;
    if !is_ptmx || rustix::fs::fstatfs(&probe)?.f_type as u64 != DEVPTS_MAGIC {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let master = rustix::fs::openat2(devpts, "ptmx", flags, Mode::empty(), resolve)?;
    rustix::pty::unlockpt(&master)?;
    Ok(master)
}

/// A new master of this mount namespace's own devpts.
///
/// # Errors
/// Of opening `/dev/ptmx`.
pub fn open_host_master() -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    Ok(master)
}

/// The slave side.
///
/// # Errors
/// Of `TIOCGPTPEER` (Linux 4.13).
pub fn slave(master: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    Ok(rustix::pty::ioctl_tiocgptpeer(master, flags)?)
}

/// Sets the window size; the foreground process group gets SIGWINCH.
///
/// # Errors
/// Of the ioctl.
pub fn resize(master: impl AsFd, (columns, rows): (u16, u16)) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// Makes the terminal the controlling one of this (new) session.
///
/// # Errors
/// `EPERM` when this process does not lead a session.
pub fn take_control(slave: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer, no pointer.
    let done = unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
