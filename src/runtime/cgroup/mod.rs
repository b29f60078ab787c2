//! The cgroup of one container: made, entered, limited, frozen, killed, watched, removed.
//!
//! Lifecycle stands on the cgroup2 tree alone, which every kernel has, mounted or not: kill, freeze,
//! "is anything left", and device rules by a BPF program. Limits go to cgroup2 files, or for each
//! controller that a v1 hierarchy holds, to that hierarchy; there a directory is made only when a
//! limit asks for it.
//!
//! Everything is done relative to descriptors opened at [`Cgroup::create`], so a `Cgroup` goes on
//! working after the process has changed its mount namespace.

mod devices;
mod directory;
mod error;
mod hierarchy;
mod limits;
mod oom;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, OFlags};

use self::directory::{
    all_processes, evacuate, inherit_cpuset, make_path, open_directory, open_file, processes,
    read_at, remove_tree, write_at,
};
pub use self::error::CgroupError;
use self::hierarchy::Hierarchies;
use crate::sys::bpf;
use crate::sys::fallback::{self, Feature};

/// How long the kernel gets to freeze or to let the last process go. Both take milliseconds unless
/// a process is stuck inside a system call.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container's cgroup directories.
#[derive(Debug)]
pub struct Cgroup {
    /// Relative to the root of each hierarchy.
    path: PathBuf,
    hierarchies: Hierarchies,
    v2: OwnedFd,
    v1: Vec<Member>,
    unsupported: Vec<&'static str>,
}

/// A directory in a v1 hierarchy.
#[derive(Debug)]
struct Member {
    controller: &'static str,
    mount: PathBuf,
    directory: OwnedFd,
    /// Opened ahead: whoever enters may no longer see the hierarchy.
    procs: OwnedFd,
}

/// A cgroup inside a container's, see [`Cgroup::make_part`].
#[derive(Debug)]
pub struct Part {
    name: String,
    directory: OwnedFd,
}

impl Part {
    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub fn v2_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Sends SIGKILL to every process in it.
    ///
    /// # Errors
    /// `ENOENT` before Linux 5.14.
    pub fn kill_all(&self) -> io::Result<()> {
        write_at(self.directory.as_fd(), "cgroup.kill", "1")
    }
}

impl Cgroup {
    /// Makes the cgroup `path`, relative to the root of every hierarchy, and puts the limits and the
    /// device rules in force. A leftover of the same name without processes is replaced.
    ///
    /// Limits of controllers that this machine does not offer are left out and named by
    /// [`Cgroup::unsupported`].
    ///
    /// # Errors
    /// [`CgroupError`]. On an error nothing of the leaf is left.
    pub fn create(path: &Path, resources: Option<&LinuxResources>) -> Result<Cgroup, CgroupError> {
        let path = plain(path)?;
        let hierarchies = Hierarchies::discover()?;
        let fail = |source| CgroupError::Create {
            path: path.clone(),
            controller: "cgroup2".to_owned(),
            source,
        };
        clear_leftover(hierarchies.v2.as_fd(), &path)?;
        let v2 = make_path(hierarchies.v2.as_fd(), &path, |_, _| Ok(())).map_err(fail)?;
        let mut cgroup = Cgroup {
            path,
            hierarchies,
            v2,
            v1: Vec::new(),
            unsupported: Vec::new(),
        };
        if let Some(resources) = resources
            && let Err(e) = cgroup.apply(resources, Attach::First)
        {
            // The first cause is what the caller needs; a directory that stays would be cleared by
            // the next create.
            let _ = cgroup.remove();
            return Err(e);
        }
        Ok(cgroup)
    }

