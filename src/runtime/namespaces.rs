//! Which namespaces a container makes, and which it joins.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};

use crate::sys::{fd, pidfd};

#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("open namespace {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{0} namespaces cannot be asked for here")]
    Unsupported(LinuxNamespaceType),
    #[error("join the {kind} namespace")]
    Join {
        kind: LinuxNamespaceType,
        source: io::Error,
    },
}

/// Another container's pid namespace.
#[derive(Debug)]
pub struct JoinedPid {
    pub namespace: OwnedFd,
    /// The mount namespace of the process that it was named by.
    pub mounts: Option<OwnedFd>,
}

/// The namespaces of one container.
#[derive(Debug)]
pub struct Namespaces {
    /// `CLONE_NEW*` for `clone3`.
    pub create: u64,
    /// The cgroup namespace's root is the cgroup of the process that makes it. `clone3` would take
    /// the parent's, so the child makes it after it has entered its own.
    pub create_cgroup: bool,
    /// Joined last of all, by a child of the process that has done everything else (S33).
    pub pid: Option<JoinedPid>,
    join: Vec<(LinuxNamespaceType, OwnedFd)>,
}

impl Namespaces {
    /// Opens what is to be joined.
    ///
    /// # Errors
    /// When a path cannot be opened, and for user, time, and foreign mount namespaces.
    pub fn new(
        wishes: &[LinuxNamespace],
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<Namespaces, NamespaceError> {
        let mut all = Namespaces {
            // Always: nothing of a container may be mounted in the machine's own namespace (S26).
            create: libc::CLONE_NEWNS as u64,
            create_cgroup: false,
            pid: None,
            join: Vec::new(),
        };
        if let Some(netns) = netns {
            let kind = LinuxNamespaceType::Network;
            let fd =
                fd::duplicate(netns).map_err(|source| NamespaceError::Join { kind, source })?;
            all.join.push((kind, fd));
        }
        for wish in wishes {
            let kind = wish.typ();
            let path = wish
                .path()
                .as_ref()
                .filter(|path| !path.as_os_str().is_empty());
            match (kind, path) {
                (LinuxNamespaceType::Mount, None) => {}
                (LinuxNamespaceType::User | LinuxNamespaceType::Time, _)
                | (LinuxNamespaceType::Mount, Some(_)) => {
                    return Err(NamespaceError::Unsupported(kind));
                }
                (LinuxNamespaceType::Network, _) if netns.is_some() => {}
                (LinuxNamespaceType::Cgroup, None) => all.create_cgroup = true,
                (_, None) => all.create |= flag(kind) as u64,
                (_, Some(path)) => {
                    let open = |path: &Path| {
                        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    };
                    let fd = open(path).map_err(|error| NamespaceError::Open {
                        path: path.clone(),
                        source: error.into(),
                    })?;
                    if kind == LinuxNamespaceType::Pid {
                        all.pid = Some(JoinedPid {
                            namespace: fd,
                            mounts: open(&path.with_file_name("mnt")).ok(),
                        });
                    } else {
                        all.join.push((kind, fd));
                    }
                }
            }
        }
        Ok(all)
    }

    /// In the child: enters what is shared with others.
    ///
    /// # Errors
    /// Of `setns(2)`.
    pub fn join(&self) -> Result<(), NamespaceError> {
        for (kind, fd) in &self.join {
            pidfd::join(fd.as_fd(), flag(*kind)).map_err(|source| NamespaceError::Join {
                kind: *kind,
                source,
            })?;
        }
        Ok(())
    }

    /// Whether the container has a host name of its own.
    #[must_use]
    pub fn owns_uts(&self) -> bool {
        self.create & libc::CLONE_NEWUTS as u64 != 0
    }
}

fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }
}
