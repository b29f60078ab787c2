//! Why the engine could not do something, and what a person can do about it.

use super::container::{LoggingError, ShimError};
use super::image::{ImageError, RegistryError};
use super::network::NetworkError;
use super::store::StoreError;
use super::volume::VolumeError;
use crate::reconcile::{BackendError, FailureKind};
use crate::shim::protocol;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no such container: {name}")]
    NoSuchContainer { name: String },
    #[error("the container name {name:?} is already in use by container {holder}")]
    NameTaken { name: String, holder: String },
    #[error("container {name} is not running")]
    NotRunning { name: String },
    #[error("container {name} is running")]
    StillRunning { name: String },
    #[error(
        "container {name} did not end although every process of it was sent SIGKILL; \
         one is in uninterruptible sleep"
    )]
    StopTimedOut { name: String },
    #[error("container {name} could not be removed and is kept")]
    RemovalFailed { name: String },
    #[error("container {name} cannot share a namespace with {other}, which is not running")]
    NamespaceOwnerDown { name: String, other: String },
    #[error("image {image} has several layers, and only an image of one can be mounted")]
    ImageMountLayers { image: String },
    #[error("volume {volume} is of type {kind:?}, which cannot be mounted yet")]
    VolumeKind { volume: String, kind: String },
    #[error("invalid signal {signal:?}")]
    InvalidSignal { signal: String },
    #[error("the specification of container {name} is not possible")]
    Spec {
        name: String,
        source: super::container::SpecError,
    },
    #[error("cannot start container {name}")]
    Start {
        name: String,
        source: protocol::Failure,
    },
    #[error("the shim of container {name} ended before the container started")]
    ShimDied { name: String },
    #[error("container {name}")]
    Shim { name: String, source: ShimError },
    #[error("bind source path does not exist: {path}")]
    BindSourceMissing { path: String },
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl EngineError {
    /// The exit code that Docker gives a container which could not be started.
    pub fn exit_code(&self) -> i32 {
        match self {
            EngineError::Start { source, .. } => match source.kind {
                protocol::FailureKind::CommandNotFound => 127,
                protocol::FailureKind::CommandNotExecutable => 126,
                protocol::FailureKind::Invalid | protocol::FailureKind::System => 128,
            },
            _ => 128,
        }
    }

    /// What a person can do about it, each a sentence of its own.
    pub fn hints(&self) -> Vec<String> {
        let one = |hint: String| vec![hint];
        match self {
            EngineError::NameTaken { name, .. } => one(format!(
                "remove or rename the other container, or give this one another `container_name` than {name}"
            )),
            EngineError::BindSourceMissing { path } => one(format!(
                "create {path}, or write `create_host_path: true` under `bind`"
            )),
            EngineError::Start { source, .. } => match source.kind {
                protocol::FailureKind::CommandNotFound => one(
                    "check `command` and `entrypoint`: the program must exist inside the image, \
                     and a script's interpreter must, too"
                        .to_owned(),
                ),
                protocol::FailureKind::CommandNotExecutable => one(
                    "the file exists but cannot be executed: check its mode, its `#!` line and \
                     its architecture"
                        .to_owned(),
                ),
                _ => Vec::new(),
            },
            EngineError::File { source, .. } if is_disk_full(source) => {
                one("the disk is full: free space under the data root, then try again".to_owned())
            }
            EngineError::Store(error) if error.is_disk_full() => {
                one("the disk is full: free space under the data root, then try again".to_owned())
            }
            EngineError::Logging(error) => one(error.hint()),
            EngineError::Network(error) => network_hints(error),
            EngineError::Image(error) => error.hint().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn kind(&self) -> FailureKind {
        match self {
            EngineError::NoSuchContainer { .. } => FailureKind::NotFound,
            EngineError::NameTaken { .. }
            | EngineError::NotRunning { .. }
            | EngineError::StillRunning { .. }
            | EngineError::NamespaceOwnerDown { .. } => FailureKind::Conflict,
            EngineError::InvalidSignal { .. }
            | EngineError::Spec { .. }
            | EngineError::Logging(_)
            | EngineError::ImageMountLayers { .. }
            | EngineError::VolumeKind { .. }
            | EngineError::BindSourceMissing { .. } => FailureKind::Invalid,
            EngineError::Start { .. } => FailureKind::StartFailed {
                exit_code: self.exit_code(),
            },
            EngineError::Shim {
                source: ShimError::Refused(failure),
                ..
            } => match failure.kind {
                protocol::FailureKind::CommandNotFound => {
                    FailureKind::StartFailed { exit_code: 127 }
                }
                protocol::FailureKind::CommandNotExecutable => {
                    FailureKind::StartFailed { exit_code: 126 }
                }
                protocol::FailureKind::Invalid => FailureKind::Invalid,
                protocol::FailureKind::System => FailureKind::Internal,
            },
            EngineError::Network(error) => network_kind(error),
            EngineError::Image(error) => image_kind(error),
            EngineError::Volume(error) => volume_kind(error),
            EngineError::StopTimedOut { .. }
            | EngineError::RemovalFailed { .. }
            | EngineError::ShimDied { .. }
            | EngineError::Shim { .. }
            | EngineError::File { .. }
            | EngineError::Store(_) => FailureKind::Internal,
        }
    }
}

fn network_kind(error: &NetworkError) -> FailureKind {
    match error {
        NetworkError::NotFound(_) => FailureKind::NotFound,
        NetworkError::Differs(_)
        | NetworkError::InUse { .. }
        | NetworkError::Overlap { .. }
        | NetworkError::AddressTaken { .. }
        | NetworkError::PortTaken { .. } => FailureKind::Conflict,
        NetworkError::Unsupported { .. } => FailureKind::Unsupported,
        NetworkError::Option { .. }
        | NetworkError::Outside { .. }
        | NetworkError::NoSubnetFor { .. }
        | NetworkError::Endpoint { .. }
        | NetworkError::InterfaceTwice { .. } => FailureKind::Invalid,
        _ => FailureKind::Internal,
    }
}

fn network_hints(error: &NetworkError) -> Vec<String> {
    let hint = match error {
        NetworkError::PortTaken { .. } => {
            "stop the process that holds the port, or publish another one"
        }
        NetworkError::Exhausted { .. } | NetworkError::NoSubnet { .. } => {
            "give the network a subnet of its own: `ipam: {config: [{subnet: 10.80.0.0/16}]}`"
        }
        NetworkError::Differs(_) => {
            "take the project down and up again: a network that is in use keeps its configuration"
        }
        _ => return Vec::new(),
    };
    vec![hint.to_owned()]
}

fn image_kind(error: &ImageError) -> FailureKind {
    match error {
        ImageError::Reference(_) => FailureKind::Invalid,
        ImageError::NotPresent { .. } | ImageError::NotFound { .. } => FailureKind::NotFound,
        ImageError::Registry(error) => registry_kind(error),
        ImageError::Pull { source, .. } | ImageError::Push { source, .. } => registry_kind(source),
        ImageError::NotPushable { .. }
        | ImageError::NotPulled { .. }
        | ImageError::PullPolicy(_) => FailureKind::Invalid,
        ImageError::OtherPlatform { .. } => FailureKind::Unsupported,
        ImageError::InUse { .. } | ImageError::SeveralNames { .. } => FailureKind::Conflict,
        ImageError::AmbiguousId { .. }
        | ImageError::Rootfs { .. }
        | ImageError::Platform(_)
        | ImageError::Source(_)
        | ImageError::NotSaveable { .. }
        | ImageError::Import { .. }
        | ImageError::Change { .. } => FailureKind::Invalid,
        _ => FailureKind::Internal,
    }
}

fn registry_kind(error: &RegistryError) -> FailureKind {
    match error {
        // As Docker: whoever may not see an image is told that there is none.
        RegistryError::NotFound { .. } | RegistryError::Denied { .. } => FailureKind::NotFound,
        RegistryError::NotAnImage { .. } | RegistryError::OtherKind { .. } => FailureKind::Invalid,
        _ => FailureKind::Internal,
    }
}

fn volume_kind(error: &VolumeError) -> FailureKind {
    match error {
        VolumeError::NotFound { .. } => FailureKind::NotFound,
        VolumeError::InUse { .. } | VolumeError::OtherDriver { .. } => FailureKind::Conflict,
        VolumeError::Name { .. } | VolumeError::Driver { .. } | VolumeError::Options { .. } => {
            FailureKind::Invalid
        }
        _ => FailureKind::Internal,
    }
}

fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

impl From<EngineError> for BackendError {
    fn from(error: EngineError) -> BackendError {
        BackendError {
            kind: error.kind(),
            message: chain(&error),
            hints: error.hints(),
        }
    }
}
