//! Files that are seen whole or not at all. Knows nothing of what is in them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes `content` beside `path` and renames it there, mode 0600.
///
/// There is no fsync: the callers live on tmpfs, where a crash of the machine loses all anyway.
///
/// # Errors
/// Of the write or the rename; a left-over temporary file is overwritten by the next attempt.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let mut file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&name)?;
    file.write_all(content)?;
    drop(file);
    std::fs::rename(&name, path)
}

#[cfg(test)]
mod tests {
    #[test]
    fn replaces_the_whole_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        super::write(&path, b"a longer first version").unwrap();
        super::write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
