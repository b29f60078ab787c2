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
use crate::runtime::{credentials, dev, init, mask, mounts, procfs, sysctl};
use crate::sys::clone::{self, Side};
use crate::sys::mount::{self, Attr, Change, Context, Depth, Propagation};
use crate::sys::root::Root;
use crate::sys::{pidfd, pty};

/// Where a container is made, as its shim knows it.
#[derive(Debug)]
pub struct Place<'a> {
    pub namespaces: Namespaces,
    /// A directory that exists; the root is assembled over it, in the child's namespace only.
    pub stage: &'a Path,
    pub cgroup: &'a Cgroup,
    /// The cgroup's path below each hierarchy.
    pub cgroup_path: &'a Path,
    pub seccomp: Option<&'a Filter>,
}

/// What is made there, as only the process that makes it needs to know it.
#[derive(Debug)]
pub struct Definition {
    pub spec: Spec,
    /// Layers from top to bottom, and where changes go.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Source outside, target inside.
    pub files: Vec<(PathBuf, PathBuf)>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    /// Whether process 1 is our own init.
    pub init: bool,
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

/// Clones the process that makes the container. It waits for [`channel::Parent::go`]; what it
/// reports arrives on the channel, whose end is the program's beginning. It becomes the container's
/// first process itself, unless [`channel::Report::Forked`] names another child of the caller.
///
/// `read` runs in there: a specification is large, and the shim, which stays, needs little of it.
///
/// # Errors
/// Of what the parent does: the clone.
pub fn spawn(
    place: &Place<'_>,
    stdio: Stdio,
    read: impl FnOnce() -> Result<Definition, Failure>,
) -> Result<Starting, StartError> {
    let (parent, child) = channel::pair().during("make the start channel")?;
    match clone::clone3(place.namespaces.create, Some(place.cgroup.v2_fd()))
        .during("clone the container's process")?
    {
        Side::Parent(process) => Ok(Starting {
            child: process,
            channel: parent,
        }),
        Side::Child => run(place, &stdio, &child, read),
    }
}

fn run(
    place: &Place<'_>,
    stdio: &Stdio,
    channel: &channel::Child,
    read: impl FnOnce() -> Result<Definition, Failure>,
) -> ! {
    if !channel.wait() {
        clone::exit(1);
    }
    let failure = match read() {
        Ok(definition) => match prepare(place, &definition, stdio, channel) {
            Ok(command) => StartError::Command(command.execute()).into(),
            Err(error) => error.into(),
        },
        Err(failure) => failure,
    };
    channel.failed(&failure);
    clone::exit(1)
}

/// Everything up to `execve`.
fn prepare(
    place: &Place<'_>,
    container: &Definition,
    stdio: &Stdio,
    channel: &channel::Child,
) -> Result<Command, StartError> {
    let namespaces = &place.namespaces;
    let spec = &container.spec;
    let process = spec.process().as_ref().ok_or(StartError::NoProcess)?;
    shared::detach_from_parent()?;
    if channel.is_orphaned() {
        return Err(StartError::Orphaned);
    }
    rustix::process::setsid().during("start a session")?;
    place.cgroup.enter_v1_self().during("enter the cgroups")?;
    namespaces.join()?;
    if namespaces.create_cgroup {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .during("make the cgroup namespace")?;
    }
    let own_proc = procfs::own().during("make a private procfs")?;
    shared::set_oom_score(process, &own_proc)?;
    if container.init {
        // Process 1 stays this program, whose arguments name the engine's directories.
        crate::sys::process::set_command_line(own_proc.as_fd(), b"wharf-init");
    }
    set_names(spec, namespaces)?;
    if let Some(values) = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref())
    {
        sysctl::apply(values, own_proc.as_fd())?;
    }
    let proc = match &namespaces.pid {
        Some(pid) => {
            drop(own_proc);
            procfs::joined(pid).during("make a procfs of the joined pid namespace")?
        }
        None => own_proc,
    };

    let root = assemble(place, container, &proc)?;
    let user = container.user.as_deref();
    let identity = user::resolve(&root, user, process.user(), &container.group_add)?;
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
            if namespaces.pid.is_none() {
                pty::take_control(slave).during("take the terminal")?;
            }
        }
        (Stdio::Terminal { .. }, None) => {}
    }
    let has_terminal = slave.is_some();
    if let Some(pid) = &namespaces.pid {
        pidfd::join(&pid.namespace, libc::CLONE_NEWPID).during("join the pid namespace")?;
        // The program's process will be seen in there with all that is open here. What is borrowed
        // from the shim is not used again, and this process ends without dropping it.
        drop((root, proc, slave));
        channel.close_all_others();
    }
    credentials::become_user(&identity, process)?;
    // The change of credentials cleared the death signal for a moment.
    if channel.is_orphaned() {
        return Err(StartError::Orphaned);
    }
    let command = find_command(process, &identity)?;
    credentials::confine(process, place.seccomp)?;
    if namespaces.pid.is_some() {
        go_on_as_sibling(has_terminal, channel)?;
    }
    if container.init {
        init::split(has_terminal).during("start the program under init")?;
    }
    Ok(command)
}

/// Goes on in a sibling, which is the first process of this work that is in the pid namespace that
/// was joined. Whoever may trace in there finds a process that has nothing but what its program will
/// have (S33); the shim is its parent. Runs under the container's own filter.
///
/// # Errors
/// Of the clone and of what makes it the leader of a session.
pub(super) fn go_on_as_sibling(
    has_terminal: bool,
    channel: &channel::Child,
) -> Result<(), StartError> {
    if let Side::Parent(pid) = clone::clone_sibling().during("clone the process")? {
        channel
            .forked(pid.as_raw_nonzero().get())
            .during("name the process")?;
        clone::exit(0)
    }
    // A filter may deny this, which then is the user's wish.
    let _ = crate::sys::process::die_with_parent();
    if channel.is_orphaned() {
        return Err(StartError::Orphaned);
    }
    rustix::process::setsid().during("start a session")?;
    if has_terminal {
        pty::take_control(std::io::stdin()).during("take the terminal")?;
    }
    Ok(())
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
fn assemble(place: &Place<'_>, container: &Definition, proc: &OwnedFd) -> Result<Root, StartError> {
    let spec = &container.spec;
    let all = spec.mounts().as_deref().unwrap_or_default();
    // Sources and layers first: the stage covers a directory that they may be in.
    let mut prepared = mounts::open_sources(all, place.cgroup_path)?;
    for (source, target) in &container.files {
        prepared.push(mounts::open_file(source, target)?);
    }
    let overlay = Overlay {
        lower: &container.lower,
        upper: &container.upper,
        work: &container.work,
    };
    let root_layers = overlay.open()?;
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    mount::set_root_attributes(Depth::Tree, private).during("make mounts private")?;

    let stage = make_stage(all).during("make the stage")?;
    attach_stage(place.stage, &stage).during("attach the stage")?;
    let root = Root::new(root_layers.mount(&place.stage.join("root"))?);
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
