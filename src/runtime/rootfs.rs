//! The overlay that a container's root is. Assembled detached; layers are named by descriptor.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::sys::fallback::{self, Feature};
use crate::sys::mount::{Attr, Context};
use crate::sys::{mount, process};

#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("open layer {}", path.display())]
    Layer { path: PathBuf, source: io::Error },
    #[error("mount the overlay root of {layers} layers")]
    Overlay { layers: usize, source: io::Error },
    #[error("attach the root")]
    Attach(#[source] io::Error),
}

/// Layers from top to bottom, and where changes go.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    pub lower: &'a [PathBuf],
    pub upper: &'a Path,
    pub work: &'a Path,
}

/// How layers are told to the kernel, newest way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// Linux 6.13.
    Descriptors,
    /// `lowerdir+`, Linux 6.7.
    Strings,
    /// One option string of at most a page; the names are made short by descriptors.
    OldMount,
}

impl Method {
    fn first() -> Method {
        if !fallback::is_forced(Feature::OverlayDescriptors) {
            Method::Descriptors
        } else if !fallback::is_forced(Feature::OverlayAppend) {
            Method::Strings
        } else {
            Method::OldMount
        }
    }

    /// What to try when the kernel has refused this, if that means that it does not know it.
    fn after(self, refusal: &io::Error) -> Option<Method> {
        let is_unknown = match refusal.raw_os_error() {
            // Before 6.5 no option of an overlay takes a descriptor. That kernel would take any
            // string, and complain about it in its log when all is complete: spare it that.
            Some(libc::EOPNOTSUPP) if self == Method::Descriptors => return Some(Method::OldMount),
            // EINVAL: an option or a way to give it that this kernel does not know. EBADF: it takes
            // descriptors for other options only.
            Some(libc::EINVAL | libc::EBADF | libc::ENOSYS) => true,
            _ => false,
        };
        match self {
            _ if !is_unknown => None,
            Method::Descriptors if fallback::is_forced(Feature::OverlayAppend) => {
                Some(Method::OldMount)
            }
            Method::Descriptors => Some(Method::Strings),
            Method::Strings => Some(Method::OldMount),
            Method::OldMount => None,
        }
    }
}

/// Changes stay readable by any overlay (and by a plain copy), inode numbers are the file system's.
const OPTIONS: [(&str, &str); 4] = [
    ("metacopy", "off"),
    ("redirect_dir", "nofollow"),
    ("xino", "off"),
    ("index", "off"),
];

impl Overlay<'_> {
    /// Opens the layers.
    ///
    /// # Errors
    /// When one is missing.
    pub fn open(&self) -> Result<Layers, RootfsError> {
        let lower = self
            .lower
            .iter()
            .map(|path| open(path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Layers {
            lower,
            upper: open(self.upper)?,
            work: open(self.work)?,
        })
    }
}

impl Layers {
    /// Mounts the overlay on `target` in this (the container's own) mount namespace, and returns
    /// its root.
    ///
    /// # Errors
    /// When the kernel refuses the stack.
    pub fn mount(&self, target: &Path) -> Result<OwnedFd, RootfsError> {
        let mut result = Err(Attempt::Overlay(io::ErrorKind::Unsupported.into()));
        let mut method = Some(Method::first());
        while let Some(tried) = method {
            result = self.mount_by(tried, target);
            method = match &result {
                Err(Attempt::Overlay(error)) => tried.after(error),
                _ => None,
            };
        }
        result.map_err(|attempt| match attempt {
            Attempt::Overlay(source) => RootfsError::Overlay {
                layers: self.lower.len(),
                source,
            },
            Attempt::Attach(source) => RootfsError::Attach(source),
        })
    }
}

enum Attempt {
    Overlay(io::Error),
    Attach(io::Error),
}

