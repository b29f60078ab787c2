//! Kernel parameters of a container's own namespaces: which are legal, and writing them.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Which namespaces are the container's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnNamespaces {
    pub network: bool,
    pub ipc: bool,
    pub uts: bool,
    pub user: bool,
}

/// Why a parameter is refused or could not be set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("sysctl {0:?} is not a parameter's name; write it as net.core.somaxconn")]
    Name(String),
    #[error(
        "sysctl {name:?} belongs to the {namespace} namespace, which the container shares with its host"
    )]
    Shared {
        name: String,
        namespace: &'static str,
    },
    #[error("sysctl {0:?} is a parameter of the whole machine; set it on the host")]
    Global(String),
    #[error("cannot set sysctl {name:?} to {value:?}")]
    Write {
        name: String,
        value: String,
        source: io::Error,
    },
}

const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Whether the container may set `name`, given the namespaces that are its own.
///
/// # Errors
/// [`SysctlError`], with what to do instead.
pub fn validate(name: &str, own: OwnNamespaces) -> Result<(), SysctlError> {
    let path = path(name)?;
    let (namespace, is_own) = if path.starts_with("net/") {
        ("network", own.network)
    } else if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        ("ipc", own.ipc)
    } else if path == "kernel/domainname" || path == "kernel/hostname" {
        ("uts", own.uts)
    } else if path.starts_with("user/") {
        ("user", own.user)
    } else {
        return Err(SysctlError::Global(name.to_owned()));
    };
    if is_own {
        Ok(())
    } else {
        Err(SysctlError::Shared {
            name: name.to_owned(),
            namespace,
        })
    }
}

/// Writes the parameters below `proc`, a procfs instance that no container can reach: through a path
/// of the container's own a write could be led to another file (HAZARDS S7, CVE-2025-52881).
///
/// # Errors
/// [`SysctlError::Name`], [`SysctlError::Write`].
pub fn apply(values: &HashMap<String, String>, proc: BorrowedFd<'_>) -> Result<(), SysctlError> {
    for (name, value) in values {
        let path = format!("sys/{}", path(name)?);
        let fail = |e: rustix::io::Errno| SysctlError::Write {
            name: name.clone(),
            value: value.clone(),
            source: e.into(),
        };
        let fd = rustix::fs::openat2(
            proc,
            &path,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            // Also refuses anything mounted on top of the file.
            ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(fail)?;
        rustix::io::write(&fd, value.as_bytes()).map_err(fail)?;
    }
    Ok(())
}

/// `net.ipv4.conf.eth0/1.forwarding` and `net/ipv4/conf/eth0.1/forwarding` name one file: whichever
/// of the two separators comes first separates, and the other stands for it inside a name.
fn path(name: &str) -> Result<String, SysctlError> {
    let dotted = match name.find(['.', '/']) {
        Some(at) => name.as_bytes()[at] == b'.',
        None => return Err(SysctlError::Name(name.to_owned())),
    };
    let path: String = if dotted {
        name.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect()
    } else {
        name.to_owned()
    };
    let is_clean = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    if is_clean && !path.contains('\0') {
        Ok(path)
    } else {
        Err(SysctlError::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_needs_a_namespace_of_its_own() {
        let all = OwnNamespaces {
            network: true,
            ipc: true,
            uts: true,
            user: false,
        };
        let none = OwnNamespaces::default();
        // (name, with own namespaces, with the host's)
        let table = [
            ("net.core.somaxconn", true, false),
            ("net/core/somaxconn", true, false),
            ("net.ipv4.conf.eth0/1.forwarding", true, false),
            ("kernel.shmmax", true, false),
            ("kernel/shm_rmid_forced", true, false),
            ("fs.mqueue.msg_max", true, false),
            ("kernel.domainname", true, false),
            ("kernel.core_pattern", false, false),
            ("kernel.shmmaxx", false, false),
            ("user.max_user_namespaces", false, false),
            ("vm.swappiness", false, false),
            ("net", false, false),
            ("net..x", false, false),
            ("net/../kernel/core_pattern", false, false),
            ("net/core//somaxconn", false, false),
            ("", false, false),
        ];
        for (name, own, host) in table {
            assert_eq!(
                validate(name, all).is_ok(),
                own,
                "{name:?} with own namespaces"
            );
            assert_eq!(
                validate(name, none).is_ok(),
                host,
                "{name:?} with the host's"
            );
        }
    }

    #[test]
    fn separators_are_told_by_the_first() {
        assert_eq!(
            path("net.ipv4.conf.eth0/1.x").unwrap(),
            "net/ipv4/conf/eth0.1/x"
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.1/x").unwrap(),
            "net/ipv4/conf/eth0.1/x"
        );
    }
}
