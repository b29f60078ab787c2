//! Device nodes of the host: which number a path has, and everything below `/dev`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::SpecError;
use crate::compose::Device;

/// A device as it appears in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// In the container.
    pub path: PathBuf,
    pub is_block: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Some of `r`, `w`, `m`: what the container may do with it.
    pub access: String,
}

impl DeviceNode {
    pub(super) fn kind(&self) -> LinuxDeviceType {
        if self.is_block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        }
    }

    pub(super) fn to_oci(&self) -> LinuxDevice {
        let mut device = LinuxDevice::default();
        device
            .set_path(self.path.clone())
            .set_typ(self.kind())
            .set_major(i64::from(self.major))
            .set_minor(i64::from(self.minor))
            .set_file_mode(Some(self.mode))
            .set_uid(Some(self.uid))
            .set_gid(Some(self.gid));
        device
    }
}

/// The nodes for one `devices:` entry: the device itself, or all below a directory.
///
/// # Errors
/// [`SpecError::Device`], [`SpecError::NotADevice`], [`SpecError::DevicePermissions`].
pub fn resolve(device: &Device) -> Result<Vec<DeviceNode>, SpecError> {
    let access = match device.permissions.as_str() {
        "" => "rwm",
        letters if letters.bytes().all(|b| b"rwm".contains(&b)) => letters,
        other => return Err(SpecError::DevicePermissions(other.to_owned())),
    };
    let fail = |source| SpecError::Device {
        path: device.source.clone(),
        source,
    };
    // A link such as /dev/disk/by-id/… means its target, under the name the user gave.
    let metadata = fs::metadata(&device.source).map_err(fail)?;
    let mut nodes = Vec::new();
    if metadata.is_dir() {
        walk(&device.source, &device.target, access, &mut nodes).map_err(fail)?;
    } else {
        nodes.extend(node(&metadata, &device.target, access));
    }
    if nodes.is_empty() {
        return Err(SpecError::NotADevice(device.source.clone()));
    }
    Ok(nodes)
}

/// All devices of the host, for a privileged container. What the runtime makes itself (`pts`, `ptmx`,
/// `shm`, `mqueue`, `console`) is left out.
///
/// # Errors
/// [`SpecError::Device`].
pub fn host() -> Result<Vec<DeviceNode>, SpecError> {
    let dev = Path::new("/dev");
    let mut nodes = Vec::new();
    walk(dev, dev, "rwm", &mut nodes).map_err(|source| SpecError::Device {
        path: dev.to_owned(),
        source,
    })?;
    Ok(nodes)
}

const MADE_INSIDE: [&str; 9] = [
    "pts",
    // A link to the container's own.
    "ptmx",
    "shm",
    "fd",
    "mqueue",
    ".lxc",
    ".lxd-mounts",
    ".udev",
    "console",
];

fn walk(from: &Path, to: &Path, access: &str, nodes: &mut Vec<DeviceNode>) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if MADE_INSIDE.iter().any(|made| name == *made) {
            continue;
        }
        // Devices come and go: what has vanished since the listing is no error.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            walk(&entry.path(), &to.join(&name), access, nodes)?;
        } else {
            nodes.extend(node(&metadata, &to.join(&name), access));
        }
    }
    Ok(())
}

fn node(metadata: &fs::Metadata, path: &Path, access: &str) -> Option<DeviceNode> {
    let is_block = metadata.file_type().is_block_device();
    if !is_block && !metadata.file_type().is_char_device() {
        return None;
    }
    Some(DeviceNode {
        path: path.to_owned(),
        is_block,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}