/// The opened layers of an overlay.
#[derive(Debug)]
pub struct Layers {
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

impl Layers {
    fn mount_by(&self, method: Method, target: &Path) -> Result<OwnedFd, Attempt> {
        let target_fd = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(target, flags, Mode::empty())
                .map_err(|error| Attempt::Attach(error.into()))
        };
        if method == Method::OldMount {
            mount::mount_overlay(target, MountFlags::empty(), &self.option_string())
                .map_err(Attempt::Overlay)?;
            return target_fd();
        }
        let detached = self.detached(method).map_err(Attempt::Overlay)?;
        mount::attach(&detached, target_fd()?).map_err(Attempt::Attach)?;
        Ok(detached)
    }

    fn detached(&self, method: Method) -> io::Result<OwnedFd> {
        let context = Context::open("overlay")?;
        // What `mount` and `/proc/self/mountinfo` show as the source.
        context.set("source", "overlay")?;
        let set = |key: &str, layer: &OwnedFd| match method {
            Method::Descriptors => context.set_fd(key, layer),
            _ => context.set(key, &process::fd_path(layer.as_fd()).to_string_lossy()),
        };
        for layer in &self.lower {
            set("lowerdir+", layer)?;
        }
        set("upperdir", &self.upper)?;
        set("workdir", &self.work)?;
        for (key, value) in OPTIONS {
            context.set(key, value)?;
        }
        context.mount(Attr::empty())
    }

    fn option_string(&self) -> CString {
        let path = |fd: &OwnedFd| process::fd_path(fd.as_fd()).to_string_lossy().into_owned();
        let lower: Vec<String> = self.lower.iter().map(path).collect();
        let mut options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            path(&self.upper),
            path(&self.work)
        );
        for (key, value) in OPTIONS {
            // 5.10 knows `nofollow` and `off` for all of these.
            options.push_str(&format!(",{key}={value}"));
        }
        // Digits, slashes and our own words: there is no NUL.
        CString::new(options).unwrap_or_default()
    }
}

fn open(path: &Path) -> Result<OwnedFd, RootfsError> {
    // Not O_PATH: fsconfig takes such descriptors only from Linux 6.15 on.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| RootfsError::Layer {
        path: path.to_owned(),
        source: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mount::{Change, Depth, Propagation};

    #[test]
    fn privileged_every_method_gives_the_same_tree() {
        if !rustix::process::geteuid().is_root() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: needs root\n");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["top", "bottom", "target"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("top/both"), "top").unwrap();
        std::fs::write(at("bottom/both"), "bottom").unwrap();
        std::fs::write(at("bottom/below"), "bottom").unwrap();
        // A thread of its own may have a mount namespace of its own.
        let done = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    nix::sched::unshare(
                        nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS,
                    )
                    .unwrap();
                    let private = Change {
                        propagation: Some(Propagation::Private),
                        ..Change::default()
                    };
                    mount::set_root_attributes(Depth::Tree, private).unwrap();
                    for method in [Method::Descriptors, Method::Strings, Method::OldMount] {
                        for name in ["upper", "work"] {
                            std::fs::create_dir(at(&format!("{name}-{method:?}"))).unwrap();
                        }
                        let layers = Layers {
                            lower: vec![open(&at("top")).unwrap(), open(&at("bottom")).unwrap()],
                            upper: open(&at(&format!("upper-{method:?}"))).unwrap(),
                            work: open(&at(&format!("work-{method:?}"))).unwrap(),
                        };
                        match layers.mount_by(method, &at("target")) {
                            Ok(_root) => {}
                            // Older kernels refuse the newer ways, as `mount` expects them to.
                            Err(Attempt::Overlay(error)) if method.after(&error).is_some() => {
                                continue;
                            }
                            Err(Attempt::Overlay(error) | Attempt::Attach(error)) => {
                                panic!("{method:?}: {error}");
                            }
                        }
                        assert_eq!(std::fs::read_to_string(at("target/both")).unwrap(), "top");
                        assert_eq!(
                            std::fs::read_to_string(at("target/below")).unwrap(),
                            "bottom"
                        );
                        rustix::mount::unmount(at("target"), rustix::mount::UnmountFlags::DETACH)
                            .unwrap();
                    }
                })
                .join()
        });
        done.unwrap();
    }
}
