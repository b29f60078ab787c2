//! Options of the `local` driver: what Docker passes to mount(8).
//!
//! Says what is to be mounted; parsing `o` into flags is the business of whoever mounts.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a volume's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeMount {
    /// A directory to bind.
    Directory(PathBuf),
    /// Something to mount anew.
    Mount {
        /// File system type: `tmpfs`, `nfs`, …; `none` for a bind.
        kind: String,
        /// Device, directory or export.
        source: String,
        /// Comma-separated as in mount(8): `bind`, `size=64m,uid=5`, `addr=10.0.0.1,rw`.
        options: String,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    #[error("{key:?} is not an option of the local driver (type, device, o)")]
    Unknown { key: String },
    #[error("option {option:?} is missing")]
    Missing { option: &'static str },
    #[error("a size limit is not supported on this file system")]
    Size,
    #[error("the device of a bind has to be an absolute path, not {device:?}")]
    RelativeDevice { device: String },
}

/// What the options describe; without any, the volume's own directory.
pub fn mount(
    options: &BTreeMap<String, String>,
    data: PathBuf,
) -> Result<VolumeMount, OptionError> {
    for key in options.keys() {
        match key.as_str() {
            "type" | "device" | "o" => {}
            // Only quotas could enforce it, and a limit that is ignored is worse than none.
            "size" => return Err(OptionError::Size),
            _ => return Err(OptionError::Unknown { key: key.clone() }),
        }
    }
    let value = |key: &str| options.get(key).filter(|value| !value.is_empty());
    let (kind, device, o) = (value("type"), value("device"), value("o"));
    let (kind, device) = match (kind, device, o) {
        (None, None, None) => return Ok(VolumeMount::Directory(data)),
        (Some(kind), Some(device), _) => (kind, device),
        (None, ..) => return Err(OptionError::Missing { option: "type" }),
        (_, None, _) => return Err(OptionError::Missing { option: "device" }),
    };
    let o = o.cloned().unwrap_or_default();
    let is_bind = kind == "bind" || o.split(',').any(|word| word == "bind" || word == "rbind");
    if is_bind && !device.starts_with('/') {
        return Err(OptionError::RelativeDevice {
            device: device.clone(),
        });
    }
    Ok(VolumeMount::Mount {
        kind: kind.clone(),
        source: device.clone(),
        options: o,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_describe_a_mount_or_are_refused() {
        let parse = |pairs: &[(&str, &str)]| {
            let options = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            mount(&options, PathBuf::from("/d"))
        };
        let described = |kind: &str, source: &str, options: &str| {
            Ok(VolumeMount::Mount {
                kind: kind.to_owned(),
                source: source.to_owned(),
                options: options.to_owned(),
            })
        };
        assert_eq!(parse(&[]), Ok(VolumeMount::Directory(PathBuf::from("/d"))));
        assert_eq!(
            parse(&[("type", "none"), ("o", "bind"), ("device", "/srv")]),
            described("none", "/srv", "bind")
        );
        assert_eq!(
            parse(&[("type", "tmpfs"), ("o", "size=1m"), ("device", "tmpfs")]),
            described("tmpfs", "tmpfs", "size=1m")
        );
        assert_eq!(
            parse(&[("type", "nfs"), ("o", "addr=10.0.0.1"), ("device", ":/x")]),
            described("nfs", ":/x", "addr=10.0.0.1")
        );
        assert_eq!(
            parse(&[("type", "tmpfs")]),
            Err(OptionError::Missing { option: "device" })
        );
        assert_eq!(
            parse(&[("device", "/x")]),
            Err(OptionError::Missing { option: "type" })
        );
        assert_eq!(parse(&[("size", "1g")]), Err(OptionError::Size));
        assert!(matches!(
            parse(&[("x", "y")]),
            Err(OptionError::Unknown { .. })
        ));
        assert!(matches!(
            parse(&[("type", "none"), ("o", "bind"), ("device", "srv")]),
            Err(OptionError::RelativeDevice { .. })
        ));
    }
}
