//! Mounts as descriptors: detached trees that vanish with their owner until they are attached.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

pub use rustix::mount::MountAttrFlags as Attr;

/// How mounts propagate (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Propagation {
    Private = libc::MS_PRIVATE,
    Slave = libc::MS_SLAVE,
    Shared = libc::MS_SHARED,
    Unbindable = libc::MS_UNBINDABLE,
}

/// One mount or the tree below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Single,
    Tree,
}

/// What to change on a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    /// `MOUNT_ATTR_*` bits.
    pub set: u64,
    pub clear: u64,
    pub propagation: Option<Propagation>,
}

/// `mount_setattr(2)`, Linux 5.12. Neither rustix nor nix has it.
///
/// # Errors
/// `EPERM` when a locked flag would be cleared, `ENOSYS` before 5.12.
pub fn set_attributes(mount: impl AsFd, depth: Depth, change: Change) -> io::Result<()> {
    set_attributes_at(mount.as_fd(), c"", libc::AT_EMPTY_PATH, depth, change)
}

/// [`set_attributes`] of the root directory of this mount namespace.
///
/// # Errors
/// As there.
pub fn set_root_attributes(depth: Depth, change: Change) -> io::Result<()> {
    set_attributes_at(rustix::fs::CWD, c"/", 0, depth, change)
}

fn set_attributes_at(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    depth: Depth,
    change: Change,
) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change
            .propagation
            .map_or(0, |propagation| propagation as u64),
        userns_fd: 0,
    };
    let flags = match depth {
        Depth::Single => flags,
        Depth::Tree => flags | libc::AT_RECURSIVE,
    };
    // SAFETY: `path` is a terminated string, `attr` has the layout and size (MOUNT_ATTR_SIZE_VER0)
    // of struct mount_attr, and both outlive the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A clone of what is mounted at a path of this namespace, detached.
///
/// # Errors
/// `ENOENT` when there is nothing.
pub fn clone_path(path: &Path, depth: Depth) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(
        rustix::fs::CWD,
        path,
        clone_flags(depth),
    )?)
}

/// A clone of the mount at (or the subtree below) a descriptor, detached.
///
/// # Errors
/// `EINVAL` when the descriptor is of another mount namespace.
pub fn clone_fd(fd: impl AsFd, depth: Depth) -> io::Result<OwnedFd> {
    let flags = clone_flags(depth) | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(fd, c"", flags)?)
}

fn clone_flags(depth: Depth) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match depth {
        Depth::Single => flags,
        Depth::Tree => flags | OpenTreeFlags::AT_RECURSIVE,
    }
}

/// Attaches a mount on top of what a descriptor stands for.
///
/// # Errors
/// `ENOTDIR` when one is a directory and the other is not.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", flags)?)
}

/// A new file system, not yet created: options are set one by one.
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
}

impl Context {
    /// # Errors
    /// `ENODEV` when the kernel has no such file system.
    pub fn open(kind: &str) -> io::Result<Context> {
        Ok(Context {
            fd: rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?,
        })
    }

    /// # Errors
    /// `EINVAL` for an unknown option or value (and for values over 255 bytes).
    pub fn set(&self, key: &str, value: &str) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_string(&self.fd, key, value)?)
    }

    /// # Errors
    /// `EINVAL` for an unknown option.
    pub fn set_flag(&self, key: &str) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_flag(&self.fd, key)?)
    }

    /// # Errors
    /// `EINVAL` where the option takes no descriptor (overlay before Linux 6.13), `EOPNOTSUPP` where
    /// no option does (overlay before 6.5).
    pub fn set_fd(&self, key: &str, value: impl AsFd) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_fd(&self.fd, key, value)?)
    }

    /// Creates the file system and returns its detached mount.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn mount(&self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        rustix::mount::fsconfig_create(&self.fd)?;
        Ok(rustix::mount::fsmount(
            &self.fd,
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes,
        )?)
    }

    /// What the kernel wrote about the last failure, if anything.
    #[must_use]
    pub fn log(&self) -> Option<String> {
        let mut buffer = [0u8; 256];
        let n = rustix::io::read(&self.fd, &mut buffer).ok()?;
        Some(String::from_utf8_lossy(buffer.get(..n)?).trim().to_owned())
    }
}

/// `mount(2)` with an option string, for kernels whose overlay knows nothing newer.
///
/// # Errors
/// Of `mount(2)`.
pub fn mount_overlay(target: &Path, flags: MountFlags, options: &CStr) -> io::Result<()> {
    Ok(rustix::mount::mount(
        "overlay", target, "overlay", flags, options,
    )?)
}

/// Makes the current directory the root, and lets the old root go.
///
/// # Errors
/// Of `pivot_root(2)` or the unmount.
pub fn pivot_to_current_dir() -> io::Result<()> {
    // The old root is stacked below the new one's `/` and unmounted from there: no directory for
    // it is needed (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}
