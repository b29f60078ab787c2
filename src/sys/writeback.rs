//! Beginning to bring a file's data to the disk, without waiting for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Begins to write what is dirty of a file. Says nothing about when it is done, and nothing about
/// the metadata that leads to it: what has to be on the disk is synced all the same.
pub fn begin(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor, which is open for the length of the borrow, and three numbers; a
    // length of zero means to the end of the file. No memory is passed.
    let result =
        unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
