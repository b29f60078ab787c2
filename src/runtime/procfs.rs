//! The procfs of a container: made by the process that sets it up, for the pid namespace that the
//! program will be in.
//!
//! A new procfs shows the pid namespace of whoever opens it. The process that sets up a container
//! with a namespace of its own is process 1 in there. One that joins another container's stays
//! outside until all else is done (S33), so there the namespace is named (Linux 6.18), or the other
//! container's own procfs is cloned, once it has been proved to be of that namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::runtime::mounts;
use crate::runtime::namespaces::JoinedPid;
use crate::sys::fallback::{self, Feature};
use crate::sys::mount::{self, Attr, Change, Context, Depth};

const ATTRIBUTES: Attr = Attr::MOUNT_ATTR_NOSUID
    .union(Attr::MOUNT_ATTR_NODEV)
    .union(Attr::MOUNT_ATTR_NOEXEC);

/// One for this process's own pid namespace.
///
/// # Errors
/// Of the file system.
pub fn own() -> io::Result<OwnedFd> {
    let context = Context::open("proc")?;
    context.set("source", "proc")?;
    context.mount(ATTRIBUTES)
}

/// One for a namespace that this process is not in.
///
/// # Errors
/// Of the file system, or `ENOENT` where an old kernel needs the other container's `/proc` and that
/// is no procfs of the namespace.
pub fn joined(pid: &JoinedPid) -> io::Result<OwnedFd> {
    match named(pid) {
        // EINVAL: the option is unknown.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => cloned(pid),
        made => made,
    }
}

fn named(pid: &JoinedPid) -> io::Result<OwnedFd> {
    if fallback::is_forced(Feature::ProcfsPidns) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let context = Context::open("proc")?;
    context.set("source", "proc")?;
    context.set_fd("pidns", &pid.namespace)?;
    context.mount(ATTRIBUTES)
}

fn cloned(pid: &JoinedPid) -> io::Result<OwnedFd> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let home = pid.mounts.as_ref().ok_or_else(missing)?;
    let tree = mounts::clone_in(home.as_fd(), Path::new("proc"), Depth::Single)?;
    // The other container may have put anything there. The first process of a pid namespace is in
    // it, and a procfs shows it as 1: so this is the one, or not.
    if rustix::fs::fstatfs(&tree)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Err(missing());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let first = rustix::fs::openat(&tree, "1/ns/pid", flags, Mode::empty())?;
    let (first, wanted) = (
        rustix::fs::fstat(&first)?,
        rustix::fs::fstat(&pid.namespace)?,
    );
    if (first.st_dev, first.st_ino) != (wanted.st_dev, wanted.st_ino) {
        return Err(missing());
    }
    // Its flags are the other container's wishes, ours are the same ones that a new mount gets.
    let change = Change {
        set: ATTRIBUTES.bits().into(),
        clear: libc::MOUNT_ATTR_RDONLY,
        ..Change::default()
    };
    mount::set_attributes(&tree, Depth::Single, change)?;
    Ok(tree)
}
