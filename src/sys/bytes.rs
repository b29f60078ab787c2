//! Searching memory.

/// Place of the first `byte`. libc's search is vectorised at run time, which a log of many short
/// lines is worth.
#[must_use]
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: the pointer is valid for reads of the given length for the whole call.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), i32::from(byte), bytes.len()) };
    (!found.is_null()).then(|| found.addr() - bytes.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_first() {
        assert_eq!(super::find(b'\n', b"ab\nc\n"), Some(2));
        assert_eq!(super::find(b'\n', b"abc"), None);
        assert_eq!(super::find(b'\n', b""), None);
    }
}
