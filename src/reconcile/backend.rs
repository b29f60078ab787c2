//! What reconciliation needs of an engine.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::compose::ProjectName;
use crate::plan::{
    ContainerConfig, Logins, NetworkConfig, Observed, ObservedContainer, VolumeConfig,
};

/// Why an engine could not do what it was asked, in terms that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct BackendError {
    pub kind: FailureKind,
    /// The whole chain of causes in one sentence, lower case, no full stop.
    pub message: String,
    /// What to do about it, each a sentence.
    #[serde(default)]
    pub hints: Vec<String>,
}

/// The classes of failure that callers treat differently; each maps to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request contradicts itself or the machine (400).
    Invalid,
    /// Somebody else does not know the user (401).
    Denied,
    NotFound,
    Conflict,
    /// The program could not be started (command not found: 127, not executable: 126).
    StartFailed {
        exit_code: i32,
    },
    /// The kernel or this machine lacks something.
    Unsupported,
    Internal,
}

/// Containers are named by name or id. All verbs are create-or-adopt and idempotent where Docker's
/// are: starting a running container and removing an absent one succeed.
pub trait Backend: Send + Sync + 'static {
    fn observe(
        &self,
        project: &ProjectName,
    ) -> impl Future<Output = Result<Observed, BackendError>> + Send;
    fn inspect(
        &self,
        container: &str,
    ) -> impl Future<Output = Result<ObservedContainer, BackendError>> + Send;

    /// Makes the image present, reporting progress; returns the image id. Dropping the future gives
    /// it up.
    fn ensure_image(
        &self,
        request: &ImageRequest,
        progress: mpsc::UnboundedSender<ImageProgress>,
    ) -> impl Future<Output = Result<String, BackendError>> + Send;

    /// Takes a name away from an image, and with its last name the image. `Conflict` if a container
    /// was made from it.
    fn remove_image(
        &self,
        reference: &str,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Hands an image that is there to the registry that its name says. Dropping the future gives
    /// it up.
    fn push_image(
        &self,
        request: &ImageRequest,
        progress: mpsc::UnboundedSender<ImageProgress>,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    fn create_network(
        &self,
        config: &NetworkConfig,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
    fn remove_network(&self, name: &str) -> impl Future<Output = Result<(), BackendError>> + Send;
    fn create_volume(
        &self,
        config: &VolumeConfig,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
    fn remove_volume(&self, name: &str) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Returns the id. `inherit_volumes_from` hands over the anonymous volumes of that container.
    fn create_container(
        &self,
        config: &ContainerConfig,
        inherit_volumes_from: Option<&str>,
    ) -> impl Future<Output = Result<String, BackendError>> + Send;
    fn rename_container(
        &self,
        container: &str,
        name: &str,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
    fn start_container(
        &self,
        container: &str,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
    fn stop_container(
        &self,
        container: &str,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
    fn kill_container(
        &self,
        container: &str,
        signal: &str,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
    fn remove_container(
        &self,
        container: &str,
        volumes: bool,
        force: bool,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// What on this machine will keep containers from working as the project says, although every
    /// step succeeds: sentences for the user. Asked for after an `up` that changed something.
    fn warnings(&self, _project: &ProjectName) -> impl Future<Output = Vec<String>> + Send {
        std::future::ready(Vec::new())
    }

    /// A subscription to every change of containers from now on. A lagging receiver is told so by
    /// the channel and has to look again.
    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<ContainerChange>;
}

/// Something happened to a container; look at it for its new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerChange {
    pub id: String,
    pub name: String,
}

/// An image by name, and how it is wished for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRequest {
    pub reference: String,
    /// Compose's word; `None` is `missing`.
    pub pull_policy: Option<String>,
    pub platform: Option<String>,
    pub logins: Logins,
}

/// Progress of making an image present, or of pushing one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageProgress {
    /// Short digest of the layer, or the reference for the whole.
    pub part: String,
    /// What goes on: `reading`, `downloading`, `unpacking`, `complete`.
    pub status: String,
    pub current_bytes: u64,
    pub total_bytes: u64,
}
