//! The mounts of the specification, in its order, each placed by descriptor.
//!
//! Two phases, because sources are the host's and targets are the container's: [`open_sources`]
//! clones what is to be bound while the new namespace still propagates like the host's (so that
//! `rslave` and `rshared` mean something); [`Prepared::attach`] runs when the namespace is private.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags};

use crate::runtime::failure::Kind as FailureKind;
use crate::sys::mount::{self, Attr, Change, Context, Depth, Propagation};
use crate::sys::root::{Kind, Root, is_dir};

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("bind source path does not exist: {}", .0.display())]
    SourceMissing(PathBuf),
    #[error("open bind source {}", path.display())]
    Source { path: PathBuf, source: io::Error },
    #[error("mount {kind} on {}", target.display())]
    Mount {
        kind: String,
        target: PathBuf,
        source: io::Error,
    },
    #[error("{kind} on {} does not take the option {option:?}", target.display())]
    Option {
        kind: String,
        target: PathBuf,
        option: String,
    },
    #[error("create mount point {}", target.display())]
    Target { target: PathBuf, source: io::Error },
    #[error("mount on {} has no source", .0.display())]
    NoSource(PathBuf),
}

impl MountError {
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            MountError::SourceMissing(_) | MountError::Option { .. } | MountError::NoSource(_) => {
                FailureKind::Invalid
            }
            MountError::Source { .. } | MountError::Mount { .. } | MountError::Target { .. } => {
                FailureKind::System
            }
        }
    }
}

/// What the words of a mount mean.
#[derive(Debug, Default, Clone)]
struct Options {
    set: u64,
    clear: u64,
    recursive_bind: bool,
    bind: bool,
    /// `rro`: read-only below too, or an error.
    recursive_read_only: bool,
    propagation: Option<(Propagation, Depth)>,
    /// `subpath=`, our own word: what below the source is bound.
    subpath: Option<PathBuf>,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    fn parse(words: &[String]) -> Options {
        let mut options = Options::default();
        for word in words {
            options.word(word);
        }
        options
    }

    fn word(&mut self, word: &str) {
        let mut attribute = |bits: u64, on: bool| {
            if on {
                self.set |= bits;
                self.clear &= !bits;
            } else {
                self.clear |= bits;
                self.set &= !bits;
            }
        };
        let tree = |propagation| Some((propagation, Depth::Tree));
        let single = |propagation| Some((propagation, Depth::Single));
        match word {
            "" | "defaults" | "relatime" | "norelatime" | "nostrictatime" | "noiversion"
            | "loud" | "silent" | "auto" | "noauto" => {}
            "atime" => {
                self.clear |= libc::MOUNT_ATTR__ATIME;
                self.set &= !libc::MOUNT_ATTR__ATIME;
            }
            "nosymfollow" => attribute(libc::MOUNT_ATTR_NOSYMFOLLOW, true),
            "symfollow" => attribute(libc::MOUNT_ATTR_NOSYMFOLLOW, false),
            "ro" => attribute(libc::MOUNT_ATTR_RDONLY, true),
            "rw" => attribute(libc::MOUNT_ATTR_RDONLY, false),
            "nosuid" => attribute(libc::MOUNT_ATTR_NOSUID, true),
            "suid" => attribute(libc::MOUNT_ATTR_NOSUID, false),
            "nodev" => attribute(libc::MOUNT_ATTR_NODEV, true),
            "dev" => attribute(libc::MOUNT_ATTR_NODEV, false),
            "noexec" => attribute(libc::MOUNT_ATTR_NOEXEC, true),
            "exec" => attribute(libc::MOUNT_ATTR_NOEXEC, false),
            "nodiratime" => attribute(libc::MOUNT_ATTR_NODIRATIME, true),
            "diratime" => attribute(libc::MOUNT_ATTR_NODIRATIME, false),
            "noatime" | "strictatime" => {
                // One field of several bits: the whole of it is cleared to set a part.
                self.clear |= libc::MOUNT_ATTR__ATIME;
                self.set &= !libc::MOUNT_ATTR__ATIME;
                self.set |= if word == "noatime" {
                    libc::MOUNT_ATTR_NOATIME
                } else {
                    libc::MOUNT_ATTR_STRICTATIME
                };
            }
            "rro" => {
                attribute(libc::MOUNT_ATTR_RDONLY, true);
                self.recursive_read_only = true;
            }
            "bind" => self.bind = true,
            "rbind" => {
                self.bind = true;
                self.recursive_bind = true;
            }
            "private" => self.propagation = single(Propagation::Private),
            "rprivate" => self.propagation = tree(Propagation::Private),
            "slave" => self.propagation = single(Propagation::Slave),
            "rslave" => self.propagation = tree(Propagation::Slave),
            "shared" => self.propagation = single(Propagation::Shared),
            "rshared" => self.propagation = tree(Propagation::Shared),
            "unbindable" => self.propagation = single(Propagation::Unbindable),
            "runbindable" => self.propagation = tree(Propagation::Unbindable),
            _ if word.starts_with("subpath=") => {
                self.subpath = word.strip_prefix("subpath=").map(PathBuf::from);
            }
            _ => self.data.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word.to_owned(), None),
            }),
        }
    }

    fn change(&self) -> Change {
        Change {
            set: self.set,
            clear: self.clear,
            propagation: None,
        }
    }

    /// For a file system of our own: what is not set is not there.
    fn attributes(&self) -> Attr {
        Attr::from_bits_retain(self.set as u32)
    }
}

