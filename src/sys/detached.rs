//! A read-only view of stacked layers, without a place in any mount namespace.
//!
//! The mount lives as long as the descriptor; nobody else can see or leak it. Must not know where
//! the layers come from.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::beneath;

/// The root of a view, open for reading.
pub struct LayersView {
    root: OwnedFd,
    /// Closing the descriptor that fsmount returned takes the mount out of its anonymous name
    /// space. It can still be used then, but every release of a reference to it takes the
    /// kernel's mount lock, and a scoped look-up that meets `..` answers `EAGAIN` for ever.
    _mount: Option<OwnedFd>,
}

impl AsFd for LayersView {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Stacks the layers (top to bottom) and returns the root of the view. One layer is opened as it
/// is: the caller then sees that layer's whiteouts as character devices 0:0.
///
/// Options are spelled out because their defaults depend on the kernel's configuration, and
/// `redirect_dir` or `metacopy` would let an attribute inside a layer point elsewhere.
pub fn view_layers(layers: &[PathBuf]) -> io::Result<LayersView> {
    match layers {
        [] => Err(io::Error::new(io::ErrorKind::InvalidInput, "no layers")),
        [only] => Ok(LayersView {
            root: beneath::open_root(only)?,
            _mount: None,
        }),
        layers => stack(layers),
    }
}

fn stack(layers: &[PathBuf]) -> io::Result<LayersView> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in ["index", "metacopy"] {
        fsconfig_set_string(overlay.as_fd(), option, "off")?;
    }
    // "nofollow" as against "off": without an upper layer there is nothing to record, and "off"
    // would still follow redirects that a layer carries.
    fsconfig_set_string(overlay.as_fd(), "redirect_dir", "nofollow")?;
    // Older kernels (before 6.5) have no `lowerdir+` and take all layers in one value, which
    // fsconfig limits to 255 bytes; short paths through pinned descriptors make room there.
    let mut pinned = Vec::new();
    let mut appended = true;
    for layer in layers {
        match fsconfig_set_string(overlay.as_fd(), "lowerdir+", layer.as_path()) {
            Ok(()) => {}
            Err(Errno::INVAL) if pinned.is_empty() && layer == &layers[0] => {
                appended = false;
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if !appended {
        let mut value = String::new();
        for layer in layers {
            let fd = beneath::open_root(layer)?;
            if !value.is_empty() {
                value.push(':');
            }
            value.push_str(&beneath::proc_path(fd.as_fd()));
            pinned.push(fd);
        }
        fsconfig_set_string(overlay.as_fd(), "lowerdir", value)?;
    }
    // A view as an unprivileged engine sees it needs its own attributes; refused elsewhere.
    if !rustix::process::geteuid().is_root() {
        fsconfig_set_flag(overlay.as_fd(), "userxattr")?;
    }
    fsconfig_set_flag(overlay.as_fd(), "ro")?;
    fsconfig_create(overlay.as_fd())?;
    let mount = fsmount(
        overlay.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    // fsmount returns an O_PATH descriptor; readers of the root need an open directory.
    let root = beneath::open_in_root(
        mount.as_fd(),
        Path::new("."),
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY,
    )?;
    Ok(LayersView {
        root,
        _mount: Some(mount),
    })
}
