//! The mounts of a container: Docker's own, the files with its names, and the user's.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use super::security::Security;
use super::spec::{SpecError, SpecInput};
use crate::plan::NamespaceMode;

/// A user mount, with everything that had to be looked up on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    pub source: ResolvedSource,
    /// In the container.
    pub target: PathBuf,
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedSource {
    /// A path of the host: bind, volume, or a tree of an image.
    Bind {
        path: PathBuf,
        /// Below `path`, resolved so that no link in there leads out of it.
        subpath: Option<PathBuf>,
        /// `None` is `rprivate`.
        propagation: Option<String>,
        /// `enabled` (default), `disabled`, `writable`, `readonly`.
        recursive: Option<String>,
    },
    Tmpfs {
        /// As in `size=64m,mode=1777`.
        options: String,
    },
}

/// Docker's size of `/dev/shm`, in bytes.
const SHM_BYTES: u64 = 64 << 20;

/// What the runtime makes in `/dev`, where even a read-only container may write.
const WRITABLE_IN_READ_ONLY: [&str; 5] = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];

pub(super) fn mounts(input: &SpecInput<'_>, security: &Security) -> Result<Vec<Mount>, SpecError> {
    let config = input.config;
    let mut user = Vec::new();
    for wanted in input.mounts {
        let target = target(&wanted.target)?;
        if user.iter().any(|m: &Mount| *m.destination() == target) {
            return Err(SpecError::DuplicateMount(target));
        }
        user.push(user_mount(wanted, target)?);
    }
    // A mount of the user hides what would stand below it, and a tree such as the host's /dev brings
    // its own.
    let hidden = |at: &Path| user.iter().any(|m| at.starts_with(m.destination()));
    let mut all: Vec<Mount> = defaults(input)?
        .into_iter()
        .filter(|m| !hidden(m.destination()))
        .collect();
    for mount in &mut all {
        let destination = mount.destination().clone();
        let is = |path: &str| destination == Path::new(path);
        let writable = (is("/sys") && config.privileged)
            || (is("/sys/fs/cgroup") && security.writable_cgroups);
        let options = mount.options_mut().get_or_insert_default();
        if writable {
            options.retain(|o| o != "ro");
            options.push("rw".to_owned());
        } else if config.read_only
            && !WRITABLE_IN_READ_ONLY.iter().any(|p| is(p))
            && !options.iter().any(|o| o == "ro")
        {
            options.push("ro".to_owned());
        }
    }
    all.extend(user);
    // Parents first; equals keep their order.
    all.sort_by_key(|m| m.destination().components().count());
    Ok(all)
}

fn defaults(input: &SpecInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let config = input.config;
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["ro", "nosuid", "noexec", "nodev"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
    ];
    list.push(match &config.ipc {
        NamespaceMode::Private => {
            let size = format!(
                "size={}",
                config.shm_size.filter(|s| *s != 0).unwrap_or(SHM_BYTES)
            );
            mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", &size],
            )
        }
        // POSIX shared memory is files: sharing the namespace without them would be half of it.
        NamespaceMode::Host => bind(Path::new("/dev/shm"), "/dev/shm"),
        NamespaceMode::Container(_) => bind(
            input.joined.shm.ok_or(SpecError::Joined { kind: "ipc" })?,
            "/dev/shm",
        ),
    });
    let files = [
        (input.files.resolv_conf, "/etc/resolv.conf"),
        (input.files.hostname, "/etc/hostname"),
        (input.files.hosts, "/etc/hosts"),
    ];
    for (source, at) in files {
        list.extend(source.map(|source| bind(source, at)));
    }
    Ok(list)
}

fn mount(at: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(at))
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

fn bind(source: &Path, at: &str) -> Mount {
    let mut mount = mount(at, "bind", "", &["rbind", "rprivate"]);
    mount.set_source(Some(source.to_owned()));
    mount
}

