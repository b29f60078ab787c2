//! A layer on disk against its own archive: what the digest of the archive does not cover.
//!
//! The archive is put together from the files, so their content is proved by its digest. Whether the
//! other things are there (empty files, symlinks, directories, owners and modes) is looked up entry
//! by entry. Times are left out: not every file system keeps them as exactly.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};

use super::entry_path::{clean, in_root, split};
use super::extract::{AUFS, OPAQUE, WHITEOUT, is_whiteout, kernel_path};
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
        linked: BTreeMap::new(),
        different: BTreeMap::new(),
    };
    while let Some(entry) = tar.next_entry().map_err(tar_error)? {
        comparison.look_at(&entry)?;
    }
    // Whoever writes the archive must not find the reader gone.
    let Streamed(mut rest) = tar.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(LayerError::Read)?;
    comparison.look_at_linked();
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
    /// Where names of hard links and their targets lead, and what the last entry said of the file
    /// that they share.
    linked: BTreeMap<PathBuf, Rc<Cell<Told>>>,
    /// Paths as the archive names them. A later entry may be what is on the disk; then they are
    /// taken out again.
    different: BTreeMap<PathBuf, Difference>,
}

struct Difference {
    /// Where the path leads.
    real: PathBuf,
    /// The file, if only its owner or mode differ: another name of it may have changed them.
    inode: Option<(u64, u64)>,
}

/// What an entry says that belongs to the file and not to its name.
#[derive(Clone, Copy)]
struct Told {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Told {
    fn of(entry: &TarEntry) -> Told {
        Told {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
        }
    }

    fn is_so(self, stat: &Stat) -> bool {
        let is_symlink = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        (stat.st_uid, stat.st_gid) == (self.uid, self.gid)
            && (is_symlink || stat.st_mode & 0o7777 == self.mode)
    }
}

enum Verdict {
    Same,
    Different,
    OnlyOwnerOrMode { inode: (u64, u64) },
}

impl From<bool> for Verdict {
    fn from(is_same: bool) -> Verdict {
        match is_same {
            true => Verdict::Same,
            false => Verdict::Different,
        }
    }
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
            self.note(parent, is_same.into());
        } else if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden = OsStr::from_bytes(hidden);
            // A marker beside an entry of the same name has become that entry's.
            let is_same = self.stat(parent, hidden).is_some();
            self.note(&parent.join(hidden), is_same.into());
        } else {
            let verdict = match self.stat(parent, &name) {
                Some(stat) => self.judge(entry, parent, &name, &stat),
                // Devices cannot be made without privilege.
                None => Verdict::from(
                    matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice)
                        && !rustix::process::geteuid().is_root(),
                ),
            };
            // What was below a directory, or behind a symlink, that this entry replaced is gone.
            if self.symlinks.remove(&path) || entry.kind != EntryKind::Directory {
                self.different
                    .retain(|other, _| other == &path || !other.starts_with(&path));
            }
            if entry.kind == EntryKind::Symlink {
                self.symlinks.insert(path.clone());
            }
            let real = self.note(&path, verdict);
            match entry.kind {
                EntryKind::HardLink => {
                    let target = clean(&entry.link, &Limits::DEFAULT)?;
                    self.link(entry, real, &target);
                }
                kind => self.forget_linked(&real, kind),
            }
        }
        Ok(())
    }

    /// The name is no longer that of a shared file, and neither is what was below it.
    fn forget_linked(&mut self, real: &Path, kind: EntryKind) {
        self.linked.remove(real);
        if kind == EntryKind::Directory {
            return;
        }
        let below = self.linked.range(real.to_owned()..);
        let below: Vec<PathBuf> = below
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(real))
            .cloned()
            .collect();
        for path in below {
            self.linked.remove(&path);
        }
    }

    fn link(&mut self, entry: &TarEntry, real: PathBuf, target: &Path) {
        let target = self.real(target);
        let told = Told::of(entry);
        let shared = self.linked.get(&target).cloned();
        let shared = shared.unwrap_or_else(|| Rc::new(Cell::new(told)));
        shared.set(told);
        self.forget_linked(&real, entry.kind);
        self.linked.insert(real, Rc::clone(&shared));
        self.linked.insert(target, shared);
    }

    /// Files with several names are as the last entry of any of their names says.
    fn look_at_linked(&mut self) {
        let mut right = HashSet::new();
        let mut wrong = Vec::new();
        for (path, told) in std::mem::take(&mut self.linked) {
            let stat = split(&path).and_then(|(parent, name)| self.stat(parent, &name));
            // A name that is missing was noted, unless only the target's name was, which may be a
            // lower layer's or removed.
            let Some(stat) = stat.filter(|stat| !is_whiteout(stat)) else {
                continue;
            };
            let inode = (stat.st_dev, stat.st_ino);
            match told.get().is_so(&stat) {
                true => _ = right.insert(inode),
                false => wrong.push((path, inode)),
            }
        }
        // By way of a symlink that was replaced a file has names that are not known to be its.
        for (path, inode) in wrong {
            self.note(&path, Verdict::OnlyOwnerOrMode { inode });
        }
        self.different
            .retain(|_, difference| difference.inode.is_none_or(|inode| !right.contains(&inode)));
    }

    /// Where a path leads that may have symlinks on its way.
    fn real(&mut self, path: &Path) -> PathBuf {
        let Some((parent, name)) = split(path) else {
            return PathBuf::new();
        };
        // Without a parent there is nothing to be confused with.
        self.parent(parent);
        let real = self.last_parent.as_ref().filter(|(of, ..)| of == parent);
        real.map_or(path.to_owned(), |(_, _, real)| real.join(name))
    }

    /// Returns where the path leads.
    fn note(&mut self, path: &Path, verdict: Verdict) -> PathBuf {
        let real = self.real(path);
        // Whatever an earlier entry said of this place is no longer so.
        self.different.retain(|_, other| other.real != real);
        let inode = match verdict {
            Verdict::Same => return real,
            Verdict::Different => None,
            Verdict::OnlyOwnerOrMode { inode } => Some(inode),
        };
        let difference = Difference {
            real: real.clone(),
            inode,
        };
        self.different.insert(path.to_owned(), difference);
        real
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

    fn judge(&mut self, entry: &TarEntry, parent: &Path, name: &OsStr, stat: &Stat) -> Verdict {
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
            // Its owner and mode may be changed by other names of the file, and are looked at last.
            EntryKind::HardLink => return (kind != FileType::Directory).into(),
            EntryKind::CharDevice => kind == FileType::CharacterDevice,
            EntryKind::BlockDevice => kind == FileType::BlockDevice,
            EntryKind::Fifo => kind == FileType::Fifo,
        };
        match (has_kind, Told::of(entry).is_so(stat)) {
            (false, _) => Verdict::Different,
            (true, true) => Verdict::Same,
            (true, false) => Verdict::OnlyOwnerOrMode {
                inode: (stat.st_dev, stat.st_ino),
            },
        }
    }
}