    /// Opens a cgroup that exists, as an engine or shim does that takes over.
    ///
    /// # Errors
    /// [`CgroupError::Open`], with `ENOENT` below it when the cgroup is gone.
    pub fn open(path: &Path) -> Result<Cgroup, CgroupError> {
        let path = plain(path)?;
        let hierarchies = Hierarchies::discover()?;
        let v2 =
            open_directory(hierarchies.v2.as_fd(), &path).map_err(|source| CgroupError::Open {
                path: path.clone(),
                source,
            })?;
        let mut v1 = Vec::new();
        for controller in limits::CONTROLLERS {
            let Some(mount) = hierarchies.v1(controller) else {
                continue;
            };
            // Most containers have no directory in most hierarchies.
            if let Ok(directory) = open_directory(CWD, &mount.join(&path)) {
                v1.push(Member::new(controller, mount, directory).map_err(|source| {
                    CgroupError::Open {
                        path: path.clone(),
                        source,
                    }
                })?);
            }
        }
        Ok(Cgroup {
            path,
            hierarchies,
            v2,
            v1,
            unsupported: Vec::new(),
        })
    }

    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub fn v2_fd(&self) -> BorrowedFd<'_> {
        self.v2.as_fd()
    }

    /// Path relative to the root of each hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Controllers that limits were asked of and that this machine does not offer.
    pub fn unsupported(&self) -> &[&'static str] {
        &self.unsupported
    }

    /// Moves the calling process into the v1 hierarchies in use. For the child itself, right after
    /// the clone: nothing is allocated, and the write is cheaper than one from outside, which would
    /// have to wait for every thread of the target.
    ///
    /// # Errors
    /// Those of the write to `cgroup.procs`.
    pub fn enter_v1_self(&self) -> io::Result<()> {
        for member in &self.v1 {
            rustix::io::write(&member.procs, b"0")?;
        }
        Ok(())
    }

    /// Changes limits of a running cgroup; what `resources` does not name stays.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn update(&mut self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let known = self.v1.len();
        self.apply(resources, Attach::Replace)?;
        // A controller that had no limit until now: bring everybody in. Forks during the move land
        // beside their parent, so it is repeated until a pass moves nobody.
        for member in &self.v1[known..] {
            let mut moved = Vec::new();
            loop {
                let before = moved.len();
                for pid in processes(self.v2.as_fd()).map_err(|source| CgroupError::Open {
                    path: self.path.clone(),
                    source,
                })? {
                    if moved.contains(&pid) {
                        continue;
                    }
                    moved.push(pid);
                    match rustix::io::write(&member.procs, pid.to_string().as_bytes()) {
                        Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                        Err(e) => {
                            return Err(CgroupError::Enter {
                                path: self.path.clone(),
                                pid,
                                source: e.into(),
                            });
                        }
                    }
                }
                if moved.len() == before {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends SIGKILL to every process below, frozen ones as well, without a race against forks.
    /// Returns before they are gone: see [`Cgroup::populated_fd`].
    ///
    /// # Errors
    /// [`CgroupError::Control`].
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if fallback::is_forced(Feature::CgroupKill) {
            return self.kill_one_by_one();
        }
        match write_at(self.v2.as_fd(), "cgroup.kill", "1") {
            Ok(()) => Ok(()),
            // Linux < 5.14.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.kill_one_by_one(),
            Err(source) => Err(self.control("cgroup.kill", source)),
        }
    }

    /// Makes a cgroup below, for processes that are to be found again together. Limits and rules of
    /// this one hold there, too. A name that exists is used.
    ///
    /// # Errors
    /// [`CgroupError::Create`].
    pub fn make_part(&self, name: &str) -> Result<Part, CgroupError> {
        let directory =
            make_path(self.v2.as_fd(), Path::new(name), |_, _| Ok(())).map_err(|source| {
                CgroupError::Create {
                    path: self.path.join(name),
                    controller: "cgroup2".to_owned(),
                    source,
                }
            })?;
        Ok(Part {
            name: name.to_owned(),
            directory,
        })
    }

    /// Removes a part if nothing is in it; true when it is gone.
    pub fn remove_part(&self, part: &Part) -> bool {
        remove_tree(self.v2.as_fd(), Path::new(&part.name)).is_ok()
    }

    /// Stops every process below and returns when all of them stand still.
    ///
    /// # Errors
    /// [`CgroupError::Freeze`] after five seconds (the cgroup is thawed again),
    /// [`CgroupError::Control`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen("1")?;
        let frozen = self
            .wait_for_event("frozen 1")
            .map_err(|e| self.control("cgroup.events", e))?;
        if frozen {
            return Ok(());
        }
        self.thaw()?;
        Err(CgroupError::Freeze(self.path.clone()))
    }

    /// Lets the processes run again.
    ///
    /// # Errors
    /// [`CgroupError::Control`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen("0")
    }

    /// Whether any process, zombies aside, is in it or below it. A cgroup that is gone is empty.
    pub fn is_populated(&self) -> bool {
        read_at(self.v2.as_fd(), "cgroup.events").is_ok_and(|e| has_line(&e, "populated 1"))
    }

    /// `cgroup.events`, read once: poll it for `POLLPRI`, then ask [`Cgroup::is_populated`]. After
    /// each wake-up read it again from its start before polling, or it wakes at once.
    ///
    /// # Errors
    /// [`CgroupError::Control`].
    pub fn populated_fd(&self) -> Result<OwnedFd, CgroupError> {
        let fail = |source| self.control("cgroup.events", source);
        let fd = open_file(self.v2.as_fd(), "cgroup.events", OFlags::RDONLY).map_err(fail)?;
        // kernfs remembers the count of changes at the read and compares with it in poll.
        let mut buffer = [0; 256];
        rustix::io::pread(&fd, &mut buffer, 0).map_err(|e| fail(e.into()))?;
        Ok(fd)
    }

    /// Removes the directories, with those that the container has made below. Waits up to five
    /// seconds, by event, for the last process to go; kills nothing.
    ///
    /// # Errors
    /// [`CgroupError::Remove`]: the first failure; the remaining directories are tried all the same.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut first = self.remove_v2().err();
        // A process leaves all hierarchies in one step, so after the wait above v1 is empty, too.
        for member in &self.v1 {
            let result = open_directory(CWD, &member.mount)
                .and_then(|root| remove_tree(root.as_fd(), &self.path));
            if let Err(e) = result {
                first.get_or_insert(e);
            }
        }
        match first {
            None => Ok(()),
            Some(source) => Err(CgroupError::Remove {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn remove_v2(&self) -> io::Result<()> {
        match remove_tree(self.hierarchies.v2.as_fd(), &self.path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                self.wait_for_event("populated 0")?;
                remove_tree(self.hierarchies.v2.as_fd(), &self.path)
            }
            result => result,
        }
    }

    fn control(&self, file: &'static str, source: io::Error) -> CgroupError {
        CgroupError::Control {
            path: self.path.clone(),
            file,
            source,
        }
    }

    fn set_frozen(&self, value: &str) -> Result<(), CgroupError> {
        write_at(self.v2.as_fd(), "cgroup.freeze", value)
            .map_err(|e| self.control("cgroup.freeze", e))
    }

    /// Whether `cgroup.events` came to contain `line` before patience ran out.
    fn wait_for_event(&self, line: &str) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        let fd = open_file(self.v2.as_fd(), "cgroup.events", OFlags::RDONLY)?;
        loop {
            let mut buffer = [0; 256];
            let n = match rustix::io::pread(&fd, &mut buffer, 0) {
                Ok(n) => n,
                // Somebody else has removed it: nothing is populated any more.
                Err(rustix::io::Errno::NODEV) => return Ok(true),
                Err(e) => return Err(e.into()),
            };
            if has_line(&String::from_utf8_lossy(&buffer[..n]), line) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = rustix::event::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Before `cgroup.kill`: frozen processes cannot fork, and SIGKILL reaches them.
    fn kill_one_by_one(&self) -> Result<(), CgroupError> {
        self.set_frozen("1")?;
        let mut result = Ok(());
        self.wait_for_event("frozen 1")
            .map_err(|e| self.control("cgroup.events", e))?;
        match all_processes(self.v2.as_fd()) {
            Ok(pids) => {
                for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
                    match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                        Err(e) => result = Err(self.control("cgroup.procs", e.into())),
                    }
                }
            }
            Err(e) => result = Err(self.control("cgroup.procs", e)),
        }
        self.thaw()?;
        result
    }

    fn apply(&mut self, resources: &LinuxResources, attach: Attach) -> Result<(), CgroupError> {
        for controller in limits::CONTROLLERS {
            let wanted = limits::v2(controller, resources);
            let wanted_v1 = limits::v1(controller, resources);
            if wanted.is_empty() && wanted_v1.is_empty() {
                continue;
            }
            if self.hierarchies.v1(controller).is_some() {
                let at = self.join_v1(controller)?;
                write_settings(self.v1[at].directory.as_fd(), &wanted_v1)?;
            } else if self.hierarchies.v2_has(limits::v2_name(controller)) {
                self.enable(limits::v2_name(controller))?;
                write_settings(self.v2.as_fd(), &wanted)?;
            } else if !self.unsupported.contains(&controller) {
                self.unsupported.push(controller);
            }
        }
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
                return Err(CgroupError::UnifiedKey(file.clone()));
            }
            if let Some((controller, _)) = file.split_once('.')
                && self.hierarchies.v2_has(controller)
            {
                self.enable(controller)?;
            }
            write_at(self.v2.as_fd(), file, value).map_err(|source| CgroupError::Limit {
                file: file.clone(),
                value: value.clone(),
                source,
            })?;
        }
        if let Some(rules) = resources.devices().as_ref().filter(|r| !r.is_empty()) {
            let program = devices::program(rules);
            let put = bpf::load_device_program(&program).and_then(|program| match attach {
                Attach::First => bpf::attach_device_program(self.v2.as_fd(), program.as_fd()),
                Attach::Replace => bpf::replace_device_program(self.v2.as_fd(), program.as_fd()),
            });
            match put {
                Ok(()) => {}
                // Rootless: nobody may attach programs there, and nobody needs to, for no node that
                // is made in a user namespace opens anything.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied && in_user_namespace() => {}
                Err(source) => {
                    let path = self.path.clone();
                    return Err(CgroupError::Devices { path, source });
                }
            }
        }
        Ok(())
    }

    /// The place in `self.v1` of the directory for `controller`, which is made if need be.
    fn join_v1(&mut self, controller: &'static str) -> Result<usize, CgroupError> {
        if let Some(at) = self.v1.iter().position(|m| m.controller == controller) {
            return Ok(at);
        }
        let fail = |source| CgroupError::Create {
            path: self.path.clone(),
            controller: controller.to_owned(),
            source,
        };
        // The caller has seen that the hierarchy exists.
        let mount = self
            .hierarchies
            .v1(controller)
            .unwrap_or(Path::new("/"))
            .to_owned();
        let root = open_directory(CWD, &mount).map_err(fail)?;
        // Controllers can share a hierarchy (`cpu,cpuacct`): then the directory is ours already, and
        // not a leftover.
        if !self.v1.iter().any(|m| m.mount == mount) {
            remove_tree(root.as_fd(), &self.path).map_err(fail)?;
        }
        let directory = make_path(root.as_fd(), &self.path, |above, below| {
            if controller == "cpuset" {
                inherit_cpuset(above, below)
            } else {
                Ok(())
            }
        })
        .map_err(fail)?;
        let member = Member::new(controller, &mount, directory).map_err(fail)?;
        self.v1.push(member);
        Ok(self.v1.len() - 1)
    }

    /// Hands a controller down the cgroup2 tree to this cgroup.
    fn enable(&self, controller: &str) -> Result<(), CgroupError> {
        let value = format!("+{controller}");
        let mut here = open_directory(self.hierarchies.v2.as_fd(), Path::new("."))
            .map_err(CgroupError::Discover)?;
        for name in self.path.iter() {
            let enabled = read_at(here.as_fd(), "cgroup.subtree_control")
                .is_ok_and(|list| list.split_whitespace().any(|c| c == controller));
            if !enabled {
                let mut result = write_at(here.as_fd(), "cgroup.subtree_control", &value);
                if result
                    .as_ref()
                    .is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
                {
                    result = evacuate(here.as_fd())
                        .and_then(|()| write_at(here.as_fd(), "cgroup.subtree_control", &value));
                }
                result.map_err(|source| CgroupError::Limit {
                    file: "cgroup.subtree_control".to_owned(),
                    value: value.clone(),
                    source,
                })?;
            }
            here = open_directory(here.as_fd(), Path::new(name)).map_err(|source| {
                CgroupError::Open {
                    path: self.path.clone(),
                    source,
                }
            })?;
        }
        Ok(())
    }
}

