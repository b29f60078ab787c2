//! A shim's life: make the container, serve the engine, record the end. One thread, one `poll`.
//!
//! ```text
//! Starting ──program executed──▶ Running ──init ended──▶ Exited ──Release──▶ end
//!     └──────failed────▶ StartFailed is told, end
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::runtime::cgroup::Cgroup;
use crate::runtime::channel::Report;
use crate::runtime::exec;
use crate::runtime::failure::{Failure as StartFailure, Kind};
use crate::runtime::process::{Starting, Stdio};
use crate::runtime::rootfs::Overlay;
use crate::runtime::seccomp::{self, Filter};
use crate::runtime::start::{self, Container};
use crate::shim::connection::{Connection, Incoming};
use crate::shim::execs::{Exec, Phase as ExecPhase, Step};
use crate::shim::output::{LogFile, Output, Pumped};
use crate::shim::protocol::log::Stream;
use crate::shim::protocol::{
    Answer, Bundle, Call, Event, ExitRecord, Failure, FailureKind, Message, Request, Rootfs, Spawn,
    StartRecord, State, VERSION, file,
};
use crate::shim::record;
use crate::shim::respawn::Respawn;
use crate::sys::clone;
use crate::sys::{fd, pidfd, process, pty, signal, socket};

/// After this much quiet, memory that work needed is given back.
const QUIET: Duration = Duration::from_secs(1);

/// How long killed processes may take to be gone before the end is reported all the same.
const REAP: Duration = Duration::from_secs(5);

/// How long output may go on after everything in the container is dead.
const DRAIN: Duration = Duration::from_secs(2);

/// Where the cgroup cannot be killed at once, processes are killed again after this long.
const RETRY: Duration = Duration::from_millis(20);

/// What of the bundle is needed after the start.
#[derive(Debug)]
struct Settings {
    dir: PathBuf,
    engine_command: Vec<String>,
    engine_lock: PathBuf,
}

#[derive(Debug)]
enum Phase {
    Starting {
        starting: Starting,
        failure: Option<StartFailure>,
    },
    Running(OwnedFd),
    Exited,
}

#[derive(Debug)]
struct Shim {
    settings: Settings,
    phase: Phase,
    cgroup: Cgroup,
    filter: Option<Filter>,
    connection: Option<Connection>,
    listener: OwnedFd,
    children: OwnedFd,
    log: LogFile,
    outputs: Vec<Output>,
    stdin: Option<OwnedFd>,
    master: Option<OwnedFd>,
    execs: Vec<Exec>,
    oom: Option<OwnedFd>,
    oom_kills: u64,
    paused: bool,
    /// When a stop turns into a kill.
    kill_at: Option<Instant>,
    start: Option<StartRecord>,
    exit: Option<ExitRecord>,
    released: bool,
    respawn: Option<Respawn>,
    /// When to give memory back.
    tidy_at: Option<Instant>,
    /// Reserved sockets: held, never used.
    _held: Vec<OwnedFd>,
}

/// What a descriptor in the poll set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Connection,
    Listener,
    Children,
    Start,
    Init,
    Output(usize),
    Exec(usize),
    Oom,
}

/// The life of a shim, from its fork by the spawner.
pub fn run(spawn: &Spawn, fds: Vec<OwnedFd>, default_filter: Filter) -> ! {
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
    match Shim::begin(spawn, netns, fds.collect(), default_filter) {
        Ok(mut shim) => {
            shim.connection = connection;
            process::trim_heap();
            shim.serve()
        }
        Err(failure) => {
            report_failure(connection.as_mut(), &spawn.dir, wire(failure));
            clone::exit(1)
        }
    }
}

