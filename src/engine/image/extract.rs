//! Entries of a layer's tar become files below one directory.
//!
//! Every path is looked up by the kernel with the staging directory as its root: symlinks of the
//! archive are followed as inside a container and cannot lead out. Whiteouts are collected and
//! applied last, because a marker only ever hides lower layers, wherever in the archive it stands.

mod hard_link;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use hard_link::HardLinks;
pub(super) use hard_link::is_whiteout;

use super::entry_path::{clean, in_root, resolve_link, shown, split};
use super::layer::{self, LayerError, Limits};
use super::metadata::{self, Metadata, is_allowed_xattr};
use super::recipe::Recorder;
use super::tar_stream::{EntryKind, TarEntry, TarError, TarSource, TarStream};
use crate::sys::{beneath, writeback};

pub(super) const WHITEOUT: &[u8] = b".wh.";
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Book-keeping of the aufs driver, which wrote the first images.
pub(super) const AUFS: &[u8] = b".wh..wh.";
/// As many as the kernel follows in one look-up.
const MAX_SYMLINKS: usize = 40;

pub struct Extractor {
    root: OwnedFd,
    limits: Limits,
    n_entries: u64,
    n_xattr_bytes: u64,
    n_path_bytes: u64,
    n_bytes: u64,
    /// The directory of the last entry. Archives list siblings together, so this saves nearly
    /// every look-up; forgotten whenever something is replaced.
    last_parent: Option<Parent>,
    recorder: Recorder,
    /// The staging directory as the kernel names it.
    root_path: PathBuf,
    directories: HashMap<PathBuf, Metadata>,
    implicit: BTreeSet<PathBuf>,
    whiteouts: Vec<PathBuf>,
    opaque: Vec<PathBuf>,
    hard_links: HardLinks,
}

/// The directory of an entry.
struct Parent {
    /// As the archive names it.
    path: PathBuf,
    fd: OwnedFd,
    /// Below the root, without the symlinks that may be on the archive's path.
    real: PathBuf,
}

/// A layer whose own content is complete; see [`Extracted::complete`].
pub struct Extracted(Extractor);

fn made<T>(path: &Path, result: io::Result<T>) -> Result<T, LayerError> {
    result.map_err(|source| LayerError::Make {
        path: path.to_owned(),
        source,
    })
}

impl Extractor {
    pub fn new(root: OwnedFd, limits: Limits, recorder: Recorder) -> Extractor {
        Extractor {
            root_path: kernel_path(root.as_fd()),
            recorder,
            root,
            limits,
            n_entries: 0,
            n_xattr_bytes: 0,
            n_path_bytes: 0,
            n_bytes: 0,
            last_parent: None,
            directories: HashMap::new(),
            implicit: BTreeSet::from([PathBuf::new()]),
            whiteouts: Vec::new(),
            opaque: Vec::new(),
            hard_links: HardLinks::default(),
        }
    }

