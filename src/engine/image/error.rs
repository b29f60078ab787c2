//! Why an image could not be made present, found or removed, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::config::ConfigError;
use super::content::ContentError;
use super::layer::LayerError;
use super::platform::PlatformError;
use super::pull_policy::{PullPolicy, PullPolicyError};
use super::reference::ReferenceError;
use super::registry::RegistryError;
use super::source::SourceError;
use crate::engine::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("cannot pull {image}")]
    Pull {
        image: String,
        source: RegistryError,
    },
    #[error("cannot push {image}")]
    Push {
        image: String,
        source: RegistryError,
    },
    #[error("{image} is no name of a registry's image that could be pushed")]
    NotPushable { image: String },
    #[error(transparent)]
    PullPolicy(#[from] PullPolicyError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("image {image} is damaged")]
    Config { image: String, source: ConfigError },
    #[error("cannot unpack layer {layer} of image {image}")]
    Layer {
        image: String,
        layer: String,
        source: LayerError,
    },
    #[error("cannot stack the layers below layer {layer}")]
    View { layer: String, source: io::Error },
    #[error("cannot use {path:?} as an image")]
    Rootfs { path: PathBuf, source: io::Error },
    #[error("image {image} is not present, and its pull policy is {policy}")]
    NotPresent { image: String, policy: PullPolicy },
    #[error("{path:?} has no image")]
    NoImage { path: PathBuf },
    #[error("image {image} is made for {present}, not for {wanted}")]
    OtherPlatform {
        image: String,
        present: String,
        wanted: String,
    },
    #[error("no such image: {name}")]
    NotFound { name: String },
    #[error("{name:?} is the beginning of several image ids")]
    AmbiguousId { name: String },
    #[error("layer {layer} of image {image} is missing on disk")]
    MissingLayer { image: String, layer: String },
    #[error("image {image} is used by {}", users.join(", "))]
    InUse { image: String, users: Vec<String> },
    #[error("image {image} has several names: {}", names.join(", "))]
    SeveralNames { image: String, names: Vec<String> },
}

impl ImageError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ImageError::NotPresent { image, .. } => Some(format!(
                "`wharf image pull {image}` fetches it, or change `pull_policy`"
            )),
            ImageError::Registry(error)
            | ImageError::Pull { source: error, .. }
            | ImageError::Push { source: error, .. } => error.hint(),
            ImageError::NotPushable { .. } => Some(
                "give the image a name with a registry and a tag: `wharf image tag IMAGE \
                 REGISTRY/NAME:TAG`"
                    .to_owned(),
            ),
            ImageError::SeveralNames { .. } => Some("remove it by each of its names".to_owned()),
            ImageError::MissingLayer { .. } => {
                Some("remove the image and load it again".to_owned())
            }
            _ => None,
        }
    }
}
