//! Advisory whole-file locks. Knows nothing of who competes for them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

/// An exclusive `flock` that lives as long as the value.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock without waiting; `None` when somebody else has it.
///
/// # Errors
/// Of creating or opening the file.
pub fn try_exclusive(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether anybody holds a lock on the file, found out without touching it.
///
/// Trying the lock instead would take it for a moment, and the program that the file belongs to
/// could just then find it taken and give up.
///
/// # Errors
/// Of reading `/proc/locks` or the file's inode; a missing file is simply not locked.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let dev = meta.dev();
    let wanted = format!(
        "{:02x}:{:02x}:{}",
        rustix::fs::major(dev),
        rustix::fs::minor(dev),
        meta.ino()
    );
    let locks = std::fs::read_to_string("/proc/locks")?;
    Ok(locks.lines().any(|line| {
        // A waiter is printed as `1: -> FLOCK …`; only holders count.
        !line.contains("->") && line.split_ascii_whitespace().any(|field| field == wanted)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_seen_and_excludes_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let lock = try_exclusive(&path).unwrap();
        assert!(lock.is_some());
        assert!(is_held(&path).unwrap());
        assert!(try_exclusive(&path).unwrap().is_none());
        drop(lock);
        assert!(!is_held(&path).unwrap());
    }
}
