//! What a shim itself reads of its bundle.
//!
//! A shim lives as long as its container, and what it once had on its heap stays with it: pages that
//! hold one small thing are not given back, and pages that were its parent's became its own. So the
//! specification is parsed by the process that makes the container, whose memory goes with its
//! `execve`; the shim reads past it (L9).

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxResources, LinuxSeccomp};
use serde::Deserialize;

use crate::runtime::failure::{Failure, Kind};
use crate::runtime::start::Definition;
use crate::shim::protocol::parts::Rotation;
use crate::shim::protocol::{Bundle, Rootfs, file};
use crate::shim::supervise::own;

/// The shim's part of a [`Bundle`]; the fields mean the same.
#[derive(Debug, Deserialize)]
pub(super) struct Outline {
    pub(super) spec: Spec,
    pub(super) log_path: PathBuf,
    #[serde(default)]
    pub(super) log_rotation: Option<Rotation>,
    #[serde(default)]
    pub(super) is_log_torn: bool,
    #[serde(default)]
    pub(super) default_seccomp: bool,
    #[serde(default)]
    pub(super) open_stdin: bool,
    pub(super) cgroup: PathBuf,
    pub(super) stop_signal: i32,
    pub(super) stop_grace_ms: u64,
    #[serde(default)]
    pub(super) engine_command: Vec<String>,
    #[serde(default)]
    pub(super) engine_lock: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(super) struct Spec {
    #[serde(default)]
    pub(super) process: Process,
    #[serde(default)]
    pub(super) linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    #[serde(default)]
    pub(super) terminal: bool,
    pub(super) console_size: Option<Size>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Linux {
    #[serde(default)]
    pub(super) namespaces: Vec<LinuxNamespace>,
    pub(super) resources: Option<LinuxResources>,
    pub(super) seccomp: Option<LinuxSeccomp>,
}

/// # Errors
/// Of the file, or of its content.
pub(super) fn read(dir: &Path) -> Result<Outline, Failure> {
    parse(&text(dir)?)
}

/// All of the bundle. For the process that makes the container.
///
/// # Errors
/// As [`read`].
pub(super) fn definition(dir: &Path) -> Result<Definition, Failure> {
    let bundle: Bundle = parse(&text(dir)?)?;
    let Rootfs::Overlay { lower, upper, work } = bundle.rootfs;
    let files = bundle.files.into_iter();
    Ok(Definition {
        spec: bundle.spec,
        lower,
        upper,
        work,
        files: files.map(|file| (file.source, file.target)).collect(),
        user: bundle.user,
        group_add: bundle.group_add,
        init: bundle.init,
    })
}

fn text(dir: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(dir.join(file::BUNDLE)).map_err(own("read the bundle"))
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        let error = crate::runtime::failure::StepError {
            step: "parse the bundle",
            source: error.into(),
        };
        Failure::new(Kind::System, &error)
    })
}
