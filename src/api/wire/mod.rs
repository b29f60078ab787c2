//! What travels over the socket: serde types and binary frames, nothing else.
//!
//! Two dialects share the socket. Docker's REST API keeps Docker's spelling ([`docker`]); the calls of
//! our own live under `/wharf/v1/` and speak snake_case JSON, NDJSON and the frames of [`frame`].
//! Fields are only added, with defaults, so that an older CLI and a newer engine understand each other.

pub mod docker;
pub mod exec;
pub mod frame;
pub mod image;
mod project;
pub mod registry;
mod status;

pub use project::*;
pub use status::*;
