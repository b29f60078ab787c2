//! Where this machine keeps its cgroups: the cgroup2 tree, and v1 hierarchies by controller.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::CgroupError;
use super::directory::{open_directory, read_at};

/// The trees, opened once for each [`super::Cgroup`]: a process may change its mount namespace, and
/// descriptors go with it where paths do not.
#[derive(Debug)]
pub(super) struct Hierarchies {
    /// Root of the cgroup2 tree as far as we see it.
    pub v2: OwnedFd,
    /// Mount points of v1 hierarchies with their controllers.
    v1: Vec<(Vec<String>, PathBuf)>,
}

impl Hierarchies {
    /// Reads the mount table of the calling process.
    pub fn discover() -> Result<Hierarchies, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Discover)?;
        let (v2, v1) = parse(&table);
        let v2 = match v2 {
            Some(path) => open_directory(CWD, &path).map_err(CgroupError::Discover)?,
            // A v1-only host: the default hierarchy exists all the same, it is merely mounted
            // nowhere. A detached mount shows it to us and to nobody else.
            None => mount_privately().map_err(CgroupError::Discover)?,
        };
        Ok(Hierarchies { v2, v1 })
    }

    /// The mount point of the v1 hierarchy that has `controller`.
    pub fn v1(&self, controller: &str) -> Option<&Path> {
        self.v1
            .iter()
            .find(|(names, _)| names.iter().any(|n| n == controller))
            .map(|(_, path)| path.as_path())
    }

    /// Whether the cgroup2 tree can give us `controller`.
    pub fn v2_has(&self, controller: &str) -> bool {
        read_at(self.v2.as_fd(), "cgroup.controllers")
            .is_ok_and(|list| list.split_whitespace().any(|c| c == controller))
    }
}

fn mount_privately() -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let mount = rustix::mount::fsmount(
        fs.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    open_directory(mount.as_fd(), Path::new("."))
}

/// Mount point of cgroup2, and those of v1 with their controllers. Of several mounts of one
/// hierarchy the first counts: later ones are binds into containers.
fn parse(mountinfo: &str) -> (Option<PathBuf>, Vec<(Vec<String>, PathBuf)>) {
    let mut v2 = None;
    let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
    for line in mountinfo.lines() {
        // `id parent dev root point options… - type source super`, see proc_pid_mountinfo(5).
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = before.split(' ').nth(4) else {
            continue;
        };
        let mut after = after.split(' ');
        let (kind, options) = (after.next().unwrap_or(""), after.nth(1).unwrap_or(""));
        let point = PathBuf::from(unescape(point));
        match kind {
            "cgroup2" if v2.is_none() => v2 = Some(point),
            "cgroup" => {
                let names: Vec<String> = options
                    .split(',')
                    .filter(|o| !o.is_empty() && *o != "rw" && *o != "ro" && !o.contains('='))
                    .map(str::to_owned)
                    .collect();
                if !names.is_empty() && !v1.iter().any(|(known, _)| *known == names) {
                    v1.push((names, point));
                }
            }
            _ => {}
        }
    }
    (v2, v1)
}

/// Undoes the octal escapes of blanks and backslashes in a mount table.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a v1-only host gets shows the same tree as a mount would.
    #[test]
    fn the_default_hierarchy_needs_no_mount_point() {
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("not root: mounting cgroup2 is not tested");
            return;
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        // The options of a mount are those of the whole hierarchy: ours would take away what an
        // init system has set (nsdelegate). Where wharf mounts it nobody else has.
        if table
            .lines()
            .filter_map(|line| line.split_once(" - cgroup2 "))
            .any(|(_, rest)| rest.contains("rw,"))
        {
            tracing::warn!("cgroup2 is mounted with options: mounting it is not tested");
            return;
        }
        let private = mount_privately().unwrap();
        assert!(read_at(private.as_fd(), "cgroup.procs").is_ok());
        if let (Some(path), _) = parse(&table) {
            let mounted = open_directory(CWD, &path).unwrap();
            let id = |fd: &OwnedFd| {
                let stat = rustix::fs::fstat(fd).unwrap();
                (stat.st_dev, stat.st_ino)
            };
            assert_eq!(id(&private), id(&mounted));
        }
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), table);
    }

    #[test]
    fn mount_tables_of_both_worlds_are_read() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
            99 31 0:29 / /var/lib/x/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let (v2, v1) = parse(hybrid);
        assert_eq!(v2.unwrap(), Path::new("/sys/fs/cgroup/uni fied"));
        assert_eq!(
            v1,
            [(
                vec!["cpu".to_owned(), "cpuacct".to_owned()],
                PathBuf::from("/sys/fs/cgroup/cpu")
            )]
        );
        let (v2, v1) = parse("30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(v2.unwrap(), Path::new("/sys/fs/cgroup"));
        assert!(v1.is_empty());
    }
}
