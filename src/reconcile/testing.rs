//! Test support: an engine in memory, with delays, failures and containers that live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep};

use super::*;
use crate::compose::ProjectName;
use crate::plan::testing::World;
use crate::plan::{
    ContainerConfig, Health, NetworkConfig, Observed, ObservedContainer, VolumeConfig,
};

/// What a container does by itself, so long after its start.
#[derive(Debug, Clone, Copy)]
pub(super) enum Life {
    Becomes(Health, Duration),
    Exits(i32, Duration),
}

#[derive(Debug)]
pub(super) struct Memory {
    world: Mutex<World>,
    changes: broadcast::Sender<ContainerChange>,
    /// By `verb name`: how long it takes, and whether it fails in the end.
    delays: HashMap<String, Duration>,
    failures: HashMap<String, BackendError>,
    panics: Option<String>,
    lives: HashMap<String, Life>,
    log: Mutex<Log>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Log {
    /// `verb name` with the milliseconds of its beginning and its end.
    calls: Vec<(String, u128, u128)>,
    n_now: usize,
    n_most: usize,
}

pub(super) fn refused(message: &str) -> BackendError {
    BackendError {
        kind: FailureKind::Conflict,
        message: message.to_owned(),
        hints: Vec::new(),
    }
}

impl Memory {
    pub fn new() -> Self {
        Memory {
            world: Mutex::default(),
            changes: broadcast::channel(16).0,
            delays: HashMap::new(),
            failures: HashMap::new(),
            panics: None,
            lives: HashMap::new(),
            log: Mutex::default(),
            began: Instant::now(),
        }
    }

    pub fn of(world: World) -> Self {
        let memory = Memory::new();
        *memory.world() = world;
        memory
    }

    pub fn delay(mut self, call: &str, milliseconds: u64) -> Self {
        let delay = Duration::from_millis(milliseconds);
        self.delays.insert(call.to_owned(), delay);
        self
    }

    pub fn fail(mut self, call: &str) -> Self {
        self.failures
            .insert(call.to_owned(), refused("it was refused"));
        self
    }

    pub fn panic(mut self, call: &str) -> Self {
        self.panics = Some(call.to_owned());
        self
    }

    pub fn life(mut self, container: &str, life: Life) -> Self {
        self.lives.insert(container.to_owned(), life);
        self
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Calls that were made and ended, in the order of their ends.
    pub fn calls(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.calls.iter().map(|(call, _, _)| call.clone()).collect()
    }

    /// Milliseconds from the first call to the beginning and the end of this one.
    pub fn times(&self, call: &str) -> (u128, u128) {
        let log = self.log.lock().unwrap();
        let found = log.calls.iter().find(|(c, _, _)| c == call);
        let (_, begin, end) = found.unwrap_or_else(|| panic!("no call {call}: {log:?}"));
        (*begin, *end)
    }

    pub fn most_at_once(&self) -> usize {
        self.log.lock().unwrap().n_most
    }

    /// How many wait for a change.
    pub fn n_waiting(&self) -> usize {
        self.changes.receiver_count()
    }

    pub fn change(&self, container: &str) {
        let found = self.world().find(container).cloned();
        if let Some(ObservedContainer { id, name, .. }) = found {
            let _ = self.changes.send(ContainerChange { id, name });
        }
    }

    async fn call<T>(
        &self,
        call: String,
        act: impl FnOnce(&mut World) -> Result<T, String>,
    ) -> Result<T, BackendError> {
        let begin = self.began.elapsed().as_millis();
        {
            let mut log = self.log.lock().unwrap();
            log.n_now += 1;
            log.n_most = log.n_most.max(log.n_now);
        }
        assert!(self.panics.as_ref() != Some(&call), "{call} was to panic");
        if let Some(delay) = self.delays.get(&call) {
            sleep(*delay).await;
        }
        let result = match self.failures.get(&call) {
            Some(error) => Err(error.clone()),
            None => act(&mut self.world()).map_err(|message| refused(&message)),
        };
        let end = self.began.elapsed().as_millis();
        let mut log = self.log.lock().unwrap();
        log.n_now -= 1;
        log.calls.push((call, begin, end));
        result
    }
}

/// The orphan rule wants a type of ours around the `Arc` that lives on in containers.
#[derive(Debug, Clone)]
pub(super) struct Engine(pub Arc<Memory>);

impl std::ops::Deref for Engine {
    type Target = Memory;
    fn deref(&self) -> &Memory {
        &self.0
    }
}

impl Backend for Engine {
    async fn observe(&self, _project: &ProjectName) -> Result<Observed, BackendError> {
        Ok(self.world().observed.clone())
    }

