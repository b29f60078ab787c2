//! Processes beside the init: started, signalled, and told of when they end.

use std::os::fd::OwnedFd;

use rustix::process::Pid;

use crate::runtime::cgroup::Part;
use crate::runtime::channel::{Parent, Report};
use crate::runtime::failure::Failure;
use crate::runtime::process::Starting;
use crate::sys::pidfd;

/// One exec.
#[derive(Debug)]
pub struct Exec {
    pub id: String,
    pub pid: i32,
    pub phase: Phase,
    /// Where it and its offspring are, if they are kept apart.
    pub part: Option<Part>,
}

#[derive(Debug)]
pub enum Phase {
    /// The helper works; the request waits for its answer.
    Starting {
        request: u64,
        channel: Parent,
        /// The terminal's master, for the answer.
        master: Option<OwnedFd>,
        process: Option<OwnedFd>,
        failure: Option<Failure>,
    },
    Running(OwnedFd),
}

/// What a packet of the helper led to.
#[derive(Debug)]
pub enum Step {
    Waiting,
    /// The program runs: answer the request with the pid (and the terminal).
    Started {
        request: u64,
        master: Option<OwnedFd>,
    },
    Failed {
        request: u64,
        failure: Failure,
    },
}

impl Exec {
    /// The helper itself is reaped as a stranger: nothing depends on its end.
    pub fn new(id: String, request: u64, starting: Starting, part: Option<Part>) -> Exec {
        let phase = Phase::Starting {
            request,
            channel: starting.channel,
            master: None,
            process: None,
            failure: None,
        };
        Exec {
            id,
            pid: 0,
            phase,
            part,
        }
    }

    /// Sends SIGKILL to it and to what it has started.
    ///
    /// # Errors
    /// Of the signal to the process itself.
    pub fn kill(&self) -> std::io::Result<()> {
        let Phase::Running(process) = &self.phase else {
            return Ok(());
        };
        // It leads a session of its own, and is not reaped, so the number is still its. This finds
        // what stayed in its group; the part of the cgroup finds the rest, from Linux 5.14 on.
        if let Some(group) = Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        if let Some(part) = &self.part {
            let _ = part.kill_all();
        }
        pidfd::send_signal(process, libc::SIGKILL)
    }

    /// Takes one packet off the channel.
    pub fn advance(&mut self) -> Step {
        let Phase::Starting {
            request,
            channel,
            master,
            process,
            failure,
        } = &mut self.phase
        else {
            return Step::Waiting;
        };
        let lost = || Failure {
            kind: crate::runtime::failure::Kind::System,
            message: "the exec helper has ended".to_owned(),
            errno: 0,
        };
        match channel.receive() {
            Ok(Report::Console(fd)) => *master = Some(fd),
            Ok(Report::Forked(pid)) => {
                self.pid = pid;
                // It is our child and not reaped, so the number is still its.
                *process = Pid::from_raw(pid).and_then(|pid| pidfd::open(pid).ok());
            }
            Ok(Report::Nothing) => {}
            Ok(Report::Failed(reported)) => *failure = Some(reported),
            Ok(Report::Closed) | Err(_) => {
                let request = *request;
                return match (failure.take(), process.take()) {
                    (None, Some(process)) => {
                        let master = master.take();
                        self.phase = Phase::Running(process);
                        Step::Started { request, master }
                    }
                    (failure, process) => {
                        if let Some(process) = process {
                            // It reported and is about to end.
                            let _ = pidfd::send_signal(process, libc::SIGKILL);
                        }
                        self.pid = 0;
                        Step::Failed {
                            request,
                            failure: failure.unwrap_or_else(lost),
                        }
                    }
                };
            }
        }
        Step::Waiting
    }
}
