//! What a running container sees of its root: everything that an image determines.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: char,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Of files: length and digest. Of links: where they lead. Of devices: which.
    pub content: String,
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// The first name of the same file, where it has several.
    pub same_as: Option<PathBuf>,
}

/// The tree below a process's root, without what is mounted there and what engines put in.
pub fn tree(pid: u32) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    // With a slash it is the directory and not the link to it.
    let device = fs::metadata(root.join("."))?.dev();
    let mut walk = Walk {
        device,
        first_names: BTreeMap::new(),
        entries: BTreeMap::new(),
    };
    walk.directory(&root.join("."), Path::new(""))?;
    Ok(walk.entries)
}

/// What a run-time makes, in every container.
const OF_ENGINES: [&str; 6] = [
    ".dockerenv",
    "dev",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
];

struct Walk {
    device: u64,
    first_names: BTreeMap<u64, PathBuf>,
    entries: BTreeMap<PathBuf, Entry>,
}

impl Walk {
    fn directory(&mut self, at: &Path, path: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(at)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let (at, path) = (at.join(&name), path.join(&name));
            let metadata = fs::symlink_metadata(&at)?;
            let is_of_engines = OF_ENGINES.iter().any(|known| path == Path::new(known));
            if is_of_engines || metadata.dev() != self.device {
                continue;
            }
            let entry = self.entry(&at, &path, &metadata)?;
            self.entries.insert(path.clone(), entry);
            if metadata.is_dir() {
                self.directory(&at, &path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, at: &Path, path: &Path, metadata: &fs::Metadata) -> io::Result<Entry> {
        let kind = metadata.file_type();
        let (kind, content) = match () {
            () if kind.is_dir() => ('d', String::new()),
            () if kind.is_symlink() => ('l', fs::read_link(at)?.to_string_lossy().into_owned()),
            () if kind.is_file() => {
                let mut hasher = Sha256::new();
                let n_bytes = io::copy(&mut fs::File::open(at)?, &mut Hash(&mut hasher))?;
                ('f', format!("{n_bytes} {}", hex::encode(hasher.finalize())))
            }
            () if kind.is_fifo() => ('p', String::new()),
            () if kind.is_char_device() => ('c', metadata.rdev().to_string()),
            () if kind.is_block_device() => ('b', metadata.rdev().to_string()),
            () => ('s', String::new()),
        };
        let same_as = match metadata.nlink() > 1 && kind != 'd' {
            true => {
                let first = self.first_names.entry(metadata.ino());
                Some(first.or_insert_with(|| path.to_owned()).clone())
            }
            false => None,
        };
        Ok(Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            // Docker makes its own files in this directory, and so touches it.
            mtime: match path == Path::new("etc") {
                true => (0, 0),
                false => (metadata.mtime(), metadata.mtime_nsec()),
            },
            content,
            attributes: attributes(at)?,
            same_as,
        })
    }
}

struct Hash<'a>(&'a mut Sha256);

impl io::Write for Hash<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn attributes(at: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(at, &mut names)?;
    let mut attributes = BTreeMap::new();
    for name in names[..n]
        .split(|byte| *byte == 0)
        .filter(|n| !n.is_empty())
    {
        let mut value = vec![0; 1 << 16];
        let n = rustix::fs::lgetxattr(at, std::ffi::OsStr::from_bytes(name), &mut value)?;
        value.truncate(n);
        attributes.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(attributes)
}

/// The first differences between two trees, a line each.
pub fn differences(
    one: &BTreeMap<PathBuf, Entry>,
    other: &BTreeMap<PathBuf, Entry>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let paths: std::collections::BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    for path in paths {
        match (one.get(path), other.get(path)) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => lines.push(format!("{}: {a:?} and {b:?}", path.display())),
        }
    }
    lines
}
