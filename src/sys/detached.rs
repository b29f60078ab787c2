//! A read-only view of stacked layers, without a place in any mount namespace.
//!
//! The mount lives as long as the descriptor; nobody else can see or leak it. Must not know where
//! the layers come from.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;

use super::fallback::{self, Feature};
use super::mount::{Change, Depth, Propagation};
use super::{beneath, mount};

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
    if !fallback::is_forced(Feature::OverlayAppend)
        && let Some(mount) = append(layers)?
    {
        return finish(mount);
    }
    finish(join(layers)?)
}

/// What a view needs whatever the kernel's configuration says.
const OPTIONS: [(&str, &str); 3] = [
    ("index", "off"),
    ("metacopy", "off"),
    // "nofollow" as against "off": without an upper layer there is nothing to record, and "off"
    // would still follow redirects that a layer carries.
    ("redirect_dir", "nofollow"),
];

/// A view as an unprivileged engine sees it needs its own attributes; refused elsewhere.
fn wants_user_attributes() -> bool {
    !rustix::process::geteuid().is_root()
}

/// One call per layer. `None` where the kernel (before 6.7) cannot.
fn append(layers: &[PathBuf]) -> io::Result<Option<OwnedFd>> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let overlay = overlay.as_fd();
    for (position, layer) in layers.iter().enumerate() {
        // Before 6.5 options are words that the file system reads at the end only, complaining in
        // the kernel's log; there a descriptor is not supported at all, rather than invalid.
        if position == 0 && fsconfig_set_fd(overlay, "lowerdir+", overlay) == Err(Errno::OPNOTSUPP)
        {
            return Ok(None);
        }
        match fsconfig_set_string(overlay, "lowerdir+", layer.as_path()) {
            Ok(()) => {}
            Err(Errno::INVAL) if position == 0 => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    for (key, value) in OPTIONS {
        fsconfig_set_string(overlay, key, value)?;
    }
    if wants_user_attributes() {
        fsconfig_set_flag(overlay, "userxattr")?;
    }
    fsconfig_set_flag(overlay, "ro")?;
    fsconfig_create(overlay)?;
    Ok(Some(fsmount(
        overlay,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?))
}

/// All layers in one option of `mount(2)`, which may have a page where a value of fsconfig has 255
/// bytes. That call needs a place, which is in a mount namespace that ends with its thread; a
/// detached clone is what remains.
fn join(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let Some(place) = layers.first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let work = || {
        // SAFETY: `unshare_unsafe` asks that no other thread relies on the shared state that is
        // given up: namespace, root and working directory of a thread made for this call.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        let private = Change {
            propagation: Some(Propagation::Private),
            ..Change::default()
        };
        mount::set_root_attributes(Depth::Tree, private)?;
        // Opened here: a layer must be of the namespace that mounts. Descriptors make the names
        // short: 127 of them fit into the page.
        let pinned = layers
            .iter()
            .map(|layer| beneath::open_root(layer))
            .collect::<io::Result<Vec<OwnedFd>>>()?;
        let paths: Vec<String> = pinned
            .iter()
            .map(|fd| beneath::proc_path(fd.as_fd()))
            .collect();
        let mut options = format!("lowerdir={}", paths.join(":"));
        for (key, value) in OPTIONS {
            options.push_str(&format!(",{key}={value}"));
        }
        if wants_user_attributes() {
            options.push_str(",userxattr");
        }
        let options = CString::new(options)?;
        let flags =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount::mount_overlay(place, flags, &options)?;
        mount::clone_path(place, Depth::Single)
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn finish(mount: OwnedFd) -> io::Result<LayersView> {
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
        let layers: Vec<PathBuf> = (0..100)
            .map(|n| dir.path().join(format!("layer{n}")))
            .collect();
        for (n, layer) in layers.iter().enumerate() {
            std::fs::create_dir_all(layer.join("sub")).unwrap();
            std::fs::write(layer.join("sub/top"), n.to_string()).unwrap();
            std::fs::write(layer.join(format!("sub/f{n}")), "x").unwrap();
        }
        std::os::unix::fs::symlink("sub/../../../sub", layers[3].join("around")).unwrap();
        // The old way is there on every kernel.
        let ways = [append(&layers).unwrap(), Some(join(&layers).unwrap())];
        for mount in ways.into_iter().flatten() {
            let view = finish(mount).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
            let sub = beneath::open_in_root_same_mount(view.as_fd(), Path::new("/around"), flags)
                .unwrap();
            assert_eq!(beneath::names(sub.as_fd()).unwrap().len(), 101);
            let top =
                beneath::open_beneath(sub.as_fd(), Path::new("top"), rustix::fs::OFlags::RDONLY);
            let top = std::fs::File::from(top.unwrap());
            assert_eq!(std::io::read_to_string(top).unwrap(), "0");
        }
    }
}
