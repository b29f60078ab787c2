//! Where containers stand in the cgroup hierarchies, and the end of one that lost its shim.
//!
//! A shim creates and removes its container's cgroups. The engine touches them only when there is
//! no shim left to do it: it kills what runs and removes what is empty.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::Roots;
use super::container::ContainerId;

/// How long killed processes may take to leave, before removal is left to the next start.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Cgroups {
    /// Below every hierarchy's root: one directory for all that this engine owns.
    base: PathBuf,
    mounts: Vec<Mount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    path: PathBuf,
    is_v2: bool,
}

impl Cgroups {
    /// Finds the hierarchies that are mounted.
    pub fn find(roots: &Roots) -> Cgroups {
        let tag = roots.tag();
        let base = if tag.is_empty() {
            "wharf".to_owned()
        } else {
            format!("wharf-{tag}")
        };
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Cgroups {
            base: base.into(),
            mounts: table.lines().filter_map(parse_mount).collect(),
        }
    }

    /// This engine's directory in the cgroup2 hierarchy, made if it is missing.
    pub fn unified_base(&self) -> Option<PathBuf> {
        let mount = self.mounts.iter().find(|mount| mount.is_v2)?;
        let base = mount.path.join(&self.base);
        match std::fs::create_dir(&base) {
            Ok(()) => Some(base),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Some(base),
            Err(_) => None,
        }
    }

    /// The container's directory below each mount point.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.base.join(id.as_str())
    }

    /// The containers that have a cgroup, in whatever hierarchy.
    pub fn ids(&self) -> Vec<ContainerId> {
        let dirs = self.mounts.iter().map(|mount| mount.path.join(&self.base));
        let mut ids: Vec<_> = dirs
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flatten()
            .filter_map(|entry| ContainerId::parse(entry.ok()?.file_name().to_str()?))
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Kills everything in the container's cgroup and removes it. Nothing to do is no failure.
    pub async fn kill(&self, id: &ContainerId) {
        let relative = self.container(id);
        let dirs: Vec<_> = self
            .mounts
            .iter()
            .map(|mount| (mount.path.join(&relative), mount.is_v2))
            .filter(|(dir, _)| dir.exists())
            .collect();
        if dirs.is_empty() {
            return;
        }
        let id = id.clone();
        let work = tokio::task::spawn_blocking(move || {
            for (dir, is_v2) in &dirs {
                if let Err(error) = end(dir, *is_v2) {
                    tracing::warn!(container = id.short(), dir = %dir.display(), %error, "cannot remove a cgroup");
                }
            }
        });
        if let Err(panic) = work.await {
            tracing::error!(%panic, "removing a cgroup panicked");
        }
    }
}

/// One line of mountinfo (proc(5)): the mount point is field 5, the type follows the lone hyphen.
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let kind = after.split(' ').next()?;
    let is_v2 = match kind {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let path = before.split(' ').nth(4)?;
    Some(Mount {
        path: path.into(),
        is_v2,
    })
}

fn end(dir: &Path, is_v2: bool) -> io::Result<()> {
    if is_v2 && dir.join("cgroup.kill").exists() {
        std::fs::write(dir.join("cgroup.kill"), "1")?;
        wait_until_empty(dir)?;
    }
    remove_tree(dir)
}

/// A container may have made cgroups below its own.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let absent_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let Ok(entries) = std::fs::read_dir(dir) else {
        return absent_is_fine(std::fs::remove_dir(dir));
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    absent_is_fine(std::fs::remove_dir(dir))
}

/// `cgroup.events` becomes readable with POLLPRI when `populated` changes (cgroup-v2.rst).
fn wait_until_empty(dir: &Path) -> io::Result<()> {
    let deadline = std::time::Instant::now() + KILL_PATIENCE;
    let file = std::fs::File::open(dir.join("cgroup.events"))?;
    loop {
        let mut text = [0u8; 256];
        let n = rustix::io::pread(&file, &mut text, 0)?;
        if String::from_utf8_lossy(&text[..n]).contains("populated 0") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let v1 =
            "31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory";
        let v2 = "40 30 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let other = "40 30 0:36 / /proc rw - proc proc rw";
        let parsed = |line| parse_mount(line).map(|mount| (mount.path, mount.is_v2));
        assert_eq!(parsed(v1), Some(("/sys/fs/cgroup/memory".into(), false)));
        assert_eq!(parsed(v2), Some(("/sys/fs/cgroup/unified".into(), true)));
        assert_eq!(parsed(other), None);
    }
}
