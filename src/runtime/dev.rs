//! `/dev`: a tmpfs of our own, filled through its own descriptor before anything of the image can
//! stand in it (S10).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};

use crate::sys::mount::{self, Depth};
use crate::sys::root::{self, Kind, Root};

#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("create device {}", path.display())]
    Device { path: PathBuf, source: io::Error },
    #[error("create link /dev/{name}")]
    Link {
        name: &'static str,
        source: io::Error,
    },
}

/// Every container has these (OCI runtime specification, "Default Devices").
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills a fresh `/dev`.
///
/// # Errors
/// Of the first device or link that cannot be made.
pub fn fill(dev: BorrowedFd<'_>) -> Result<(), DevError> {
    for (name, major, minor) in DEVICES {
        let node = Node {
            kind: FileType::CharacterDevice,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        let host = Path::new("/dev").join(name);
        node.make(dev, Path::new(name), &host)
            .map_err(|source| DevError::Device { path: host, source })?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).map_err(|error| DevError::Link {
            name,
            source: error.into(),
        })?;
    }
    Ok(())
}

/// Makes a device that the specification asks for, wherever it is in the root.
///
/// # Errors
/// Of the system calls.
pub fn add(root: &Root, device: &LinuxDevice) -> Result<(), DevError> {
    let fail = |source| DevError::Device {
        path: device.path().clone(),
        source,
    };
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::A => return Err(fail(io::Error::from(io::ErrorKind::InvalidInput))),
    };
    let (Some(parent), Some(name)) = (device.path().parent(), device.path().file_name()) else {
        return Err(fail(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let parent = root.make(parent, Kind::Directory).map_err(fail)?;
    let number =
        |value: i64| u32::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let node = Node {
        kind,
        major: number(device.major()).map_err(fail)?,
        minor: number(device.minor()).map_err(fail)?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    };
    node.make(parent.as_fd(), Path::new(name), device.path())
        .map_err(fail)
}

/// Binds a terminal over `/dev/console`, by descriptors only (S9).
///
/// # Errors
/// Of the system calls.
pub fn bind_console(root: &Root, slave: &OwnedFd) -> io::Result<()> {
    let target = root.make(Path::new("/dev/console"), Kind::File)?;
    mount::attach(mount::clone_fd(slave, Depth::Single)?, target)
}

struct Node {
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    fn make(&self, dir: BorrowedFd<'_>, name: &Path, host: &Path) -> io::Result<()> {
        let mode = Mode::from_raw_mode(self.mode);
        let dev = rustix::fs::makedev(self.major, self.minor);
        match rustix::fs::mknodat(dir, name, self.kind, mode, dev) {
            Ok(()) => {}
            // A device that is listed twice, or is a default one too.
            Err(Errno::EXIST) => {
                root::unlink(dir, &name.to_string_lossy())?;
                rustix::fs::mknodat(dir, name, self.kind, mode, dev)?;
            }
            // Without the right to make devices (user namespaces) the host's node is bound.
            Err(Errno::PERM) => return bind(dir, name, host),
            Err(error) => return Err(error.into()),
        }
        if (self.uid, self.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

fn bind(dir: BorrowedFd<'_>, name: &Path, host: &Path) -> io::Result<()> {
    let source = mount::clone_path(host, Depth::Single)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::from_raw_mode(0o644),
    )?);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mount::attach(source, rustix::fs::openat(dir, name, flags, Mode::empty())?)
}
