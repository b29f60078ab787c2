//! What can go wrong with a cgroup.

use std::io;
use std::path::PathBuf;

/// What could not be done, to which cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot find the machine's cgroups")]
    Discover(#[source] io::Error),
    #[error("cgroup path {0:?} is not a plain path below the root")]
    Path(PathBuf),
    #[error("cannot create cgroup {path:?} of {controller}")]
    Create {
        path: PathBuf,
        controller: String,
        source: io::Error,
    },
    #[error("cgroup {0:?} already holds running processes")]
    InUse(PathBuf),
    #[error("cannot open cgroup {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot set {file} to {value:?}")]
    Limit {
        file: String,
        value: String,
        source: io::Error,
    },
    #[error("{0:?} is not the name of a cgroup file")]
    UnifiedKey(String),
    #[error("cannot set the device rules of cgroup {path:?}")]
    Devices { path: PathBuf, source: io::Error },
    #[error("cannot move process {pid} into cgroup {path:?}")]
    Enter {
        path: PathBuf,
        pid: i32,
        source: io::Error,
    },
    #[error("cannot write {file} of cgroup {path:?}")]
    Control {
        path: PathBuf,
        file: &'static str,
        source: io::Error,
    },
    #[error("cgroup {0:?} did not freeze; a process of it is stuck in a system call")]
    Freeze(PathBuf),
    #[error("cannot remove cgroup {path:?}")]
    Remove { path: PathBuf, source: io::Error },
}
