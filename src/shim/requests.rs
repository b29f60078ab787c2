//! What an engine may ask of a shim, and what it gets.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use oci_spec::runtime::Process;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};

use crate::runtime::cgroup::Cgroup;
use crate::runtime::exec;
use crate::runtime::failure::{Failure as StartFailure, Kind};
use crate::runtime::process::Stdio;
use crate::shim::connection::{Connection, Incoming};
use crate::shim::execs::{Exec, Phase as ExecPhase};
use crate::shim::protocol::{Answer, Call, FailureKind, Request, State, VERSION, file};
use crate::shim::supervise::{Phase, Shim, failed, own, wire};
use crate::sys::{clone, fd, pidfd, pty, socket};

impl Shim {
    pub(super) fn accept(&mut self) {
        let Ok((socket, uid)) = socket::accept(&self.listener) else {
            return;
        };
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return;
        }
        // The newest wins: an engine that died may not be noticed yet.
        self.connection = Connection::new(socket).ok();
        self.respawn = None;
    }

    pub(super) fn converse(&mut self, events: PollFlags) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if events.contains(PollFlags::OUT) && connection.flush().is_err() {
            return self.lose_connection();
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        match connection.receive() {
            Incoming::Request(request, fds) => self.answer(*request, fds),
            Incoming::Nothing => {}
            Incoming::Closed => self.lose_connection(),
        }
    }

    pub(super) fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let id = request.id;
        let (answer, fds) = match request.call {
            Call::Exec {
                exec_id,
                process,
                user,
                group_add,
                tty,
                size,
                apart,
            } => {
                let stdio = if tty {
                    Some(Stdio::Terminal { size })
                } else {
                    streams(fds)
                };
                let wish = ExecWish {
                    id: exec_id,
                    process: &process,
                    user: user.as_deref(),
                    group_add: &group_add,
                    apart,
                };
                match self.start_exec(id, wish, stdio) {
                    Ok(()) => return,
                    Err(answer) => (answer, Vec::new()),
                }
            }
            Call::Attach => match self
                .master
                .as_ref()
                .or(self.stdin.as_ref())
                .map(fd::duplicate)
            {
                Some(Ok(fd)) => (Answer::Done, vec![fd]),
                Some(Err(error)) => (io_answer("attach", error), Vec::new()),
                None => (
                    failed(FailureKind::Invalid, "standard input is not open"),
                    Vec::new(),
                ),
            },
            call => (self.act(call), Vec::new()),
        };
        self.reply(id, answer, fds);
        if self.released {
            clone::exit(0)
        }
    }

    pub(super) fn act(&mut self, call: Call) -> Answer {
        match call {
            Call::State => Answer::State(State {
                version: VERSION,
                start: self.start.clone(),
                exit: self.exit.clone(),
                paused: self.paused,
                execs: self.execs.iter().map(|exec| exec.id.clone()).collect(),
                log_dropped_bytes: self.log.dropped_bytes,
            }),
            Call::Signal { signal, all } => self.signal(signal, all),
            Call::Stop { signal, grace_ms } => {
                if self.exit.is_some() {
                    return Answer::Done;
                }
                if self.paused && self.cgroup.thaw().is_ok() {
                    self.paused = false;
                }
                let answer = self.signal(signal, false);
                let at = Instant::now() + Duration::from_millis(grace_ms);
                // A second stop may shorten the first one's grace, never lengthen it.
                self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
                answer
            }
            Call::Pause | Call::Resume if !matches!(self.phase, Phase::Running(_)) => {
                failed(FailureKind::Invalid, "the container is not running")
            }
            Call::Pause => match self.cgroup.freeze() {
                Ok(()) => {
                    self.paused = true;
                    Answer::Done
                }
                Err(error) => Answer::Failed(wire(StartFailure::new(Kind::System, &error))),
            },
            Call::Resume => match self.cgroup.thaw() {
                Ok(()) => {
                    self.paused = false;
                    Answer::Done
                }
                Err(error) => Answer::Failed(wire(StartFailure::new(Kind::System, &error))),
            },
            Call::SignalExec { exec_id, signal } => {
                let exec = self.execs.iter().find(|exec| exec.id == exec_id);
                match exec.map(|exec| (exec.pid, &exec.phase)) {
                    Some((pid, ExecPhase::Running(process))) => {
                        // It leads a session of its own and is not reaped, so the group is its.
                        // What it has started would outlive it: of a probe that hangs, for ever (L17).
                        if let (libc::SIGKILL, Some(group)) =
                            (signal, rustix::process::Pid::from_raw(pid))
                        {
                            let _ = rustix::process::kill_process_group(
                                group,
                                rustix::process::Signal::KILL,
                            );
                        }
                        done(pidfd::send_signal(process, signal))
                    }
                    Some((_, ExecPhase::Starting { .. })) => {
                        failed(FailureKind::Invalid, "the exec is still starting")
                    }
                    None => failed(FailureKind::Invalid, "no such exec"),
                }
            }
            Call::KillExec { exec_id } => match self.execs.iter().find(|exec| exec.id == exec_id) {
                Some(exec) => done(exec.kill()),
                None => failed(FailureKind::Invalid, "no such exec"),
            },
            Call::CloseStdin => {
                self.stdin = None;
                Answer::Done
            }
            Call::Resize { size } => match &self.master {
                Some(master) => done(pty::resize(master, size)),
                None => failed(FailureKind::Invalid, "the container has no terminal"),
            },
            Call::Release if self.exit.is_some() => {
                let _ = std::fs::remove_file(self.settings.dir.join(file::SOCKET));
                self.released = true;
                Answer::Done
            }
            Call::Release => failed(FailureKind::Invalid, "the container has not ended"),
            Call::Goodbye => {
                if let Some(connection) = &mut self.connection {
                    connection.goodbye = true;
                }
                Answer::Done
            }
            // Answered with descriptors, by the caller of this.
            Call::Exec { .. } | Call::Attach => failed(FailureKind::Invalid, "not answered here"),
        }
    }

    pub(super) fn signal(&mut self, signal: i32, all: bool) -> Answer {
        let init = match &self.phase {
            Phase::Starting { starting, .. } => &starting.child.pidfd,
            Phase::Running(init) => init,
            Phase::Exited => return failed(FailureKind::Invalid, "the container has ended"),
        };
        if all && signal == libc::SIGKILL {
            self.kill_everything();
            return Answer::Done;
        }
        if all {
            return done(signal_members(&self.cgroup, signal));
        }
        done(pidfd::send_signal(init, signal))
    }

    pub(super) fn start_exec(
        &mut self,
        request: u64,
        wish: ExecWish<'_>,
        stdio: Option<Stdio>,
    ) -> Result<(), Answer> {
        let Phase::Running(init) = &self.phase else {
            return Err(failed(FailureKind::Invalid, "the container is not running"));
        };
        if self.paused {
            return Err(failed(FailureKind::Invalid, "the container is paused"));
        }
        let Some(stdio) = stdio else {
            return Err(failed(
                FailureKind::Invalid,
                "an exec needs three descriptors or a terminal",
            ));
        };
        // Without a part of its own a later kill reaches its process group, which is most of it.
        let part = wish
            .apart
            .then(|| self.cgroup.make_part(&part_name(&wish.id)).ok())
            .flatten();
        let exec = exec::Exec {
            process: wish.process,
            user: wish.user,
            group_add: wish.group_add,
            init: init.as_fd(),
            cgroup: &self.cgroup,
            part: part.as_ref(),
            seccomp: self.filter.as_ref(),
        };
        let starting = match exec::spawn(&exec, stdio) {
            Ok(starting) => starting,
            Err(error) => {
                self.parts.extend(part);
                self.remove_parts();
                return Err(Answer::Failed(wire(error.into())));
            }
        };
        // A dead helper shows as the end of its channel.
        let _ = starting.channel.go();
        self.execs.push(Exec::new(wish.id, request, starting, part));
        Ok(())
    }

    /// Removes what ended execs have left, as far as nothing runs in it any more.
    pub(super) fn remove_parts(&mut self) {
        let Shim { parts, cgroup, .. } = self;
        parts.retain(|part| !cgroup.remove_part(part));
    }
}

