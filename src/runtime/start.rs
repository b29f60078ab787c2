//! The start of a container: the parent's clone, and all that its child does until `execve`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Process, Spec};
use rustix::fs::{Mode, OFlags};

use crate::runtime::cgroup::Cgroup;
use crate::runtime::channel;
use crate::runtime::command::{Command, CommandError};
use crate::runtime::dev::DevError;
use crate::runtime::failure::{During, Failure, Kind, StepError};
use crate::runtime::mask::MaskError;
use crate::runtime::mounts::MountError;
use crate::runtime::namespaces::{NamespaceError, Namespaces};
use crate::runtime::process::{self as shared, DirectoryError, Starting, Stdio};
use crate::runtime::rootfs::{Overlay, RootfsError};
use crate::runtime::seccomp::Filter;
use crate::runtime::sysctl::SysctlError;
use crate::runtime::user::{self, Identity, UserError};
use crate::runtime::{credentials, dev, init, mask, mounts, sysctl};
use crate::sys::clone::{self, Side};
use crate::sys::mount::{self, Attr, Change, Context, Depth, Propagation};
use crate::sys::root::Root;
use crate::sys::{pidfd, pty};

/// One container to be made.
#[derive(Debug)]
pub struct Container<'a> {
    pub spec: &'a Spec,
    pub overlay: Overlay<'a>,
    /// Source outside, target inside.
    pub files: &'a [(PathBuf, PathBuf)],
    pub user: Option<&'a str>,
    pub group_add: &'a [String],
    /// Whether process 1 is our own init.
    pub init: bool,
    /// A directory that exists; the root is assembled over it, in the child's namespace only.
    pub stage: &'a Path,
    pub cgroup: &'a Cgroup,
    /// The cgroup's path below each hierarchy.
    pub cgroup_path: &'a Path,
    pub netns: Option<BorrowedFd<'a>>,
    pub seccomp: Option<&'a Filter>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the specification has no process")]
    NoProcess,
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Dev(#[from] DevError),
    #[error(transparent)]
    Mask(#[from] MaskError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error("unknown root propagation {0:?}")]
    Propagation(String),
    #[error(transparent)]
    Step(#[from] StepError),
    /// The shim is gone; nobody hears this.
    #[error("the shim has ended")]
    Orphaned,
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        let kind = match &error {
            StartError::NoProcess
            | StartError::User(_)
            | StartError::Propagation(_)
            | StartError::Namespace(NamespaceError::Unsupported(_))
            | StartError::Directory(DirectoryError::Relative(_) | DirectoryError::Outside(_)) => {
                Kind::Invalid
            }
            StartError::Mount(error) => error.kind(),
            StartError::Command(error) => error.kind(),
            _ => Kind::System,
        };
        let mut failure = Failure::new(kind, &error);
        if let StartError::Command(error) = &error {
            // Its texts are whole sentences that users know; the number would not be in the chain.
            failure.message = error.to_string();
            failure.errno = error.errno();
        }
        failure
    }
}

/// Clones the container's first process. It waits for [`channel::Parent::go`]; what it reports
/// arrives on the channel, whose end is the program's beginning.
///
/// # Errors
/// Of what the parent does: opening namespaces, the clone.
pub fn spawn(container: &Container<'_>, stdio: Stdio) -> Result<Starting, StartError> {
    let spec = container.spec;
    let namespaces = Namespaces::new(spec, container.netns)?;
    let (parent, child) = channel::pair().during("make the start channel")?;
    // Joining a pid namespace is for children only; the parent's own entry brings it back.
    let home = match &namespaces.pid {
        Some(target) => {
            let home = open_own_pidns().during("open the own pid namespace")?;
            pidfd::join(target, libc::CLONE_NEWPID).during("join the pid namespace")?;
            Some(home)
        }
        None => None,
    };
    let cloned = clone::clone3(namespaces.create, Some(container.cgroup.v2_fd()));
    if let Ok(Side::Child) = cloned {
        run(container, &namespaces, &stdio, &child);
    }
    if let Some(home) = home {
        pidfd::join(home, libc::CLONE_NEWPID).during("return to the own pid namespace")?;
    }
    match cloned.during("clone the container's process")? {
        Side::Parent(process) => Ok(Starting {
            child: process,
            channel: parent,
        }),
        Side::Child => Err(StartError::Orphaned),
    }
}

fn open_own_pidns() -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/ns/pid", flags, Mode::empty())?)
}

