//! Turns this process into the engine.
//!
//! The order matters:
//!
//! 1. go on as a sealed copy of the executable, which no container can write to through
//!    `/proc/<pid>/exe` (S1, CVE-2019-5736) — first, while every descriptor is as it was given;
//! 2. leave the caller's session, namespaces, cgroup and directory (HAZARDS L5);
//! 3. take the lock that makes this the only engine of its run directory (L6), and wait until no
//!    shim of an engine before is on its way;
//! 4. start the spawner, which stays in the machine's namespaces;
//! 5. leave the host's mount namespace;
//! 6. start the async runtime, recover, listen, and tell the starter that all is ready.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags, SealFlags};

use crate::cli::Boot;
use crate::engine::{Engine, EngineError, Roots, chain};
use crate::sys::fallback::{self, Feature};
use crate::sys::{mount, signal};

const DEFAULT_IDLE_SECONDS: u64 = 300;
/// How long an engine that finds the lock taken waits for the holder to serve or to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How long a fork and a few system calls may take, on the slowest of machines.
const BIRTH_PATIENCE: Duration = Duration::from_secs(15);
const BIRTH_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot {action}")]
    System {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot use {path}")]
    Path {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("another engine has the lock {path}")]
    Locked { path: String },
    #[error("the engine has to run as root; an engine without root is not there yet")]
    NotRoot,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl BootError {
    /// What a person can do about it.
    fn hint(&self) -> Option<String> {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, StorageFull};
        let own = match self {
            BootError::NotRoot => return Some("use sudo".to_owned()),
            BootError::Engine(error) => return error.hints().into_iter().next(),
            BootError::System { source, .. } | BootError::Path { source, .. } => source.kind(),
            BootError::Locked { .. } => {
                return Some("`wharf engine status` shows whether it answers".to_owned());
            }
        };
        match own {
            PermissionDenied => Some(
                "root without all of its capabilities is not enough: inside a container, that one \
                 has to be privileged"
                    .to_owned(),
            ),
            StorageFull | QuotaExceeded => {
                Some("the disk is full: free space under it, then try again".to_owned())
            }
            _ => None,
        }
    }
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::System { action, source }
}

/// Goes on as a sealed copy of this executable if the arguments make this process the engine: no
/// container can then write to it through `/proc/<pid>/exe` (S1, CVE-2019-5736). Returns in the
/// copy, and at once in every other role.
///
/// # Errors
/// When no protected copy can be executed; the engine then refuses to start.
pub fn protect(arguments: impl Iterator<Item = OsString>) -> Result<(), BootError> {
    let arguments: Vec<OsString> = arguments.collect();
    let is_engine = arguments
        .windows(2)
        .any(|pair| pair[0] == "engine" && pair[1] == "run");
    if !is_engine {
        return Ok(());
    }
    let arguments: Vec<CString> = arguments
        .into_iter()
        .filter_map(|argument| CString::new(argument.into_encoded_bytes()).ok())
        .collect();
    seal(&arguments)
}

/// Runs the engine until it is told to end.
pub fn engine(boot: Boot, protection: Result<(), BootError>) -> ExitCode {
    start_logging();
    let mut ready = boot.ready.map(File::from);
    // One that is started by hand, or by a service manager, is where it was put on purpose.
    let is_automatic = ready.is_some();
    let mut report = |text: &str| {
        if let Some(mut pipe) = ready.take() {
            // The starter may have gone; the engine lives on without it.
            let _ = pipe.write_all(text.as_bytes());
        }
    };
    let origin = if is_automatic {
        Origin::Command
    } else {
        Origin::Purpose
    };
    match protection.and_then(|()| run(&boot.roots, origin, || report("ok\n"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = chain(&error);
            tracing::error!("{text}");
            if let Some(hint) = error.hint() {
                text = format!("{text}\nhint: {hint}");
            }
            report(&format!("{text}\n"));
            ExitCode::FAILURE
        }
    }
}

/// The log goes to standard error, which the starter has pointed at `<run>/engine.log`.
fn start_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("WHARF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second call in one process (tests) keeps the first's.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        // A log on a full disk loses lines; complaining of that on the same descriptor panics.
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .try_init();
}

/// Who started this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A command that needed one.
    Command,
    /// Somebody who wanted one, here.
    Purpose,
}