fn user_mount(wanted: &ResolvedMount, at: PathBuf) -> Result<Mount, SpecError> {
    let mut mount = Mount::default();
    match &wanted.source {
        ResolvedSource::Tmpfs { options } => {
            let mut options = tmpfs_options(options, &at)?;
            if wanted.read_only {
                options.push("ro".to_owned());
            }
            mount
                .set_typ(Some("tmpfs".to_owned()))
                .set_source(Some(PathBuf::from("tmpfs")))
                .set_options(Some(options));
        }
        ResolvedSource::Bind {
            path,
            subpath,
            propagation,
            recursive,
        } => {
            let propagation = propagation
                .as_deref()
                .filter(|p| !p.is_empty())
                .unwrap_or("rprivate");
            if !PROPAGATIONS.contains(&propagation) {
                return Err(SpecError::Propagation(propagation.to_owned()));
            }
            let recursive = recursive
                .as_deref()
                .filter(|r| !r.is_empty())
                .unwrap_or("enabled");
            let mut options = vec![if recursive == "disabled" {
                "bind"
            } else {
                "rbind"
            }];
            match (recursive, wanted.read_only) {
                ("enabled" | "disabled" | "writable" | "readonly", false) => {}
                ("disabled" | "writable", true) => options.push("ro"),
                // Mounts below are read-only, too; "ro" serves runtimes and kernels (< 5.12) that
                // know no better.
                ("enabled" | "readonly", true) => options.extend(["ro", "rro"]),
                _ => return Err(SpecError::Recursive(recursive.to_owned())),
            }
            options.push(propagation);
            let mut options: Vec<String> = options.into_iter().map(str::to_owned).collect();
            if let Some(subpath) = subpath {
                let outside = || SpecError::Subpath(subpath.clone());
                let is_inside = subpath
                    .components()
                    .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
                if !is_inside {
                    return Err(outside());
                }
                let text = subpath.to_str().ok_or_else(outside)?;
                // The runtime's own word.
                options.push(format!("subpath={text}"));
            }
            mount
                .set_typ(Some("bind".to_owned()))
                .set_source(Some(path.clone()))
                .set_options(Some(options));
        }
    }
    mount.set_destination(at);
    Ok(mount)
}

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// Docker's defaults (HAZARDS I35), with the user's options over them: of contradictory flags, and
/// of values for one key, the last counts.
fn tmpfs_options(text: &str, at: &Path) -> Result<Vec<String>, SpecError> {
    const OPPOSITES: [(&str, &str); 8] = [
        ("noexec", "exec"),
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("ro", "rw"),
        ("sync", "async"),
        ("noatime", "atime"),
        ("nodiratime", "diratime"),
        ("relatime", "norelatime"),
    ];
    const KEYS: [&str; 7] = [
        "size",
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "mpol",
    ];
    let mut merged: Vec<String> = ["noexec", "nosuid", "nodev", "rprivate"]
        .map(str::to_owned)
        .to_vec();
    for option in text.split(',').filter(|o| !o.is_empty()) {
        let key = option.split_once('=').map(|(key, _)| key);
        match key {
            Some(key) if KEYS.contains(&key) => {
                merged.retain(|o| o.split_once('=').is_none_or(|(k, _)| k != key));
            }
            None if PROPAGATIONS.contains(&option) => {
                merged.retain(|o| !PROPAGATIONS.contains(&o.as_str()));
            }
            None => {
                let other = OPPOSITES.iter().find_map(|(a, b)| match option {
                    o if o == *a => Some(*b),
                    o if o == *b => Some(*a),
                    _ => None,
                });
                let is_flag = other.is_some()
                    || ["defaults", "strictatime", "nostrictatime", "dirsync"].contains(&option);
                if !is_flag {
                    return Err(SpecError::TmpfsOption {
                        target: at.to_owned(),
                        option: option.to_owned(),
                    });
                }
                merged.retain(|o| Some(o.as_str()) != other && o != option);
            }
            Some(_) => {
                return Err(SpecError::TmpfsOption {
                    target: at.to_owned(),
                    option: option.to_owned(),
                });
            }
        }
        if option != "defaults" {
            merged.push(option.to_owned());
        }
    }
    Ok(merged)
}

/// What the root's own propagation must be so that the user's mounts can receive or send.
pub(super) fn root_propagation(mounts: &[ResolvedMount]) -> Option<String> {
    let wants = |names: [&str; 2]| {
        mounts.iter().any(|m| match &m.source {
            ResolvedSource::Bind { propagation, .. } => {
                propagation.as_deref().is_some_and(|p| names.contains(&p))
            }
            ResolvedSource::Tmpfs { .. } => false,
        })
    };
    if wants(["shared", "rshared"]) {
        Some("shared".to_owned())
    } else if wants(["slave", "rslave"]) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

/// Absolute, without `.`, `..` and doubled slashes, and not the root itself.
fn target(path: &Path) -> Result<PathBuf, SpecError> {
    let fail = || SpecError::MountTarget(path.to_owned());
    if !path.is_absolute() {
        return Err(fail());
    }
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    if clean == Path::new("/") {
        Err(fail())
    } else {
        Ok(clean)
    }
}
