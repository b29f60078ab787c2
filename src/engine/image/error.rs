//! Why an image could not be made present, found or removed, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::config::ConfigError;
use super::content::ContentError;
use super::layer::LayerError;
use super::platform::PlatformError;
use super::pull_policy::{PullPolicy, PullPolicyError};
use super::recipe::RecipeError;
use super::reference::ReferenceError;
use super::registry::RegistryError;
use super::source::SourceError;
use super::tar_stream::TarError;
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
        source: Box<RegistryError>,
    },
    #[error("cannot push {image}")]
    Push {
        image: String,
        source: Box<RegistryError>,
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
    #[error("{image} does not come from a registry")]
    NotPulled { image: String },
    #[error("no such image: {name}")]
    NotFound { name: String },
    #[error("{name:?} is the beginning of several image ids")]
    AmbiguousId { name: String },
    #[error("layer {layer} of image {image} is missing on disk")]
    MissingLayer { image: String, layer: String },
    #[error("layer {layer} of image {image} cannot be put together")]
    Recipe {
        image: String,
        layer: String,
        source: RecipeError,
    },
    #[error("layer {layer} of image {image} is damaged on disk")]
    DamagedLayer { image: String, layer: String },
    #[error("{image} is a directory of this machine, which cannot be saved")]
    NotSaveable { image: String },
    #[error("no source of image {image} is at hand that it could be healed from")]
    NoSource { image: String },
    #[error("cannot send the archive")]
    Send { source: io::Error },
    #[error("cannot import the archive")]
    Import { source: LayerError },
    #[error("cannot change the image as {change:?} says: {why}")]
    Change { change: String, why: String },
    #[error(
        "{}",
        in_use(image, container, *is_running, *is_named)
    )]
    InUse {
        image: String,
        container: String,
        is_running: bool,
        /// By a name rather than an id.
        is_named: bool,
    },
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is referenced in multiple \
         repositories: {}", names.join(", ")
    )]
    SeveralNames { image: String, names: Vec<String> },
}

/// Docker's words, which scripts look for.
fn in_use(image: &str, container: &str, is_running: bool, is_named: bool) -> String {
    match (is_named, is_running) {
        (true, _) => format!(
            "conflict: unable to remove repository reference {image:?} (must force) - container \
             {container} is using its referenced image"
        ),
        (false, true) => format!(
            "conflict: unable to delete {image} (cannot be forced) - image is being used by \
             running container {container}"
        ),
        (false, false) => format!(
            "conflict: unable to delete {image} (must be forced) - image is being used by \
             stopped container {container}"
        ),
    }
}

impl ImageError {
    /// Whether room on the disk would have helped.
    pub fn is_disk_full(&self) -> bool {
        if matches!(self, ImageError::Content(ContentError::Full { .. })) {
            return true;
        }
        let mut cause: Option<&dyn std::error::Error> = Some(self);
        while let Some(error) = cause {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(
                kind,
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            ) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Whether a layer asks for more than any honest one does.
    pub fn is_limit(&self) -> bool {
        match self {
            ImageError::Layer { source, .. } | ImageError::Import { source } => {
                matches!(source, LayerError::Limit { .. })
            }
            _ => false,
        }
    }

    /// Whether a registry wants to know who asks, or knows and refuses.
    pub fn is_denied(&self) -> bool {
        match self {
            ImageError::Registry(error) => matches!(error, RegistryError::Denied { .. }),
            ImageError::Pull { source, .. } | ImageError::Push { source, .. } => {
                matches!(**source, RegistryError::Denied { .. })
            }
            _ => false,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        if self.is_disk_full() {
            let hint = "the disk is full: free space under the data root, then try again (`wharf system df` \
                        shows what takes how much, `wharf image prune` removes what nobody uses)";
            return Some(hint.to_owned());
        }
        if self.is_limit() {
            let hint = "no honest layer comes near this limit: nothing of it was kept; if the image is \
                        yours, leave out or split up what is so large or repeats itself so often";
            return Some(hint.to_owned());
        }
        match self {
            ImageError::NotPresent { image, .. } => Some(format!(
                "`wharf image pull {image}` fetches it, or change `pull_policy`"
            )),
            ImageError::NotFound { .. } => Some(
                "`wharf image ls` shows what is there, `wharf image pull NAME` fetches what is not"
                    .to_owned(),
            ),
            ImageError::OtherPlatform { .. }
            | ImageError::Source(SourceError::NoPlatform { .. }) => Some(
                "ask for a platform that there is (`--platform`, or `platform` of the service), or \
                 build the image for this one"
                    .to_owned(),
            ),
            ImageError::Source(SourceError::Decompress {
                source: LayerError::Compression { format },
                ..
            }) => Some(format!(
                "decompress it on its way: `{format} -dc FILE | wharf image load`"
            )),
            ImageError::Import {
                source: LayerError::Compression { format },
            } => Some(format!(
                "decompress it on its way: `{format} -dc FILE | wharf image import - NAME`"
            )),
            ImageError::Source(SourceError::Archive {
                source: TarError::Truncated,
                ..
            })
            | ImageError::Layer {
                source: LayerError::Tar(TarError::Truncated),
                ..
            } => Some("it is not whole: write or copy it once more".to_owned()),
            ImageError::Source(error) if error.is_no_archive() => Some(
                "an archive of images is what `wharf image save` and `docker save` write, or an OCI \
                 layout; a file system becomes an image by `wharf image import`"
                    .to_owned(),
            ),
            ImageError::Registry(error) => error.hint(),
            ImageError::Pull { source, .. } | ImageError::Push { source, .. } => source.hint(),
            ImageError::NotPushable { .. } => Some(
                "give the image a name with a registry and a tag: `wharf image tag IMAGE \
                 REGISTRY/NAME:TAG`"
                    .to_owned(),
            ),
            ImageError::SeveralNames { .. } => {
                Some("remove it by each of its names, or all of them with --force".to_owned())
            }
            ImageError::InUse {
                is_running: true, ..
            } => Some("stop and remove the container first".to_owned()),
            ImageError::InUse { .. } => {
                Some("remove the container first, or write --force".to_owned())
            }
            ImageError::MissingLayer { .. }
            | ImageError::DamagedLayer { .. }
            | ImageError::NoSource { .. }
            | ImageError::Recipe { .. } => Some(
                "get the image again from where it came (`wharf image pull`, `wharf image load`): \
                 only what is damaged is fetched"
                    .to_owned(),
            ),
            ImageError::NotSaveable { .. } => {
                Some("pack it with `tar -C DIRECTORY -c . | wharf image import - NAME`".to_owned())
            }
            _ => None,
        }
    }
}