fn run(roots: &Roots, origin: Origin, on_ready: impl FnOnce()) -> Result<(), BootError> {
    if !rustix::process::geteuid().is_root() {
        return Err(BootError::NotRoot);
    }
    make_directories(roots)?;
    if origin == Origin::Command {
        leave_namespaces(roots);
    }
    detach()?;
    enter_own_cgroup(roots);
    let Some(_lock) = lock_or_find_other(roots)? else {
        // Somebody else was faster (a shim that missed its engine, another command); whoever
        // started us wants an engine, and there is one.
        on_ready();
        end(roots);
        return Ok(());
    };
    let births = after_all_births(roots)?;
    let spawner =
        crate::shim::spawner::start(births.into()).map_err(system("start the spawner"))?;
    // The engine's own mounts, if it makes any, are nobody else's to see.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .map_err(system("leave the host's mount namespace"))?;
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::DOWNSTREAM
            | rustix::mount::MountPropagationFlags::REC,
    )
    .map_err(io::Error::from)
    .map_err(system("make the engine's mounts private"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(system("start the async runtime"))?;
    let result = runtime.block_on(serve(roots, spawner, on_ready));
    // Ends what holds the spawner's socket; the spawner ends with it.
    drop(runtime);
    end(roots);
    result
}

/// When nothing holds the spawner's socket any more. The cgroup is removed by whoever leaves it
/// last, be it an engine that never served.
fn end(roots: &Roots) {
    while nix::sys::wait::wait().is_ok() {}
    leave_own_cgroup(roots);
}

fn make_directories(roots: &Roots) -> Result<(), BootError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for dir in [&roots.run, &roots.data] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| BootError::Path {
                path: dir.display().to_string(),
                source,
            })?;
    }
    Ok(())
}

/// Goes to where process 1 is, if the command that happened to be first was in namespaces of its
/// own (a unit's `PrivateTmp`, `ip netns exec`): what a container sees, and which network it is on,
/// must not depend on that, nor on when those end (L5).
///
/// An engine whose directories are only there stays there: elsewhere nobody would find its socket,
/// nor it its images. One with directories of its own choice may be meant for a network of its own,
/// and keeps that. A container whose root may not follow, or must not because it shares the
/// machine's pid namespace, stays as well.
fn leave_namespaces(roots: &Roots) {
    use crate::sys::home::{self, Move};
    let mut namespaces = libc::CLONE_NEWNS;
    if roots.tag().is_empty() {
        namespaces |=
            libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    }
    match home::join(namespaces, &[&roots.run, &roots.data]) {
        Ok(Move::AtHome) => {}
        Ok(Move::Moved) => tracing::info!("left the private namespaces of the command"),
        Ok(Move::Elsewhere) => tracing::warn!(
            "this engine stays in a private mount namespace: its directories are only there"
        ),
        // Not ours to follow: most often a container, which is all the machine that there is.
        Err(error) => tracing::debug!(%error, "stays in the namespaces of the command"),
    }
}

/// Leaves everything else of the process that started us.
fn detach() -> Result<(), BootError> {
    // Fails when we lead a session already, which is as good.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/").map_err(system("enter the root directory"))?;
    shed();
    Ok(())
}