/// A mount with its source in hand.
#[derive(Debug)]
pub struct Prepared {
    target: PathBuf,
    /// What the mount tables show as the source of a new file system.
    name: Option<String>,
    options: Options,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Bind(OwnedFd),
    /// A file system made for this container.
    New(String),
    Dev,
    /// The container's own cgroup directories: controller (none for the unified one) and tree.
    Cgroup(Vec<(Option<String>, OwnedFd)>),
}

/// Opens what the mounts need from the host.
///
/// # Errors
/// For sources that are missing, and options that make no sense.
pub fn open_sources(mounts: &[Mount], cgroup: &Path) -> Result<Vec<Prepared>, MountError> {
    mounts.iter().map(|mount| prepare(mount, cgroup)).collect()
}

/// A file of the engine's, read-only in the container.
///
/// # Errors
/// When it cannot be opened.
pub fn open_file(source: &Path, target: &Path) -> Result<Prepared, MountError> {
    let options =
        Options::parse(&["bind", "ro", "nosuid", "nodev", "noexec", "rprivate"].map(str::to_owned));
    Ok(Prepared {
        target: target.to_owned(),
        name: None,
        body: Body::Bind(clone(source, None, Depth::Single)?),
        options,
    })
}

fn prepare(mount: &Mount, cgroup: &Path) -> Result<Prepared, MountError> {
    let target = mount.destination().clone();
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    let kind = mount
        .typ()
        .as_deref()
        .unwrap_or(if options.bind { "bind" } else { "" });
    let body = match kind {
        _ if options.bind || kind == "bind" => {
            let source = mount
                .source()
                .as_ref()
                .ok_or_else(|| MountError::NoSource(target.clone()))?;
            // A bind shares the host's superblock: an option of that would change the host (S29).
            if let Some((option, _)) = options.data.first() {
                return Err(MountError::Option {
                    kind: "bind".to_owned(),
                    target,
                    option: option.clone(),
                });
            }
            let depth = if options.recursive_bind {
                Depth::Tree
            } else {
                Depth::Single
            };
            Body::Bind(clone(source, options.subpath.as_deref(), depth)?)
        }
        "cgroup" | "cgroup2" => Body::Cgroup(cgroup_trees(cgroup, &target)?),
        "tmpfs" if target == Path::new("/dev") => Body::Dev,
        kind => Body::New(kind.to_owned()),
    };
    let name = mount.source().as_ref().and_then(|name| name.to_str());
    Ok(Prepared {
        target,
        name: name.filter(|name| !name.is_empty()).map(str::to_owned),
        options,
        body,
    })
}

