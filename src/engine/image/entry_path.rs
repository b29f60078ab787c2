//! Paths as archives write them, made relative to a layer's root. Text only; whether a path leads
//! somewhere is the kernel's business.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::layer::{LayerError, Limits};

/// openat2 does not take an empty path.
pub(super) fn in_root(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    }
}

pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

/// A path of the archive as a relative path without `.` and `..`; empty for the root.
///
/// `..` is resolved by its text, as Docker does; what would climb out is refused.
pub(super) fn clean(path: &[u8], limits: &Limits) -> Result<PathBuf, LayerError> {
    let mut cleaned = PathBuf::new();
    let mut depth = 0;
    let refuse = |why| LayerError::Path {
        path: shown(path),
        why,
    };
    if path.is_empty() {
        return Err(refuse("it is empty"));
    }
    // PATH_MAX includes the final NUL.
    if path.len() > 4095 {
        return Err(refuse("it is longer than 4095 bytes"));
    }
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if !cleaned.pop() {
                    return Err(LayerError::Escape { path: shown(path) });
                }
                depth -= 1;
            }
            _ => {
                cleaned.push(OsStr::from_bytes(component));
                depth += 1;
                if depth > limits.max_depth {
                    return Err(LayerError::Limit {
                        what: "directories in a path",
                        limit: limits.max_depth as u64,
                    });
                }
            }
        }
    }
    Ok(cleaned)
}

/// Where the symlink at `path` points, by its text; never above the root.
pub(super) fn resolve_link(path: &Path, link: &[u8]) -> PathBuf {
    let mut resolved = match link.first() {
        Some(b'/') => PathBuf::new(),
        _ => path.parent().map(Path::to_owned).unwrap_or_default(),
    };
    for component in link.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                resolved.pop();
            }
            _ => resolved.push(OsString::from(OsStr::from_bytes(component))),
        }
    }
    resolved
}

/// The parent (relative, possibly empty) and the name of a cleaned relative path.
pub(super) fn split(path: &Path) -> Option<(&Path, OsString)> {
    Some((path.parent()?, path.file_name()?.to_owned()))
}