/// What of the caller's sticks to a process and would stick to every shim and container (S20): back
/// to what a system service starts with. A refusal leaves what we were given.
fn shed() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    signal::reset();
    signal::ignore(nix::sys::signal::Signal::SIGPIPE as i32);
    let _ = rustix::process::setpriority_process(None, 0);
    let mut cpus = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| cpus.set(cpu));
    let _ = rustix::thread::sched_setaffinity(None, &cpus);
    // Inherited by the shims: when memory runs out a container is to go, not who looks after it
    // (L47). Containers get the value that their file asks for.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    for resource in [
        Resource::RLIMIT_AS,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_LOCKS,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_RSS,
    ] {
        let _ = setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY);
    }
    let _ = setrlimit(Resource::RLIMIT_STACK, 8 << 20, RLIM_INFINITY);
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
    // Every container costs the engine a few descriptors; containers get limits of their own (S35).
    for n in [1 << 20, 1 << 16, 1 << 12] {
        if setrlimit(Resource::RLIMIT_NOFILE, n, n).is_ok() {
            break;
        }
    }
}

/// Goes on as a sealed copy of this executable in memory, unless this is protected already.
fn seal(arguments: &[CString]) -> Result<(), BootError> {
    let exe = std::fs::read_link("/proc/self/exe").map_err(system("read /proc/self/exe"))?;
    if exe.as_os_str().as_encoded_bytes().starts_with(b"/memfd:") {
        return Ok(());
    }
    // Whatever else the caller had open (L5) ends with the execution below.
    crate::sys::fd::cloexec_from_3().map_err(system("let go of the caller's descriptors"))?;
    let mut program = File::open("/proc/self/exe").map_err(system("open the executable"))?;
    // Whoever reopens `/proc/<pid>/exe` goes through the mount that we were executed from.
    let seen_through = rustix::fs::fstatvfs(&program)
        .map_err(|error| system("look at the executable's file system")(error.into()))?;
    if seen_through
        .f_flag
        .contains(rustix::fs::StatVfsMountFlags::RDONLY)
    {
        return Ok(());
    }
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(key, value)| {
            use std::os::unix::ffi::OsStrExt;
            CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    let Err(refused) = execute_sealed(&mut program, arguments, &environment);
    // `vm.memfd_noexec=2` refuses (S2): then the file itself, seen through a read-only clone of
    // its mount, which cannot be written through `/proc/<pid>/exe` either.
    let Err(source) = execute_read_only(&exe, arguments, &environment);
    tracing::error!(error = %refused, "cannot execute a sealed copy of the program");
    Err(BootError::System {
        action: "execute a protected copy of the program",
        source,
    })
}

/// Replaces this process by a copy of the program in memory that nobody can write to.
fn execute_sealed(
    program: &mut File,
    arguments: &[CString],
    environment: &[CString],
) -> io::Result<Infallible> {
    if fallback::is_forced(Feature::MemfdExec) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = match rustix::fs::memfd_create("wharf", flags | MemfdFlags::EXEC) {
        // MFD_EXEC is Linux 6.3; older kernels make every memfd executable.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("wharf", flags)?,
        made => made?,
    };
    let mut copy = File::from(memfd);
    io::copy(program, &mut copy)?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(nix::unistd::fexecve(copy.as_fd(), arguments, environment)?)
}

/// Replaces this process by its own program, reached through a read-only mount of its own.
fn execute_read_only(
    exe: &Path,
    arguments: &[CString],
    environment: &[CString],
) -> io::Result<Infallible> {
    let program = mount::clone_path(exe, mount::Depth::Single)?;
    let read_only = mount::Change {
        set: mount::Attr::MOUNT_ATTR_RDONLY.bits().into(),
        ..mount::Change::default()
    };
    mount::set_attributes(&program, mount::Depth::Single, read_only)?;
    Ok(nix::unistd::fexecve(&program, arguments, environment)?)
}

/// A cgroup of our own: what ends the caller's (a CI job, an SSH session) must not end us. Where the
/// caller may not do that, staying is all there is.
fn enter_own_cgroup(roots: &Roots) {
    if let Err(error) = crate::runtime::cgroup::enter(&own_cgroup(roots), own_pid()) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot leave the caller's cgroup"
        );
    }
}

/// An engine that ends on purpose leaves nothing in the kernel.
fn leave_own_cgroup(roots: &Roots) {
    if let Err(error) = crate::runtime::cgroup::leave(&own_cgroup(roots), own_pid()) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot remove the engine's cgroup"
        );
    }
}

