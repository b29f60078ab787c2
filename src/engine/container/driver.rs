//! The one task that owns a container: takes commands, hears its shim, keeps its restart policy.
//!
//! States and what moves them:
//!
//! ```text
//! Created ──start──▶ Running ⇄ Paused        Exited ──start──▶ Running
//!                      │  ▲                     ▲
//!               exited │  │ delay is over       │ stop
//!                      ▼  │                     │
//!              policy? ──▶ Restarting ──────────┘
//! ```
//!
//! A start runs to its end inside the loop (it takes milliseconds); a stop does not: the loop goes
//! on and answers every waiting stop when the exit arrives, so that a second stop, a kill or a
//! forced removal is heard meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::exec::{APART, ExecTable};
use super::health::{self, Probe};
use super::prepare::{self, Started};
use super::restart;
use super::{
    Answer, Command, Container, ContainerRecord, RunRecord, SUPERVISOR_LOST, Shim, ShimError, View,
};
use crate::engine::store::{Batch, Table};
use crate::engine::{EngineError, Shared, clock};
use crate::plan::{Health, Phase};
use crate::shim::protocol::{self, Call, Event, ExitRecord, StartRecord, State};

/// Docker's default when neither the file nor the image says otherwise.
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than the grace period a stop may take before it reports that it cannot (L14).
const STOP_SLACK: Duration = Duration::from_secs(5);

pub(in crate::engine) struct Driver {
    shared: Arc<Shared>,
    record: ContainerRecord,
    run: RunRecord,
    phase: Phase,
    start: Option<StartRecord>,
    attachment: prepare::Attached,
    command: String,
    shim: Option<Shim>,
    events: Option<mpsc::UnboundedReceiver<Event>>,
    execs: Arc<ExecTable>,
    probes: Option<health::Probes>,
    commands: mpsc::UnboundedReceiver<Command>,
    view: watch::Sender<Arc<View>>,
    /// Answered when the container has ended.
    stopping: Vec<Stopping>,
    removal: Option<Removal>,
    restart_at: Option<Instant>,
}

struct Stopping {
    reply: Answer,
    deadline: Instant,
}

struct Removal {
    volumes: bool,
    replies: Vec<Answer>,
}

/// What an earlier engine left of a container.
pub(in crate::engine) enum Left {
    /// It does not run, and its record knows.
    Nothing,
    /// It ended while no engine was there, and so did its shim.
    Ended {
        start: Option<StartRecord>,
        exit: ExitRecord,
        /// Empty unless its end was not its own.
        error: String,
    },
    Shim(Box<Adopted>),
}

/// A shim that an earlier engine left, and its container.
pub(in crate::engine) struct Adopted {
    pub shim: Shim,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub state: State,
    pub attachment: prepare::Attached,
}

impl Driver {
    /// Starts the task of a new container.
    pub async fn spawn(shared: Arc<Shared>, record: ContainerRecord) -> Container {
        Driver::take_up(shared, record, RunRecord::default(), Left::Nothing).await
    }

    /// Starts the task of a container that an earlier engine knew. When this returns, the
    /// container's view tells what has become of it.
    pub async fn take_up(
        shared: Arc<Shared>,
        record: ContainerRecord,
        run: RunRecord,
        left: Left,
    ) -> Container {
        let id = record.id.clone();
        let (sender, commands) = mpsc::unbounded_channel();
        let execs = Arc::new(ExecTable::default());
        let phase = match (&record.exit, record.error.is_empty()) {
            (None, true) => Phase::Created,
            _ => Phase::Exited,
        };
        let command = shared.display_command(&record);
        let run_dir = shared.run_dir(&id);
        let log_path = shared.log_path(&id);
        let log_watch = shared.log_watch.clone();
        let mut driver = Driver {
            shared,
            run,
            phase,
            start: None,
            attachment: prepare::Attached::default(),
            command,
            shim: None,
            events: None,
            execs: execs.clone(),
            probes: None,
            commands,
            view: watch::Sender::new(Arc::new(View {
                record: record.clone(),
                phase,
                health: None,
                start: None,
                restart_count: 0,
                endpoints: Vec::new(),
                ports: Vec::new(),
                shim: None,
                command: String::new(),
            })),
            record,
            stopping: Vec::new(),
            removal: None,
            restart_at: None,
        };
        let after_boot = driver.run.after_boot;
        let exited = match left {
            Left::Nothing => None,
            Left::Ended { start, exit, error } => {
                driver.start = start;
                driver.record.error = error;
                Some(exit)
            }
            Left::Shim(adopted) => driver.take_over(*adopted),
        };
        if let Some(exit) = exited {
            driver.exited(exit).await;
        } else if driver.run.restart_pending && !driver.is_running() {
            driver.resume_pause();
        }
        if after_boot && driver.phase == Phase::Restarting {
            // Not a matter of time: whoever knows the dependencies says when.
            driver.restart_at = None;
            driver.run.after_boot = true;
            driver.save_run();
        }
        driver.publish();
        let container = Container {
            id,
            commands: sender,
            view: driver.view.subscribe(),
            execs,
            run_dir,
            log_path,
            log_watch,
        };
        tokio::spawn(driver.drive());
        container
    }

