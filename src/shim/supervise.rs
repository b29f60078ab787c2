//! A shim's life: make the container, serve the engine, record the end. One thread, one `poll`.
//!
//! ```text
//! Starting ──program executed──▶ Running ──init ended──▶ Exited ──Release──▶ end
//!     └──────failed────▶ StartFailed is told, end
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::runtime::cgroup::{Cgroup, Part};
use crate::runtime::channel::Report;
use crate::runtime::failure::{Failure as StartFailure, Kind};
use crate::runtime::namespaces::Namespaces;
use crate::runtime::process::{Starting, Stdio};
use crate::runtime::seccomp::{self, Filter};
use crate::runtime::start::{self, Place, StartError};
use crate::shim::connection::Connection;
use crate::shim::ending::{self, OOM_LAST, until};
use crate::shim::execs::{Exec, Phase as ExecPhase, Step};
use crate::shim::outline::{self, Outline};
use crate::shim::output::{LogFile, Output, Pumped};
use crate::shim::protocol::log::Stream;
use crate::shim::protocol::{
    Answer, Event, ExitRecord, Failure, FailureKind, Message, Spawn, StartRecord, file,
};
use crate::shim::record;
use crate::shim::respawn::Respawn;
use crate::sys::clone;
use crate::sys::{fd, pidfd, process, signal, socket};

/// After this much quiet, memory that work needed is given back.
const QUIET: Duration = Duration::from_secs(1);

/// What of the bundle is needed after the start.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) dir: PathBuf,
    pub(super) engine_command: Vec<String>,
    pub(super) engine_lock: PathBuf,
    pub(super) stop_signal: i32,
    pub(super) stop_grace_ms: u64,
}

#[derive(Debug)]
pub(super) enum Phase {
    Starting {
        starting: Starting,
        /// Whether the process has been replaced by the one that executes the program.
        forked: bool,
        failure: Option<StartFailure>,
    },
    Running(OwnedFd),
    Exited,
}

#[derive(Debug)]
pub(super) struct Shim {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) cgroup: Cgroup,
    pub(super) filter: Option<Filter>,
    pub(super) connection: Option<Connection>,
    pub(super) listener: OwnedFd,
    pub(super) signals: OwnedFd,
    pub(super) log: LogFile,
    pub(super) outputs: Vec<Output>,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) master: Option<OwnedFd>,
    pub(super) execs: Vec<Exec>,
    /// Parts of the cgroup whose exec has ended, and which were not empty then.
    pub(super) parts: Vec<Part>,
    pub(super) oom: Option<OwnedFd>,
    pub(super) oom_kills: u64,
    /// When to look at the counter again, and the pause before that.
    pub(super) oom_again: Option<(Instant, Duration)>,
    pub(super) paused: bool,
    /// When a stop turns into a kill.
    pub(super) kill_at: Option<Instant>,
    pub(super) start: Option<StartRecord>,
    pub(super) exit: Option<ExitRecord>,
    pub(super) released: bool,
    pub(super) respawn: Option<Respawn>,
    /// When to give memory back.
    pub(super) tidy_at: Option<Instant>,
    /// Reserved sockets: held, never used.
    pub(super) _held: Vec<OwnedFd>,
}

/// What a descriptor in the poll set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Connection,
    Listener,
    Signals,
    Start,
    Init,
    Output(usize),
    Exec(usize),
    Oom,
}

/// The life of a shim, from its fork by the spawner. `births` is closed when engines can find it.
pub fn run(spawn: &Spawn, fds: Vec<OwnedFd>, default_filter: Filter, births: Option<OwnedFd>) -> ! {
    let mut fds = fds.into_iter();
    let Some(control) = fds.next() else {
        clone::exit(2)
    };
    let netns = if spawn.has_netns { fds.next() } else { None };
    let _ = rustix::process::setsid();
    signal::reset();
    signal::ignore(libc::SIGPIPE);
    process::set_name(c"wharf-shim");
    let mut connection = Connection::new(control).ok();
    match Shim::begin(spawn, netns, fds.collect(), default_filter, births) {
        Ok(mut shim) => {
            shim.connection = connection;
            // Reading the bundle went deep, and it will not be read again.
            process::trim_heap();
            process::trim_stack();
            shim.serve()
        }
        Err(failure) => {
            report_failure(connection.as_mut(), &spawn.dir, wire(failure));
            clone::exit(1)
        }
    }
}

