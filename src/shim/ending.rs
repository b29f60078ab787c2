//! How things end: a start that fails, the init, whatever else is in the container, strangers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::runtime::failure::Failure as StartFailure;
use crate::shim::execs::Phase as ExecPhase;
use crate::shim::output::Pumped;
use crate::shim::protocol::{Call, Event, ExitRecord, FailureKind};
use crate::shim::record;
use crate::shim::supervise::{Phase, Shim, failed, report_failure, wire};
use crate::sys::{clone, pidfd, signal};

/// How long killed processes may take to be gone before the end is reported all the same.
const REAP: Duration = Duration::from_secs(5);

/// How long output may go on after everything in the container is dead.
const DRAIN: Duration = Duration::from_secs(2);

/// Where the cgroup cannot be killed at once, processes are killed again after this long.
const RETRY: Duration = Duration::from_millis(20);

/// Pauses between looks at the counter of OOM kills after a wake-up.
const OOM_FIRST: Duration = Duration::from_millis(10);
pub(super) const OOM_LAST: Duration = Duration::from_secs(1);

/// Kills a process that makes a container, and sees it end.
pub(super) fn kill_child(child: &OwnedFd) {
    let _ = pidfd::send_signal(child, libc::SIGKILL);
    wait_readable(child.as_fd(), PollFlags::IN, Instant::now() + REAP);
    let _ = pidfd::try_wait(child);
}

impl Shim {
    pub(super) fn start_failed(&mut self, failure: StartFailure) -> ! {
        self.kill_everything();
        if let Phase::Starting { starting, .. } = &self.phase {
            kill_child(&starting.child.pidfd);
        }
        self.empty_cgroup();
        self.outputs.clear();
        report_failure(self.connection.as_mut(), &self.settings.dir, wire(failure));
        clone::exit(1)
    }

    pub(super) fn init_ended(&mut self) {
        let Phase::Running(init) = &self.phase else {
            return;
        };
        let ended = match pidfd::try_wait(init) {
            Ok(None) => return,
            Ok(Some(ended)) => ended,
            // Cannot happen to the parent; treated like a loss of the status.
            Err(_) => pidfd::Ended {
                code: 137,
                signal: Some(libc::SIGKILL),
            },
        };
        let finished_at = record::now();
        self.kill_at = None;
        self.kill_everything();
        self.wait_unpopulated();
        // Every writer is dead, so what is in the pipes is all there will ever be; unless one was
        // handed out of the container, whose writing must not keep the end from being told.
        let deadline = Instant::now() + DRAIN;
        for mut output in std::mem::take(&mut self.outputs) {
            while output.pump(&mut self.log) == Pumped::More && Instant::now() < deadline {}
            output.end(&mut self.log);
        }
        let oom_killed = self.cgroup.oom_kills() > 0;
        self.oom = None;
        self.empty_cgroup();
        self.end_execs();
        self.stdin = None;
        self.master = None;
        self._held.clear();
        let record = ExitRecord {
            code: ended.code,
            signal: ended.signal,
            oom_killed,
            finished_at,
        };
        let _ = record::write_exit(&self.settings.dir, &record);
        self.phase = Phase::Exited;
        self.exit = Some(record.clone());
        self.reap();
        self.tell(Event::Exited { record });
    }

    /// Kills whatever is in the cgroup, frozen or not.
    pub(super) fn kill_everything(&mut self) {
        let _ = self.cgroup.kill_all();
        if self.paused {
            // On the old hierarchy a kill waits for the thaw.
            let _ = self.cgroup.thaw();
            self.paused = false;
        }
        if let Phase::Running(init) = &self.phase {
            let _ = pidfd::send_signal(init, libc::SIGKILL);
        }
    }

    pub(super) fn wait_unpopulated(&self) {
        let deadline = Instant::now() + REAP;
        while self.cgroup.is_populated() && Instant::now() < deadline {
            let _ = self.cgroup.kill_all();
            // Opened anew each time: the change to wait for is the next one.
            let Ok(events) = self.cgroup.populated_fd() else {
                return;
            };
            if !self.cgroup.is_populated() {
                return;
            }
            wait_readable(
                events.as_fd(),
                PollFlags::PRI,
                deadline.min(Instant::now() + RETRY),
            );
        }
    }

    pub(super) fn empty_cgroup(&self) {
        self.wait_unpopulated();
        // What cannot be removed now is a leftover that the next start of the name clears.
        let _ = self.cgroup.remove();
    }

    /// Execs end with the container; their codes are told before its own.
    pub(super) fn end_execs(&mut self) {
        let deadline = Instant::now() + REAP;
        for exec in std::mem::take(&mut self.execs) {
            match exec.phase {
                ExecPhase::Running(process) => {
                    let _ = pidfd::send_signal(&process, libc::SIGKILL);
                    wait_readable(process.as_fd(), PollFlags::IN, deadline);
                    let code = pidfd::try_wait(&process)
                        .ok()
                        .flatten()
                        .map_or(137, |ended| ended.code);
                    self.tell(Event::ExecExited {
                        exec_id: exec.id,
                        code,
                    });
                }
                ExecPhase::Starting { request, .. } => {
                    self.reply(
                        request,
                        failed(FailureKind::Invalid, "the container has ended"),
                        Vec::new(),
                    );
                }
            }
        }
    }

    pub(super) fn oom_event(&mut self) {
        // Both kinds want to be read before the next wait: an event counter, or the file of
        // events, which is read from its start.
        let mut buffer = [0; 512];
        let read = self.oom.as_ref().map(|oom| {
            rustix::io::pread(oom, &mut buffer, 0).or_else(|_| rustix::io::read(oom, &mut buffer))
        });
        let kills = self.cgroup.oom_kills();
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.oom_again = None;
            self.tell(Event::OomKilled);
        } else if self.oom_again.is_none() {
            // The wake-up comes before the kill is counted, and there is no second one (L18).
            self.oom_again = Some((Instant::now() + OOM_FIRST, OOM_FIRST));
        }
        // A removed cgroup is readable for ever, and says nothing.
        if matches!(read, Some(Err(error)) if error != rustix::io::Errno::AGAIN) {
            self.oom = None;
        }
    }

    /// SIGCHLD, and SIGTERM: the machine goes down, or an administrator wants the container gone.
    pub(super) fn signalled(&mut self) {
        while let Some(signal) = signal::next(self.signals.as_fd()) {
            if signal == libc::SIGTERM {
                let (signal, grace_ms) = (self.settings.stop_signal, self.settings.stop_grace_ms);
                self.act(Call::Stop { signal, grace_ms });
            }
        }
        self.reap();
    }

    /// Takes orphans that came to this subreaper. Not while the container or an exec starts: its
    /// process may have ended before its number was heard of.
    pub(super) fn reap(&mut self) {
        let init = match &self.phase {
            Phase::Starting { .. } => return,
            Phase::Running(_) => self.start.as_ref().map_or(0, |start| start.pid),
            Phase::Exited => 0,
        };
        if self
            .execs
            .iter()
            .any(|exec| matches!(exec.phase, ExecPhase::Starting { .. }))
        {
            return;
        }
        pidfd::reap_strangers(|pid| pid == init || self.execs.iter().any(|exec| exec.pid == pid));
    }
}

fn wait_readable(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) {
    let mut fds = [PollFd::from_borrowed_fd(fd, events)];
    // An interrupted wait is a short one: the callers look again.
    let _ = poll(&mut fds, Some(&until(deadline)));
}

/// The time left, as `poll` wants it.
pub(super) fn until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}