fn run(
    container: &Container<'_>,
    namespaces: &Namespaces,
    stdio: &Stdio,
    channel: &channel::Child,
) -> ! {
    if !channel.wait() {
        clone::exit(1);
    }
    let error = match prepare(container, namespaces, stdio, channel) {
        Ok(command) => StartError::Command(command.execute()),
        Err(error) => error,
    };
    channel.failed(&error.into());
    clone::exit(1)
}

/// Everything up to `execve`.
fn prepare(
    container: &Container<'_>,
    namespaces: &Namespaces,
    stdio: &Stdio,
    channel: &channel::Child,
) -> Result<Command, StartError> {
    let spec = container.spec;
    let process = spec.process().as_ref().ok_or(StartError::NoProcess)?;
    shared::detach_from_parent()?;
    if channel.is_orphaned() {
        return Err(StartError::Orphaned);
    }
    rustix::process::setsid().during("start a session")?;
    container
        .cgroup
        .enter_v1_self()
        .during("enter the cgroups")?;
    namespaces.join()?;
    if namespaces.create_cgroup {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .during("make the cgroup namespace")?;
    }
    let proc = private_proc().during("make a private procfs")?;
    shared::set_oom_score(process, &proc)?;
    if container.init {
        // Process 1 stays this program, whose arguments name the engine's directories.
        crate::sys::process::set_command_line(proc.as_fd(), b"wharf-init");
    }
    set_names(spec, namespaces)?;
    if let Some(values) = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref())
    {
        sysctl::apply(values, proc.as_fd())?;
    }

    let root = assemble(container, &proc)?;
    let identity = user::resolve(&root, container.user, process.user(), container.group_add)?;
    let slave = match stdio {
        Stdio::Streams { .. } => None,
        Stdio::Terminal { size } => {
            let (master, slave) = shared::open_terminal(&root, *size)?;
            dev::bind_console(&root, &slave).during("bind the console")?;
            channel
                .console(master.as_fd())
                .during("hand over the terminal")?;
            Some(slave)
        }
    };
    enter(spec, &root)?;

    shared::set_environment(process)?;
    shared::enter_directory(&root, process.cwd())?;
    match (stdio, &slave) {
        (
            Stdio::Streams {
                stdin,
                stdout,
                stderr,
            },
            _,
        ) => shared::install_streams(stdin, stdout, stderr)?,
        (Stdio::Terminal { .. }, Some(slave)) => {
            shared::install_terminal(slave, &identity)?;
            pty::take_control(slave).during("take the terminal")?;
        }
        (Stdio::Terminal { .. }, None) => {}
    }
    credentials::become_user(&identity, process)?;
    // The change of credentials cleared the death signal for a moment.
    if channel.is_orphaned() {
        return Err(StartError::Orphaned);
    }
    let command = find_command(process, &identity)?;
    credentials::confine(process, container.seccomp)?;
    if container.init {
        init::split(slave.is_some()).during("start the program under init")?;
    }
    Ok(command)
}

/// Finds the program of a process as the user that this one has become.
pub(super) fn find_command(
    process: &Process,
    identity: &Identity,
) -> Result<Command, CommandError> {
    let home = identity.home.as_deref().unwrap_or("/");
    Command::find(
        process.args().as_deref().unwrap_or_default(),
        process.env().as_deref().unwrap_or_default(),
        Some(home),
    )
}

fn private_proc() -> std::io::Result<OwnedFd> {
    let attributes = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    let context = Context::open("proc")?;
    context.set("source", "proc")?;
    context.mount(attributes)
}

fn set_names(spec: &Spec, namespaces: &Namespaces) -> Result<(), StepError> {
    if !namespaces.owns_uts() {
        return Ok(());
    }
    if let Some(name) = spec.hostname() {
        rustix::system::sethostname(name.as_bytes()).during("set the host name")?;
    }
    if let Some(name) = spec.domainname() {
        rustix::system::setdomainname(name.as_bytes()).during("set the domain name")?;
    }
    Ok(())
}

