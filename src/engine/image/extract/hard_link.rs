//! Hard links of a layer.
//!
//! The entry of a link has an owner, a mode, times and attributes like any other, and there is only
//! one file to have them: as with Docker and tar the last entry wins, whichever name it is for. A
//! symlink with several names is the exception, of which only the owner changes.
//!
//! A target that no earlier entry made is a file of a lower layer. It is copied up under its own
//! name, so that both names keep sharing one file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::{Extractor, Place, made};
use crate::engine::image::copy;
use crate::engine::image::entry_path::{clean, in_root, shown, split};
use crate::engine::image::layer::LayerError;
use crate::engine::image::metadata::Metadata;
use crate::engine::image::tar_stream::TarEntry;
use crate::sys::beneath;

/// The links whose target this layer did not contain when the archive came by them.
#[derive(Default)]
pub(super) struct HardLinks(Vec<Missing>);

struct Missing {
    path: PathBuf,
    target: PathBuf,
    metadata: Metadata,
}

/// Where the file is that a missing link is for.
enum Target {
    /// In this layer already.
    Brought(PathBuf),
    /// In this directory of the layers below.
    Below(OwnedFd),
}

impl HardLinks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extractor {
    /// Returns whether something was removed for it.
    pub(super) fn link(
        &mut self,
        entry: &TarEntry,
        place: &Place<'_>,
        metadata: Metadata,
    ) -> Result<bool, LayerError> {
        let (path, dir, name) = (place.path, place.dir, place.name);
        let target = clean(&entry.link, &self.limits)?;
        let Some((target_parent, target_name)) = split(&target) else {
            return Err(LayerError::Path {
                path: shown(&entry.link),
                why: "a hard link to the root",
            });
        };
        // The target's own name is not followed: a hard link to a symlink is another name of that
        // symlink.
        let found = beneath::open_in_root(
            self.root.as_fd(),
            in_root(target_parent),
            OFlags::DIRECTORY | OFlags::PATH,
        )
        .and_then(|parent| {
            let stat = rustix::fs::statat(&parent, &target_name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((parent, stat))
        });
        let existing = stat(dir, name);
        let (target_dir, target_stat) = match found {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The link is made at the end; what had its name is gone from here on.
                if existing.is_some() {
                    self.remove(place)?;
                }
                self.keep(path)?;
                self.keep(&target)?;
                self.hard_links.0.push(Missing {
                    path: path.to_owned(),
                    target,
                    metadata,
                });
                return Ok(existing.is_some());
            }
            Err(error) => return made(path, Err(error)),
        };
        if FileType::from_raw_mode(target_stat.st_mode) == FileType::Directory {
            return made(path, Err(Errno::PERM.into()));
        }
        let is_same = existing.is_some_and(|existing| {
            (existing.st_dev, existing.st_ino) == (target_stat.st_dev, target_stat.st_ino)
        });
        let replaced = match is_same {
            true => false,
            false => {
                let link = || {
                    Ok(rustix::fs::linkat(
                        &target_dir,
                        &target_name,
                        dir,
                        name,
                        AtFlags::empty(),
                    )?)
                };
                self.replacing(place, link)?.1
            }
        };
        made(path, apply(&metadata, dir, name))?;
        Ok(replaced)
    }

    /// Makes the links to files of lower layers.
    pub(super) fn link_to_lower(
        &mut self,
        lower: Option<BorrowedFd<'_>>,
    ) -> Result<(), LayerError> {
        let mut brought = HashMap::new();
        for missing in std::mem::take(&mut self.hard_links.0) {
            self.bring(&missing, lower, &mut brought)?;
        }
        Ok(())
    }

    /// `brought` are the names that lead to files of lower layers, and where those are now.
    fn bring(
        &mut self,
        missing: &Missing,
        lower: Option<BorrowedFd<'_>>,
        brought: &mut HashMap<PathBuf, PathBuf>,
    ) -> Result<(), LayerError> {
        let (path, target) = (missing.path.as_path(), missing.target.as_path());
        let dangling = || LayerError::DanglingLink {
            path: path.to_owned(),
            target: target.to_owned(),
        };
        let (Some((parent, name)), Some((target_parent, target_name))) =
            (split(path), split(target))
        else {
            return Err(dangling());
        };
        let dir = self.directory(parent, 0)?;
        let real = self.real(dir.as_fd()).unwrap_or(parent.to_owned());
        let place = Place {
            path,
            dir: dir.as_fd(),
            name: &name,
            real: real.join(&name),
        };
        let up = self.directory(target_parent, 0)?;
        let real = self.real(up.as_fd()).unwrap_or(target_parent.to_owned());
        let real_target = real.join(&target_name);
        let found = match brought.get(&real_target) {
            Some(from) => Target::Brought(from.clone()),
            None => {
                let below = beneath::open_in_root(
                    lower.ok_or_else(dangling)?,
                    in_root(target_parent),
                    OFlags::DIRECTORY | OFlags::RDONLY,
                )
                .map_err(|_| dangling())?;
                let stat_below = stat(below.as_fd(), &target_name).ok_or_else(dangling)?;
                if FileType::from_raw_mode(stat_below.st_mode) == FileType::Directory {
                    return made(path, Err(Errno::PERM.into()));
                }
                Target::Below(below)
            }
        };
        match stat(place.dir, &name) {
            None => {}
            Some(existing) if is_whiteout(&existing) => self.remove(&place)?,
            // An entry that came later was to be below what is no directory.
            Some(_) if self.implicit.contains(path) => {
                return made(path, Err(Errno::NOTDIR.into()));
            }
            // A later entry has the name.
            Some(_) => return Ok(()),
        }
        let from = match found {
            Target::Brought(from) => from,
            Target::Below(below) => {
                // This layer removes or replaces the target: the file lives on under the name of
                // the link.
                let is_taken = stat(up.as_fd(), &target_name).is_some();
                let (to, to_name, at) = match is_taken {
                    true => (dir.as_fd(), &name, &place.real),
                    false => (up.as_fd(), &target_name, &real_target),
                };
                let copied = copy::copy_file(below.as_fd(), &target_name, to, to_name);
                made(target, copied)?;
                brought.insert(real_target.clone(), at.clone());
                at.clone()
            }
        };
        if from != place.real {
            let linked = rustix::fs::linkat(&self.root, &from, place.dir, &name, AtFlags::empty());
            made(path, linked.map_err(io::Error::from))?;
        }
        made(path, apply(&missing.metadata, place.dir, &name))?;
        brought.insert(place.real.clone(), from);
        Ok(())
    }
}

fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> Option<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

pub(in crate::engine::image) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Gives the file behind a new name what the entry of that name says.
fn apply(metadata: &Metadata, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            let file = beneath::open_beneath(dir, Path::new(name), flags)?;
            metadata.apply(file.as_fd())
        }
        FileType::Symlink => metadata.apply_owner(dir, name),
        _ => metadata.apply_to_special(dir, name, false),
    }
}
