//! What a starting engine does about what an earlier one left.
//!
//! Three sources are compared: the store (what should be), the run directory (what this boot knew)
//! and the kernel (what is, by way of living shims). Whatever has no record is removed; whatever
//! has one and lives is adopted; whatever should live and does not is started by its policy.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::container::{
    Adopted, Container, ContainerId, ContainerRecord, Driver, Left, MACHINE_DOWN, RunRecord,
    SUPERVISOR_LOST, Shim, ShimError,
};
use super::store::Table;
use super::{Engine, EngineError};
use crate::compose::RestartPolicy;
use crate::plan::Phase;
use crate::shim::protocol::{Answer, Call, Event, ExitRecord, StartRecord, State, file};

/// A shim that does not answer must not keep the engine from starting (HAZARDS L8). Its container
/// is adopted on what it has written down, and its answer is heard whenever it comes.
const SHIM_PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);
/// What a start that the engine before had begun may still take.
const START_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

impl Engine {
    pub(super) async fn recover(&self) -> Result<(), EngineError> {
        let has_booted = self.shared.notice_boot()?;
        let records: Vec<(String, ContainerRecord)> = self.shared.store.list(Table::Containers)?;
        self.remove_strangers(&records).await;
        let mut adoptions = tokio::task::JoinSet::new();
        for (_, mut record) in records {
            self.claim_name(&mut record);
            let engine = self.clone();
            adoptions.spawn(async move { engine.recover_container(record, has_booted).await });
        }
        let mut waiting = Vec::new();
        while let Some(result) = adoptions.join_next().await {
            match result {
                Ok(found) => waiting.extend(found),
                Err(panic) => tracing::error!(%panic, "adopting a container panicked"),
            }
        }
        super::boot_order::start(&waiting, &self.containers());
        Ok(())
    }

    /// Names were unique when the records were written. Should two be equal all the same, one
    /// container goes by another name; an engine that does not start helps nobody.
    fn claim_name(&self, record: &mut ContainerRecord) {
        let names = &self.shared.names;
        if names.take(&record.config.name, &record.id).is_ok() {
            return;
        }
        let other = format!("{}_{}", record.id.short(), record.config.name);
        tracing::error!(container = %record.config.name, now = %other, "two containers have one name");
        record.config.name = other;
        // An id in a name makes it unique.
        let _ = names.take(&record.config.name, &record.id);
    }

    /// Returns the container if its policy starts it after a boot, in this engine's life or in that
    /// of one before it.
    async fn recover_container(
        &self,
        record: ContainerRecord,
        has_booted: bool,
    ) -> Option<Container> {
        let shared = &self.shared;
        let mut run = match has_booted {
            false => shared.run_record(&record.id),
            true => RunRecord::default(),
        };
        let left = match self.find_shim(&record, &run).await {
            Some(adopted) => Left::Shim(Box::new(adopted)),
            None => {
                shared.kill_cgroup(&record.id).await;
                if let Err(error) = shared.networks.detach(record.id.as_str()).await {
                    tracing::warn!(container = %record.config.name, error = &error as &dyn std::error::Error, "cannot take down the network");
                }
                self.unheard_end(&record, has_booted)
            }
        };
        // Within a boot the run record tells of a restart that is due. After a boot the policy
        // alone does. Docker starts `always` even after a manual stop, when its daemon starts; ours
        // comes and goes with the commands, so a stop holds until somebody starts the container.
        if has_booted
            && matches!(left, Left::Nothing)
            && matches!(
                record.config.restart,
                RestartPolicy::Always | RestartPolicy::UnlessStopped
            )
            && !record.manually_stopped
            && shared.last_start(&record.id).is_some()
        {
            run.restart_pending = true;
        }
        run.after_boot |= has_booted;
        let after_boot = run.after_boot;
        let id = record.id.clone();
        let container = Driver::take_up(shared.clone(), record, run, left).await;
        shared.register(&id, container.watch());
        self.write().insert(id, container.clone());
        let is_due = after_boot && container.view().phase == Phase::Restarting;
        is_due.then_some(container)
    }

