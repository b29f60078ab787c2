//! One word of memory that a process shares with the children it clones afterwards.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

/// Lives in a page of its own; writing it takes no system call.
#[derive(Debug)]
pub struct Word {
    at: NonNull<AtomicI32>,
}

impl Word {
    /// A word that is 0.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> io::Result<Word> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                std::mem::size_of::<AtomicI32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at =
            NonNull::new(page.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Word { at })
    }

    pub fn set(&self, value: i32) {
        self.word().store(value, Ordering::Release);
    }

    #[must_use]
    pub fn get(&self) -> i32 {
        self.word().load(Ordering::Acquire)
    }

    fn word(&self) -> &AtomicI32 {
        // SAFETY: the mapping is page-aligned, zeroed (a valid AtomicI32), large enough, and lives
        // as long as `self`. All processes access it as an atomic only.
        unsafe { self.at.as_ref() }
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made; nobody holds a reference, which would
        // borrow `self`. Other processes' mappings are their own.
        unsafe {
            libc::munmap(self.at.as_ptr().cast(), std::mem::size_of::<AtomicI32>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clone::{Side, exit, fork};

    #[test]
    fn a_child_writes_and_the_parent_reads() {
        let word = Word::new().unwrap();
        match fork().unwrap() {
            Side::Child => {
                word.set(42);
                exit(0)
            }
            Side::Parent(pid) => {
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
            }
        }
        assert_eq!(word.get(), 42);
    }
}
