//! Containers: one task owns each, everyone else sees a view.
//!
//! ```text
//! callers ──Command──▶ driver (one task a container) ──Call──▶ shim
//!    ▲                     │        ▲                            │
//!    └──── watch: View ────┘        └────────── Event ───────────┘
//! ```
//!
//! The driver alone changes a container; a command is answered when its effect has happened.

pub mod devices;
mod driver;
mod exec;
mod health;
mod hidden;
mod host;
mod id;
mod log;
mod log_parts;
mod logging;
mod mounts;
mod prepare;
mod process;
mod record;
mod resources;
mod restart;
mod security;
mod shim;
mod signal;
mod spawner;
mod spec;
mod terminal;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use exec::{ExecConfig, ExecSession, ExecSignaller, ExecStdio};
pub use id::ContainerId;
pub use log::{LogLine, LogQuery, LogWatch};
pub use record::{ContainerRecord, MACHINE_DOWN, RunRecord, SUPERVISOR_LOST, VolumeMountRecord};
pub use shim::{Shim, ShimError};
pub use spawner::Spawner;

pub use devices::DeviceNode;
pub use host::HostFacts;
pub use mounts::{ResolvedMount, ResolvedSource};
pub use process::user;
pub use signal::parse_signal;
pub use spec::*;
pub use terminal::Terminal;

pub(super) use driver::{Adopted, Driver, Left};
pub(super) use health::Check;
pub(super) use hidden::seen_in;
pub use logging::LoggingError;
pub(super) use logging::{remark as logging_remark, rotation as log_rotation};
pub(super) use prepare::{Attached, hostname};

use super::EngineError;
use crate::plan::{
    Health, ObservedContainer, ObservedEndpoint, ObservedMount, ObservedPort, Phase,
};
use crate::shim::protocol::StartRecord;

/// What can be asked of a container. Answers come when the effect has happened.
pub(super) enum Command {
    Start(Answer),
    Stop {
        timeout: Option<Duration>,
        reply: Answer,
    },
    Kill {
        signal: i32,
        reply: Answer,
    },
    Pause(Answer),
    Resume(Answer),
    /// The turn has come of a container that a restart policy starts after a boot.
    StartAfterBoot,
    Rename {
        name: String,
        reply: Answer,
    },
    Remove {
        volumes: bool,
        force: bool,
        reply: Answer,
    },
}

type Answer = oneshot::Sender<Result<(), EngineError>>;

/// A container as everyone but its driver sees it: a moment's state, replaced whole.
#[derive(Clone)]
pub struct View {
    pub record: ContainerRecord,
    pub phase: Phase,
    pub health: Option<Health>,
    pub start: Option<StartRecord>,
    pub restart_count: u32,
    pub endpoints: Vec<ObservedEndpoint>,
    pub ports: Vec<ObservedPort>,
    /// The connection to its shim while there is one.
    pub shim: Option<Shim>,
    /// Entry point and command as they were run, for display.
    pub command: String,
}

impl View {
    pub fn observed(&self) -> ObservedContainer {
        let record = &self.record;
        ObservedContainer {
            id: record.id.to_string(),
            name: record.config.name.clone(),
            image: record.config.image.clone(),
            image_id: record.image_id.clone(),
            labels: record.config.labels.clone(),
            phase: self.phase,
            health: self.health,
            exit_code: record.exit.as_ref().map(|exit| exit.code),
            oom_killed: record.exit.as_ref().is_some_and(|exit| exit.oom_killed),
            error: record.error.clone(),
            manually_stopped: record.manually_stopped,
            restart_count: self.restart_count,
            created_at: record.created_at,
            started_at: self.start.as_ref().map(|start| start.started_at),
            finished_at: record.exit.as_ref().map(|exit| exit.finished_at),
            pid: match self.phase {
                Phase::Running | Phase::Paused => self.start.as_ref().map(|start| start.pid),
                _ => None,
            },
            command: self.command.clone(),
            networks: self.endpoints.clone(),
            volumes: record
                .volumes
                .iter()
                .map(|mount| ObservedMount {
                    volume: mount.volume.clone(),
                    target: mount.target.clone(),
                    anonymous: mount.anonymous,
                })
                .collect(),
            ports: self.ports.clone(),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }
}

/// A handle to one container.
#[derive(Clone)]
pub struct Container {
    pub id: ContainerId,
    commands: mpsc::UnboundedSender<Command>,
    view: watch::Receiver<Arc<View>>,
    execs: Arc<exec::ExecTable>,
    /// Its directory on the run directory's tmpfs.
    run_dir: std::path::PathBuf,
    log_path: std::path::PathBuf,
    log_watch: log::LogWatch,
}

impl Container {
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Follows the container's changes.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    pub async fn start(&self) -> Result<(), EngineError> {
        self.ask(Command::Start).await
    }

    /// Starts it if the start that its policy owed it since the boot is still owed. Nobody waits for
    /// the outcome, which its view tells.
    pub(super) fn start_after_boot(&self) {
        // A driver that is gone owes nothing.
        let _ = self.commands.send(Command::StartAfterBoot);
    }

    pub async fn stop(&self, timeout: Option<Duration>) -> Result<(), EngineError> {
        self.ask(|reply| Command::Stop { timeout, reply }).await
    }

    pub async fn kill(&self, signal: i32) -> Result<(), EngineError> {
        self.ask(|reply| Command::Kill { signal, reply }).await
    }

    pub async fn pause(&self) -> Result<(), EngineError> {
        self.ask(Command::Pause).await
    }

    pub async fn resume(&self) -> Result<(), EngineError> {
        self.ask(Command::Resume).await
    }

    pub async fn rename(&self, name: String) -> Result<(), EngineError> {
        self.ask(|reply| Command::Rename { name, reply }).await
    }

    pub async fn remove(&self, volumes: bool, force: bool) -> Result<(), EngineError> {
        self.ask(|reply| Command::Remove {
            volumes,
            force,
            reply,
        })
        .await
    }

    /// The writing end of its stdin, or its terminal's master side. `None`: it has neither.
    pub async fn attach_stdin(&self) -> Result<Option<std::os::fd::OwnedFd>, EngineError> {
        let view = self.view();
        let name = || view.record.config.name.clone();
        let Some(shim) = view.shim.clone().filter(|_| view.is_running()) else {
            return Err(EngineError::NotRunning { name: name() });
        };
        if !view.record.config.open_stdin && !view.record.config.tty {
            return Ok(None);
        }
        let (_, mut fds) = shim
            .call_with(crate::shim::protocol::Call::Attach, Vec::new())
            .await
            .map_err(|source| EngineError::Shim {
                name: name(),
                source,
            })?;
        Ok(fds.pop())
    }

    async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        let gone = || EngineError::NoSuchContainer {
            name: self.view().record.config.name.clone(),
        };
        self.commands.send(command(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