/// Mounts the root and everything in it, over the stage directory of this private namespace.
fn assemble(container: &Container<'_>, proc: &OwnedFd) -> Result<Root, StartError> {
    let spec = container.spec;
    let all = spec.mounts().as_deref().unwrap_or_default();
    // Sources and layers first: the stage covers a directory that they may be in.
    let mut prepared = mounts::open_sources(all, container.cgroup_path)?;
    for (source, target) in container.files {
        prepared.push(mounts::open_file(source, target)?);
    }
    let root_layers = container.overlay.open()?;
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    mount::set_root_attributes(Depth::Tree, private).during("make mounts private")?;

    let stage = make_stage(all).during("make the stage")?;
    attach_stage(container.stage, &stage).during("attach the stage")?;
    let root = Root::new(root_layers.mount(&container.stage.join("root"))?);
    let dev_dir = open_dir(stage.as_fd(), "dev").during("open the stage")?;
    for mount in &prepared {
        if mount.is_dev() {
            dev::fill(dev_dir.as_fd())?;
        }
        mount.attach(&root, dev_dir.as_fd(), proc.as_fd())?;
    }
    let linux = spec.linux().clone().unwrap_or_default();
    finish(&linux, &root, &stage)?;
    Ok(root)
}

/// A small file system of ours: `/dev` and the empty objects for masks are parts of it.
fn make_stage(mounts: &[oci_spec::runtime::Mount]) -> std::io::Result<OwnedFd> {
    let context = Context::open("tmpfs")?;
    context.set("source", "tmpfs")?;
    let dev = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new("/dev"));
    let options = dev
        .and_then(|mount| mount.options().as_deref())
        .unwrap_or_default();
    let size = options
        .iter()
        .find_map(|option| option.strip_prefix("size="));
    context.set("size", size.unwrap_or("64k"))?;
    context.set("mode", "755")?;
    context.mount(Attr::empty())
}

fn attach_stage(point: &Path, stage: &OwnedFd) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    mount::attach(stage, rustix::fs::open(point, flags, Mode::empty())?)?;
    for name in ["root", "dev"] {
        rustix::fs::mkdirat(stage, name, Mode::from_raw_mode(0o755))?;
    }
    mask::prepare(stage.as_fd())
}

fn open_dir(dir: BorrowedFd<'_>, name: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

fn finish(linux: &Linux, root: &Root, stage: &OwnedFd) -> Result<(), StartError> {
    for device in linux.devices().iter().flatten() {
        dev::add(root, device)?;
    }
    for path in linux.masked_paths().iter().flatten() {
        mask::mask(root, stage.as_fd(), Path::new(path))?;
    }
    for path in linux.readonly_paths().iter().flatten() {
        mask::read_only(root, Path::new(path))?;
    }
    Ok(())
}

/// Makes the assembled root the root of this process, and lets go of the host's.
fn enter(spec: &Spec, root: &Root) -> Result<(), StartError> {
    rustix::process::fchdir(root).during("enter the root")?;
    mount::pivot_to_current_dir().during("pivot into the root")?;
    let read_only = spec
        .root()
        .as_ref()
        .and_then(oci_spec::runtime::Root::readonly)
        == Some(true);
    let wanted = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation().as_deref());
    let (propagation, depth) = match wanted {
        None | Some("" | "private" | "rprivate") => (None, Depth::Single),
        Some("slave") => (Some(Propagation::Slave), Depth::Single),
        Some("rslave") => (Some(Propagation::Slave), Depth::Tree),
        Some("shared") => (Some(Propagation::Shared), Depth::Single),
        Some("rshared") => (Some(Propagation::Shared), Depth::Tree),
        Some("unbindable" | "runbindable") => (Some(Propagation::Unbindable), Depth::Single),
        Some(other) => return Err(StartError::Propagation(other.to_owned())),
    };
    if propagation.is_some() {
        let change = Change {
            propagation,
            ..Change::default()
        };
        mount::set_root_attributes(depth, change).during("set the root's propagation")?;
    }
    if read_only {
        let change = Change {
            set: libc::MOUNT_ATTR_RDONLY,
            ..Change::default()
        };
        mount::set_root_attributes(Depth::Single, change).during("make the root read-only")?;
    }
    Ok(())
}
