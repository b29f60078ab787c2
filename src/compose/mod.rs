//! Located tree to [`Project`]: include, extends, merge, canonical form, checks.
//!
//! Knows the Compose specification; knows no engine. The types of this module are the canonical
//! form of a Compose file: every short form expanded, every path absolute, every default that the
//! specification fixes filled in. They serialise, because the canonical form is a public format
//! (`wharf config`) and travels from the CLI to the engine.

mod admit;
mod bind;
mod budget;
mod build;
mod canonical;
mod check;
mod consistency;
mod deploy;
mod describe;
mod environment;
pub mod explain;
mod extends;
mod extra;
mod find;
mod include;
pub mod json_schema;
mod load;
mod merge;
mod model;
mod network;
mod normalize;
mod order;
mod paths;
pub mod print;
mod profiles;
mod project;
mod resource;
mod rule;
pub mod schema;
mod service;
mod short;
pub mod units;
mod volume;
mod yaml;

pub use admit::Environment;
pub use build::*;
pub use deploy::*;
pub use environment::{UnsetObject, resolve_environment_objects};
pub use extends::clean_url as without_credentials;
pub use extra::*;
pub use find::{DEFAULT_FILES, LoadOptions};
pub use load::{Loaded, load, project_name, variables};
pub use network::*;
pub use project::*;
pub use resource::*;
pub use service::*;
pub use volume::*;