    async fn inspect(&self, container: &str) -> Result<ObservedContainer, BackendError> {
        let found = self.world().find(container).cloned();
        found.ok_or_else(|| BackendError {
            kind: FailureKind::NotFound,
            message: format!("no such container: {container}"),
            hints: Vec::new(),
        })
    }

    async fn ensure_image(
        &self,
        request: &ImageRequest,
        progress: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<String, BackendError> {
        let reference = &request.reference;
        let _ = progress.send(ImageProgress {
            part: reference.to_owned(),
            status: "reading".to_owned(),
            current_bytes: 0,
            total_bytes: 1,
        });
        let act = |world: &mut World| world.ensure_image(reference);
        self.call(format!("image {reference}"), act).await
    }

    async fn push_image(
        &self,
        request: &ImageRequest,
        _: mpsc::UnboundedSender<ImageProgress>,
    ) -> Result<(), BackendError> {
        let reference = &request.reference;
        self.call(format!("push {reference}"), |_: &mut World| Ok(()))
            .await
    }

    async fn create_network(&self, config: &NetworkConfig) -> Result<(), BackendError> {
        let act = |world: &mut World| world.create_network(config);
        self.call(format!("network+ {}", config.name), act).await
    }

    async fn remove_network(&self, name: &str) -> Result<(), BackendError> {
        let act = |world: &mut World| world.remove_network(name);
        self.call(format!("network- {name}"), act).await
    }

    async fn create_volume(&self, config: &VolumeConfig) -> Result<(), BackendError> {
        let act = |world: &mut World| world.create_volume(config);
        self.call(format!("volume+ {}", config.name), act).await
    }

    async fn remove_image(&self, reference: &str) -> Result<(), BackendError> {
        let act = |world: &mut World| Ok(world.remove_image(reference));
        let kind = match self.call(format!("image- {reference}"), act).await? {
            Some(true) => return Ok(()),
            Some(false) => FailureKind::Conflict,
            None => FailureKind::NotFound,
        };
        Err(BackendError {
            kind,
            ..refused("the image stays")
        })
    }

    async fn remove_volume(&self, name: &str) -> Result<(), BackendError> {
        let act = |world: &mut World| world.remove_volume(name);
        self.call(format!("volume- {name}"), act).await
    }

    async fn create_container(
        &self,
        config: &ContainerConfig,
        inherit_volumes_from: Option<&str>,
    ) -> Result<String, BackendError> {
        let act = |world: &mut World| world.create_container(config, inherit_volumes_from);
        self.call(format!("create {}", config.name), act).await
    }

    async fn rename_container(&self, container: &str, name: &str) -> Result<(), BackendError> {
        let act = |world: &mut World| world.rename(container, name);
        self.call(format!("rename {name}"), act).await
    }

    async fn start_container(&self, container: &str) -> Result<(), BackendError> {
        let act = |world: &mut World| world.start(container);
        self.call(format!("start {container}"), act).await?;
        self.change(container);
        if let Some(life) = self.lives.get(container).copied() {
            let (engine, name) = (self.clone(), container.to_owned());
            tokio::spawn(async move {
                match life {
                    Life::Becomes(health, after) => {
                        sleep(after).await;
                        engine.world().get(&name).unwrap().health = Some(health);
                    }
                    Life::Exits(code, after) => {
                        sleep(after).await;
                        engine.world().exit(&name, code).unwrap();
                    }
                }
                engine.change(&name);
            });
        }
        Ok(())
    }

    async fn stop_container(
        &self,
        container: &str,
        _timeout: Option<Duration>,
    ) -> Result<(), BackendError> {
        let act = |world: &mut World| world.exit(container, 143);
        self.call(format!("stop {container}"), act).await?;
        self.change(container);
        Ok(())
    }

    async fn kill_container(&self, container: &str, signal: &str) -> Result<(), BackendError> {
        let act = |world: &mut World| world.exit(container, 137);
        self.call(format!("kill {container} {signal}"), act).await
    }

    async fn remove_container(
        &self,
        container: &str,
        volumes: bool,
        force: bool,
    ) -> Result<(), BackendError> {
        let act = |world: &mut World| world.remove(container, volumes, force);
        self.call(format!("remove {container}"), act).await
    }

    fn subscribe(&self) -> broadcast::Receiver<ContainerChange> {
        self.changes.subscribe()
    }
}