/// Tells that there is no container. Without an engine the record says it.
fn report_failure(connection: Option<&mut Connection>, dir: &Path, failure: Failure) {
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

fn wire(failure: StartFailure) -> Failure {
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

fn failed(kind: FailureKind, message: &str) -> Answer {
    Answer::Failed(Failure {
        kind,
        message: message.to_owned(),
        errno: 0,
    })
}

/// A failure of the shim's own preparations.
fn own(step: &'static str) -> impl Fn(std::io::Error) -> StartFailure {
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

fn make_streams(bundle: &Bundle, process: Option<&Process>) -> std::io::Result<Streams> {
    if process.and_then(Process::terminal) == Some(true) {
        let size = process.and_then(Process::console_size).and_then(|size| {
            Some((
                u16::try_from(size.width()).ok()?,
                u16::try_from(size.height()).ok()?,
            ))
        });
        return Ok(Streams {
            stdio: Stdio::Terminal { size },
            outputs: Vec::new(),
            stdin: None,
        });
    }
    let (stdin, write) = if bundle.open_stdin {
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
    ) -> Result<Shim, StartFailure> {
        process::set_subreaper(Some(())).map_err(own("become a subreaper"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&spawn.dir, flags, Mode::empty())
            .map_err(|error| own("open the run directory")(error.into()))?;
        let text = std::fs::read(spawn.dir.join(file::BUNDLE)).map_err(own("read the bundle"))?;
        let bundle: Bundle =
            serde_json::from_slice(&text).map_err(|error| own("parse the bundle")(error.into()))?;
        drop(text);
        let listener = socket::listen(dir.as_fd(), file::SOCKET).map_err(own("listen"))?;
        record::write_shim(&spawn.dir).map_err(own("write the shim record"))?;
        let log = LogFile::open(&bundle.log_path).map_err(own("open the log"))?;
        let children = signal::child_fd().map_err(own("watch children"))?;

        let spec = &bundle.spec;
        let linux = spec.linux().as_ref();
        let filter = match linux.and_then(|linux| linux.seccomp().as_ref()) {
            Some(profile) => Some(
                seccomp::compile(profile)
                    .map_err(|error| StartFailure::new(Kind::Invalid, &error))?,
            ),
            None => bundle.default_seccomp.then_some(default_filter),
        };
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let cgroup = Cgroup::create(&bundle.cgroup, resources)
            .map_err(|error| StartFailure::new(Kind::System, &error))?;
        let streams = make_streams(&bundle, spec.process().as_ref()).map_err(own("make pipes"));
        let started = streams.and_then(|streams| {
            let starting = spawn_container(
                &bundle,
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
                engine_command: bundle.engine_command,
                engine_lock: bundle.engine_lock,
            },
            phase: Phase::Starting {
                starting,
                failure: None,
            },
            oom: cgroup.oom_poll_fd(),
            oom_kills: 0,
            cgroup,
            filter,
            connection: None,
            listener,
            children,
            log,
            outputs,
            stdin,
            master: None,
            execs: Vec::new(),
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

    fn serve(&mut self) -> ! {
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
        add(Source::Children, self.children.as_fd(), PollFlags::IN);

        let timeout = self.next_timer().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
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
        [outputs, respawn, self.kill_at, self.tidy_at]
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
            Source::Children => self.reap(),
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
        let Phase::Starting { starting, failure } = &mut self.phase else {
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
            Ok(Report::Forked(_) | Report::Nothing) => {}
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
    }

    fn start_failed(&mut self, failure: StartFailure) -> ! {
        self.kill_everything();
        if let Phase::Starting { starting, .. } = &self.phase {
            let _ = pidfd::send_signal(&starting.child.pidfd, libc::SIGKILL);
            let deadline = Instant::now() + REAP;
            wait_readable(starting.child.pidfd.as_fd(), PollFlags::IN, deadline);
            let _ = pidfd::try_wait(&starting.child.pidfd);
        }
        self.empty_cgroup();
        self.outputs.clear();
        report_failure(self.connection.as_mut(), &self.settings.dir, wire(failure));
        clone::exit(1)
    }

    fn init_ended(&mut self) {
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
    fn kill_everything(&mut self) {
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

    fn wait_unpopulated(&self) {
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

    fn empty_cgroup(&self) {
        self.wait_unpopulated();
        // What cannot be removed now is a leftover that the next start of the name clears.
        let _ = self.cgroup.remove();
    }

    /// Execs end with the container; their codes are told before its own.
    fn end_execs(&mut self) {
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

    fn advance_exec(&mut self, at: usize) {
        let Some(exec) = self.execs.get_mut(at) else {
            return;
        };
        if let ExecPhase::Running(process) = &exec.phase {
            if let Ok(Some(ended)) = pidfd::try_wait(process) {
                let exec_id = self.execs.remove(at).id;
                self.tell(Event::ExecExited {
                    exec_id,
                    code: ended.code,
                });
                self.reap();
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
                self.execs.remove(at);
                self.reply(request, Answer::Failed(wire(failure)), Vec::new());
                self.reap();
            }
        }
    }

    fn oom_event(&mut self) {
        // Both kinds want to be read before the next wait: an event counter, or the file of
        // events, which is read from its start.
        let mut buffer = [0; 512];
        let read = self.oom.as_ref().map(|oom| {
            rustix::io::pread(oom, &mut buffer, 0).or_else(|_| rustix::io::read(oom, &mut buffer))
        });
        let kills = self.cgroup.oom_kills();
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.tell(Event::OomKilled);
        }
        // A removed cgroup is readable for ever, and says nothing.
        if matches!(read, Some(Err(error)) if error != rustix::io::Errno::AGAIN) {
            self.oom = None;
        }
    }

    /// Takes orphans that came to this subreaper. Not while an exec starts: its process may have
    /// ended before its number was heard of.
    fn reap(&mut self) {
        let mut drain = [0; 256];
        while rustix::io::read(&self.children, &mut drain).is_ok_and(|n| n > 0) {}
        if self
            .execs
            .iter()
            .any(|exec| matches!(exec.phase, ExecPhase::Starting { .. }))
        {
            return;
        }
        let init = match &self.phase {
            Phase::Starting { starting, .. } => starting.child.pid.as_raw_nonzero().get(),
            Phase::Running(_) => self.start.as_ref().map_or(0, |start| start.pid),
            Phase::Exited => 0,
        };
        pidfd::reap_strangers(|pid| pid == init || self.execs.iter().any(|exec| exec.pid == pid));
    }

    fn accept(&mut self) {
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

    fn converse(&mut self, events: PollFlags) {
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

    fn lose_connection(&mut self) {
        let goodbye = self
            .connection
            .take()
            .is_some_and(|connection| connection.goodbye);
        if !goodbye && !self.settings.engine_command.is_empty() {
            self.respawn = Some(Respawn::new(Instant::now()));
        }
    }

    fn tell(&mut self, event: Event) {
        self.send(&Message::Event { event }, Vec::new());
    }

    fn reply(&mut self, id: u64, answer: Answer, fds: Vec<OwnedFd>) {
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

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let id = request.id;
        let (answer, fds) = match request.call {
            Call::Exec {
                exec_id,
                process,
                user,
                group_add,
                tty,
                size,
            } => {
                let stdio = if tty {
                    Some(Stdio::Terminal { size })
                } else {
                    streams(fds)
                };
                match self.start_exec(id, exec_id, &process, user.as_deref(), &group_add, stdio) {
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

    fn act(&mut self, call: Call) -> Answer {
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
                match exec.map(|exec| &exec.phase) {
                    Some(ExecPhase::Running(process)) => done(pidfd::send_signal(process, signal)),
                    Some(ExecPhase::Starting { .. }) => {
                        failed(FailureKind::Invalid, "the exec is still starting")
                    }
                    None => failed(FailureKind::Invalid, "no such exec"),
                }
            }
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

    fn signal(&mut self, signal: i32, all: bool) -> Answer {
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

    fn start_exec(
        &mut self,
        request: u64,
        id: String,
        process: &Process,
        user: Option<&str>,
        group_add: &[String],
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
        let exec = exec::Exec {
            process,
            user,
            group_add,
            init: init.as_fd(),
            cgroup: &self.cgroup,
            seccomp: self.filter.as_ref(),
        };
        let starting =
            exec::spawn(&exec, stdio).map_err(|error| Answer::Failed(wire(error.into())))?;
        // A dead helper shows as the end of its channel.
        let _ = starting.channel.go();
        self.execs.push(Exec::new(id, request, starting));
        Ok(())
    }
}

fn spawn_container(
    bundle: &Bundle,
    spawn: &Spawn,
    cgroup: &Cgroup,
    netns: Option<&OwnedFd>,
    filter: Option<&Filter>,
    stdio: Stdio,
) -> Result<Starting, StartFailure> {
    let Rootfs::Overlay { lower, upper, work } = &bundle.rootfs;
    let files: Vec<(PathBuf, PathBuf)> = bundle
        .files
        .iter()
        .map(|file| (file.source.clone(), file.target.clone()))
        .collect();
    let container = Container {
        spec: &bundle.spec,
        overlay: Overlay { lower, upper, work },
        files: &files,
        user: bundle.user.as_deref(),
        group_add: &bundle.group_add,
        init: bundle.init,
        stage: &spawn.dir,
        cgroup,
        cgroup_path: &bundle.cgroup,
        netns: netns.map(AsFd::as_fd),
        seccomp: filter,
    };
    let starting = start::spawn(&container, stdio)?;
    // A dead child shows as the end of its channel.
    let _ = starting.channel.go();
    Ok(starting)
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

fn wait_readable(fd: std::os::fd::BorrowedFd<'_>, events: PollFlags, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&timeout));
}
