//! Cgroup directories and their control files, by descriptor. The same in v1 and v2.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

pub(super) fn open_directory(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        at,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a directory, making it and those above it where they are missing. `each` sees every
/// directory from `root` on down to the parent of the last one.
pub(super) fn make_path(
    root: BorrowedFd<'_>,
    path: &Path,
    mut each: impl FnMut(BorrowedFd<'_>, BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let mut here = open_directory(root, Path::new("."))?;
    for name in path.iter() {
        match rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let below = open_directory(here.as_fd(), Path::new(name))?;
        each(here.as_fd(), below.as_fd())?;
        here = below;
    }
    Ok(here)
}

pub(super) fn open_file(at: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        at,
        name,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

pub(super) fn read_at(at: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let fd = open_file(at, name, OFlags::RDONLY)?;
    io::read_to_string(fs::File::from(fd))
}

/// One write(2): control files take a value only as a whole.
pub(super) fn write_at(at: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    let fd = open_file(at, name, OFlags::WRONLY)?;
    rustix::io::write(&fd, value.as_bytes())?;
    Ok(())
}

/// Removes a directory and those below it. One that is not there is removed already.
pub(super) fn remove_tree(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        // EBUSY stands for processes and for children alike.
        Err(rustix::io::Errno::BUSY) => {}
        Err(e) => return Err(e.into()),
    }
    let directory = match open_directory(root, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for child in children(directory.as_fd())? {
        remove_tree(directory.as_fd(), &child)?;
    }
    match rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn children(directory: BorrowedFd<'_>) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == rustix::fs::FileType::Directory && name != b"." && name != b".." {
            names.push(PathBuf::from(std::ffi::OsStr::from_bytes(name)));
        }
    }
    Ok(names)
}

pub(super) fn processes(directory: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
    let text = read_at(directory, "cgroup.procs")?;
    // 0 stands for a process that is not in our pid namespace.
    Ok(text
        .lines()
        .filter_map(|l| l.parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}

pub(super) fn all_processes(directory: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
    let mut pids = processes(directory)?;
    for child in children(directory)? {
        let child = open_directory(directory, &child)?;
        pids.extend(all_processes(child.as_fd())?);
    }
    Ok(pids)
}

/// Where processes go that stood in a cgroup which hands controllers down.
pub(super) const LEAF: &str = "init";

/// Moves the processes of a cgroup into a leaf below it, as every nested engine has to: the
/// entry process of a container sits in what it sees as the root.
pub(super) fn evacuate(directory: BorrowedFd<'_>) -> io::Result<()> {
    let leaf = make_path(directory, Path::new(LEAF), |_, _| Ok(()))?;
    loop {
        let pids = processes(directory)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            match write_at(leaf.as_fd(), "cgroup.procs", &pid.to_string()) {
                Err(e) if e.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                    return Err(e);
                }
                _ => {}
            }
        }
    }
}

/// A v1 cpuset takes no process before it has processors and memory nodes.
pub(super) fn inherit_cpuset(above: BorrowedFd<'_>, below: BorrowedFd<'_>) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read_at(below, file)?.trim().is_empty() {
            write_at(below, file, read_at(above, file)?.trim())?;
        }
    }
    Ok(())
}
