//! Kernel parameters of a container's own namespaces.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};

/// # Errors
/// Of the write.
pub fn apply(values: &HashMap<String, String>, proc: BorrowedFd<'_>) -> io::Result<()> {
    for (key, value) in values {
        let path = format!("sys/{}", key.replace('.', "/"));
        let fd = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&fd, value.as_bytes())?;
    }
    Ok(())
}
