//! Where a directory of the host shows inside another, whatever names lead to them.
//!
//! An image that is a directory of the host (`rootfs:/`) may contain the engine's own state. Paths do
//! not tell: either may be reached by a link or a bind mount. What the kernel says of its mounts does:
//! two directories are inside one another when they are so on their common file system, which is also
//! all that an overlay shows of a layer.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The paths, from the root of `layer`, at which the directories are seen in it.
pub fn seen_in(layer: &Path, directories: &[&Path]) -> Vec<PathBuf> {
    // Not of this thread: one that works in a container's network may be elsewhere.
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = parse(&table);
    let place = |path: &Path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        place(&mounts, &path)
    };
    let layer = place(layer);
    let inside = directories.iter().filter_map(|directory| {
        let directory = place(directory);
        let rest = directory.path.strip_prefix(&layer.path).ok()?;
        (directory.device == layer.device).then(|| Path::new("/").join(rest))
    });
    inside.collect()
}

/// One line of a mount table.
struct Mount {
    device: Vec<u8>,
    /// The directory of the file system that is mounted.
    root: PathBuf,
    point: PathBuf,
}

/// A directory as its file system knows it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    device: Vec<u8>,
    path: PathBuf,
}

fn place(mounts: &[Mount], path: &Path) -> Place {
    let mut best: Option<(&Mount, &Path)> = None;
    for mount in mounts {
        let Ok(rest) = path.strip_prefix(&mount.point) else {
            continue;
        };
        // Of several on one point the last is on top.
        if best
            .is_none_or(|(other, _)| mount.point.as_os_str().len() >= other.point.as_os_str().len())
        {
            best = Some((mount, rest));
        }
    }
    match best {
        Some((mount, rest)) => Place {
            device: mount.device.clone(),
            path: mount.root.join(rest),
        },
        // No table: names are all there is.
        None => Place {
            device: Vec::new(),
            path: path.to_owned(),
        },
    }
}

fn parse(table: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        Some(Mount {
            device: fields.next()?.to_owned(),
            root: unescape(fields.next()?),
            point: unescape(fields.next()?),
        })
    };
    table
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

/// The kernel writes space, tab, line feed and backslash as `\040` and the like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| {
                let text = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(text, 8).ok()
            });
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw - ext4 /dev/vda rw
23 22 0:20 / /run rw - tmpfs tmpfs rw
24 22 254:0 /srv/big\\040disk /var/lib/wharf rw - ext4 /dev/vda rw
25 22 254:0 /tmp /mnt/alias rw - ext4 /dev/vda rw
26 22 254:1 / /data rw - ext4 /dev/vdb rw
";

    fn at(path: &str) -> (String, String) {
        let place = place(&parse(TABLE), Path::new(path));
        (
            String::from_utf8_lossy(&place.device).into_owned(),
            place.path.to_str().unwrap().to_owned(),
        )
    }

    #[test]
    fn a_directory_is_where_its_file_system_has_it() {
        let both = |device: &str, path: &str| (device.to_owned(), path.to_owned());
        assert_eq!(at("/"), both("254:0", "/"));
        assert_eq!(at("/run/wharf"), both("0:20", "/wharf"));
        assert_eq!(
            at("/var/lib/wharf/layers"),
            both("254:0", "/srv/big disk/layers")
        );
        assert_eq!(at("/mnt/alias/d"), both("254:0", "/tmp/d"));
        // A name that only begins like a mount point.
        assert_eq!(at("/database"), both("254:0", "/database"));
        assert_eq!(at("/data/x"), both("254:1", "/x"));
    }

    #[test]
    fn links_do_not_hide_what_is_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/state")).unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let state = dir.path().join("a/state");
        let seen = |layer: &str| seen_in(&dir.path().join(layer), &[&state]);
        assert_eq!(seen("a"), [Path::new("/state")]);
        assert_eq!(seen("link"), [Path::new("/state")]);
        assert_eq!(seen("a/state"), [Path::new("/")]);
        assert!(seen("b").is_empty());
    }
}
