//! Located tree to [`Project`]: include, extends, merge, canonical form, checks.
//!
//! Knows the Compose specification; knows no engine. The types of this module are the canonical
//! form of a Compose file: every short form expanded, every path absolute, every default that the
//! specification fixes filled in. They serialise, because the canonical form is a public format
//! (`wharf config`) and travels from the CLI to the engine.

mod network;
mod project;
mod resource;
mod service;
mod volume;

pub use network::*;
pub use project::*;
pub use resource::*;
pub use service::*;
pub use volume::*;