    /// Returns the exit record if the container ended while no engine was there.
    fn take_over(&mut self, adopted: Adopted) -> Option<ExitRecord> {
        let Adopted {
            shim,
            events,
            state,
            attachment,
        } = adopted;
        self.attachment = attachment;
        self.start = state.start;
        self.phase = if state.paused {
            Phase::Paused
        } else {
            Phase::Running
        };
        self.record.exit = None;
        self.shim = Some(shim);
        self.events = Some(events);
        for exec_id in state.execs {
            if let (true, Some(shim)) = (exec_id.starts_with(APART), self.shim.clone()) {
                // Nobody waits for its outcome any more, nor for its timeout.
                tokio::spawn(async move { shim.call(Call::KillExec { exec_id }).await });
            }
        }
        if state.exit.is_none() && self.phase == Phase::Running {
            let known = self
                .run
                .health
                .map(|health| (health, self.run.failing_streak));
            self.begin_probes(known);
        }
        state.exit
    }

    async fn drive(mut self) {
        loop {
            let stop_deadline = self.stopping.iter().map(|stopping| stopping.deadline).min();
            let done = tokio::select! {
                // Cancel-safe: channel receives lose nothing.
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    // The engine is going away; the shim keeps the container.
                    None => true,
                },
                event = next_event(&mut self.events) => {
                    self.hear(event).await;
                    false
                }
                probe = next_probe(&mut self.probes) => {
                    self.probed(probe);
                    false
                }
                // Cancel-safe: timers are re-made from their deadline.
                () = until(self.restart_at) => {
                    self.restart_at = None;
                    self.run_again().await;
                    false
                }
                () = until(stop_deadline) => {
                    self.give_up_stopping();
                    false
                }
            };
            if done {
                return;
            }
            if self.removal.is_some() && !self.is_running() && self.remove().await {
                return;
            }
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }

