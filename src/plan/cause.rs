//! Causes and their place in the user's files.

use super::Cause;
use crate::compose::{Location, Project};

/// The place of the innermost part of `path` that has one.
pub(super) fn locate(project: &Project, path: &str) -> Option<Location> {
    let mut path = path;
    loop {
        if let Some(location) = project.locations.get(path) {
            return Some(location.clone());
        }
        path = &path[..path.rfind('.')?];
    }
}

/// A cause that a place of the file stands behind.
pub(super) fn because(project: &Project, reason: impl Into<String>, path: &str) -> Cause {
    Cause {
        reason: reason.into(),
        location: locate(project, path),
    }
}

/// A cause that stands in no file: an option, or the state of the machine.
pub(super) fn asked(reason: impl Into<String>) -> Cause {
    Cause {
        reason: reason.into(),
        location: None,
    }
}
