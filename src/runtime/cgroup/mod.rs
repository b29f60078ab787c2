//! The cgroup of one container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};

#[derive(Debug, thiserror::Error)]
#[error("cgroup {}", path.display())]
pub struct CgroupError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    fd: OwnedFd,
}

impl Cgroup {
    /// # Errors
    /// Of the mkdir.
    pub fn create(path: &Path, _resources: Option<&LinuxResources>) -> Result<Cgroup, CgroupError> {
        let path = Path::new("/sys/fs/cgroup/unified").join(path);
        std::fs::create_dir_all(&path).map_err(|source| CgroupError { path: path.clone(), source })?;
        Self::open_dir(path)
    }

    /// # Errors
    /// When it does not exist.
    pub fn open(path: &Path) -> Result<Cgroup, CgroupError> {
        Self::open_dir(Path::new("/sys/fs/cgroup/unified").join(path))
    }

    fn open_dir(path: PathBuf) -> Result<Cgroup, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Cgroup { path, fd }),
            Err(error) => Err(CgroupError { path, source: error.into() }),
        }
    }

    #[must_use]
    pub fn v2_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// # Errors
    /// Of the write.
    pub fn enter_v1_self(&self) -> Result<(), CgroupError> {
        Ok(())
    }

    fn write(&self, name: &str, value: &str) -> Result<(), CgroupError> {
        std::fs::write(self.path.join(name), value)
            .map_err(|source| CgroupError { path: self.path.clone(), source })
    }

    /// # Errors
    /// Of the write.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// # Errors
    /// Of the write.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.write("cgroup.freeze", "1")
    }

    /// # Errors
    /// Of the write.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.write("cgroup.freeze", "0")
    }

    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        0
    }

    #[must_use]
    pub fn oom_poll_fd(&self) -> Option<OwnedFd> {
        None
    }

    #[must_use]
    pub fn is_populated(&self) -> bool {
        std::fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|text| text.contains("populated 1"))
    }

    #[must_use]
    pub fn populated_fd(&self) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(self.path.join("cgroup.events"), flags, Mode::empty()).ok()
    }

    /// # Errors
    /// Of the rmdir.
    pub fn remove(&self) -> Result<(), CgroupError> {
        std::fs::remove_dir(&self.path)
            .map_err(|source| CgroupError { path: self.path.clone(), source })
    }
}
