//! A layer on disk against its own archive: what the digest of the archive does not cover.
//!
//! The archive is put together from the files, so their content is proved by its digest. Whether the
//! other things are there (empty files, symlinks, directories, owners and modes) is looked up entry
//! by entry. Times are left out: not every file system keeps them as exactly.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};

use super::entry_path::{clean, in_root, split};
use super::extract::{AUFS, OPAQUE, WHITEOUT, kernel_path};
use super::layer::{LayerError, Limits};
use super::tar_stream::{EntryKind, Streamed, TarEntry, TarError, TarStream};
use crate::sys::beneath;

/// Reads an archive that is known to be whole, and returns the first path in which the unpacked
/// layer is not what it says.
pub fn first_difference(
    archive: impl Read,
    layer: BorrowedFd<'_>,
) -> Result<Option<PathBuf>, LayerError> {
    let mut tar = TarStream::new(Streamed(archive));
    let mut comparison = Comparison {
        root: layer,
        root_path: kernel_path(layer),
        last_parent: None,
        symlinks: HashSet::new(),
        different: BTreeMap::new(),
    };
    while let Some(entry) = tar.next_entry().map_err(tar_error)? {
        comparison.look_at(&entry)?;
    }
    // Whoever writes the archive must not find the reader gone.
    let Streamed(mut rest) = tar.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(LayerError::Read)?;
    Ok(comparison.different.pop_first().map(|(path, _)| path))
}

fn tar_error(error: TarError) -> LayerError {
    match error {
        TarError::Read(error) => LayerError::Read(error),
        error => LayerError::Tar(error),
    }
}

struct Comparison<'a> {
    root: BorrowedFd<'a>,
    root_path: PathBuf,
    /// The directory of the last entry: as the archive names it, and where it is.
    last_parent: Option<(PathBuf, OwnedFd, PathBuf)>,
    /// Paths that were symlinks when the archive came by them.
    symlinks: HashSet<PathBuf>,
    /// Paths as the archive names them, and where they lead. A later entry may be what is on the
    /// disk; then they are taken out again.
    different: BTreeMap<PathBuf, PathBuf>,
}

impl Comparison<'_> {
    fn look_at(&mut self, entry: &TarEntry) -> Result<(), LayerError> {
        let path = clean(&entry.path, &Limits::DEFAULT)?;
        let Some((parent, name)) = split(&path) else {
            return Ok(());
        };
        let is_aufs = path.components().any(|component| {
            let bytes = component.as_os_str().as_bytes();
            bytes.starts_with(AUFS) && bytes != OPAQUE
        });
        if is_aufs {
            return Ok(());
        }
        if name.as_bytes() == OPAQUE {
            let is_same = self.is_opaque(parent);
            self.note(parent, is_same);
        } else if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden = OsStr::from_bytes(hidden);
            // A marker beside an entry of the same name has become that entry's.
            let is_same = self.stat(parent, hidden).is_some();
            self.note(&parent.join(hidden), is_same);
        } else {
            let is_same = match self.stat(parent, &name) {
                Some(stat) => self.is_as_told(entry, parent, &name, &stat),
                // Devices cannot be made without privilege.
                None => {
                    matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice)
                        && !rustix::process::geteuid().is_root()
                }
            };
            // What was below a directory, or behind a symlink, that this entry replaced is gone.
            if self.symlinks.remove(&path) || entry.kind != EntryKind::Directory {
                self.different
                    .retain(|other, _| other == &path || !other.starts_with(&path));
            }
            if entry.kind == EntryKind::Symlink {
                self.symlinks.insert(path.clone());
            }
            self.note(&path, is_same);
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, is_same: bool) {
        let real = match split(path) {
            Some((parent, name)) => {
                // Without a parent there is nothing to be confused with.
                self.parent(parent);
                let real = self.last_parent.as_ref().filter(|(of, ..)| of == parent);
                real.map_or(path.to_owned(), |(_, _, real)| real.join(name))
            }
            None => PathBuf::new(),
        };
        match is_same {
            true => self.different.retain(|_, other| *other != real),
            false => _ = self.different.insert(path.to_owned(), real),
        }
    }

    fn parent(&mut self, path: &Path) -> Option<BorrowedFd<'_>> {
        let is_cached = self
            .last_parent
            .as_ref()
            .is_some_and(|(cached, ..)| cached == path);
        if !is_cached {
            self.last_parent = None;
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            let fd = beneath::open_in_root(self.root, in_root(path), flags).ok()?;
            let real = kernel_path(fd.as_fd());
            let real = real
                .strip_prefix(&self.root_path)
                .unwrap_or(path)
                .to_owned();
            self.last_parent = Some((path.to_owned(), fd, real));
        }
        self.last_parent.as_ref().map(|(_, fd, _)| fd.as_fd())
    }

    fn stat(&mut self, parent: &Path, name: &OsStr) -> Option<Stat> {
        let parent = self.parent(parent)?;
        rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn is_opaque(&mut self, path: &Path) -> bool {
        let Some(dir) = self.parent(path) else {
            return false;
        };
        let mut value = [0; 8];
        ["trusted.overlay.opaque", "user.overlay.opaque"]
            .iter()
            .any(|name| rustix::fs::fgetxattr(dir, *name, &mut value).is_ok())
    }

    fn is_as_told(&mut self, entry: &TarEntry, parent: &Path, name: &OsStr, stat: &Stat) -> bool {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let has_kind = match entry.kind {
            EntryKind::Regular => {
                kind == FileType::RegularFile && stat.st_size as u64 == entry.file_size
            }
            EntryKind::Directory => kind == FileType::Directory,
            EntryKind::Symlink => {
                let link = self
                    .parent(parent)
                    .and_then(|parent| rustix::fs::readlinkat(parent, name, Vec::new()).ok());
                link.is_some_and(|link| link.as_bytes() == entry.link)
            }
            // Its owner and mode are those of the file that it is another name of.
            EntryKind::HardLink => return kind != FileType::Directory,
            EntryKind::CharDevice => kind == FileType::CharacterDevice,
            EntryKind::BlockDevice => kind == FileType::BlockDevice,
            EntryKind::Fifo => kind == FileType::Fifo,
        };
        has_kind
            && (stat.st_uid, stat.st_gid) == (entry.uid, entry.gid)
            && (entry.kind == EntryKind::Symlink || stat.st_mode & 0o7777 == entry.mode)
    }
}
