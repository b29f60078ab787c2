//! Volumes, mounts, secrets and configs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A top-level volume in canonical form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// The engine's name for it: `<project>_<key>` unless the file names it or it is external.
    pub name: String,
    pub external: bool,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// What a mount shows inside the container, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: MountKind,
    /// Absolute, cleaned path in the container.
    pub target: PathBuf,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub consistency: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum MountKind {
    Bind {
        source: PathBuf,
        /// `rprivate` (default), `private`, `rshared`, `shared`, `rslave`, `slave`.
        propagation: Option<String>,
        /// Make a missing source a directory instead of failing.
        create_host_path: bool,
        /// `enabled` (default), `disabled`, `writable`, `readonly`.
        recursive: Option<String>,
        selinux: Option<String>,
    },
    Volume {
        /// Key of a top-level volume; `None` is an anonymous volume.
        source: Option<String>,
        nocopy: bool,
        subpath: Option<PathBuf>,
        labels: BTreeMap<String, String>,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: Option<u32>,
    },
    Image {
        source: String,
        subpath: Option<PathBuf>,
    },
}

/// A top-level secret or config: a named piece of content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileObject {
    pub name: String,
    pub external: bool,
    /// A file of the host, absolute.
    pub file: Option<PathBuf>,
    /// A variable of the project's environment.
    pub environment: Option<String>,
    /// Inline content, interpolated. For `environment` objects the loader leaves this empty and
    /// the CLI fills it when the project is sent to the engine, never when it is printed.
    pub content: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub template_driver: Option<String>,
}

/// A service's use of a secret or config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileMount {
    /// Key of the top-level object.
    pub source: String,
    /// Absolute path in the container (`/run/secrets/…` and `/…` already applied).
    pub target: PathBuf,
    #[serde(default)]
    pub uid: Option<String>,
    #[serde(default)]
    pub gid: Option<String>,
    #[serde(default)]
    pub mode: Option<u32>,
}