/// Whether device programs of an earlier life can be attached.
#[derive(Clone, Copy)]
enum Attach {
    First,
    Replace,
}

impl Member {
    fn new(controller: &'static str, mount: &Path, directory: OwnedFd) -> io::Result<Member> {
        let procs = open_file(directory.as_fd(), "cgroup.procs", OFlags::WRONLY)?;
        Ok(Member {
            controller,
            mount: mount.to_owned(),
            directory,
            procs,
        })
    }
}

/// Moves a process into the cgroup2 directory `path`, which is made if need be: the engine steps
/// into a leaf of its own with this, because a cgroup with processes of its own cannot hand
/// controllers down ("no internal processes").
///
/// # Errors
/// [`CgroupError::Create`], [`CgroupError::Enter`].
pub fn enter(path: &Path, pid: i32) -> Result<(), CgroupError> {
    let path = plain(path)?;
    let hierarchies = Hierarchies::discover()?;
    let directory = make_path(hierarchies.v2.as_fd(), &path, |_, _| Ok(())).map_err(|source| {
        CgroupError::Create {
            path: path.clone(),
            controller: "cgroup2".to_owned(),
            source,
        }
    })?;
    write_at(directory.as_fd(), "cgroup.procs", &pid.to_string())
        .map_err(|source| CgroupError::Enter { path, pid, source })
}

