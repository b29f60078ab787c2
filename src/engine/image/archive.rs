//! Members of an image archive or an OCI layout directory, by name.
//!
//! An archive is indexed once by its headers and then read in place. Knows names, sizes and
//! digests, not what the members mean.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Descriptor;
use rustix::fs::OFlags;

use super::Digest;
use super::content::{Content, MAX_DOCUMENT_BYTES};
use super::layer::{Allowance, Limits, inflate_bounded, read_error, refuse_compression};
use super::source::{MAX_MEMBERS, SourceError};
use super::tar_stream::{EntryKind, Seekable, TarStream};
use crate::sys::beneath;

pub(super) enum Source {
    Directory {
        path: PathBuf,
        root: OwnedFd,
    },
    Archive {
        path: PathBuf,
        file: Arc<File>,
        members: HashMap<PathBuf, Member>,
    },
}

pub(super) enum Member {
    Data { offset: u64, size: u64 },
    Link(PathBuf),
}

/// A stretch of a file, read by position so that threads can share the descriptor.
pub(super) struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer
            .len()
            .min(usize::try_from(self.end - self.position).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..n], self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Source {
    pub(super) fn directory(path: &Path) -> Result<Source, SourceError> {
        let root = beneath::open_root(path).map_err(|source| SourceError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Source::Directory {
            path: path.to_owned(),
            root,
        })
    }

    pub(super) fn archive(path: &Path, content: &Content) -> Result<Source, SourceError> {
        let open = |source| SourceError::Open {
            path: path.to_owned(),
            source,
        };
        // Opening a FIFO would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        let file = File::from(fd.map_err(|error| open(error.into()))?);
        Source::archive_file(path, file, content)
    }

    /// An archive that is open; `path` is for messages.
    pub(super) fn archive_file(
        path: &Path,
        mut file: File,
        content: &Content,
    ) -> Result<Source, SourceError> {
        let open = |source| SourceError::Open {
            path: path.to_owned(),
            source,
        };
        if !file.metadata().map_err(open)?.is_file() {
            return Err(open(io::ErrorKind::InvalidInput.into()));
        }
        let mut magic = [0; 6];
        let n = file.read_at(&mut magic, 0).map_err(open)?;
        if magic[..n].starts_with(&[0x1f, 0x8b]) || magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            file = decompressed(path, file, content)?;
        } else {
            refuse_compression(&magic[..n]).map_err(|source| SourceError::Decompress {
                path: path.to_owned(),
                source,
            })?;
        }
        let members = index(path, &file)?;
        Ok(Source::Archive {
            path: path.to_owned(),
            file: Arc::new(file),
            members,
        })
    }

    /// An archive of one member, which is all of the file.
    pub(super) fn whole_file(name: &str, file: File) -> Result<Source, SourceError> {
        let path = PathBuf::from(name);
        let size = file
            .metadata()
            .map_err(|source| SourceError::Open {
                path: path.clone(),
                source,
            })?
            .len();
        Ok(Source::Archive {
            members: HashMap::from([(path.clone(), Member::Data { offset: 0, size })]),
            path,
            file: Arc::new(file),
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Source::Directory { path, .. } | Source::Archive { path, .. } => path,
        }
    }

    /// Whether there is a member of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    pub(super) fn open(&self, name: &str) -> Result<(Section, u64), SourceError> {
        let missing = || SourceError::Missing {
            path: self.path().to_owned(),
            name: name.to_owned(),
        };
        match self {
            Source::Directory { root, .. } => {
                let read = |source| SourceError::Read {
                    path: self.path().to_owned(),
                    name: name.to_owned(),
                    source,
                };
                let fd = beneath::open_beneath(root.as_fd(), Path::new(name), OFlags::RDONLY)
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::NotFound => missing(),
                        _ => read(error),
                    })?;
                let file = File::from(fd);
                let metadata = file.metadata().map_err(read)?;
                if !metadata.is_file() {
                    return Err(missing());
                }
                let end = metadata.len();
                Ok((
                    Section {
                        file: Arc::new(file),
                        position: 0,
                        end,
                    },
                    end,
                ))
            }
            Source::Archive { file, members, .. } => {
                let mut at = cleaned(name.as_bytes()).ok_or_else(missing)?;
                // `docker save` of old links repeated layers to each other.
                for _ in 0..8 {
                    match members.get(&at).ok_or_else(missing)? {
                        Member::Data { offset, size } => {
                            return Ok((
                                Section {
                                    file: Arc::clone(file),
                                    position: *offset,
                                    end: offset + size,
                                },
                                *size,
                            ));
                        }
                        Member::Link(target) => at = target.clone(),
                    }
                }
                Err(missing())
            }
        }
    }

    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, SourceError> {
        let (section, size) = self.open(name)?;
        if size > MAX_DOCUMENT_BYTES {
            return Err(SourceError::TooLarge {
                name: name.to_owned(),
            });
        }
        let mut bytes = Vec::new();
        section
            .take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| SourceError::Read {
                path: self.path().to_owned(),
                name: name.to_owned(),
                source,
            })?;
        Ok(bytes)
    }

    /// The blob of a descriptor, verified.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<(Digest, Vec<u8>), SourceError> {
        let digest = Digest::parse(descriptor.digest().as_ref())?;
        let name = blob_name(&digest);
        let bytes = self.document(&name)?;
        if bytes.len() as u64 != descriptor.size() {
            return Err(SourceError::Mismatch {
                name,
                expected: format!("{} bytes", descriptor.size()),
                found: format!("{} bytes", bytes.len()),
            });
        }
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(SourceError::Mismatch {
                name,
                expected: digest.to_string(),
                found: found.to_string(),
            });
        }
        Ok((digest, bytes))
    }
}

pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn decompressed(path: &Path, file: File, content: &Content) -> Result<File, SourceError> {
    let mut scratch = content.scratch_file()?;
    let decompress = |source| SourceError::Decompress {
        path: path.to_owned(),
        source,
    };
    // Bounded like a layer: the disk is the engine's, the archive anybody's.
    let allowance = Allowance::new(Limits::DEFAULT);
    let mut inflated = inflate_bounded(file, &allowance).map_err(decompress)?;
    let copied = io::copy(&mut inflated, &mut scratch).and_then(|_| scratch.rewind());
    copied.map_err(|error| decompress(read_error(error)))?;
    Ok(scratch)
}

fn index(path: &Path, file: &File) -> Result<HashMap<PathBuf, Member>, SourceError> {
    let open = |source| SourceError::Open {
        path: path.to_owned(),
        source,
    };
    let file = Seekable::new(file.try_clone().map_err(open)?).map_err(open)?;
    let mut tar = TarStream::new(file);
    let mut members = HashMap::new();
    loop {
        let entry = tar.next_entry().map_err(|source| SourceError::Archive {
            path: path.to_owned(),
            source,
        })?;
        let Some(entry) = entry else {
            return Ok(members);
        };
        let Some(name) = cleaned(&entry.path) else {
            continue;
        };
        let member = match entry.kind {
            EntryKind::Regular if entry.sparse.is_none() => Member::Data {
                offset: entry.data_offset,
                size: entry.size,
            },
            EntryKind::HardLink => match cleaned(&entry.link) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            EntryKind::Symlink => {
                let mut target = name
                    .parent()
                    .unwrap_or(Path::new(""))
                    .as_os_str()
                    .as_bytes()
                    .to_vec();
                target.push(b'/');
                target.extend_from_slice(&entry.link);
                match cleaned(&target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                }
            }
            _ => continue,
        };
        if members.len() >= MAX_MEMBERS {
            return Err(SourceError::TooManyMembers {
                path: path.to_owned(),
            });
        }
        members.insert(name, member);
    }
}

/// Names of members are keys of a map and never paths of the host.
fn cleaned(name: &[u8]) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if !path.pop() {
                    return None;
                }
            }
            _ => path.push(OsStr::from_bytes(component)),
        }
    }
    Some(path)
}