    /// Applies one entry, whose data is read from the stream.
    pub fn apply<S: TarSource + BufRead>(
        &mut self,
        entry: TarEntry,
        data: &mut TarStream<S>,
    ) -> Result<(), LayerError> {
        self.n_entries += 1;
        if self.n_entries > self.limits.max_entries {
            return Err(LayerError::Limit {
                what: "entries",
                limit: self.limits.max_entries,
            });
        }
        let path = clean(&entry.path, &self.limits)?;
        let metadata = self.metadata(&entry)?;
        let Some((parent, name)) = split(&path) else {
            if entry.kind != EntryKind::Directory {
                return Err(LayerError::Path {
                    path: shown(&entry.path),
                    why: "the root can only be a directory",
                });
            }
            self.implicit.remove(&path);
            self.directories.insert(path, metadata);
            return Ok(());
        };
        let is_aufs = |component: Component<'_>| {
            let bytes = component.as_os_str().as_bytes();
            bytes.starts_with(AUFS) && bytes != OPAQUE
        };
        if path.components().any(is_aufs) {
            return Ok(());
        }
        if name.as_bytes() == OPAQUE {
            self.keep(parent)?;
            self.opaque.push(parent.to_owned());
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(LayerError::Path {
                    path: shown(&entry.path),
                    why: "the whiteout names nothing",
                });
            }
            self.keep(&path)?;
            self.whiteouts.push(parent.join(OsStr::from_bytes(hidden)));
            return Ok(());
        }
        let dir = self.parent(parent)?;
        let result = self.make(&entry, &path, &name, &dir, metadata, data);
        if self.last_parent.is_none() && result.as_ref().is_ok_and(|replaced| !replaced) {
            self.last_parent = Some(dir);
        }
        result.map(drop)
    }

    /// Returns whether something was removed for it.
    fn make<S: TarSource + BufRead>(
        &mut self,
        entry: &TarEntry,
        path: &Path,
        name: &OsStr,
        parent: &Parent,
        metadata: Metadata,
        data: &mut TarStream<S>,
    ) -> Result<bool, LayerError> {
        let dir = parent.fd.as_fd();
        let place = Place {
            path,
            dir,
            name,
            real: parent.real.join(name),
        };
        let special = |kind: FileType| -> io::Result<()> {
            let device = rustix::fs::makedev(entry.device.0, entry.device.1);
            Ok(rustix::fs::mknodat(
                dir,
                name,
                kind,
                Mode::RUSR | Mode::WUSR,
                device,
            )?)
        };
        match entry.kind {
            EntryKind::Regular => {
                let (file, replaced) = self.replacing(&place, || {
                    Ok(rustix::fs::openat(
                        dir,
                        name,
                        OFlags::CREATE
                            | OFlags::EXCL
                            | OFlags::WRONLY
                            | OFlags::NOFOLLOW
                            | OFlags::CLOEXEC,
                        Mode::from_raw_mode(metadata.mode & 0o777),
                    )?)
                })?;
                self.fill(entry, &place, file, &metadata, data)?;
                Ok(replaced)
            }
            EntryKind::Directory => {
                let replaced = match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
                    Ok(()) => false,
                    Err(Errno::EXIST) if beneath::open_child_directory(dir, name).is_ok() => false,
                    Err(Errno::EXIST) => {
                        let make = || Ok(rustix::fs::mkdirat(dir, name, Mode::RWXU)?);
                        self.replacing(&place, make)?.1
                    }
                    Err(error) => return made(path, Err(error.into())),
                };
                self.implicit.remove(path);
                self.keep(path)?;
                // By whatever symlinks the archive came here: the last entry is the one that counts.
                self.directories.insert(place.real, metadata);
                Ok(replaced)
            }
            EntryKind::Symlink => {
                let ((), replaced) = self.replacing(&place, || {
                    Ok(rustix::fs::symlinkat(entry.link.as_slice(), dir, name)?)
                })?;
                made(path, metadata.apply_to_special(dir, name, true))?;
                Ok(replaced)
            }
            EntryKind::HardLink => self.link(entry, &place, metadata),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                // Devices cannot be made in a user namespace; containers there get their /dev
                // from the runtime, so nothing is lost.
                if kind != FileType::Fifo && !rustix::process::geteuid().is_root() {
                    return Ok(false);
                }
                let ((), replaced) = self.replacing(&place, || special(kind))?;
                made(path, metadata.apply_to_special(dir, name, false))?;
                Ok(replaced)
            }
        }
        .inspect(|replaced| {
            if *replaced {
                self.last_parent = None;
            }
        })
    }

    fn fill<S: TarSource + BufRead>(
        &mut self,
        entry: &TarEntry,
        place: &Place<'_>,
        file: OwnedFd,
        metadata: &Metadata,
        data: &mut TarStream<S>,
    ) -> Result<(), LayerError> {
        let path = place.path;
        let mut file = std::fs::File::from(file);
        self.n_bytes += entry.size;
        let whole = [(0, entry.size)];
        let segments = entry.sparse.as_deref().unwrap_or(&whole);
        let mut early = Writeback::default();
        for &(offset, length) in segments.iter().filter(|(_, length)| *length > 0) {
            self.recorder
                .begin_file(&place.real, offset, length)
                .map_err(LayerError::Recipe)?;
            if offset > 0 {
                made(path, io::Seek::seek(&mut file, io::SeekFrom::Start(offset)))?;
            }
            let mut rest = length;
            while rest > 0 {
                let piece = data.piece().map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => TarError::Truncated.into(),
                    _ => layer::read_error(error),
                })?;
                let n = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
                made(path, file.write_all(&piece[..n]))?;
                data.consume(n);
                rest -= n as u64;
                early.written(file.as_fd(), n as u64);
            }
            self.recorder.end_file().map_err(LayerError::Recipe)?;
        }
        if entry.sparse.is_some() {
            made(path, file.set_len(entry.file_size))?;
        }
        early.complete(file.as_fd());
        made(path, metadata.apply_to_new(file.as_fd()))
    }

    fn metadata(&mut self, entry: &TarEntry) -> Result<Metadata, LayerError> {
        let n_bytes: usize = entry.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.n_xattr_bytes += n_bytes as u64;
        if self.n_xattr_bytes > self.limits.max_xattr_bytes {
            return Err(LayerError::Limit {
                what: "bytes of extended attributes",
                limit: self.limits.max_xattr_bytes,
            });
        }
        Ok(Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry
                .xattrs
                .iter()
                .filter(|(name, _)| is_allowed_xattr(name))
                .cloned()
                .collect(),
        })
    }

    /// Accounts for a path that stays in memory.
    fn keep(&mut self, path: &Path) -> Result<(), LayerError> {
        self.n_path_bytes += path.as_os_str().len() as u64;
        if self.n_path_bytes > self.limits.max_path_bytes {
            return Err(LayerError::Limit {
                what: "bytes of paths",
                limit: self.limits.max_path_bytes,
            });
        }
        Ok(())
    }

    /// The directory of an entry; taken out of the cache, and put back by the caller.
    fn parent(&mut self, path: &Path) -> Result<Parent, LayerError> {
        match self.last_parent.take() {
            Some(cached) if cached.path == path => Ok(cached),
            _ => {
                let fd = self.directory(path, 0)?;
                Ok(Parent {
                    path: path.to_owned(),
                    real: self.real(fd.as_fd()).unwrap_or(path.to_owned()),
                    fd,
                })
            }
        }
    }

    /// Where a directory is below the root, whatever symlinks led to it.
    fn real(&self, dir: BorrowedFd<'_>) -> Option<PathBuf> {
        let path = kernel_path(dir);
        path.strip_prefix(&self.root_path).ok().map(Path::to_owned)
    }

    /// Runs `make`; if the name is taken, removes what is there and runs it again. Returns whether
    /// something was removed.
    fn replacing<T>(
        &self,
        place: &Place<'_>,
        make: impl Fn() -> io::Result<T>,
    ) -> Result<(T, bool), LayerError> {
        match make() {
            Ok(value) => return Ok((value, false)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return made(place.path, Err(error)),
        }
        self.remove(place)?;
        Ok((made(place.path, make())?, true))
    }

    /// Removes an entry, after the recipe has taken what only it holds.
    fn remove(&self, place: &Place<'_>) -> Result<(), LayerError> {
        self.recorder
            .replacing(place.dir, place.name, &place.real)
            .map_err(LayerError::Recipe)?;
        made(place.path, beneath::remove_tree(place.dir, place.name))
    }

    /// Opens a directory below the root, making what is missing. Linear in the path's length
    /// unless symlinks are on the way.
    fn directory(&mut self, path: &Path, n_symlinks: usize) -> Result<OwnedFd, LayerError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        match beneath::open_in_root(self.root.as_fd(), in_root(path), flags) {
            Ok(fd) => return Ok(fd),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return made(path, Err(error)),
        }
        if n_symlinks > MAX_SYMLINKS {
            return made(path, Err(Errno::LOOP.into()));
        }
        let mut prefix = PathBuf::new();
        let mut dir = made(
            path,
            beneath::open_in_root(self.root.as_fd(), Path::new("/"), flags),
        )?;
        for component in path.components() {
            let name = component.as_os_str();
            prefix.push(name);
            let next = match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) => {
                    self.keep(&prefix)?;
                    self.implicit.insert(prefix.clone());
                    beneath::open_child_directory(dir.as_fd(), name)
                }
                Err(Errno::EXIST) => {
                    match beneath::open_in_root(self.root.as_fd(), &prefix, flags) {
                        // A symlink to something that only a lower layer has, or nobody: make the
                        // directory where it points, as a container would see it.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            let link = rustix::fs::readlinkat(&dir, name, Vec::new())
                                .map_err(io::Error::from);
                            let link = made(&prefix, link)?;
                            let target = resolve_link(&prefix, link.as_bytes());
                            Ok(self.directory(&target, n_symlinks + 1)?)
                        }
                        result => result,
                    }
                }
                Err(error) => Err(error.into()),
            };
            dir = made(&prefix, next)?;
        }
        Ok(dir)
    }

    /// Applies the whiteouts. After this only what depends on lower layers is missing.
    pub fn finish(mut self) -> Result<Extracted, LayerError> {
        self.last_parent = None;
        for path in std::mem::take(&mut self.whiteouts) {
            let Some((parent, name)) = split(&path) else {
                continue;
            };
            let dir = self.parent(parent)?;
            match rustix::fs::mknodat(&dir.fd, &name, FileType::CharacterDevice, Mode::empty(), 0) {
                Ok(()) => {}
                // The layer has an entry of that name, which the marker does not concern. A file
                // hides what is below by itself, a directory has to be told.
                Err(Errno::EXIST) => {
                    if let Ok(inside) = beneath::open_child_directory(dir.fd.as_fd(), &name) {
                        made(&path, set_opaque(inside.as_fd()))?;
                    }
                }
                Err(error) => return made(&path, Err(error.into())),
            }
            self.last_parent = Some(dir);
        }
        self.last_parent = None;
        for path in std::mem::take(&mut self.opaque) {
            let dir = self.directory(&path, 0)?;
            made(&path, set_opaque(dir.as_fd()))?;
        }
        Ok(Extracted(self))
    }
}

