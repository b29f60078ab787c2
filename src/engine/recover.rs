//! What a starting engine does about what an earlier one left.
//!
//! Three sources are compared: the store (what should be), the run directory (what this boot knew)
//! and the kernel (what is, by way of living shims). Whatever has no record is removed; whatever
//! has one and lives is adopted; whatever should live and does not is started by its policy.

use super::container::{Adopted, ContainerId, ContainerRecord, Driver, Shim};
use super::store::Table;
use super::{Engine, EngineError};
use crate::compose::RestartPolicy;
use crate::shim::protocol::{Answer, Call, ExitRecord, StartRecord, file};

/// A shim that does not answer must not keep the engine from starting (HAZARDS L8).
const SHIM_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

impl Engine {
    pub(super) async fn recover(&self) -> Result<(), EngineError> {
        let records: Vec<(String, ContainerRecord)> = self.shared.store.list(Table::Containers)?;
        self.remove_strangers(&records).await;
        let mut adoptions = tokio::task::JoinSet::new();
        for (_, record) in records {
            // The store's names are unique: they were taken before the records were written.
            self.shared.names.take(&record.config.name, &record.id)?;
            let engine = self.clone();
            adoptions.spawn(async move { engine.recover_container(record).await });
        }
        while let Some(result) = adoptions.join_next().await {
            if let Err(panic) = result {
                tracing::error!(%panic, "adopting a container panicked");
            }
        }
        Ok(())
    }

    async fn recover_container(&self, mut record: ContainerRecord) {
        let shared = &self.shared;
        let run = shared.run_record(&record.id);
        let adopted = self.find_shim(&record).await;
        let ran_without_us = adopted.is_none() && self.ran_since_recorded(&record);
        if adopted.is_none() {
            shared.kill_cgroup(&record.id).await;
            if let Err(error) = shared.networks.detach(record.id.as_str()).await {
                tracing::warn!(container = %record.config.name, error = &error as &dyn std::error::Error, "cannot take down the network");
            }
        }
        if ran_without_us {
            record.exit = Some(self.left_exit_record(&record));
        }
        // Docker starts `always` even after a manual stop, when its daemon starts. Ours comes and
        // goes with the commands, so a stop holds until somebody starts the container.
        let was_up = record.exit.is_some() || run.restart_pending;
        let wants = !record.manually_stopped
            && match record.config.restart {
                RestartPolicy::Always | RestartPolicy::UnlessStopped => was_up,
                RestartPolicy::OnFailure(_) => {
                    ran_without_us && record.exit.as_ref().is_some_and(|exit| exit.code != 0)
                }
                RestartPolicy::No => false,
            };
        let id = record.id.clone();
        let is_adopted = adopted.is_some();
        let container = match adopted {
            Some(adopted) => Driver::adopt(shared.clone(), record, run, adopted),
            None => Driver::spawn(shared.clone(), record, run),
        };
        shared.register(&id, container.watch());
        self.write().insert(id, container.clone());
        if wants && !is_adopted {
            // In the background: the API answers before slow starts are done.
            tokio::spawn(async move {
                if let Err(error) = container.start().await {
                    tracing::warn!(container = %container.view().record.config.name, error = &error as &dyn std::error::Error, "cannot start by restart policy");
                }
            });
        }
    }

    async fn find_shim(&self, record: &ContainerRecord) -> Option<Adopted> {
        let (shim, events) = Shim::connect(&self.shared.run_dir(&record.id)).ok()?;
        let answer = tokio::time::timeout(SHIM_PATIENCE, shim.call(Call::State)).await;
        let state = match answer {
            Ok(Ok(Answer::State(state))) => state,
            Ok(_) => return None,
            Err(_elapsed) => {
                tracing::warn!(container = %record.config.name, "its shim does not answer");
                return None;
            }
        };
        let start = state.start.clone()?;
        let attachment = self.shared.readopt_network(record, start.pid).await;
        Some(Adopted {
            shim,
            events,
            state,
            attachment,
        })
    }

    /// Whether it started after the last end that the store knows of. Starts are not recorded on
    /// disk, so the store may still tell of the end before.
    fn ran_since_recorded(&self, record: &ContainerRecord) -> bool {
        let start: Option<StartRecord> =
            std::fs::read(self.shared.run_dir(&record.id).join(file::START))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match (start, &record.exit) {
            (Some(start), Some(exit)) => start.started_at > exit.finished_at,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// What the shim wrote before it ended, else what a lost supervisor means (HAZARDS L3).
    fn left_exit_record(&self, record: &ContainerRecord) -> ExitRecord {
        std::fs::read(self.shared.run_dir(&record.id).join(file::EXIT))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(ExitRecord {
                code: 137,
                signal: Some(9),
                oom_killed: false,
                finished_at: super::clock::now(),
            })
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
        let trash = shared.roots.data.join("trash");
        for name in names_in(&trash) {
            remove(&trash.join(name));
        }
    }
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
