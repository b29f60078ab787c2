//! What init and exec share: the steps that turn a cloned child into a container's process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use rustix::fs::OFlags;
use rustix::thread::Uid;

use crate::runtime::failure::{During, StepError};
use crate::runtime::user::Identity;
use crate::runtime::{channel, rlimits};
use crate::sys::root::{Kind, Root};
use crate::sys::{fd, process, pty, signal};

/// Where a process reads and writes.
#[derive(Debug)]
pub enum Stdio {
    Streams {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal made inside the container; its master comes back over the channel.
    Terminal {
        /// Columns, rows.
        size: Option<(u16, u16)>,
    },
}

/// A process as the shim holds it until it has executed its program.
#[derive(Debug)]
pub struct Starting {
    pub child: crate::sys::clone::Child,
    pub channel: channel::Parent,
}

#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("working directory {} must be absolute", .0.display())]
    Relative(PathBuf),
    #[error("enter working directory {}", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("working directory {} is outside of the container", .0.display())]
    Outside(PathBuf),
}

/// First steps of a child: nothing of the engine's way of life is passed on (S20), nothing but
/// what is named survives `execve` (S3), and it dies with the shim.
///
/// # Errors
/// Of the system calls.
pub fn detach_from_parent() -> Result<(), StepError> {
    signal::reset();
    // What is made on the way has exactly the mode that is asked for.
    rustix::process::umask(rustix::fs::Mode::empty());
    fd::cloexec_from_3().during("mark descriptors")?;
    process::die_with_parent().during("set the parent's death signal")?;
    process::set_undumpable().during("guard against tracing")
}

/// Limits and habits of a process, while it still has every capability.
///
/// # Errors
/// Of the system calls.
pub fn set_environment(spec: &Process) -> Result<(), StepError> {
    process::join_new_session_keyring();
    process::reset_scheduling();
    rlimits::apply(spec.rlimits().as_deref().unwrap_or_default()).during("set resource limits")?;
    let umask = spec.user().umask().unwrap_or(0o022);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask & 0o777));
    Ok(())
}

/// Sets the process's OOM score in `proc`, a procfs that the container cannot have changed (S7).
///
/// # Errors
/// When the specification asks for a score and it cannot be set.
pub fn set_oom_score(spec: &Process, proc: impl AsFd) -> Result<(), StepError> {
    let wanted = spec.oom_score_adj();
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let set = || -> io::Result<()> {
        let file =
            rustix::fs::openat(proc, "self/oom_score_adj", flags, rustix::fs::Mode::empty())?;
        rustix::io::write(&file, wanted.unwrap_or(0).to_string().as_bytes())?;
        Ok(())
    };
    match (set(), wanted) {
        (Err(source), Some(_)) => Err(StepError {
            step: "set the oom score",
            source,
        }),
        // Nobody asked: the engine's own score is inherited where it may not be raised.
        _ => Ok(()),
    }
}

/// Enters the working directory, which is made if missing, and proves that it is inside the root:
/// a magic link like `/proc/self/fd/7` would lead out (CVE-2024-21626).
///
/// # Errors
/// As [`DirectoryError`] says.
pub fn enter_directory(root: &Root, path: &Path) -> Result<(), DirectoryError> {
    if !path.is_absolute() {
        return Err(DirectoryError::Relative(path.to_owned()));
    }
    let fail = |source| DirectoryError::Enter {
        path: path.to_owned(),
        source,
    };
    let dir = root.make(path, Kind::Directory).map_err(fail)?;
    rustix::process::fchdir(dir).map_err(|error| fail(error.into()))?;
    // The kernel prefixes a directory outside of the root with "(unreachable)".
    let cwd = rustix::process::getcwd(Vec::new()).map_err(|error| fail(error.into()))?;
    if cwd.as_bytes().first() != Some(&b'/') {
        return Err(DirectoryError::Outside(path.to_owned()));
    }
    Ok(())
}

/// Installs plain streams as 0, 1 and 2.
///
/// # Errors
/// Of `dup(2)`.
pub fn install_streams(
    stdin: &OwnedFd,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
) -> Result<(), StepError> {
    for stream in [stdin, stdout, stderr] {
        open_to_all(stream);
    }
    fd::install_stdio(stdin.as_fd(), stdout.as_fd(), stderr.as_fd())
        .during("install standard streams")
}

/// Lets any user of the container open the pipe again through `/dev/stdout` (L33). Only pipes: the
/// mode of a device is the host's business.
fn open_to_all(stream: &OwnedFd) {
    let is_pipe = rustix::fs::fstat(stream).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
    });
    if is_pipe {
        // Best effort: a pipe that the engine does not own is the user's own.
        let _ = rustix::fs::fchmod(stream, rustix::fs::Mode::from_raw_mode(0o666));
    }
}

/// Installs a terminal's slave as 0, 1 and 2 and as the controlling terminal of this session.
///
/// # Errors
/// Of the system calls.
pub fn install_terminal(slave: &OwnedFd, identity: &Identity) -> Result<(), StepError> {
    // The group stays: in a user namespace it may have no number (runc #4679).
    rustix::fs::fchown(slave, Some(Uid::from_raw(identity.uid)), None)
        .during("give the terminal to the user")?;
    fd::install_stdio(slave.as_fd(), slave.as_fd(), slave.as_fd()).during("install the terminal")
}

/// Opens a terminal of the container's own devpts (`devpts` inside `root`), or of the host's where
/// the container has none.
///
/// # Errors
/// Of the system calls.
pub fn open_terminal(
    root: &Root,
    size: Option<(u16, u16)>,
) -> Result<(OwnedFd, OwnedFd), StepError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let own = root
        .open(Path::new("/dev/pts"), flags)
        .and_then(|pts| pty::open_master(pts.as_fd()));
    let master = match own {
        Ok(master) => master,
        Err(_) => pty::open_host_master().during("open a terminal")?,
    };
    let slave = pty::slave(&master).during("open the terminal's other side")?;
    if let Some(size) = size.filter(|(columns, rows)| *columns > 0 && *rows > 0) {
        pty::resize(&master, size).during("size the terminal")?;
    }
    Ok((master, slave))
}