/// Clones what is at `source`, or at `subpath` in it. The content of a volume or an image is
/// somebody else's: a link there leads nowhere outside of it, and cannot be swapped in after a check
/// (S5).
fn clone(source: &Path, subpath: Option<&Path>, depth: Depth) -> Result<OwnedFd, MountError> {
    let whole = || subpath.map_or_else(|| source.to_owned(), |below| source.join(below));
    let cloned = match subpath {
        None => match elsewhere(source) {
            Some((namespace, path)) => clone_elsewhere(&namespace, &path, depth),
            None => mount::clone_path(source, depth),
        },
        Some(below) => open_below(source, below).and_then(|fd| mount::clone_fd(fd, depth)),
    };
    cloned.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => MountError::SourceMissing(whole()),
        _ => MountError::Source {
            path: whole(),
            source: error,
        },
    })
}

/// Of `/proc/<pid>/root/…` the process's mount namespace, and the path in there.
fn elsewhere(source: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut parts = source.strip_prefix("/proc").ok()?.components();
    let process = parts.next()?.as_os_str();
    process.to_str()?.parse::<u32>().ok()?;
    let path = parts.as_path().strip_prefix("root").ok()?;
    Some((
        Path::new("/proc").join(process).join("ns/mnt"),
        path.to_owned(),
    ))
}

fn clone_elsewhere(namespace: &Path, path: &Path, depth: Depth) -> io::Result<OwnedFd> {
    clone_in(open_namespace(namespace)?.as_fd(), path, depth)
}

/// A mount can be cloned only from inside its own namespace; the clone then belongs to none.
///
/// # Errors
/// Of `setns(2)`, or when nothing is at the path.
pub fn clone_in(namespace: BorrowedFd<'_>, path: &Path, depth: Depth) -> io::Result<OwnedFd> {
    let enter = |namespace: BorrowedFd<'_>| {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS).map_err(io::Error::from)
    };
    let home = open_namespace(Path::new("/proc/self/ns/mnt"))?;
    enter(namespace)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cloned = rustix::fs::open("/", flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|root| Root::new(root).open(path, OFlags::PATH))
        .and_then(|found| mount::clone_fd(found, depth));
    enter(home.as_fd())?;
    cloned
}

fn open_namespace(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn open_below(source: &Path, below: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(source, flags, Mode::empty())?;
    // An absolute path would be taken from the base as well, which nobody means.
    let below = below.strip_prefix("/").unwrap_or(below);
    Root::new(base).open(below, OFlags::PATH)
}

/// Binds of the container's own directories show what a cgroup namespace would, for every
/// hierarchy that the host has, without a superblock each.
fn cgroup_trees(
    cgroup: &Path,
    target: &Path,
) -> Result<Vec<(Option<String>, OwnedFd)>, MountError> {
    let fail = |source| MountError::Mount {
        kind: "cgroup".to_owned(),
        target: target.to_owned(),
        source,
    };
    let base = Path::new("/sys/fs/cgroup");
    let cgroup = cgroup.strip_prefix("/").unwrap_or(cgroup);
    if base.join("cgroup.controllers").exists() {
        return Ok(vec![(
            None,
            mount::clone_path(&base.join(cgroup), Depth::Single).map_err(fail)?,
        )]);
    }
    let mut trees = Vec::new();
    for entry in std::fs::read_dir(base).map_err(fail)?.flatten() {
        // Links like `cpu,cpuacct` stand beside the directories.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let own = entry.path().join(cgroup);
        if is_dir && own.is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            trees.push((
                Some(name),
                mount::clone_path(&own, Depth::Single).map_err(fail)?,
            ));
        }
    }
    Ok(trees)
}

