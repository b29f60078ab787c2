//! The one way from the pure loader to the machine: reading whole files.

use std::io;
use std::path::{Path, PathBuf};

/// What a loader may ask of the outside.
pub trait Files {
    /// The whole content of a regular file, or of a pipe without a name. Errors of kind `NotFound`, `IsADirectory`,
    /// `PermissionDenied`, `FileTooLarge`, and `InvalidInput` for what is no regular file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The whole of standard input, under the same size limit.
    fn read_stdin(&self) -> io::Result<Vec<u8>>;
    fn is_file(&self, path: &Path) -> bool;
    fn is_dir(&self, path: &Path) -> bool;
    /// The path with every symbolic link resolved.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
    /// The file on this machine that a reference to another machine stands for. Errors of kind
    /// `Unsupported` where there is no way to it, `NotFound` where it would first have to be
    /// fetched and that is not allowed.
    fn remote(&self, reference: &str) -> io::Result<PathBuf> {
        _ = reference;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Longest file that is read, in bytes. A Compose or env file is a thousand times smaller; the
/// limit keeps a mistyped path to a disk image from filling the memory.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// `linux/magic.h`: the file system of pipes that have no name.
const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045;

/// The machine's own files.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles;

impl Files for HostFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        use rustix::fs::{FileType, Mode, OFlags};
        if path == Path::new("/dev/null") {
            return Ok(Vec::new());
        }
        // NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(io::ErrorKind::IsADirectory.into()),
            // `-f <(...)` of a shell: a pipe without a name has its writer, like standard input, and
            // may be waited for.
            FileType::Fifo if rustix::fs::fstatfs(&fd)?.f_type == PIPEFS_MAGIC => {
                rustix::fs::fcntl_setfl(&fd, OFlags::empty())?;
            }
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "not a regular file",
                ));
            }
        }
        read_limited(std::fs::File::from(fd))
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        read_limited(io::stdin().lock())
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }
}

fn read_limited(from: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(from, MAX_FILE_BYTES + 1), &mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {} MiB", MAX_FILE_BYTES >> 20),
        ));
    }
    Ok(bytes)
}

/// Bytes of a user's file as text: the byte order mark is dropped, other encodings than UTF-8 are
/// an `InvalidData` error that names the offset.
pub fn decode(bytes: Vec<u8>) -> io::Result<String> {
    let mut text = String::from_utf8(bytes).map_err(|e| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()),
        )
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::fd::AsRawFd;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    #[test]
    fn only_regular_files_of_sensible_length_are_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        let kind = |path: &Path| HostFiles.read(path).map_err(|e| e.kind());

        std::fs::write(at("file"), "x").expect("it is written");
        assert_eq!(kind(&at("file")), Ok(b"x".to_vec()));
        assert_eq!(kind(&at("absent")), Err(ErrorKind::NotFound));
        assert_eq!(kind(directory.path()), Err(ErrorKind::IsADirectory));
        assert_eq!(kind(Path::new("/dev/null")), Ok(Vec::new()));
        assert_eq!(kind(Path::new("/dev/zero")), Err(ErrorKind::InvalidInput));

        // Nobody ever opens the other end.
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
        assert_eq!(kind(&at("fifo")), Err(ErrorKind::InvalidInput));

        // What a shell makes of `<(...)`.
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let name = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let late = std::thread::spawn(move || {
            std::thread::yield_now();
            io::Write::write_all(&mut writer, b"services: {}")
        });
        assert_eq!(kind(Path::new(&name)), Ok(b"services: {}".to_vec()));
        late.join().expect("it ends").expect("it is read");

        let sparse = std::fs::File::create(at("long")).expect("it is made");
        sparse.set_len(MAX_FILE_BYTES + 1).expect("it is sparse");
        assert_eq!(kind(&at("long")), Err(ErrorKind::FileTooLarge));
    }

    #[test]
    fn text_is_utf8_with_or_without_a_mark() {
        assert_eq!(decode(b"\xef\xbb\xbfa".to_vec()).ok().as_deref(), Some("a"));
        let error = decode(b"ab\xff".to_vec()).map_err(|e| e.to_string());
        assert_eq!(error, Err("not UTF-8 at byte 2".to_owned()));
    }
}
