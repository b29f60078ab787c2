//! Owners, modes, times and extended attributes of files in a layer or volume.
//!
//! Decides which attributes may come out of somebody else's archive. Works on descriptors and on
//! (directory, name) pairs, never on a path that could lead elsewhere.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::sys::beneath;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether an attribute from an archive may be set on a file of a layer.
///
/// `trusted.*` and `user.overlay.*` would be instructions to the overlay file system (a redirect
/// reads other files of the layer store), and the other `security.*` names belong to the host's
/// policy (SELinux labels, IMA signatures).
pub fn is_allowed_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

impl Metadata {
    /// What a directory gets that an archive implies without listing it.
    pub fn implicit_directory() -> Metadata {
        Metadata {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        }
    }

    fn times(&self) -> Timestamps {
        let time = Timespec {
            tv_sec: self.mtime.0,
            tv_nsec: self.mtime.1.into(),
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    /// Sets everything on an open file or directory.
    ///
    /// The order matters: chown clears set-id bits and `security.capability`, writing changes
    /// times, so owner, then mode, then attributes, then times.
    pub fn apply(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let (uid, gid) = self.owner();
        rustix::fs::fchown(fd, uid, gid)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))?;
        self.apply_rest(fd)
    }

    fn apply_rest(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        for (name, value) in &self.xattrs {
            let result = rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty());
            tolerate(name, result)?;
        }
        Ok(rustix::fs::futimens(fd, &self.times())?)
    }

    /// As [`Metadata::apply`] for a file that was just made with the mode: what is so already is
    /// not set again, because every change is one more entry in the file system's journal. Umask,
    /// default ACLs and mount options may have made it otherwise, so the kernel is asked.
    pub fn apply_to_new(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let stat = rustix::fs::fstat(fd)?;
        let is_owned = (stat.st_uid, stat.st_gid) == (self.uid, self.gid);
        if !is_owned || stat.st_mode & 0o7777 != self.mode {
            return self.apply(fd);
        }
        self.apply_rest(fd)
    }

    /// Sets only the owner, without following or opening.
    pub fn apply_owner(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let (uid, gid) = self.owner();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(dir, name, uid, gid, flags)?)
    }

    /// Sets everything on a symlink, device or FIFO without following or opening it.
    pub fn apply_to_special(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        is_symlink: bool,
    ) -> io::Result<()> {
        self.apply_owner(dir, name)?;
        if !is_symlink {
            // chmod has no no-follow form before 6.6; an O_PATH descriptor pins the object, and
            // its /proc name leads to exactly that.
            let pinned = beneath::open_beneath(
                dir,
                std::path::Path::new(name),
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW,
            )?;
            rustix::fs::chmod(
                beneath::proc_path(std::os::fd::AsFd::as_fd(&pinned)),
                Mode::from_raw_mode(self.mode),
            )?;
        }
        for (key, value) in &self.xattrs {
            // The kernel has user attributes on files and directories only.
            if key.starts_with(b"user.") || is_symlink && key.starts_with(b"system.") {
                continue;
            }
            let result = rustix::fs::lsetxattr(
                beneath::proc_child_path(dir, name),
                key.as_slice(),
                value,
                XattrFlags::empty(),
            );
            tolerate(key, result)?;
        }
        Ok(rustix::fs::utimensat(
            dir,
            name,
            &self.times(),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }
}

/// A file system without some kind of attributes (tmpfs without ACLs, say) is no reason to refuse
/// an image; losing a file capability would break the program silently, so that is.
fn tolerate(name: &[u8], result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOTSUP) if name != b"security.capability" => Ok(()),
        result => Ok(result?),
    }
}

/// Reads the metadata of an open file or directory with the attributes that a copy keeps.
pub fn of_open(fd: BorrowedFd<'_>) -> io::Result<Metadata> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(Metadata {
        xattrs: xattrs(
            || rustix::fs::flistxattr_query(fd),
            |buffer| rustix::fs::flistxattr(fd, buffer),
            |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
        )?,
        ..from_stat(&stat)
    })
}

/// As [`of_open`] for an entry that must not be opened or followed.
pub fn of_special(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Metadata> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let path = beneath::proc_child_path(dir, name);
    Ok(Metadata {
        xattrs: xattrs(
            || rustix::fs::llistxattr_query(path.as_slice()),
            |buffer| rustix::fs::llistxattr(path.as_slice(), buffer),
            |name, buffer| rustix::fs::lgetxattr(path.as_slice(), name, buffer),
        )?,
        ..from_stat(&stat)
    })
}

fn from_stat(stat: &rustix::fs::Stat) -> Metadata {
    Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        xattrs: Vec::new(),
    }
}

fn xattrs(
    query: impl Fn() -> Result<usize, Errno>,
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Most files have none: ask for the length first, without a buffer.
    let length = match query() {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(length) => length,
        Err(error) => return Err(error.into()),
    };
    let mut names = vec![0; length];
    let length = list(&mut names)?;
    names.truncate(length);
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if name.is_empty() || !is_allowed_xattr(name) {
            continue;
        }
        // XATTR_SIZE_MAX: no value is longer.
        let mut value = vec![0; 1 << 16];
        let length = match get(name, &mut value) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        };
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    Ok(xattrs)
}