/// Tells that there is no container. Without an engine the record says it.
pub(super) fn report_failure(connection: Option<&mut Connection>, dir: &Path, failure: Failure) {
    let code = match failure.kind {
        FailureKind::CommandNotFound => 127,
        FailureKind::CommandNotExecutable => 126,
        FailureKind::Invalid | FailureKind::System => 128,
    };
    let message = Message::Event {
        event: Event::StartFailed { failure },
    };
    let told = connection.is_some_and(|connection| connection.send(&message, Vec::new()).is_ok());
    if !told {
        let record = ExitRecord {
            code,
            signal: None,
            oom_killed: false,
            finished_at: record::now(),
        };
        let _ = record::write_exit(dir, &record);
    }
}

pub(super) fn wire(failure: StartFailure) -> Failure {
    let kind = match failure.kind {
        Kind::CommandNotFound => FailureKind::CommandNotFound,
        Kind::CommandNotExecutable => FailureKind::CommandNotExecutable,
        Kind::Invalid => FailureKind::Invalid,
        Kind::System => FailureKind::System,
    };
    Failure {
        kind,
        message: failure.message,
        errno: failure.errno,
    }
}

pub(super) fn failed(kind: FailureKind, message: &str) -> Answer {
    Answer::Failed(Failure {
        kind,
        message: message.to_owned(),
        errno: 0,
    })
}

/// A failure of the shim's own preparations.
pub(super) fn own(step: &'static str) -> impl Fn(std::io::Error) -> StartFailure {
    move |source| {
        let error = crate::runtime::failure::StepError { step, source };
        StartFailure::new(Kind::System, &error)
    }
}

struct Streams {
    stdio: Stdio,
    outputs: Vec<Output>,
    stdin: Option<OwnedFd>,
}

fn make_streams(outline: &Outline) -> std::io::Result<Streams> {
    let process = &outline.spec.process;
    if process.terminal {
        let size = process.console_size.as_ref();
        let size = size.map(|size| (size.width, size.height));
        return Ok(Streams {
            stdio: Stdio::Terminal { size },
            outputs: Vec::new(),
            stdin: None,
        });
    }
    let (stdin, write) = if outline.open_stdin {
        let (read, write) = fd::pipe()?;
        (read, Some(write))
    } else {
        (fd::null()?, None)
    };
    let (out_read, stdout) = fd::pipe()?;
    let (err_read, stderr) = fd::pipe()?;
    let outputs = vec![
        Output::pipe(out_read, Stream::Stdout)?,
        Output::pipe(err_read, Stream::Stderr)?,
    ];
    Ok(Streams {
        stdio: Stdio::Streams {
            stdin,
            stdout,
            stderr,
        },
        outputs,
        stdin: write,
    })
}

