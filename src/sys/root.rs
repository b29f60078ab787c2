//! A directory tree that somebody else controls, reached through one pinned descriptor only.
//!
//! Every name is resolved by the kernel with `RESOLVE_IN_ROOT`: symlinks (absolute ones too) and
//! `..` stay inside, magic links are refused. A check followed by an open of the same string loses
//! against a concurrent rename (S5); there are no strings here that leave the tree.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Attempts against a tree that changes under us.
const MAX_RACES: u32 = 128;

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// A pinned root directory.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    #[must_use]
    pub fn new(fd: OwnedFd) -> Root {
        Root { fd }
    }

    /// Opens a name inside the root; never a magic link, never outside.
    ///
    /// # Errors
    /// Of `openat2(2)`; `ELOOP` for magic links.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(self.try_open(path, flags)?)
    }

    fn try_open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let mut races = 0;
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                // EAGAIN: a rename or mount happened anywhere while `..` was being resolved.
                Err(Errno::AGAIN | Errno::INTR) if races < MAX_RACES => races += 1,
                other => return other,
            }
        }
    }

    /// Opens a mount point, and makes it with its parents where it is missing. A dangling symlink
    /// is followed: what it points to is made.
    ///
    /// # Errors
    /// Of the system calls; `ENOTDIR`/`EISDIR` when something of the other kind stands there.
    pub fn make(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        match self.try_open(path, OFlags::PATH) {
            Ok(fd) => Ok(checked(fd, kind)?),
            Err(Errno::NOENT) => Ok(checked(self.make_missing(path, kind)?, kind)?),
            Err(error) => Err(error.into()),
        }
    }

    fn make_missing(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        let mut left: VecDeque<OsString> = names(path);
        let mut resolved = PathBuf::new();
        let mut links = 0;
        let mut races = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            let next = resolved.join(&name);
            match self.try_open(&next, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(fd) => match file_type(&fd)? {
                    FileType::Symlink => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::LOOP);
                        }
                        let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
                        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                        if target.is_absolute() {
                            resolved.clear();
                        }
                        for name in names(&target).into_iter().rev() {
                            left.push_front(name);
                        }
                    }
                    FileType::Directory => resolved = next,
                    _ if left.is_empty() => resolved = next,
                    _ => return Err(Errno::NOTDIR),
                },
                Err(Errno::NOENT) => {
                    let parent = self.try_open(&resolved, OFlags::PATH | OFlags::DIRECTORY)?;
                    let made = if left.is_empty() && kind == Kind::File {
                        make_file(&parent, &name)
                    } else {
                        rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))
                    };
                    match made {
                        Ok(()) => resolved = next,
                        // Somebody was faster: look at what stands there now.
                        Err(Errno::EXIST) if races < MAX_RACES => {
                            races += 1;
                            left.push_front(name);
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.try_open(&resolved, OFlags::PATH)
    }

    /// Reads a regular file of at most `limit_bytes`. A FIFO, a device or a larger file is an
    /// error, not a wait (CVE-2024-9676).
    ///
    /// # Errors
    /// Of the open or read; `InvalidData` for what is no regular file or too large.
    pub fn read(&self, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
        let fd = self.try_open(path, OFlags::PATH)?;
        if file_type(&fd)? != FileType::RegularFile {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let fd = self.try_open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        if file_type(&fd)? != FileType::RegularFile {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut content = Vec::new();
        File::from(fd)
            .take(limit_bytes + 1)
            .read_to_end(&mut content)?;
        if content.len() as u64 > limit_bytes {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Ok(content)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the descriptor stands for a directory.
///
/// # Errors
/// Of `fstat(2)`.
pub fn is_dir(fd: impl AsFd) -> io::Result<bool> {
    Ok(file_type(fd)? == FileType::Directory)
}

fn file_type(fd: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

fn checked(fd: OwnedFd, kind: Kind) -> Result<OwnedFd, Errno> {
    match (kind, file_type(&fd)? == FileType::Directory) {
        (Kind::Directory, false) => Err(Errno::NOTDIR),
        (Kind::File, true) => Err(Errno::ISDIR),
        _ => Ok(fd),
    }
}

fn make_file(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Removes a name in a directory; a missing one is no error.
///
/// # Errors
/// Of `unlinkat(2)`.
pub fn unlink(dir: impl AsFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(dir: &Path) -> Root {
        Root::new(rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap())
    }

    #[test]
    fn links_of_every_kind_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("real")).unwrap();
        let cases: [(&str, &str, Result<&str, i32>); 6] = [
            ("absolute", "/real", Ok("real/x")),
            ("relative", "real", Ok("real/x")),
            ("climbing", "../../../new", Ok("new/x")),
            ("dangling", "/made/here", Ok("made/here/x")),
            ("to-root", "/", Ok("x")),
            ("loop", "/loop", Err(libc::ELOOP)),
        ];
        for (name, target, expected) in cases {
            symlink(target, inside.join(name)).unwrap();
            let made = root(&inside).make(&Path::new("/").join(name).join("x"), Kind::Directory);
            match expected {
                Ok(place) => {
                    made.unwrap();
                    assert!(inside.join(place).is_dir(), "{name}");
                }
                Err(errno) => assert_eq!(made.unwrap_err().raw_os_error(), Some(errno), "{name}"),
            }
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "something left the root"
        );
    }

    #[test]
    fn magic_links_are_refused() {
        let all = root(Path::new("/"));
        let error = all
            .open(Path::new("/proc/self/fd/0"), OFlags::PATH)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_fifo_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("passwd");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(root(dir.path()).read(Path::new("/passwd"), 100).is_err());
        std::fs::write(dir.path().join("long"), [0; 101]).unwrap();
        assert!(root(dir.path()).read(Path::new("/long"), 100).is_err());
    }
}
