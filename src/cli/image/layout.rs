//! OCI layout directories on the user's side: sent as an archive, and written from one.
//!
//! The user's files are read and written as the user, not as the engine.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::cli::output::{Failure, Kind};

/// `oci:DIR`, as against a file.
pub fn directory(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("oci:")?;
    // A tag behind it chooses when an image is used; here all of them are meant.
    Some(PathBuf::from(path))
}

/// The file behind `oci-archive:` or `docker-archive:`, or the text itself.
pub fn file(text: &str) -> PathBuf {
    let schemes = ["oci-archive:", "docker-archive:"];
    let path = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    PathBuf::from(path.unwrap_or(text))
}

/// An archive of a layout.
pub fn pack(directory: &Path, out: impl io::Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(true);
    for name in ["oci-layout", "index.json"] {
        archive.append_path_with_name(directory.join(name), name)?;
    }
    let blobs = directory.join("blobs/sha256");
    for entry in std::fs::read_dir(&blobs)? {
        let entry = entry?;
        if entry.path().is_file() {
            let name = Path::new("blobs/sha256").join(entry.file_name());
            archive.append_path_with_name(entry.path(), name)?;
        }
    }
    archive.into_inner()?.flush()
}

/// Writes the members of an archive that make a layout into a directory, which may be a layout
/// already: its blobs are kept, its index is replaced.
pub fn unpack(archive: impl Read, directory: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::system(
            &format!("cannot write the layout {}", directory.display()),
            &error,
        )
    };
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(failed)?;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.display().to_string();
        let is_digest =
            |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let target = match name.strip_prefix("blobs/sha256/") {
            Some(digest) if is_digest(digest) => blobs.join(digest),
            None if name == "index.json" || name == "oci-layout" => directory.join(&name),
            // Directories, and Docker's own index.
            _ => continue,
        };
        let mut partial = target.clone().into_os_string();
        partial.push(".partial");
        let mut file = File::create(&partial).map_err(failed)?;
        let n = io::copy(&mut entry, &mut file).map_err(failed)?;
        if n != entry.size() {
            return Err(Failure::new(Kind::System, format!("{name} is incomplete")));
        }
        std::fs::rename(&partial, &target).map_err(failed)?;
    }
    Ok(())
}

trait Flush {
    fn flush(self) -> io::Result<()>;
}

impl<W: io::Write> Flush for W {
    fn flush(mut self) -> io::Result<()> {
        io::Write::flush(&mut self)
    }
}
