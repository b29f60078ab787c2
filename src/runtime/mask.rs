//! Paths that a container must not see, or not change.
//!
//! A masked path is covered by an empty object of our own, never by the container's `/dev/null`
//! (CVE-2025-31133), and the place is a descriptor, so that it cannot move under us.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::sys::mount::{self, Change, Depth};
use crate::sys::root::{Root, is_dir};

#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    #[error("mask {}", path.display())]
    Mask { path: PathBuf, source: io::Error },
    #[error("make {} read-only", path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
}

/// Names of the empty objects in the stage.
const EMPTY_DIR: &str = "empty-dir";
const EMPTY_FILE: &str = "empty-file";

/// Makes the empty objects in a file system of ours.
///
/// # Errors
/// Of the system calls.
pub fn prepare(stage: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::mkdirat(stage, EMPTY_DIR, Mode::from_raw_mode(0o555))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(
        stage,
        EMPTY_FILE,
        flags,
        Mode::from_raw_mode(0o444),
    )?);
    Ok(())
}

/// Covers `path`, if it exists.
///
/// # Errors
/// When it exists and cannot be covered.
pub fn mask(root: &Root, stage: BorrowedFd<'_>, path: &Path) -> Result<(), MaskError> {
    let cover = || -> io::Result<()> {
        let Some(target) = existing(root, path)? else {
            return Ok(());
        };
        let name = if is_dir(&target)? {
            EMPTY_DIR
        } else {
            EMPTY_FILE
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let empty = rustix::fs::openat(stage, name, flags, Mode::empty())?;
        let empty = mount::clone_fd(empty, Depth::Single)?;
        let set = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC;
        mount::set_attributes(
            &empty,
            Depth::Single,
            Change {
                set,
                ..Change::default()
            },
        )?;
        mount::attach(empty, target)
    };
    cover().map_err(|source| MaskError::Mask {
        path: path.to_owned(),
        source,
    })
}

/// Makes what is at `path`, if anything, and all below it read-only.
///
/// # Errors
/// When it exists and cannot be made so.
pub fn read_only(root: &Root, path: &Path) -> Result<(), MaskError> {
    let cover = || -> io::Result<()> {
        let Some(target) = existing(root, path)? else {
            return Ok(());
        };
        let tree = mount::clone_fd(&target, Depth::Tree)?;
        let change = Change {
            set: libc::MOUNT_ATTR_RDONLY,
            ..Change::default()
        };
        mount::set_attributes(&tree, Depth::Tree, change)?;
        mount::attach(tree, target)
    };
    cover().map_err(|source| MaskError::ReadOnly {
        path: path.to_owned(),
        source,
    })
}

fn existing(root: &Root, path: &Path) -> io::Result<Option<std::os::fd::OwnedFd>> {
    match root.open(path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
