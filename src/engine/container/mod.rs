//! One container from the engine's side: what is asked for becomes an OCI specification.
//!
//! `spec` is pure and says everything in one page; the other modules are its chapters. Only
//! `devices` and `host` look at the machine.

pub mod devices;
mod host;
mod mounts;
mod process;
mod resources;
mod security;
mod spec;

pub use devices::DeviceNode;
pub use host::HostFacts;
pub use mounts::{ResolvedMount, ResolvedSource};
pub use process::user;
pub use spec::*;
