//! Copies of files and trees with everything that `stat` and `getfattr` show.
//!
//! Used where content of one layer has to appear in another directory: a hard link to a lower
//! layer's file, the first use of a volume. Both sides are open directories; nothing is resolved
//! by a path that the copied tree could influence.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::metadata::{self, Metadata};
use crate::sys::beneath;

/// Deepest tree that is copied: three descriptors are open per level, and no image comes near.
const MAX_DEPTH: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("cannot copy {path:?}")]
    Entry { path: PathBuf, source: io::Error },
    #[error("the tree at {path:?} is deeper than {MAX_DEPTH} directories")]
    TooDeep { path: PathBuf },
}

/// One copying operation; remembers which files it has seen under more than one name.
pub struct Copier {
    target_root: OwnedFd,
    /// First copy of a file with several names, by device and inode, relative to the target root.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    pub fn new(target_root: OwnedFd) -> Copier {
        Copier {
            target_root,
            linked: HashMap::new(),
        }
    }

    /// Copies the content of `source` into the target root, and then its metadata.
    pub fn copy_root(&mut self, source: BorrowedFd<'_>) -> Result<(), CopyError> {
        let target = beneath::open_beneath(
            self.target_root.as_fd(),
            Path::new("."),
            OFlags::DIRECTORY | OFlags::RDONLY,
        );
        let target = at(Path::new("."), target)?;
        self.copy_directory(source, target.as_fd(), &mut PathBuf::new(), 0)
    }

    fn copy_directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &mut PathBuf,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > MAX_DEPTH {
            return Err(CopyError::TooDeep { path: path.clone() });
        }
        for name in at(path, beneath::names(source))? {
            path.push(&name);
            self.copy_entry(source, &name, target, path, depth)?;
            path.pop();
        }
        let metadata = at(path, metadata::of_open(source))?;
        at(path, metadata.apply(target))
    }

    fn copy_entry(
        &mut self,
        source: BorrowedFd<'_>,
        name: &OsStr,
        target: BorrowedFd<'_>,
        path: &mut PathBuf,
        depth: usize,
    ) -> Result<(), CopyError> {
        let stat = at(
            path,
            rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from),
        )?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            at(path, make_directory(target, name))?;
            let below = at(path, beneath::open_child_directory(target, name))?;
            return match beneath::open_child_directory(source, name) {
                Ok(inside) => self.copy_directory(inside.as_fd(), below.as_fd(), path, depth + 1),
                // A mount point: what is mounted there does not belong to the tree.
                Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => Ok(()),
                Err(error) => at(path, Err(error)),
            };
        }
        let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        if is_whiteout || kind == FileType::Socket {
            return Ok(());
        }
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.linked.get(&key)
        {
            let result =
                rustix::fs::linkat(&self.target_root, first, target, name, AtFlags::empty());
            return at(path, result.map_err(io::Error::from));
        }
        at(path, copy_file(source, name, target, name))?;
        if stat.st_nlink > 1 {
            self.linked.insert(key, path.clone());
        }
        Ok(())
    }
}

/// Gives `target` the owner, mode, times and attributes of `source`.
pub fn copy_metadata(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    metadata::of_open(source)?.apply(target)
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, CopyError> {
    result.map_err(|source| CopyError::Entry {
        path: path.to_owned(),
        source,
    })
}

fn make_directory(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name, Mode::RWXU)?)
}

/// Copies one entry that is not a directory. Sockets and overlay whiteouts are left out: the
/// former mean nothing without their process, the latter are not content.
pub fn copy_file(
    source: BorrowedFd<'_>,
    name: &OsStr,
    target: BorrowedFd<'_>,
    target_name: &OsStr,
) -> io::Result<()> {
    let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => {
            let from =
                beneath::open_beneath(source, Path::new(name), OFlags::RDONLY | OFlags::NOFOLLOW)?;
            let to = rustix::fs::openat(
                target,
                target_name,
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )?;
            copy_data(&from, &to, u64::try_from(stat.st_size).unwrap_or(0))?;
            metadata::of_open(from.as_fd())?.apply(to.as_fd())
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(source, name, Vec::new())?;
            rustix::fs::symlinkat(link, target, target_name)?;
            apply_special(source, name, target, target_name, true)
        }
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                return Ok(());
            }
            rustix::fs::mknodat(
                target,
                target_name,
                kind,
                Mode::RUSR | Mode::WUSR,
                stat.st_rdev,
            )?;
            apply_special(source, name, target, target_name, false)
        }
        _ => Ok(()),
    }
}

fn apply_special(
    source: BorrowedFd<'_>,
    name: &OsStr,
    target: BorrowedFd<'_>,
    target_name: &OsStr,
    is_symlink: bool,
) -> io::Result<()> {
    let metadata: Metadata = metadata::of_special(source, name)?;
    metadata.apply_to_special(target, target_name, is_symlink)
}

/// Shares the blocks where the file system can, else copies the data between the holes.
fn copy_data(from: &OwnedFd, to: &OwnedFd, length: u64) -> io::Result<()> {
    if length == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(to, length)?;
    let mut position = 0;
    while position < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(position)) {
            Ok(start) => start,
            // No data from here to the end.
            Err(Errno::NXIO) => break,
            // A file system that does not know holes.
            Err(Errno::INVAL) => position,
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
            Ok(end) => end.min(length),
            Err(Errno::INVAL | Errno::NXIO) => length,
            Err(error) => return Err(error.into()),
        };
        if end <= start {
            break;
        }
        copy_range(from, to, start, end)?;
        position = end;
    }
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let n = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), n) {
            // The file became shorter.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, read_at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    use std::io::{Read, Seek};
    let mut from = File::from(from.try_clone()?);
    let mut to = File::from(to.try_clone()?);
    from.seek(io::SeekFrom::Start(start))?;
    to.seek(io::SeekFrom::Start(start))?;
    io::copy(&mut from.take(end - start), &mut to)?;
    Ok(())
}