impl Prepared {
    #[must_use]
    pub fn is_dev(&self) -> bool {
        matches!(self.body, Body::Dev)
    }

    /// Places the mount. `dev` is the directory in our own file system that becomes `/dev`, `proc`
    /// the procfs made for this container.
    ///
    /// # Errors
    /// Of the system calls, named by target.
    pub fn attach(
        &self,
        root: &Root,
        dev: BorrowedFd<'_>,
        proc: BorrowedFd<'_>,
    ) -> Result<(), MountError> {
        match &self.body {
            Body::Bind(tree) => self.bind(root, tree),
            Body::Dev => {
                let tree = mount::clone_fd(dev, Depth::Single)
                    .map_err(|error| self.fail("tmpfs", error))?;
                mount::set_attributes(&tree, Depth::Single, self.options.change())
                    .map_err(|error| self.fail("tmpfs", error))?;
                self.place(root, Kind::Directory, "tmpfs", &tree)
            }
            Body::New(kind) if kind == "proc" && self.options.data.is_empty() => {
                mount::set_attributes(proc, Depth::Single, self.options.change())
                    .map_err(|error| self.fail(kind, error))?;
                self.place(root, Kind::Directory, kind, proc)
            }
            Body::New(kind) => {
                let mount = self.make(kind, root)?;
                self.place(root, Kind::Directory, kind, &mount)
            }
            Body::Cgroup(trees) => self.cgroup(root, trees),
        }
    }

    fn bind(&self, root: &Root, tree: &OwnedFd) -> Result<(), MountError> {
        let fail = |error| self.fail("bind", error);
        let change = self.options.change();
        let read_only = change.set & libc::MOUNT_ATTR_RDONLY;
        // `ro` is the top mount's alone (what Compose calls "writable"), as are all other flags; only
        // `rro` reaches below.
        mount::set_attributes(tree, Depth::Single, change).map_err(fail)?;
        if read_only != 0 && self.options.recursive_read_only {
            let change = Change {
                set: read_only,
                ..Change::default()
            };
            mount::set_attributes(tree, Depth::Tree, change).map_err(fail)?;
        }
        let (propagation, depth) = self
            .options
            .propagation
            .unwrap_or((Propagation::Private, Depth::Tree));
        let change = Change {
            propagation: Some(propagation),
            ..Change::default()
        };
        mount::set_attributes(tree, depth, change).map_err(fail)?;
        let kind = if is_dir(tree).map_err(fail)? {
            Kind::Directory
        } else {
            Kind::File
        };
        self.place(root, kind, "bind", tree)
    }

    /// A file system of the kernel's, made for this container, detached.
    fn make(&self, kind: &str, root: &Root) -> Result<OwnedFd, MountError> {
        let context = Context::open(kind).map_err(|error| self.fail(kind, error))?;
        let _ = context.set("source", self.name.as_deref().unwrap_or(kind));
        if kind == "tmpfs" && !self.options.data.iter().any(|(key, _)| key == "mode") {
            // As elsewhere: it has the mode of the directory that it covers.
            if let Some(mode) = mode_at(root, &self.target) {
                let _ = context.set("mode", &format!("{mode:o}"));
            }
        }
        for (key, value) in &self.options.data {
            let set = match value {
                Some(value) => context.set(key, value),
                None => context.set_flag(key),
            };
            set.map_err(|_| MountError::Option {
                kind: kind.to_owned(),
                target: self.target.clone(),
                option: key.clone(),
            })?;
        }
        let mount = context
            .mount(self.options.attributes())
            .map_err(|error| self.fail(kind, error))?;
        if let Some((propagation, _)) = self.options.propagation {
            let change = Change {
                propagation: Some(propagation),
                ..Change::default()
            };
            mount::set_attributes(&mount, Depth::Single, change)
                .map_err(|error| self.fail(kind, error))?;
        }
        Ok(mount)
    }