/// Relative to the hierarchy's root.
fn own_cgroup(roots: &Roots) -> PathBuf {
    let tag = roots.tag();
    let base = if tag.is_empty() {
        "wharf".to_owned()
    } else {
        format!("wharf-{tag}")
    };
    Path::new(&base).join("engine")
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Takes the engine's lock for life. `None`: another engine has it, and serves.
///
/// The holder may be an engine that is about to end, or one that has not begun to serve: both
/// pass within moments, and a command that comes just then must not fail for it (L6).
///
/// # Errors
/// When the lock stays taken and nobody serves.
fn lock_or_find_other(roots: &Roots) -> Result<Option<File>, BootError> {
    let path = roots.run.join("engine.lock");
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock(&path) {
            Err(BootError::Locked { .. }) if Instant::now() < deadline => {}
            result => return result.map(Some),
        }
        if std::os::unix::net::UnixStream::connect(&roots.socket).is_ok() {
            return Ok(None);
        }
        // No event tells of both ends of this wait, the lock's release and the other's socket.
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Waits until every shim that an engine before asked for can be connected to, or has failed.
///
/// That engine may have been killed in the middle of a start. Its spawner serves what it was asked
/// for, and a shim goes on with the start: whoever looked for it too early would start the
/// container a second time. Returns the lock that the next engine will wait for.
fn after_all_births(roots: &Roots) -> Result<File, BootError> {
    let path = roots.run.join("births.lock");
    let deadline = Instant::now() + BIRTH_PATIENCE;
    loop {
        match lock(&path) {
            // As a rule there is nothing to wait for; the wait has an end, which `flock` does not.
            Err(BootError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(BIRTH_PAUSE);
            }
            result => return result,
        }
    }
}

/// Takes the lock if nobody has it.
fn lock(path: &Path) -> Result<File, BootError> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| BootError::Path {
            path: path.display().to_string(),
            source,
        })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BootError::Locked {
            path: path.display().to_string(),
        }),
        Err(error) => Err(BootError::Path {
            path: path.display().to_string(),
            source: error.into(),
        }),
    }
}

async fn serve(roots: &Roots, spawner: OwnedFd, on_ready: impl FnOnce()) -> Result<(), BootError> {
    let engine = Engine::open(roots.clone(), spawner).await?;
    let listener = listen(&roots.socket)?;
    on_ready();
    let closing = engine.closing().clone();
    tokio::spawn(async move {
        ended().await;
        closing.cancel();
    });
    crate::api::server::serve(
        Arc::new(engine.clone()),
        listener,
        engine.closing().clone(),
        idle_timeout(),
    )
    .await
    .map_err(system("serve the API"))?;
    engine.close().await;
    Ok(())
}

/// How long an engine with nothing to do stays: `WHARF_IDLE_TIMEOUT` seconds, 0 for ever.
fn idle_timeout() -> Option<Duration> {
    let seconds = match std::env::var("WHARF_IDLE_TIMEOUT") {
        Ok(text) => text.trim().parse().unwrap_or_else(|_| {
            tracing::warn!(value = %text, "WHARF_IDLE_TIMEOUT is no number of seconds");
            DEFAULT_IDLE_SECONDS
        }),
        Err(_) => DEFAULT_IDLE_SECONDS,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Binds the API's socket. We hold the lock: a socket file that is there is a dead engine's.
fn listen(path: &Path) -> Result<tokio::net::UnixListener, BootError> {
    let failed = |source| BootError::Path {
        path: path.display().to_string(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Reaching the socket is being root: it has its mode from the moment it exists (S47).
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o117));
    let listener = tokio::net::UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = listener.map_err(failed)?;
    if let Some(parent) = path.parent() {
        // Others may pass through to the socket, if its group lets them; they list nothing.
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o711)).map_err(failed)?;
    }
    tracing::info!(socket = %path.display(), fd = listener.as_raw_fd(), "listening");
    Ok(listener)
}

/// Ends when the engine is asked to: SIGTERM or SIGINT.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