impl Shim {
    fn begin(
        spawn: &Spawn,
        netns: Option<OwnedFd>,
        held: Vec<OwnedFd>,
        default_filter: Filter,
        births: Option<OwnedFd>,
    ) -> Result<Shim, StartFailure> {
        process::become_subreaper().map_err(own("become a subreaper"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&spawn.dir, flags, Mode::empty())
            .map_err(|error| own("open the run directory")(error.into()))?;
        let outline = outline::read(&spawn.dir)?;
        let listener = socket::listen(dir.as_fd(), file::SOCKET).map_err(own("listen"))?;
        record::write_shim(&spawn.dir).map_err(own("write the shim record"))?;
        // An engine that comes now finds this shim, and waits for the outcome of the start.
        drop(births);
        let (rotation, is_torn) = (outline.log_rotation, outline.is_log_torn);
        let log =
            LogFile::open(&outline.log_path, rotation, is_torn).map_err(own("open the log"))?;
        let signals =
            signal::watch(&[libc::SIGCHLD, libc::SIGTERM]).map_err(own("watch signals"))?;

        let linux = &outline.spec.linux;
        let filter = match &linux.seccomp {
            Some(profile) => Some(
                seccomp::compile(profile)
                    .map_err(|error| StartFailure::new(Kind::Invalid, &error))?,
            ),
            None => outline.default_seccomp.then_some(default_filter),
        };
        let cgroup = Cgroup::create(&outline.cgroup, linux.resources.as_ref())
            .map_err(|error| StartFailure::new(Kind::System, &error))?;
        let streams = make_streams(&outline).map_err(own("make pipes"));
        let started = streams.and_then(|streams| {
            let starting = spawn_container(
                &outline,
                spawn,
                &cgroup,
                netns.as_ref(),
                filter.as_ref(),
                streams.stdio,
            )?;
            Ok((starting, streams.outputs, streams.stdin))
        });
        let (starting, outputs, stdin) = match started {
            Ok(started) => started,
            Err(failure) => {
                let _ = cgroup.remove();
                return Err(failure);
            }
        };
        // Nobody but the child has the network namespace from here on: it ends with the container.
        drop(netns);
        Ok(Shim {
            settings: Settings {
                dir: spawn.dir.clone(),
                engine_command: outline.engine_command,
                engine_lock: outline.engine_lock,
                stop_signal: outline.stop_signal,
                stop_grace_ms: outline.stop_grace_ms,
            },
            phase: Phase::Starting {
                starting,
                forked: false,
                failure: None,
            },
            oom: cgroup.oom_poll_fd(),
            oom_kills: 0,
            oom_again: None,
            cgroup,
            filter,
            connection: None,
            listener,
            signals,
            log,
            outputs,
            stdin,
            master: None,
            execs: Vec::new(),
            parts: Vec::new(),
            paused: false,
            kill_at: None,
            start: None,
            exit: None,
            released: false,
            respawn: None,
            tidy_at: Some(Instant::now() + QUIET),
            _held: held,
        })
    }

    pub(super) fn serve(&mut self) -> ! {
        loop {
            for (source, events) in self.wait() {
                self.handle(source, events);
            }
            self.timers();
        }
    }

    /// Waits for descriptors or the next timer, and says what is ready.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut sources = Vec::with_capacity(12);
        let mut fds = Vec::with_capacity(12);
        let mut add = |source, fd, events| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, events));
        };
        // Order matters: output before the end of what writes it, ends before strangers.
        for (at, output) in self.outputs.iter().enumerate() {
            add(Source::Output(at), output.as_fd(), PollFlags::IN);
        }
        match &self.phase {
            Phase::Starting { starting, .. } => {
                add(Source::Start, starting.channel.as_fd(), PollFlags::IN);
            }
            Phase::Running(init) => add(Source::Init, init.as_fd(), PollFlags::IN),
            Phase::Exited => {}
        }
        for (at, exec) in self.execs.iter().enumerate() {
            let fd = match &exec.phase {
                ExecPhase::Starting { channel, .. } => channel.as_fd(),
                ExecPhase::Running(process) => process.as_fd(),
            };
            add(Source::Exec(at), fd, PollFlags::IN);
        }
        if let Some(oom) = &self.oom {
            add(Source::Oom, oom.as_fd(), PollFlags::PRI | PollFlags::IN);
        }
        if let Some(connection) = &self.connection {
            let writing = if connection.is_waiting() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            add(
                Source::Connection,
                connection.as_fd(),
                PollFlags::IN | writing,
            );
        }
        add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        add(Source::Signals, self.signals.as_fd(), PollFlags::IN);

        let timeout = self.next_timer().map(until);
        // EINTR and the like are a round without news.
        let _ = poll(&mut fds, timeout.as_ref());
        sources
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(source, fd)| (source, fd.revents()))
            .collect()
    }

    fn next_timer(&self) -> Option<Instant> {
        let outputs = self.outputs.iter().filter_map(Output::deadline).min();
        let respawn = self.respawn.as_ref().map(Respawn::deadline);
        [
            outputs,
            respawn,
            self.kill_at,
            self.tidy_at,
            self.oom_again.map(|(at, _)| at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn timers(&mut self) {
        let now = Instant::now();
        for output in &mut self.outputs {
            output.flush_due(&mut self.log, now);
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.kill_everything();
        }
        if let Some((_, pause)) = self.oom_again.filter(|(at, _)| *at <= now) {
            self.oom_event();
            let pause = pause * 2;
            // Not every wake-up ends in a kill.
            self.oom_again = self
                .oom_again
                .filter(|_| pause < OOM_LAST)
                .map(|_| (now + pause, pause));
        }
        if let Some(respawn) = self
            .respawn
            .as_mut()
            .filter(|respawn| respawn.deadline() <= now)
        {
            respawn.act(
                now,
                &self.settings.engine_lock,
                &self.settings.engine_command,
            );
        }
        if self.tidy_at.is_some_and(|at| at <= now) {
            self.tidy_at = None;
            self.log.release_buffers();
            process::trim_heap();
            process::trim_stack();
        }
    }

    fn handle(&mut self, source: Source, events: PollFlags) {
        if source != Source::Oom {
            self.tidy_at = Some(Instant::now() + QUIET);
        }
        match source {
            Source::Output(at) => self.pump(at),
            Source::Start => self.advance_start(),
            Source::Init => self.init_ended(),
            Source::Exec(at) => self.advance_exec(at),
            Source::Oom => self.oom_event(),
            Source::Connection => self.converse(events),
            Source::Listener => self.accept(),
            Source::Signals => self.signalled(),
        }
    }

    fn pump(&mut self, at: usize) {
        let Some(output) = self.outputs.get_mut(at) else {
            return;
        };
        if output.pump(&mut self.log) == Pumped::Ended {
            self.outputs.remove(at);
        }
    }

    fn advance_start(&mut self) {
        let Phase::Starting {
            starting,
            forked,
            failure,
        } = &mut self.phase
        else {
            return;
        };
        match starting.channel.receive() {
            Ok(Report::Console(master)) => {
                if let Ok(reader) = fd::duplicate(&master) {
                    self.outputs.push(Output::terminal(reader));
                }
                self.master = Some(master);
            }
            Ok(Report::Failed(reported)) => *failure = Some(reported),
            Ok(Report::Forked(pid)) => {
                // As for an exec: once, and only a child of ours. It is not reaped, so the number
                // is still its.
                let child = Pid::from_raw(pid).filter(|pid| !*forked && pidfd::is_child(*pid));
                if let Some((pid, pidfd)) =
                    child.and_then(|pid| Some((pid, pidfd::open(pid).ok()?)))
                {
                    starting.child = clone::Child { pid, pidfd };
                    *forked = true;
                }
            }
            Ok(Report::Nothing) => {}
            Ok(Report::Closed) | Err(_) => match failure.take() {
                Some(failure) => self.start_failed(failure),
                None => self.started(),
            },
        }
    }

    fn started(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Exited);
        let Phase::Starting { starting, .. } = phase else {
            return;
        };
        let pid = starting.child.pid.as_raw_nonzero().get();
        let record = StartRecord {
            pid,
            // It is not reaped, so it is in /proc, were it dead.
            start_ticks: process::start_ticks(pid).unwrap_or(0),
            started_at: record::now(),
        };
        let _ = record::write_start(&self.settings.dir, &record);
        self.phase = Phase::Running(starting.child.pidfd);
        self.start = Some(record.clone());
        self.tell(Event::Started(record));
        // What came before the program's process, if anything did.
        self.reap();
    }

    fn advance_exec(&mut self, at: usize) {
        let Some(exec) = self.execs.get_mut(at) else {
            return;
        };
        if let ExecPhase::Running(process) = &exec.phase {
            if let Ok(Some(ended)) = pidfd::try_wait(process) {
                let exec = self.execs.remove(at);
                self.tell(Event::ExecExited {
                    exec_id: exec.id,
                    code: ended.code,
                });
                self.reap();
                self.parts.extend(exec.part);
                self.remove_parts();
            }
            return;
        }
        match exec.advance() {
            Step::Waiting => {}
            Step::Started { request, master } => {
                let answer = Answer::Exec { pid: exec.pid };
                self.reply(request, answer, master.into_iter().collect());
                self.reap();
            }
            Step::Failed { request, failure } => {
                let exec = self.execs.remove(at);
                self.reply(request, Answer::Failed(wire(failure)), Vec::new());
                self.reap();
                self.parts.extend(exec.part);
                self.remove_parts();
            }
        }
    }

    pub(super) fn lose_connection(&mut self) {
        let goodbye = self
            .connection
            .take()
            .is_some_and(|connection| connection.goodbye);
        if !goodbye && !self.settings.engine_command.is_empty() {
            self.respawn = Some(Respawn::new(Instant::now()));
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.send(&Message::Event { event }, Vec::new());
    }

    pub(super) fn reply(&mut self, id: u64, answer: Answer, fds: Vec<OwnedFd>) {
        self.send(&Message::Reply { id, answer }, fds);
    }

    fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) {
        let sent = self
            .connection
            .as_mut()
            .map(|connection| connection.send(message, fds));
        if matches!(sent, Some(Err(_))) {
            self.lose_connection();
        }
    }
}

fn spawn_container(
    outline: &Outline,
    spawn: &Spawn,
    cgroup: &Cgroup,
    netns: Option<&OwnedFd>,
    filter: Option<&Filter>,
    stdio: Stdio,
) -> Result<Starting, StartFailure> {
    let wishes = &outline.spec.linux.namespaces;
    let place = Place {
        namespaces: Namespaces::new(wishes, netns.map(AsFd::as_fd)).map_err(StartError::from)?,
        stage: &spawn.dir,
        cgroup,
        cgroup_path: &outline.cgroup,
        seccomp: filter,
    };
    let starting = start::spawn(&place, stdio, || outline::definition(&spawn.dir))?;
    match starting.channel.go() {
        // A dead child shows as the end of its channel, and what it said before is read there.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            ending::kill_child(&starting.child.pidfd);
            Err(own("let the container's process begin")(error))
        }
        _ => Ok(starting),
    }
}
