//! Images: what a reference stands for, as layers that overlay can stack and a checked config.
//!
//! ```text
//! reference ─▶ source (archive, layout) ─▶ layer ─▶ extract ─▶ content (snapshots, blobs)
//!      └──────────────── Images: records, single flight, leases, removal ─────┘
//! ```
//!
//! An image is named by the digest of its config. [`registry`] is another source in front of
//! [`layer`] and [`content`]; nothing behind them knows of it. Must not know containers: whoever
//! removes an image says who uses it.

mod archive;
mod check;
mod compare;
mod config;
mod content;
pub(super) mod copy;
mod digest;
mod entry_path;
mod error;
mod extract;
mod facts;
#[doc(hidden)]
pub mod fuzzing;
mod images;
mod import;
mod install;
mod layer;
mod load;
mod metadata;
mod pax;
mod platform;
mod pull;
mod pull_policy;
mod push;
mod recipe;
mod reference;
mod registry;
mod remove;
mod save;
mod source;
mod tar_stream;
mod usage;

#[cfg(test)]
mod tests;

pub use check::{Checked, Damage, Depth};
pub use config::{ConfigError, ImageHealthcheck};
pub use content::{ContentError, private_directory};
pub use copy::CopyError;
pub use digest::{Digest, DigestError};
pub use error::ImageError;
pub use facts::{Facts, Step};
pub use images::{Image, ImageId, Images};
pub use import::Description;
pub use layer::LayerError;
pub use load::Loaded;
pub use platform::{Platform, PlatformError};
pub use pull::Wish;
pub use pull_policy::{PullPolicy, PullPolicyError};
pub use recipe::RecipeError;
pub use reference::{Reference, ReferenceError};
pub use registry::{Artifact, ArtifactBlob, Described, RegistryError};
pub use remove::{ImageUser, Removed};
pub use save::Saving;
pub use source::SourceError;
pub use tar_stream::TarError;
pub use usage::{ImageUsage, Usage, allocated_under};