/// Brings files to the disk while the next ones are unpacked, so that the sync at the end finds
/// little to do. Small ones wait for it: together they are few requests.
#[derive(Default)]
struct Writeback {
    n_written: u64,
    n_begun: u64,
}

impl Writeback {
    /// Files from this size on are not left to the sync, and long ones are written in such pieces.
    const MIN_BYTES: u64 = 16 << 10;
    const PIECE_BYTES: u64 = 8 << 20;

    fn written(&mut self, file: BorrowedFd<'_>, n_bytes: u64) {
        self.n_written += n_bytes;
        if self.n_written - self.n_begun >= Self::PIECE_BYTES {
            self.begin(file);
        }
    }

    fn complete(&mut self, file: BorrowedFd<'_>) {
        if self.n_written >= Self::MIN_BYTES && self.n_written > self.n_begun {
            self.begin(file);
        }
    }

    fn begin(&mut self, file: BorrowedFd<'_>) {
        // Whether it begins now or with the sync makes no difference to what is on the disk then.
        let _ = writeback::begin(file);
        self.n_begun = self.n_written;
    }
}

/// Where an entry goes.
struct Place<'a> {
    /// As the archive names it.
    path: &'a Path,
    dir: BorrowedFd<'a>,
    name: &'a OsStr,
    /// Below the root, without symlinks on the way.
    real: PathBuf,
}

