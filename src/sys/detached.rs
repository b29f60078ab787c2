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
    let overlay = begin()?;
    if append(overlay.as_fd(), layers)? {
        return finish(overlay.as_fd());
    }
    let _pinned = join(overlay.as_fd(), layers)?;
    finish(overlay.as_fd())
}

fn begin() -> io::Result<OwnedFd> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in ["index", "metacopy"] {
        fsconfig_set_string(overlay.as_fd(), option, "off")?;
    }
    // "nofollow" as against "off": without an upper layer there is nothing to record, and "off"
    // would still follow redirects that a layer carries.
    fsconfig_set_string(overlay.as_fd(), "redirect_dir", "nofollow")?;
    // A view as an unprivileged engine sees it needs its own attributes; refused elsewhere.
    if !rustix::process::geteuid().is_root() {
        fsconfig_set_flag(overlay.as_fd(), "userxattr")?;
    }
    Ok(overlay)
}

/// One call per layer. Returns false where the kernel (before 6.5) cannot.
fn append(overlay: BorrowedFd<'_>, layers: &[PathBuf]) -> io::Result<bool> {
    for (position, layer) in layers.iter().enumerate() {
        match fsconfig_set_string(overlay, "lowerdir+", layer.as_path()) {
            Ok(()) => {}
            Err(Errno::INVAL) if position == 0 => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// All layers in one value, which fsconfig limits to 255 bytes; short paths through pinned
/// descriptors make room for about twelve. The descriptors have to live until the mount exists.
fn join(overlay: BorrowedFd<'_>, layers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let pinned = layers
        .iter()
        .map(|layer| beneath::open_root(layer))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let paths: Vec<String> = pinned
        .iter()
        .map(|fd| beneath::proc_path(fd.as_fd()))
        .collect();
    fsconfig_set_string(overlay, "lowerdir", paths.join(":"))?;
    Ok(pinned)
}

fn finish(overlay: BorrowedFd<'_>) -> io::Result<LayersView> {
    fsconfig_set_flag(overlay, "ro")?;
    fsconfig_create(overlay)?;
    let mount = fsmount(
        overlay,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_stacking_show_the_same_and_look_ups_may_go_up() {
        use std::io::Write;
        if !rustix::process::geteuid().is_root() {
            let _ = std::io::stderr().write_all(b"skipped: this test needs root\n");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..10)
            .map(|n| dir.path().join(format!("layer{n}")))
            .collect();
        for (n, layer) in layers.iter().enumerate() {
            std::fs::create_dir_all(layer.join("sub")).unwrap();
            std::fs::write(layer.join("sub/top"), n.to_string()).unwrap();
            std::fs::write(layer.join(format!("sub/f{n}")), "x").unwrap();
        }
        std::os::unix::fs::symlink("sub/../../../sub", layers[3].join("around")).unwrap();
        let appended = begin().unwrap();
        assert!(append(appended.as_fd(), &layers).unwrap());
        let joined = begin().unwrap();
        let _pinned = join(joined.as_fd(), &layers).unwrap();
        for overlay in [appended, joined] {
            let view = finish(overlay.as_fd()).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
            let sub = beneath::open_in_root_same_mount(view.as_fd(), Path::new("/around"), flags)
                .unwrap();
            assert_eq!(beneath::names(sub.as_fd()).unwrap().len(), 11);
            let top =
                beneath::open_beneath(sub.as_fd(), Path::new("top"), rustix::fs::OFlags::RDONLY);
            let top = std::fs::File::from(top.unwrap());
            assert_eq!(std::io::read_to_string(top).unwrap(), "0");
        }
    }
}
