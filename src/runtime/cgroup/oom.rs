//! OOM kills: the counter, and something to wait on.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::OFlags;

use super::directory::{open_file, read_at, write_at};
use super::{Cgroup, Member};

impl Cgroup {
    /// How often the OOM killer took a process of this cgroup (HAZARDS L18). 0 when no memory
    /// controller holds it. Read it before [`Cgroup::remove`].
    pub fn oom_kills(&self) -> u64 {
        let text = match self.memory_v1() {
            Some(member) => read_at(member.directory.as_fd(), "memory.oom_control"),
            None => read_at(self.v2.as_fd(), "memory.events"),
        };
        text.ok()
            .and_then(|t| {
                t.lines()
                    .find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
            })
            .unwrap_or(0)
    }

    /// Something to poll for `POLLPRI | POLLIN`: wakes around an OOM kill (and, on v2, for less);
    /// then ask [`Cgroup::oom_kills`]. `None` when no memory controller holds the cgroup.
    ///
    /// On v1 it is an eventfd, whose eight bytes are to be read after a wake-up; on v2 it is
    /// `memory.events`, to be read again from its start. No inotify is used (HAZARDS L19).
    pub fn oom_poll_fd(&self) -> Option<OwnedFd> {
        let Some(member) = self.memory_v1() else {
            let fd = open_file(self.v2.as_fd(), "memory.events", OFlags::RDONLY).ok()?;
            let mut buffer = [0; 512];
            rustix::io::pread(&fd, &mut buffer, 0).ok()?;
            return Some(fd);
        };
        let directory = member.directory.as_fd();
        let control = open_file(directory, "memory.oom_control", OFlags::RDONLY).ok()?;
        let event = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )
        .ok()?;
        let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        write_at(directory, "cgroup.event_control", &registration).ok()?;
        Some(event)
    }

    fn memory_v1(&self) -> Option<&Member> {
        self.v1.iter().find(|m| m.controller == "memory")
    }
}