pub(super) fn kernel_path(fd: BorrowedFd<'_>) -> PathBuf {
    // A directory without a name cannot be: it is only removed together with what is recorded of it.
    std::fs::read_link(beneath::proc_path(fd)).unwrap_or_default()
}

fn set_opaque(dir: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fsetxattr(dir, "trusted.overlay.opaque", b"y", XattrFlags::empty()) {
        // In a user namespace overlay reads its instructions from user attributes.
        Err(Errno::PERM) => Ok(rustix::fs::fsetxattr(
            dir,
            "user.overlay.opaque",
            b"y",
            XattrFlags::empty(),
        )?),
        result => Ok(result?),
    }
}

impl Extracted {
    /// Whether [`Extracted::complete`] would look at the layers below.
    pub fn needs_lower(&self) -> bool {
        !self.0.hard_links.is_empty() || !self.0.implicit.is_empty()
    }

    /// Does what needs the layers below: `lower` is the root of their merged view.
    /// Returns the bytes of file data.
    pub fn complete(self, lower: Option<BorrowedFd<'_>>) -> Result<u64, LayerError> {
        let Extracted(mut layer) = self;
        layer.link_to_lower(lower)?;
        for path in std::mem::take(&mut layer.implicit) {
            let inherited = lower.and_then(|lower| {
                beneath::open_in_root(
                    lower,
                    in_root(&path),
                    OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW,
                )
                .ok()
            });
            let metadata = match inherited {
                Some(dir) => made(&path, metadata::of_open(dir.as_fd()))?,
                None => Metadata::implicit_directory(),
            };
            layer.directories.entry(path).or_insert(metadata);
        }
        // Times change with every entry made inside, and a directory may lose its search bit:
        // deepest first, after everything else.
        let mut directories: Vec<_> = layer.directories.drain().collect();
        directories.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, metadata) in directories {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
            match beneath::open_in_root(layer.root.as_fd(), in_root(&path), flags) {
                Ok(dir) => made(&path, metadata.apply(dir.as_fd()))?,
                // A later entry replaced it.
                Err(error)
                    if matches!(
                        Errno::from_io_error(&error),
                        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                    ) => {}
                Err(error) => return made(&path, Err(error)),
            }
        }
        layer.recorder.finish().map_err(LayerError::Recipe)?;
        Ok(layer.n_bytes)
    }
}
