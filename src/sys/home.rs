//! The namespaces of process 1: what everybody on the machine takes for the machine.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::sys::pidfd;
use crate::sys::root::Root;

/// Whether this process went there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It was there already.
    AtHome,
    Moved,
    /// A path means something else there.
    Elsewhere,
}

/// Joins namespaces (`CLONE_NEW*` bits) of process 1 that this one is not in, if each of `same`, all
/// of them directories, is the same one from there. A new mount namespace takes root and working
/// directory along.
///
/// Moves the calling thread, so only a process of one thread goes as a whole.
///
/// # Errors
/// `EACCES` and `EPERM` when process 1 is none of ours to look at or to follow: it is root's, and a
/// container's root without `CAP_SYS_ADMIN` over it must stay.
pub fn join(namespaces: i32, same: &[&Path]) -> io::Result<Move> {
    let mut foreign = Vec::new();
    for (name, flag) in [
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("net", libc::CLONE_NEWNET),
        ("cgroup", libc::CLONE_NEWCGROUP),
        // Last: the others' files are found in this one.
        ("mnt", libc::CLONE_NEWNS),
    ] {
        if namespaces & flag == 0 {
            continue;
        }
        let first = open(Path::new("/proc/1/ns").join(name).as_path(), OFlags::RDONLY)?;
        let own = open(
            Path::new("/proc/thread-self/ns").join(name).as_path(),
            OFlags::RDONLY,
        )?;
        if identity(&first)? != identity(&own)? {
            foreign.push((first, flag));
        }
    }
    if foreign.is_empty() {
        return Ok(Move::AtHome);
    }
    let root = Root::new(open(Path::new("/proc/1/root"), OFlags::PATH)?);
    for path in same {
        let there = root.open(path, OFlags::PATH | OFlags::DIRECTORY);
        let there = match there {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Move::Elsewhere),
            Err(error) => return Err(error),
        };
        if identity(&there)? != identity(open(path, OFlags::PATH)?)? {
            return Ok(Move::Elsewhere);
        }
    }
    for (namespace, flag) in foreign {
        pidfd::join(namespace, flag)?;
    }
    Ok(Move::Moved)
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn identity(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mount::{self, Attr, Change, Context, Depth, Propagation};

    /// On a thread of its own, which ends with what it has changed.
    #[test]
    fn privileged_a_thread_comes_home_unless_a_directory_is_another_there() {
        if !rustix::process::geteuid().is_root() {
            let _ = io::Write::write_all(&mut io::stderr(), b"skipped: this test needs root\n");
            return;
        }
        // A sandbox may have given its root less than its first process has.
        if open(Path::new("/proc/1/ns/mnt"), OFlags::RDONLY).is_err() {
            let _ = io::Write::write_all(&mut io::stderr(), b"skipped: process 1 is closed\n");
            assert!(join(libc::CLONE_NEWNET, &[]).is_err());
            return;
        }
        let work = || {
            use nix::sched::{CloneFlags, unshare};
            let all = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
            let flags = CloneFlags::from_bits_truncate(all) | CloneFlags::CLONE_FS;
            unshare(flags).unwrap();
            let private = Change {
                propagation: Some(Propagation::Private),
                ..Change::default()
            };
            mount::set_root_attributes(Depth::Tree, private).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let covered = dir.path().join("covered");
            std::fs::create_dir(&covered).unwrap();
            let tmpfs = Context::open("tmpfs").unwrap();
            let tmpfs = tmpfs.mount(Attr::empty()).unwrap();
            mount::attach(&tmpfs, open(&covered, OFlags::PATH).unwrap()).unwrap();

            let is_home = || {
                ["mnt", "net", "uts"].map(|name| {
                    let of = |process: &str| {
                        let path = Path::new("/proc").join(process).join("ns").join(name);
                        identity(open(&path, OFlags::RDONLY).unwrap()).unwrap()
                    };
                    of("1") == of("thread-self")
                })
            };
            assert_eq!(is_home(), [false; 3]);
            assert_eq!(join(all, &[dir.path(), &covered]).unwrap(), Move::Elsewhere);
            let missing = dir.path().join("missing");
            assert!(join(all, &[&covered, &missing]).is_ok());
            assert_eq!(is_home(), [false; 3]);
            assert_eq!(
                join(libc::CLONE_NEWNET, &[dir.path()]).unwrap(),
                Move::Moved
            );
            assert_eq!(is_home(), [false, true, false]);
            assert_eq!(join(all, &[dir.path()]).unwrap(), Move::Moved);
            assert_eq!(is_home(), [true; 3]);
            assert_eq!(join(all, &[&covered, &missing]).unwrap(), Move::AtHome);
        };
        std::thread::spawn(work).join().unwrap();
    }
}