/// Takes the process out of a cgroup that [`enter`] made, and removes the directories of that path
/// that have nothing else in them. The process goes to the hierarchy's root, where one that is about
/// to end disturbs nobody.
///
/// # Errors
/// [`CgroupError::Enter`] if it cannot be moved.
pub fn leave(path: &Path, pid: i32) -> Result<(), CgroupError> {
    let path = plain(path)?;
    let hierarchies = Hierarchies::discover()?;
    let root = hierarchies.v2.as_fd();
    match write_at(root, "cgroup.procs", &pid.to_string()) {
        // What we see as the root is a container's cgroup, and controllers were handed down: its
        // processes are in the leaf that `evacuate` made.
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            open_directory(root, Path::new(directory::LEAF))
                .and_then(|leaf| write_at(leaf.as_fd(), "cgroup.procs", &pid.to_string()))
        }
        moved => moved,
    }
    .map_err(|source| CgroupError::Enter {
        path: PathBuf::from("/"),
        pid,
        source,
    })?;
    // Containers that go on without an engine keep their directories: a cgroup that is not empty
    // cannot be removed.
    let flags = rustix::fs::AtFlags::REMOVEDIR;
    for directory in path.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        let _ = rustix::fs::unlinkat(&hierarchies.v2, directory, flags);
        for mount in limits::CONTROLLERS
            .iter()
            .filter_map(|controller| hierarchies.v1(controller))
        {
            let _ = rustix::fs::unlinkat(CWD, mount.join(directory), flags);
        }
    }
    Ok(())
}

