//! A further process in a running container.
//!
//! The helper that the shim clones (already inside the cgroup) joins the namespaces by the init's
//! pidfd and becomes the container's user while nobody in there can see it. Only then it makes the
//! real process inside the pid namespace, as its own sibling: so whoever may trace there finds
//! nothing worth tracing (S33), and the shim is the parent.

use std::os::fd::{AsFd, BorrowedFd};

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};

use crate::runtime::cgroup::{Cgroup, Part};
use crate::runtime::channel;
use crate::runtime::command::Command;
use crate::runtime::failure::During;
use crate::runtime::process::{self as shared, Starting, Stdio};
use crate::runtime::seccomp::Filter;
use crate::runtime::start::{self, StartError};
use crate::runtime::{credentials, user};
use crate::sys::clone::{self, Side};
use crate::sys::pidfd;
use crate::sys::root::Root;

/// One process to be started in a container.
#[derive(Debug)]
pub struct Exec<'a> {
    pub process: &'a Process,
    /// As for the container; `None` is the specification's own numbers.
    pub user: Option<&'a str>,
    pub group_add: &'a [String],
    /// The container's init.
    pub init: BorrowedFd<'a>,
    pub cgroup: &'a Cgroup,
    /// The part of it that the process is put into.
    pub part: Option<&'a Part>,
    pub seccomp: Option<&'a Filter>,
}

/// Clones the helper. [`channel::Report::Forked`] names the real process, a child of the caller.
///
/// # Errors
/// Of the clone.
pub fn spawn(exec: &Exec<'_>, stdio: Stdio) -> Result<Starting, StartError> {
    let (parent, child) = channel::pair().during("make the start channel")?;
    let directory = exec.part.map_or(exec.cgroup.v2_fd(), Part::v2_fd);
    match clone::clone3(0, Some(directory)).during("clone the exec helper")? {
        Side::Parent(process) => Ok(Starting {
            child: process,
            channel: parent,
        }),
        Side::Child => run(exec, &stdio, &child),
    }
}

fn run(exec: &Exec<'_>, stdio: &Stdio, channel: &channel::Child) -> ! {
    if !channel.wait() {
        clone::exit(1);
    }
    let error = match prepare(exec, stdio, channel) {
        Ok(command) => StartError::Command(command.execute()),
        Err(error) => error,
    };
    channel.failed(&error.into());
    clone::exit(1)
}

fn prepare(
    exec: &Exec<'_>,
    stdio: &Stdio,
    channel: &channel::Child,
) -> Result<Command, StartError> {
    let spec = exec.process;
    shared::detach_from_parent()?;
    exec.cgroup.enter_v1_self().during("enter the cgroups")?;
    {
        let proc = rustix::fs::open(
            "/proc",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .during("open procfs")?;
        shared::set_oom_score(spec, &proc)?;
    }
    // All at once: joining what the container shares with the host changes nothing.
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    pidfd::join(exec.init, namespaces).during("join the container")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        Root::new(rustix::fs::open("/", flags, Mode::empty()).during("open the container's root")?);

    let identity = user::resolve(&root, exec.user, spec.user(), exec.group_add)?;

    shared::set_environment(spec)?;
    shared::enter_directory(&root, spec.cwd())?;
    let has_terminal = match stdio {
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => {
            shared::install_streams(stdin, stdout, stderr)?;
            false
        }
        Stdio::Terminal { size } => {
            let (master, slave) = shared::open_terminal(&root, *size)?;
            channel
                .console(master.as_fd())
                .during("hand over the terminal")?;
            shared::install_terminal(&slave, &identity)?;
            true
        }
    };
    pidfd::join(exec.init, libc::CLONE_NEWPID).during("join the pid namespace")?;
    // The process will be seen in there with all that is open here. What is borrowed from the shim
    // is not used again, and this helper ends without dropping it.
    drop(root);
    channel.close_all_others();
    credentials::become_user(&identity, spec)?;
    let command = start::find_command(spec, &identity)?;
    credentials::confine(spec, exec.seccomp)?;
    start::go_on_as_sibling(has_terminal, channel)?;
    Ok(command)
}
