//! Path look-ups and removals that cannot leave a directory.
//!
//! Owns the `openat2` calls by which the engine walks trees that somebody else filled (image
//! layers, volumes, archives). A path string that is checked and then used loses the race against
//! whoever renames beneath it; here the kernel confines every step of the look-up, symlinks
//! included. Must not know what the trees mean.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

/// How a look-up starts: every result is closed on exec, nothing is opened blocking.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NONBLOCK);

/// Opens a directory by a path that the caller trusts, to be the root of look-ups.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens `path` as a process would whose root directory is `root`: absolute symlinks and `..` stay
/// inside. A final symlink is followed unless `flags` has `NOFOLLOW`.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// As [`open_in_root`], and fails with `EXDEV` where the path enters another mount.
pub fn open_in_root_same_mount(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
    )
}

/// Opens a relative path below `dir`; anything that would lead out fails with `EXDEV`.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(
        dir,
        path,
        flags,
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

fn resolve(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    // O_PATH refuses the flags that only make sense on an open file.
    let flags = if flags.contains(OFlags::PATH) {
        flags | OFlags::CLOEXEC
    } else {
        flags | ALWAYS
    };
    // The kernel answers EAGAIN when something was renamed during a look-up that met `..`.
    for _ in 0..64 {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens a sub-directory by its name, never through a symlink and never into another mount.
pub fn open_child_directory(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    resolve(
        dir,
        Path::new(name),
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

/// The names in a directory without `.` and `..`, in no order.
pub fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

/// Whether a directory has no entries.
pub fn is_empty(dir: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes whatever `name` in `dir` is, with everything below it. Succeeds if there is nothing.
///
/// Sub-directories are renamed up into `dir` before they are emptied: the number of open
/// descriptors and the stack are constant however deep the tree is, and every entry is touched a
/// constant number of times.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EISDIR is Linux's answer for a directory, EPERM is POSIX's.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut pending = vec![name.to_owned()];
    let mut counter = 0u64;
    while let Some(name) = pending.pop() {
        let inside = open_child_directory(dir, &name)?;
        // Without the capability to override modes (rootless) a directory must be writable to be
        // emptied; as root this changes nothing that matters, the directory is going away.
        match rustix::fs::fchmod(&inside, Mode::RWXU) {
            Ok(()) | Err(Errno::PERM | Errno::ROFS) => {}
            Err(error) => return Err(error.into()),
        }
        for child in names(inside.as_fd())? {
            match rustix::fs::unlinkat(&inside, &child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            loop {
                counter += 1;
                let aside = OsString::from(format!(".removing-{counter}"));
                match rustix::fs::renameat_with(
                    &inside,
                    &child,
                    dir,
                    &aside,
                    RenameFlags::NOREPLACE,
                ) {
                    Ok(()) => {
                        pending.push(aside);
                        break;
                    }
                    Err(Errno::EXIST) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// A path by which a path-only system call reaches an open `O_PATH` descriptor's object itself.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A path by which a no-follow system call reaches an entry of an open directory.
pub fn proc_child_path(dir: BorrowedFd<'_>, name: &OsStr) -> Vec<u8> {
    let mut path = proc_path(dir).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../etc/passwd", root.join("up")).unwrap();
        let fd = open_root(&root).unwrap();
        for name in ["absolute", "up", "../../etc/passwd"] {
            let file = open_in_root(fd.as_fd(), Path::new(name), OFlags::RDONLY).unwrap();
            let text = std::io::read_to_string(std::fs::File::from(file)).unwrap();
            assert_eq!(text, "inside", "{name}");
            assert!(open_beneath(fd.as_fd(), Path::new(name), OFlags::RDONLY).is_err());
        }
    }

    #[test]
    fn a_very_deep_tree_is_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kept"), "x").unwrap();
        let fd = open_root(dir.path()).unwrap();
        rustix::fs::mkdirat(&fd, "tree", Mode::RWXU).unwrap();
        let mut at = open_child_directory(fd.as_fd(), OsStr::new("tree")).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/", &at, "l").unwrap();
            at = open_child_directory(at.as_fd(), OsStr::new("d")).unwrap();
        }
        remove_tree(fd.as_fd(), OsStr::new("tree")).unwrap();
        assert_eq!(names(fd.as_fd()).unwrap(), ["kept"]);
    }
}