/// What an engine wants run.
pub(super) struct ExecWish<'a> {
    id: String,
    process: &'a Process,
    user: Option<&'a str>,
    group_add: &'a [String],
    apart: bool,
}

/// Ids are of the engine's choice; what else comes is made harmless as a file name.
fn part_name(exec_id: &str) -> String {
    let plain = exec_id.chars().filter(char::is_ascii_alphanumeric);
    let plain: String = plain.take(24).collect();
    format!("exec-{plain}")
}

fn streams(fds: Vec<OwnedFd>) -> Option<Stdio> {
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).ok()?;
    Some(Stdio::Streams {
        stdin,
        stdout,
        stderr,
    })
}

fn done(result: std::io::Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => io_answer("act on the process", error),
    }
}

fn io_answer(step: &'static str, error: std::io::Error) -> Answer {
    Answer::Failed(wire(own(step)(error)))
}

/// Signals every process of the cgroup, each through a pidfd opened while it is still listed.
fn signal_members(cgroup: &Cgroup, signal: i32) -> std::io::Result<()> {
    let list = rustix::fs::openat(
        cgroup.v2_fd(),
        "cgroup.procs",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let text = std::io::read_to_string(std::fs::File::from(list))?;
    for pid in text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
    {
        if let Ok(process) = pidfd::open(pid) {
            pidfd::send_signal(process, signal)?;
        }
    }
    Ok(())
}