/// Strips the leading `/`; refuses what could lead elsewhere.
fn plain(path: &Path) -> Result<PathBuf, CgroupError> {
    let relative: PathBuf = path.strip_prefix("/").unwrap_or(path).into();
    let is_plain = relative
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    if relative.as_os_str().is_empty() || !is_plain {
        return Err(CgroupError::Path(path.to_owned()));
    }
    Ok(relative)
}

/// Removes an empty cgroup of this name: its limits and programs are those of a dead container.
fn clear_leftover(root: BorrowedFd<'_>, path: &Path) -> Result<(), CgroupError> {
    match remove_tree(root, path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            Err(CgroupError::InUse(path.to_owned()))
        }
        Err(source) => Err(CgroupError::Remove {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The first user namespace maps every id to itself.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}

fn write_settings(at: BorrowedFd<'_>, settings: &[limits::Setting]) -> Result<(), CgroupError> {
    let mut later = Vec::new();
    for setting in settings {
        match write_at(at, &setting.file, &setting.value) {
            Ok(()) => {}
            Err(e) if setting.optional && e.kind() == io::ErrorKind::NotFound => {}
            // v1 wants memory ≤ memory + swap at every moment: which of the two goes first depends
            // on whether limits rise or fall, so a refused one is tried again after the others.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => later.push(setting),
            Err(e) => return Err(limit_error(setting, e)),
        }
    }
    for setting in later {
        write_at(at, &setting.file, &setting.value).map_err(|e| limit_error(setting, e))?;
    }
    Ok(())
}

fn limit_error(setting: &limits::Setting, source: io::Error) -> CgroupError {
    CgroupError::Limit {
        file: setting.file.clone(),
        value: setting.value.clone(),
        source,
    }
}

fn has_line(text: &str, line: &str) -> bool {
    text.lines().any(|l| l == line)
}
