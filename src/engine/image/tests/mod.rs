//! Tests of the image room: archives are written here by hand, byte by byte where they lie.

mod archives;
mod hostile;
mod layers;
mod oracle;
mod seeds;
mod store;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layer::{self, Allowance, Expected, LayerError, Limits, Target};
use super::recipe::{Recipe, RecipeError};
use super::{Digest, compare, metadata};
use crate::sys::beneath;

/// Whether the test can run; owners, devices and mounts need root.
pub fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let _ = std::io::stderr().write_all(b"skipped: this test needs root\n");
    }
    is_root
}

/// One tar entry to write.
#[derive(Clone)]
pub struct Spec<'a> {
    pub kind: u8,
    pub path: &'a [u8],
    pub link: &'a [u8],
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub data: &'a [u8],
    pub device: (u32, u32),
}

impl Default for Spec<'_> {
    fn default() -> Self {
        Spec {
            kind: b'0',
            path: b"",
            link: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_000,
            data: b"",
            device: (0, 0),
        }
    }
}

/// A tar being written, without any of the checks that a decent writer has.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn add(&mut self, spec: Spec<'_>) -> &mut Tar {
        let mut header = tar::Header::new_gnu();
        header.set_mode(spec.mode);
        header.set_uid(spec.owner.0);
        header.set_gid(spec.owner.1);
        header.set_mtime(spec.mtime);
        header.set_size(spec.data.len() as u64);
        header.set_device_major(spec.device.0).unwrap();
        header.set_device_minor(spec.device.1).unwrap();
        let bytes = header.as_mut_bytes();
        let n = spec.path.len().min(100);
        bytes[..n].copy_from_slice(&spec.path[..n]);
        bytes[156] = spec.kind;
        let n = spec.link.len().min(100);
        bytes[157..157 + n].copy_from_slice(&spec.link[..n]);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(spec.data)
    }

    fn data(&mut self, data: &[u8]) -> &mut Tar {
        self.0.extend_from_slice(data);
        let padded = self.0.len().next_multiple_of(512);
        self.0.resize(padded, 0);
        self
    }

    pub fn file(&mut self, path: impl AsRef<[u8]>, data: &[u8]) -> &mut Tar {
        let path = path.as_ref();
        self.add(Spec {
            path,
            data,
            ..Spec::default()
        })
    }

    pub fn dir(&mut self, path: impl AsRef<[u8]>, mode: u32) -> &mut Tar {
        let path = path.as_ref();
        self.add(Spec {
            kind: b'5',
            path,
            mode,
            ..Spec::default()
        })
    }

    pub fn link(&mut self, kind: u8, path: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> &mut Tar {
        self.add(Spec {
            kind,
            path: path.as_ref(),
            link: link.as_ref(),
            ..Spec::default()
        })
    }

    /// PAX records for the next entry.
    pub fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Tar {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.add(Spec {
            kind: b'x',
            path: b"pax",
            data: &data,
            ..Spec::default()
        })
    }

    pub fn gnu_long(&mut self, kind: u8, name: &[u8]) -> &mut Tar {
        self.add(Spec {
            kind,
            path: b"././@LongLink",
            data: &[name, b"\0"].concat(),
            ..Spec::default()
        })
    }

    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd_compressed(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An existing directory to unpack into, and a recipe that nobody looks at.
pub fn target(directory: &Path) -> Target {
    Target {
        directory: beneath::open_root(directory).unwrap(),
        recipe: tempfile::tempfile().unwrap(),
    }
}

/// Unpacks a plain tar into a directory that is made for it. What could be unpacked must come out
/// again byte by byte.
pub fn extract(tar: &[u8], into: &Path, lower: &[PathBuf]) -> Result<u64, LayerError> {
    extract_limited(tar, into, lower, Limits::DEFAULT)
}

pub fn extract_limited(
    tar: &[u8],
    into: &Path,
    lower: &[PathBuf],
    limits: Limits,
) -> Result<u64, LayerError> {
    std::fs::create_dir(into).unwrap();
    let expected = Expected {
        blob: None,
        blob_bytes: None,
        diff_id: Digest::of(tar),
    };
    let recipe = tempfile::NamedTempFile::new().unwrap();
    let target = Target {
        directory: beneath::open_root(into).unwrap(),
        recipe: recipe.reopen().unwrap(),
    };
    let extracted = layer::unpack(tar, &expected, target, &Allowance::new(limits), &|_| ())?;
    let view = match lower {
        [] => None,
        lower => Some(crate::sys::detached::view_layers(lower).unwrap()),
    };
    let n_bytes = extracted.complete(view.as_ref().map(AsFd::as_fd))?;
    assert!(
        assembled(recipe.path(), into).unwrap() == tar,
        "the archive does not come out as it went in"
    );
    let root = beneath::open_root(into).unwrap();
    assert_eq!(compare::first_difference(tar, root.as_fd()).unwrap(), None);
    Ok(n_bytes)
}

pub fn assembled(recipe: &Path, snapshot: &Path) -> Result<Vec<u8>, RecipeError> {
    let recipe = Recipe::open(recipe)?;
    let mut bytes = Vec::new();
    let root = beneath::open_root(snapshot).unwrap();
    recipe.assemble(root.as_fd(), tempfile::tempfile, &mut bytes)?;
    assert_eq!(recipe.n_bytes(), bytes.len() as u64);
    Ok(bytes)
}

/// Everything about a tree that a change would show, by relative path.
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, path: &Path, into: &mut BTreeMap<PathBuf, String>) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        let content = if metadata.is_symlink() {
            format!("-> {}", std::fs::read_link(path).unwrap().display())
        } else if metadata.is_file() {
            String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
        } else {
            String::new()
        };
        let parent = beneath::open_root(path.parent().unwrap()).unwrap();
        let xattrs = metadata::of_special(parent.as_fd(), path.file_name().unwrap())
            .unwrap()
            .xattrs;
        let line = format!(
            "{:o} {}:{} {}.{} {} {:?} {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.rdev(),
            xattrs,
        );
        into.insert(path.strip_prefix(root).unwrap().to_owned(), line);
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                walk(root, &entry.unwrap().path(), into);
            }
        }
    }
    let mut into = BTreeMap::new();
    walk(root, root, &mut into);
    into
}