    fn cgroup(&self, root: &Root, trees: &[(Option<String>, OwnedFd)]) -> Result<(), MountError> {
        let fail = |error| self.fail("cgroup", error);
        let change = Change {
            propagation: Some(Propagation::Private),
            ..self.options.change()
        };
        if let [(None, tree)] = trees {
            mount::set_attributes(tree, Depth::Single, change).map_err(fail)?;
            return self.place(root, Kind::Directory, "cgroup", tree);
        }
        // Several hierarchies: a directory for each in a small file system.
        let base = Context::open("tmpfs").map_err(fail)?;
        base.set("mode", "755").map_err(fail)?;
        let base = base.mount(Attr::empty()).map_err(fail)?;
        self.place(root, Kind::Directory, "cgroup", &base)?;
        for (name, tree) in trees {
            let Some(name) = name else { continue };
            rustix::fs::mkdirat(&base, name, Mode::from_raw_mode(0o755))
                .map_err(|e| fail(e.into()))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(&base, name, flags, Mode::empty())
                .map_err(|e| fail(e.into()))?;
            mount::set_attributes(tree, Depth::Single, change).map_err(fail)?;
            mount::attach(tree, target).map_err(fail)?;
        }
        mount::set_attributes(&base, Depth::Single, self.options.change()).map_err(fail)
    }

    fn place(
        &self,
        root: &Root,
        kind: Kind,
        name: &str,
        mount: impl AsFd,
    ) -> Result<(), MountError> {
        let target = root
            .make(&self.target, kind)
            .map_err(|source| MountError::Target {
                target: self.target.clone(),
                source,
            })?;
        mount::attach(mount, target).map_err(|error| self.fail(name, error))
    }

    fn fail(&self, kind: &str, source: io::Error) -> MountError {
        MountError::Mount {
            kind: kind.to_owned(),
            target: self.target.clone(),
            source,
        }
    }
}

fn mode_at(root: &Root, path: &Path) -> Option<u32> {
    let fd = root.open(path, OFlags::PATH).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    Some(stat.st_mode & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_through_another_process_names_its_namespace() {
        let at = |path: &str| elsewhere(Path::new(path));
        let found = ("/proc/12/ns/mnt".into(), "dev/shm".into());
        assert_eq!(at("/proc/12/root/dev/shm"), Some(found));
        for path in ["/proc/self/root/x", "/proc/12/cwd", "/proc/sys/x", "/srv"] {
            assert_eq!(at(path), None, "{path}");
        }
    }

    #[test]
    fn later_words_win() {
        let words = ["ro", "nosuid", "rw", "noatime", "size=64k", "rslave"].map(str::to_owned);
        let options = Options::parse(&words);
        assert_eq!(
            options.set,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME
        );
        assert_eq!(
            options.clear & libc::MOUNT_ATTR_RDONLY,
            libc::MOUNT_ATTR_RDONLY
        );
        assert_eq!(options.data, [("size".to_owned(), Some("64k".to_owned()))]);
        assert_eq!(options.propagation, Some((Propagation::Slave, Depth::Tree)));
    }

    #[test]
    fn a_bind_takes_no_file_system_options() {
        let mut mount = Mount::default();
        mount.set_destination("/x".into());
        mount.set_source(Some("/tmp".into()));
        mount.set_options(Some(vec!["bind".into(), "size=1m".into()]));
        let error = prepare(&mount, Path::new("none")).unwrap_err();
        assert!(matches!(error, MountError::Option { ref option, .. } if option == "size"));
        mount.set_options(Some(vec!["rbind".into()]));
        mount.set_source(Some("/no/such/source".into()));
        let error = prepare(&mount, Path::new("none")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bind source path does not exist: /no/such/source"
        );
    }
}
