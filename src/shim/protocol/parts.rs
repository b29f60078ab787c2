//! The files that one container's log is kept in.
//!
//! ```text
//! log   log.1   log.2   log.3        oldest … newest
//! gone  gone    full    written to
//! ```
//!
//! A log that reaches its size goes on in a file with the next number, and the oldest is deleted.
//! Nothing is ever renamed: a number names the same bytes for good, so a reader that has come to the
//! end of one part goes on in the next whatever happens meanwhile (HAZARDS L28). A part is complete
//! as soon as a later one exists. Knows file names, not what is in the files.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Of one part.
    pub max_bytes: u64,
    /// Parts that are kept, the one that is written to included; at least one.
    pub max_parts: u32,
}

/// The file of part `number` of the log at `base`.
#[must_use]
pub fn path(base: &Path, number: u64) -> PathBuf {
    if number == 0 {
        return base.to_owned();
    }
    let mut name = OsString::from(base);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The numbers of the parts that exist, oldest first.
///
/// # Errors
/// When the directory cannot be read. One that does not exist has no parts.
pub fn list(base: &Path) -> io::Result<Vec<u64>> {
    let (Some(dir), Some(name)) = (base.parent(), base.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        let Some(rest) = file
            .as_encoded_bytes()
            .strip_prefix(name.as_encoded_bytes())
        else {
            continue;
        };
        match rest.split_first() {
            None => numbers.push(0),
            Some((b'.', digits)) => {
                let number = std::str::from_utf8(digits).ok().and_then(number);
                numbers.extend(number);
            }
            Some(_) => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Of the only spelling that [`path`] gives it.
fn number(digits: &str) -> Option<u64> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_by_their_numbers_only() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("log");
        assert_eq!(list(&base).unwrap(), [0; 0]);
        for n in [10, 9, 0, 2] {
            std::fs::write(path(&base, n), "").unwrap();
        }
        for stranger in [
            "log.",
            "log.x",
            "log.07",
            "log.+3",
            "logs",
            "log.2.tmp",
            "upper",
        ] {
            std::fs::write(dir.path().join(stranger), "").unwrap();
        }
        assert_eq!(list(&base).unwrap(), [0, 2, 9, 10]);
        assert_eq!(list(&dir.path().join("gone/log")).unwrap(), [0; 0]);
    }
}
