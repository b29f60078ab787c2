//! The first use of an empty volume: it gets what the image has at the mount's place.
//!
//! ```text
//! copy to staging ─▶ syncfs ─▶ rename to ready ─▶ move entries to _data ─▶ flag
//! ```
//!
//! `ready` exists only complete, so whoever finds it goes on with moving. Without it and without
//! the flag the copy starts again. `_data` itself stays the same directory throughout, because
//! another container may have it mounted already.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::engine::image::CopyError;
use crate::engine::image::copy::{self, Copier};
use crate::sys::{beneath, detached};

pub(super) const DATA: &str = "_data";
pub(super) const STAGING: &str = "staging";
pub(super) const READY: &str = "ready";
pub(super) const FLAG: &str = "initialized";

/// What [`populate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Populated {
    /// The image's content is in the volume now.
    Copied,
    /// The volume was used before, has content, or the image has no directory there.
    NotWanted,
}

#[derive(Debug, thiserror::Error)]
pub enum PopulateError {
    #[error("cannot use the volume directory {path:?}")]
    Volume { path: PathBuf, source: io::Error },
    #[error("cannot look at {target:?} in the image")]
    Image { target: PathBuf, source: io::Error },
    #[error(transparent)]
    Copy(#[from] CopyError),
}

pub(super) fn populate(
    volume: &Path,
    layers: &[PathBuf],
    target: &Path,
) -> Result<Populated, PopulateError> {
    let on_volume = |source| PopulateError::Volume {
        path: volume.to_owned(),
        source,
    };
    let dir = beneath::open_root(volume).map_err(on_volume)?;
    // Released when the descriptor is closed, also by a crash.
    rustix::fs::flock(&dir, FlockOperation::LockExclusive)
        .map_err(|error| on_volume(error.into()))?;
    if exists(dir.as_fd(), FLAG).map_err(on_volume)? {
        return Ok(Populated::NotWanted);
    }
    let data = beneath::open_child_directory(dir.as_fd(), OsStr::new(DATA)).map_err(on_volume)?;
    if exists(dir.as_fd(), READY).map_err(on_volume)? {
        move_in(dir.as_fd(), data.as_fd()).map_err(on_volume)?;
        return Ok(Populated::Copied);
    }
    if !beneath::is_empty(data.as_fd()).map_err(on_volume)? {
        set_flag(dir.as_fd()).map_err(on_volume)?;
        return Ok(Populated::NotWanted);
    }
    beneath::remove_tree(dir.as_fd(), OsStr::new(STAGING)).map_err(on_volume)?;
    let Some(source) = open_target(layers, target)? else {
        set_flag(dir.as_fd()).map_err(on_volume)?;
        return Ok(Populated::NotWanted);
    };
    let staging = make_staging(dir.as_fd()).map_err(on_volume)?;
    if let Err(error) = Copier::new(staging).copy_root(source.as_fd()) {
        // A full disk should not stay full of a copy that is of no use; the next call would remove
        // it as well.
        beneath::remove_tree(dir.as_fd(), OsStr::new(STAGING)).map_err(on_volume)?;
        return Err(error.into());
    }
    publish(dir.as_fd()).map_err(on_volume)?;
    move_in(dir.as_fd(), data.as_fd()).map_err(on_volume)?;
    Ok(Populated::Copied)
}

/// The directory in the image. Symlinks are those of the image and end in the image
/// (CVE-2022-23648); what is mounted over a `rootfs:` image's directories is not part of it.
fn open_target(layers: &[PathBuf], target: &Path) -> Result<Option<OwnedFd>, PopulateError> {
    let on_image = |source| PopulateError::Image {
        target: target.to_owned(),
        source,
    };
    let view = detached::view_layers(layers).map_err(on_image)?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    match beneath::open_in_root_same_mount(view.as_fd(), target, flags) {
        Ok(source) => Ok(Some(source)),
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::XDEV)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(on_image(error)),
    }
}

pub(super) fn make_staging(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(dir, STAGING, Mode::RWXU)?;
    beneath::open_child_directory(dir, OsStr::new(STAGING))
}

/// A staged copy becomes valid.
pub(super) fn publish(dir: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::syncfs(dir)?;
    rustix::fs::renameat(dir, STAGING, dir, READY)?;
    Ok(rustix::fs::fsync(dir)?)
}

fn move_in(dir: BorrowedFd<'_>, data: BorrowedFd<'_>) -> io::Result<()> {
    let ready = beneath::open_child_directory(dir, OsStr::new(READY))?;
    for name in beneath::names(ready.as_fd())? {
        match rustix::fs::renameat_with(&ready, &name, data, &name, RenameFlags::NOREPLACE) {
            // A container that had the volume mounted meanwhile made this; it is newer.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    copy::copy_metadata(ready.as_fd(), data)?;
    rustix::fs::fsync(data)?;
    beneath::remove_tree(dir, OsStr::new(READY))?;
    set_flag(dir)
}

fn exists(dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn set_flag(dir: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::openat(
        dir,
        FLAG,
        OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::RUSR,
    )?;
    Ok(rustix::fs::fsync(dir)?)
}