    /// Obeys one command; true when the driver's work is over.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Start(reply) => {
                let result = if self.is_running() {
                    Ok(())
                } else {
                    self.restart_at = None;
                    self.run.restart_count = 0;
                    self.run.backoff_ms = 0;
                    self.start_now().await
                };
                let _ = reply.send(result);
            }
            Command::Stop { timeout, reply } => self.stop(timeout, reply).await,
            Command::Kill { signal, reply } => {
                let result = self.kill(signal).await;
                let _ = reply.send(result);
            }
            Command::Pause(reply) => {
                let result = self
                    .freeze(Call::Pause, Phase::Running, Phase::Paused)
                    .await;
                let _ = reply.send(result);
            }
            Command::Resume(reply) => {
                let result = self
                    .freeze(Call::Resume, Phase::Paused, Phase::Running)
                    .await;
                let _ = reply.send(result);
            }
            Command::StartAfterBoot => {
                let is_owed = self.run.restart_pending && self.run.after_boot;
                if is_owed && !self.is_running() {
                    self.run_again().await;
                }
            }
            Command::Rename { name, reply } => {
                let result = self.rename(name).await;
                let _ = reply.send(result);
            }
            Command::Remove {
                volumes,
                force,
                reply,
            } => {
                if self.is_running() && !force {
                    let _ = reply.send(Err(EngineError::StillRunning {
                        name: self.record.config.name.clone(),
                    }));
                } else {
                    self.restart_at = None;
                    let removal = self.removal.get_or_insert(Removal {
                        volumes: false,
                        replies: Vec::new(),
                    });
                    removal.volumes |= volumes;
                    removal.replies.push(reply);
                    if self.is_running()
                        && let Some(shim) = self.shim.clone()
                    {
                        let call = Call::Stop {
                            signal: libc_sigkill(),
                            grace_ms: 0,
                        };
                        // If the shim is gone its event stream ends, and that is an exit, too.
                        let _ = shim.call(call).await;
                    }
                }
            }
        }
        false
    }

    async fn kill(&mut self, signal: i32) -> Result<(), EngineError> {
        let Some(shim) = self.shim.clone().filter(|_| self.is_running()) else {
            return Err(EngineError::NotRunning {
                name: self.record.config.name.clone(),
            });
        };
        // Signals that mean "end" are a stop in the eyes of the restart policy; others, a reload
        // for instance, say nothing about it.
        if signal == libc_sigkill() || signal == self.shared.stop_signal(&self.record) {
            self.note_manual_stop().await;
            // A frozen process would hear of it only when somebody resumes it.
            if self.phase == Phase::Paused {
                self.freeze(Call::Resume, Phase::Paused, Phase::Running)
                    .await?;
            }
        }
        let call = Call::Signal { signal, all: false };
        let sent = shim.call(call).await;
        sent.map(drop).map_err(|source| self.shim_error(source))
    }

    async fn hear(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Exited { record }) => self.exited(record).await,
            Some(Event::ExecExited { exec_id, code }) => self.execs.exited(&exec_id, code),
            Some(Event::OomKilled) => {
                tracing::warn!(container = %self.record.config.name, "the OOM killer took a process");
            }
            // The start procedure consumes these; later ones would be a shim's bug.
            Some(Event::Started(_) | Event::StartFailed { .. }) => {}
            None => {
                let record = self.lost_shim().await;
                self.exited(record).await;
            }
        }
    }

    /// The shim died or hung up. Its exit record may still stand; else the container is killed as
    /// a unit, because nobody drains its output any more (HAZARDS L3, L25).
    async fn lost_shim(&mut self) -> ExitRecord {
        let dir = self.shared.run_dir(&self.record.id);
        let written = std::fs::read(dir.join(protocol::file::EXIT))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        self.shared.kill_cgroup(&self.record.id).await;
        Shim::put_down(&dir).await;
        match written {
            Some(record) => record,
            None => {
                self.record.error = SUPERVISOR_LOST.to_owned();
                ExitRecord {
                    code: 137,
                    signal: Some(libc_sigkill()),
                    oom_killed: false,
                    finished_at: clock::now(),
                }
            }
        }
    }

    async fn exited(&mut self, exit: ExitRecord) {
        let uptime = self.start.as_ref().map_or(Duration::ZERO, |start| {
            Duration::from_nanos(exit.finished_at.saturating_sub(start.started_at))
        });
        self.probes = None;
        self.execs.all_exited();
        self.events = None;
        if let Some(shim) = self.shim.take() {
            // The record is ours now; a shim that is already gone needs no release.
            let _ = shim.call(Call::Release).await;
        }
        if let Err(error) = self.shared.networks.detach(self.record.id.as_str()).await {
            tracing::warn!(container = %self.record.config.name, error = &error as &dyn std::error::Error, "cannot take down the network");
        }
        self.attachment = prepare::Attached::default();
        let code = exit.code;
        self.record.exit = Some(exit);
        self.run.health = None;
        self.run.failing_streak = 0;
        self.run.paused = false;
        let run_began = self.start.as_ref().map(|start| start.started_at);
        if run_began.is_some() && self.run.decided_about == run_began {
            // The engine before decided, and died before it was done with this end.
            self.phase = Phase::Exited;
            if self.run.restart_pending {
                self.resume_pause();
            }
        } else {
            let delay = if self.removal.is_some() || !self.stopping.is_empty() {
                None
            } else {
                restart::delay_after_exit(
                    self.record.config.restart,
                    self.record.manually_stopped,
                    code,
                    uptime,
                    &mut self.run,
                )
            };
            self.run.decided_about = run_began;
            self.restart_after(delay);
            if delay.is_none() {
                self.phase = Phase::Exited;
            }
        }
        self.save_run();
        if self.removal.is_none() {
            self.save().await;
        }
        self.publish();
        for stopping in self.stopping.drain(..) {
            let _ = stopping.reply.send(Ok(()));
        }
    }

    /// A start by command.
    async fn start_now(&mut self) -> Result<(), EngineError> {
        let was_stopped = std::mem::replace(&mut self.record.manually_stopped, false);
        if was_stopped && self.record.config.restart != crate::compose::RestartPolicy::No {
            self.save().await;
        }
        self.start_container().await
    }

    /// A start by the restart policy: a failure counts like an exit.
    async fn run_again(&mut self) {
        if let Err(error) = self.start_container().await {
            tracing::warn!(container = %self.record.config.name, error = &error as &dyn std::error::Error, "restart failed");
            let delay = restart::delay_after_exit(
                self.record.config.restart,
                false,
                error.exit_code(),
                Duration::ZERO,
                &mut self.run,
            );
            self.restart_after(delay);
            self.save_run();
            self.publish();
        }
    }

    /// The engine before died in the pause before a restart.
    fn resume_pause(&mut self) {
        let due = self.run.restart_due_ms;
        let left = Duration::from_millis(due.saturating_sub(clock::since_boot_ms()));
        self.restart_at = Some(Instant::now() + left.min(restart::LONGEST_DELAY));
        self.phase = Phase::Restarting;
    }

    /// Notes what the restart policy decided.
    fn restart_after(&mut self, delay: Option<Duration>) {
        self.run.restart_pending = delay.is_some();
        self.run.after_boot = false;
        if let Some(delay) = delay {
            let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            self.run.restart_due_ms = clock::since_boot_ms().saturating_add(ms);
            self.phase = Phase::Restarting;
            self.restart_at = Some(Instant::now() + delay);
        }
    }

    async fn start_container(&mut self) -> Result<(), EngineError> {
        match prepare::start(&self.shared, &self.record).await {
            Ok(Started {
                shim,
                events,
                start,
                attached,
            }) => {
                self.phase = Phase::Running;
                self.start = Some(start);
                self.attachment = attached;
                self.shim = Some(shim);
                self.events = Some(events);
                self.record.exit = None;
                self.record.error.clear();
                self.run.restart_pending = false;
                if std::mem::take(&mut self.run.after_boot) {
                    self.save_run();
                }
                self.begin_probes(None);
                self.shared.mark_started(&self.record.id);
                self.publish();
                Ok(())
            }
            Err(error) => {
                self.phase = if self.record.exit.is_some() {
                    Phase::Exited
                } else {
                    Phase::Created
                };
                self.record.error = crate::engine::chain(&error);
                self.record.exit = Some(ExitRecord {
                    code: error.exit_code(),
                    signal: None,
                    oom_killed: false,
                    finished_at: clock::now(),
                });
                self.save().await;
                self.publish();
                Err(error)
            }
        }
    }

    /// `known` is what an earlier engine, or the time before a pause, had found out.
    fn begin_probes(&mut self, known: Option<(Health, u32)>) {
        let Some(check) = self.shared.healthcheck(&self.record) else {
            return;
        };
        let Some(shim) = self.shim.clone() else {
            return;
        };
        let (health, failing_streak) = known.unwrap_or((Health::Starting, 0));
        self.run.health = Some(health);
        self.run.failing_streak = failing_streak;
        // Wall-clock time is all that is known of a start before this engine's (L40): a clock that
        // stepped moves the end of a start period, and nothing else.
        let uptime = self.start.as_ref().map_or(Duration::ZERO, |start| {
            Duration::from_nanos(clock::now().saturating_sub(start.started_at))
        });
        let dir = self.shared.run_dir(&self.record.id);
        self.probes = Some(health::Probes::begin(
            check,
            shim,
            dir,
            self.execs.clone(),
            health::Known {
                health,
                failing_streak,
                uptime,
            },
        ));
    }

    fn probed(&mut self, probe: Option<Probe>) {
        let Some(probe) = probe else {
            self.probes = None;
            return;
        };
        let is_news = self.run.health != Some(probe.health);
        if is_news || self.run.failing_streak != probe.failing_streak {
            self.run.health = Some(probe.health);
            self.run.failing_streak = probe.failing_streak;
            self.save_run();
        }
        if is_news {
            self.publish();
        }
    }

    async fn stop(&mut self, timeout: Option<Duration>, reply: Answer) {
        self.note_manual_stop().await;
        self.restart_at = None;
        if self.run.restart_pending {
            self.run.restart_pending = false;
            self.save_run();
        }
        if !self.is_running() {
            if self.phase == Phase::Restarting {
                self.phase = Phase::Exited;
                self.save().await;
                self.publish();
            }
            let _ = reply.send(Ok(()));
            return;
        }
        let grace = timeout
            .or(self.record.config.stop_timeout)
            .unwrap_or(DEFAULT_STOP_TIMEOUT);
        let signal = self.shared.stop_signal(&self.record);
        self.stopping.push(Stopping {
            reply,
            deadline: Instant::now() + grace + STOP_SLACK,
        });
        if let Some(shim) = self.shim.clone() {
            let call = Call::Stop {
                signal,
                grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            };
            // A lost shim ends the event stream, which ends the stop.
            let _ = shim.call(call).await;
        }
    }

    /// A process in uninterruptible sleep outlives even SIGKILL: say so instead of hanging (L14).
    fn give_up_stopping(&mut self) {
        let now = Instant::now();
        let (late, patient): (Vec<_>, Vec<_>) = self
            .stopping
            .drain(..)
            .partition(|stopping| stopping.deadline <= now);
        self.stopping = patient;
        for stopping in late {
            let _ = stopping.reply.send(Err(EngineError::StopTimedOut {
                name: self.record.config.name.clone(),
            }));
        }
    }

    async fn note_manual_stop(&mut self) {
        if !self.record.manually_stopped {
            self.record.manually_stopped = true;
            // Without a policy nobody reads the flag later, and no disk is needed for it.
            if self.record.config.restart != crate::compose::RestartPolicy::No {
                self.save().await;
            }
        }
    }

    async fn freeze(&mut self, call: Call, from: Phase, to: Phase) -> Result<(), EngineError> {
        if self.phase == to {
            return Ok(());
        }
        let Some(shim) = self.shim.clone().filter(|_| self.phase == from) else {
            return Err(EngineError::NotRunning {
                name: self.record.config.name.clone(),
            });
        };
        shim.call(call)
            .await
            .map_err(|source| self.shim_error(source))?;
        self.phase = to;
        self.run.paused = to == Phase::Paused;
        self.save_run();
        // Nothing in a frozen container can answer a probe, and that is no illness.
        let known = self
            .run
            .health
            .map(|health| (health, self.run.failing_streak));
        self.probes = None;
        if to == Phase::Running && known.is_some() {
            self.begin_probes(known);
        }
        self.publish();
        Ok(())
    }

    async fn rename(&mut self, name: String) -> Result<(), EngineError> {
        let old = self.record.config.name.clone();
        if old == name {
            return Ok(());
        }
        let id = &self.record.id;
        self.shared.names.take(&name, id)?;
        self.record.config.name = name.clone();
        let mut batch = Batch::default();
        batch.put(Table::Containers, id.as_str(), &self.record);
        if let Err(error) = self.shared.store.commit_async(batch).await {
            // What the disk says is what the next engine believes.
            self.shared.names.release(&name, id);
            self.record.config.name = old;
            return Err(error.into());
        }
        self.shared.names.release(&old, id);
        self.shared
            .networks
            .rename(self.record.id.as_str(), &name)
            .await?;
        self.publish();
        Ok(())
    }

    /// True when the container is gone. A removal that failed leaves it listed, and removable.
    async fn remove(&mut self) -> bool {
        let Some(removal) = self.removal.take() else {
            return false;
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Removing);
        self.publish();
        let result = self
            .shared
            .clone()
            .forget(&self.record, removal.volumes)
            .await;
        let gone = result.is_ok();
        self.phase = if gone { Phase::Dead } else { phase };
        self.publish();
        let mut result = Some(result);
        for reply in removal.replies {
            // The first gets the error with its causes, the others are told that there was one.
            let outcome = result.take().unwrap_or_else(|| {
                if gone {
                    Ok(())
                } else {
                    Err(EngineError::RemovalFailed {
                        name: self.record.config.name.clone(),
                    })
                }
            });
            let _ = reply.send(outcome);
        }
        gone
    }

    fn shim_error(&self, source: ShimError) -> EngineError {
        EngineError::Shim {
            name: self.record.config.name.clone(),
            source,
        }
    }

    /// Keeps the record; what cannot be kept is logged, because the container's fate is real
    /// whether or not the disk has room for it (L39).
    async fn save(&mut self) {
        let mut batch = Batch::default();
        batch.put(Table::Containers, self.record.id.as_str(), &self.record);
        if let Err(error) = self.shared.store.commit_async(batch).await {
            tracing::error!(container = %self.record.config.name, error = &error as &dyn std::error::Error, "cannot record a change");
        }
    }

    fn save_run(&self) {
        self.shared.save_run_record(&self.record.id, &self.run);
    }

    fn publish(&mut self) {
        let view = View {
            record: self.record.clone(),
            phase: self.phase,
            health: if self.is_running() {
                self.run.health
            } else {
                None
            },
            start: self.start.clone(),
            restart_count: self.run.restart_count,
            endpoints: self.attachment.endpoints.clone(),
            ports: self.attachment.ports.clone(),
            shim: self.shim.clone(),
            command: self.command.clone(),
        };
        self.view.send_replace(Arc::new(view));
        self.shared.announce(&self.record);
    }
}

fn libc_sigkill() -> i32 {
    nix::sys::signal::Signal::SIGKILL as i32
}

async fn next_event(events: &mut Option<mpsc::UnboundedReceiver<Event>>) -> Option<Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_probe(probes: &mut Option<health::Probes>) -> Option<Probe> {
    match probes {
        Some(probes) => probes.next().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