    async fn find_shim(&self, record: &ContainerRecord, run: &RunRecord) -> Option<Adopted> {
        let (shim, events) = Shim::connect(&self.shared.run_dir(&record.id)).ok()?;
        let mut asked = tokio::spawn({
            let shim = shim.clone();
            async move { shim.call(Call::State).await }
        });
        let (mut state, mut events) = match tokio::time::timeout(SHIM_PATIENCE, &mut asked).await {
            Ok(Ok(Ok(Answer::State(state)))) => (state, events),
            Ok(_) => return None,
            // It holds its socket, so it lives, and its container with it: a loaded machine, or
            // somebody stopped it. What it wrote down has to do until it speaks.
            Err(_elapsed) => {
                tracing::warn!(container = %record.config.name, "its shim does not answer yet");
                let state = State {
                    version: 0,
                    start: Some(self.start_record(record)?),
                    exit: None,
                    paused: run.paused,
                    execs: Vec::new(),
                    log_dropped_bytes: 0,
                };
                (state, after_answer(asked, events))
            }
        };
        if state.start.is_none() {
            // That engine died in the middle of the start, which the shim finishes all the same. To
            // kill what may be running by now would cost a container one of its restarts.
            let outcome = tokio::time::timeout(START_PATIENCE, outcome_of_start(&mut events));
            state.start = Some(outcome.await.ok().flatten()?);
            self.shared.mark_started(&record.id);
        }
        let start = state.start.clone()?;
        let attachment = self.shared.readopt_network(record, start.pid).await;
        Some(Adopted {
            shim,
            events,
            state,
            attachment,
        })
    }

    fn start_record(&self, record: &ContainerRecord) -> Option<StartRecord> {
        let path = self.shared.run_dir(&record.id).join(file::START);
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// An end that the store does not know of: it started after the last one that is recorded, and
    /// does not run. Starts are not recorded in the store, which may tell of the end before.
    fn unheard_end(&self, record: &ContainerRecord, has_booted: bool) -> Left {
        let start = self.start_record(record);
        let started_at = match &start {
            Some(start) => Some(start.started_at),
            None => self.shared.last_start(&record.id),
        };
        let known_end = record.exit.as_ref().map_or(0, |exit| exit.finished_at);
        if started_at.is_none_or(|started_at| started_at <= known_end) {
            return Left::Nothing;
        }
        let path = self.shared.run_dir(&record.id).join(file::EXIT);
        let written = std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let (exit, error) = match written {
            Some(exit) => (exit, String::new()),
            None => (
                ExitRecord {
                    // Docker's code for a container whose end nobody saw.
                    code: if has_booted { 255 } else { 137 },
                    signal: (!has_booted).then_some(9),
                    oom_killed: false,
                    finished_at: super::clock::now(),
                },
                if has_booted {
                    MACHINE_DOWN.to_owned()
                } else {
                    SUPERVISOR_LOST.to_owned()
                },
            ),
        };
        Left::Ended { start, exit, error }
    }

    /// Directories without a record: a crash came between making them and recording, or between
    /// forgetting and deleting.
    async fn remove_strangers(&self, records: &[(String, ContainerRecord)]) {
        let shared = &self.shared;
        let known = |name: &str| records.iter().any(|(id, _)| id == name);
        for dir in [
            shared.roots.data.join("containers"),
            shared.roots.run.join("containers"),
        ] {
            for name in names_in(&dir) {
                if !known(&name) {
                    if let Some(id) = ContainerId::parse(&name) {
                        shared.kill_cgroup(&id).await;
                    }
                    remove(&dir.join(name));
                }
            }
        }
        for id in shared.cgroup_ids() {
            if !known(id.as_str()) {
                shared.kill_cgroup(&id).await;
            }
        }
        let trash = shared.roots.data.join("trash");
        for name in names_in(&trash) {
            remove(&trash.join(name));
        }
    }
}

/// `None`: it failed.
async fn outcome_of_start(events: &mut mpsc::UnboundedReceiver<Event>) -> Option<StartRecord> {
    loop {
        match events.recv().await? {
            Event::Started(start) => return Some(start),
            Event::StartFailed { .. } => return None,
            _ => {}
        }
    }
}

/// The events of a shim whose first answer is late: an end that came before we connected is only
/// in that answer.
fn after_answer(
    answer: JoinHandle<Result<Answer, ShimError>>,
    mut events: mpsc::UnboundedReceiver<Event>,
) -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let Ok(Ok(Answer::State(State {
            exit: Some(record), ..
        }))) = answer.await
        {
            // A driver that is gone waits for no end.
            let _ = sender.send(Event::Exited { record });
        }
        while let Some(event) = events.recv().await {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn names_in(dir: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn remove(path: &std::path::Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove what a crash left");
    }
}
